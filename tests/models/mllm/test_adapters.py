"""Adapters: alone, of another base, and from before transformers moved the parts of multimodal models."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
)

from sam4mllm_tool.errors import ModelWarning, SpecError
from sam4mllm_tool.models.load_options import LoadOptions
from sam4mllm_tool.models.metadata import find_dialect, find_fingerprints
from sam4mllm_tool.models.mllm import load_mllm
from sam4mllm_tool.models.mllm.adapters import attach_adapter
from sam4mllm_tool.models.probing.first_use import load_with_dialect
from sam4mllm_tool.pipeline.calibration import Calibration, find_calibration
from sam4mllm_tool.protocol import DIALECTS, JOINT, PLAIN, RELEASED
from sam4mllm_tool.training.merge_adapter import export
from sam4mllm_tool.types import FreeText, Image, Labels
from tests.checkpoints import PROJECTORS, save_adapter
from tests.models.mllm.questions import YES_NO, assert_same, make_question
from tests.training.test_target_modules import SMALL

Checkpoint = Callable[[str], Path]
CLASSES = {"llava": LlavaForConditionalGeneration, "llava_next": LlavaNextForConditionalGeneration}
QUESTIONS = [make_question("on it ?", Labels(1, YES_NO)), make_question("where ?", FreeText(6))]
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="session")
def lora(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a family's adapter, saved once; tests that change it copy it."""
    saved: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in saved:
            folder = tmp_path_factory.mktemp(f"lora_{family}")
            saved[family] = save_adapter(CLASSES[family], checkpoint(family), folder, PROJECTORS[family])
        return saved[family]

    return get


def change_settings(folder: Path, **settings: object) -> None:
    file = folder / SETTINGS
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def test_an_adapter_alone_is_loaded_onto_the_base_that_it_names(
    checkpoint: Checkpoint, lora: Callable[[str], Path], image: Image
) -> None:
    adapter = str(lora("llava"))
    alone, both = load_mllm(adapter), load_mllm(f"{checkpoint('llava')}+{adapter}")
    assert alone.name == adapter
    assert_same(alone.reply(image, QUESTIONS), both.reply(image, QUESTIONS))
    assert find_fingerprints(adapter, "embedded") == find_fingerprints(both.name, "embedded")


def test_an_adapter_alone_is_asked_as_its_own_files_say(
    checkpoint: Checkpoint, lora: Callable[[str], Path], tmp_path: Path
) -> None:
    base = Path(shutil.copytree(checkpoint("llava"), tmp_path / "base"))
    adapter = Path(shutil.copytree(lora("llava"), tmp_path / "lora"))
    change_settings(adapter, base_model_name_or_path=str(base))
    (base / "dialect.json").write_text(JOINT.to_json())
    (base / "calibration.json").write_text("not for adapters")
    assert find_dialect(str(adapter)) == JOINT
    assert find_calibration(str(adapter)) == Calibration()


@pytest.mark.parametrize("base", ["lmms-lab/llama3-llava-next-8b", "/models/llava-hf/Llama3-LLaVA-NeXT-8b-hf", "llava-1.5-7b"])
def test_an_adapter_of_the_published_one_s_base_is_asked_in_its_dialect(
    checkpoint: Checkpoint, lora: Callable[[str], Path], tmp_path: Path, base: str
) -> None:
    adapter = Path(shutil.copytree(lora("llava_next"), tmp_path / "lora"))
    change_settings(adapter, base_model_name_or_path=base)
    spec = f"{checkpoint('llava_next')}+{adapter}"
    assert find_dialect(spec) == (RELEASED if "llama3" in base.lower() else DIALECTS["llava"])
    assert find_dialect(spec, "plain") == PLAIN
    (adapter / "dialect.json").write_text(JOINT.to_json())
    assert find_dialect(spec) == JOINT


def test_an_adapter_whose_dialect_is_unknown_is_warned_of_once(
    checkpoint: Checkpoint, lora: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(lora("llava"), tmp_path / "lora"))
    for spec in (f"{checkpoint('llava')}+{adapter}", str(adapter)):
        with pytest.warns(ModelWarning) as warned:
            load_with_dialect(spec, LoadOptions())
        assert [str(each.message) for each in warned] == [
            f"the adapter '{adapter}' has no dialect.json, and is asked in the dialect 'llava', as its base would be: "
            "name the one that it was trained in with --dialect or dialect="
        ]
    (adapter / "dialect.json").write_text(JOINT.to_json())
    assert load_with_dialect(spec, LoadOptions())[1] == JOINT


def test_an_adapter_alone_is_exported_with_its_base(lora: Callable[[str], Path], tmp_path: Path, image: Image) -> None:
    adapter = str(lora("llava"))
    merged = load_mllm(str(export(adapter, tmp_path / "out"))).reply(image, QUESTIONS)
    assert merged[1].text == load_mllm(adapter).reply(image, QUESTIONS)[1].text


def test_an_adapter_alone_whose_base_is_gone_says_so(lora: Callable[[str], Path], tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(lora("llava"), tmp_path / "lora"))
    change_settings(adapter, base_model_name_or_path="/home/alice/base")
    with pytest.raises(
        SpecError, match=r"adapter alone, and on the base that it names .*'/home/alice/base'.*name a base as BASE"
    ):
        load_mllm(str(adapter))


def test_an_adapter_of_another_architecture_is_refused_even_where_shapes_agree(
    checkpoint: Checkpoint, lora: Callable[[str], Path]
) -> None:
    with pytest.raises(SpecError, match=r"was trained on '.*' of type 'llava', not on '.*' of type 'llava_next'"):
        load_mllm(f"{checkpoint('llava_next')}+{lora('llava')}")


def test_an_adapter_of_another_class_is_refused_where_its_base_is_unknown(
    checkpoint: Checkpoint, lora: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(lora("llava"), tmp_path / "lora"))
    mapping = {
        "base_model_class": "LlavaForConditionalGeneration",
        "parent_library": "transformers.models.llava.modeling_llava",
    }
    change_settings(adapter, base_model_name_or_path="someone/gone", auto_mapping=mapping)
    with pytest.raises(SpecError, match="trained on 'someone/gone' of type 'LlavaForConditionalGeneration', not on"):
        load_mllm(f"{checkpoint('llava_next')}+{adapter}")


def test_an_adapter_of_a_base_of_another_name_is_warned_of(
    checkpoint: Checkpoint, lora: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(lora("llava"), tmp_path / "lora"))
    change_settings(adapter, base_model_name_or_path="llava-hf/vip-llava-7b-hf")
    with pytest.warns(ModelWarning, match=r"was trained on 'llava-hf/vip-llava-7b-hf'; on '.*' it answers at random if"):
        load_mllm(f"{checkpoint('llava')}+{adapter}")


@pytest.mark.parametrize(
    ("trained_on", "folder"),
    [
        pytest.param("/data/alice/llava-1.5-7b", "llava-1.5-7b", id="a folder that moved"),
        pytest.param("llava-hf/llava-1.5-7b-hf", "llava-1.5-7b", id="a converted copy"),
        pytest.param("unsloth/Llava-1.5-7b-bnb-4bit", "llava-1.5-7b", id="a quantized copy"),
        pytest.param("/hub/models--llava-hf--llava-1.5-7b-hf/snapshots/0123", "llava-1.5-7b", id="the hub's cache"),
        pytest.param(None, "anything", id="unknown"),
    ],
)
def test_the_same_base_under_another_path_is_not_warned_of(
    checkpoint: Checkpoint, lora: Callable[[str], Path], tmp_path: Path, trained_on: str | None, folder: str
) -> None:
    adapter = Path(shutil.copytree(lora("llava"), tmp_path / "lora"))
    change_settings(adapter, base_model_name_or_path=trained_on)
    base = shutil.copytree(checkpoint("llava"), tmp_path / folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelWarning)
        load_mllm(f"{base}+{adapter}")


def test_an_adapter_of_an_original_release_is_loaded_onto_the_converted_copy(
    checkpoint: Checkpoint, lora: Callable[[str], Path], tmp_path: Path, image: Image
) -> None:
    """As the published adapter, whose base is lmms-lab/llama3-llava-next-8b, of a type that transformers doesn't know."""
    original = tmp_path / "lmms-lab" / "llama3-llava-next-8b"
    original.mkdir(parents=True)
    (original / "config.json").write_text(json.dumps({"model_type": "llava_llama"}))
    adapter = Path(shutil.copytree(lora("llava"), tmp_path / "lora"))
    mapping = {"base_model_class": "LlavaLlamaForCausalLM", "parent_library": "llava.model.language_model.llava_llama"}
    change_settings(adapter, base_model_name_or_path=str(original), auto_mapping=mapping)
    converted = shutil.copytree(checkpoint("llava"), tmp_path / "llama3-llava-next-8b-hf")
    replies = load_mllm(f"{converted}+{adapter}").reply(image, QUESTIONS)
    assert_same(replies, load_mllm(str(lora("llava"))).reply(image, QUESTIONS))


def rename_keys(folder: Path, *renamings: tuple[str, str]) -> None:
    """Give an adapter's weights the names that its parts had before transformers 4.52."""
    renamed = {}
    for key, value in load_file(folder / WEIGHTS).items():
        old = key
        for new, former in renamings:
            old = old.replace(f"base_model.model.{new}", f"base_model.model.{former}")
        renamed[old] = value
    save_file(renamed, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("family", CLASSES)
def test_an_adapter_from_before_the_parts_were_moved_answers_equally(
    checkpoint: Checkpoint, lora: Callable[[str], Path], tmp_path: Path, image: Image, family: str
) -> None:
    old = Path(shutil.copytree(lora(family), tmp_path / "old"))
    rename_keys(old, ("model.language_model.", "language_model.model."), ("model.multi_modal", "multi_modal"))
    keys = load_file(old / WEIGHTS)
    assert any(key.startswith("base_model.model.language_model.model.layers.0.") for key in keys)
    assert any(key.startswith("base_model.model.multi_modal_projector.") for key in keys)
    new, renamed = (load_mllm(f"{checkpoint(family)}+{adapter}") for adapter in (lora(family), old))
    assert_same(renamed.reply(image, QUESTIONS), new.reply(image, QUESTIONS))
    with pytest.raises(AssertionError):
        assert_same(renamed.reply(image, QUESTIONS), load_mllm(str(checkpoint(family))).reply(image, QUESTIONS))


def test_an_old_adapter_of_qwen2_vl_has_equal_logits(tmp_path: Path) -> None:
    """Its language model was at the top then. Its processor needs torchvision, so the model is asked directly."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model("qwen2_vl", **SMALL["qwen2_vl"]))
    model.save_pretrained(tmp_path / "base")
    new = save_adapter(type(model), tmp_path / "base", tmp_path / "new", "merger")
    old = Path(shutil.copytree(new, tmp_path / "old"))
    rename_keys(old, ("model.language_model.", "model."), ("model.visual.", "visual."))
    assert any(re.match(r"base_model\.model\.model\.layers\.0\.", key) for key in load_file(old / WEIGHTS))
    ids, logits = torch.tensor([[5, 6, 7]]), []
    for adapter in (new, old):
        base = type(model).from_pretrained(tmp_path / "base").eval()
        with torch.inference_mode():
            plain = base(input_ids=ids).logits.clone()
            adapted = attach_adapter(base, str(adapter), str(adapter), str(tmp_path / "base"))
            logits.append(adapted(input_ids=ids).logits)
        assert not torch.allclose(logits[-1], plain)
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)
