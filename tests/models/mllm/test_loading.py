"""From a spec to a model: what loads, and the one line that says why something doesn't."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    BertConfig,
    Gemma3ForConditionalGeneration,
    Idefics3ForConditionalGeneration,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
)

import sam4mllm_tool.models.mllm
from sam4mllm_tool.errors import MissingExtraError, SpecError
from sam4mllm_tool.models import checkpoints
from sam4mllm_tool.models.mllm import TransformersMLLM, load_mllm, loading, split_spec
from sam4mllm_tool.types import FreeText, Image, Labels
from tests.checkpoints import FAMILIES, PROJECTORS, save_adapter, save_llava
from tests.models.mllm.asking import YES_NO, ask
from tests.own_code import OWN_CODE, add_own_code

Checkpoint = Callable[[str], Path]
CLASSES = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
    "idefics3": Idefics3ForConditionalGeneration,
    "gemma3": Gemma3ForConditionalGeneration,
}
QUESTIONS = [ask("on it ?", Labels(1, YES_NO)), ask("where ?", FreeText(6))]


def spec_error(spec: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_mllm(spec)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_importing_the_face_imports_no_torch() -> None:
    code = "import sys, sam4mllm_tool.models.mllm; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_face_shows_what_it_says() -> None:
    assert all(hasattr(sam4mllm_tool.models.mllm, name) for name in sam4mllm_tool.models.mllm.__all__)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = sam4mllm_tool.models.mllm.Nothing


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param("embedded", ("embedded", None), id="the embedded one"),
        pytest.param("owner/model", ("owner/model", None), id="a hub id"),
        pytest.param("owner/model+./lora", ("owner/model", "./lora"), id="a hub id with a folder"),
        pytest.param("embedded+a/b", ("embedded", "a/b"), id="another adapter on the embedded one"),
        pytest.param("c++", ("c++", None), id="a folder with plus signs in its name"),
        pytest.param("c+++lora", ("c++", "lora"), id="such a folder and an adapter"),
        pytest.param("c+++c++", ("c++", "c++"), id="such a folder twice"),
    ],
)
def test_spec_splits_into_base_and_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, expected: tuple[str, str | None]
) -> None:
    (tmp_path / "c++").mkdir()
    monkeypatch.chdir(tmp_path)
    assert split_spec(spec) == expected


@pytest.mark.parametrize("spec", ["+lora", "owner/model+"])
def test_half_a_spec_is_refused(spec: str) -> None:
    assert "incomplete: expected BASE+ADAPTER" in spec_error(spec)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_with_its_projector_is_what_peft_computes(
    checkpoint: Checkpoint, image: Image, tmp_path: Path, family: str
) -> None:
    base = checkpoint(family)
    adapter = save_adapter(CLASSES[family], base, tmp_path / "lora", PROJECTORS[family])
    spec = f"{base}+{adapter}"
    adapted = load_mllm(spec)
    assert isinstance(adapted, TransformersMLLM)
    assert adapted.name == spec
    plain = load_mllm(str(base)).reply(image, QUESTIONS)
    assert adapted.reply(image, QUESTIONS) != plain
    weights = load_file(adapter / "adapter_model.safetensors")
    model, untouched = adapted._runner.model, CLASSES[family].from_pretrained(base)
    projector = next(key for key in weights if PROJECTORS[family] in key)
    own = model.state_dict()
    torch.testing.assert_close(own[projector.removeprefix("base_model.model.")], weights[projector])
    lora_a = next(key for key in weights if key.endswith("lora_A.weight"))
    name = lora_a.removeprefix("base_model.model.").replace("lora_A.", "")
    scale = json.loads((adapter / "adapter_config.json").read_text())["lora_alpha"] / 2
    change = scale * weights[lora_a.replace("lora_A", "lora_B")] @ weights[lora_a]
    torch.testing.assert_close(own[name], untouched.state_dict()[name] + change)


def test_an_adapter_that_stays_attached_answers_the_same(
    checkpoint: Checkpoint, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a quantised base, whose weights an adapter can't be merged into."""
    adapter = save_adapter(LlavaForConditionalGeneration, checkpoint("llava"), tmp_path / "lora", PROJECTORS["llava"])
    spec = f"{checkpoint('llava')}+{adapter}"
    merged = load_mllm(spec)
    monkeypatch.setattr(loading, "_can_merge", lambda _: False)
    attached = load_mllm(spec)
    assert isinstance(attached, TransformersMLLM)
    assert any("lora_A" in name for name, _ in attached._runner.model.named_parameters())
    for one, other in zip(merged.reply(image, QUESTIONS), attached.reply(image, QUESTIONS), strict=True):
        assert one.text == other.text
        if one.label_probabilities and other.label_probabilities:
            assert one.label_probabilities[0] == pytest.approx(other.label_probabilities[0], abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_checkpoints_run_in_float32_on_a_cpu(tmp_path: Path, image: Image, dtype: torch.dtype) -> None:
    mllm = load_mllm(str(save_llava(tmp_path, dtype=dtype)), device="cpu")
    assert isinstance(mllm, TransformersMLLM)
    assert {weight.dtype for weight in mllm._runner.model.parameters()} == {torch.float32}
    assert mllm.reply(image, QUESTIONS)[0].label_probabilities


def test_a_precision_asked_for_is_used(checkpoint: Checkpoint, image: Image) -> None:
    mllm = load_mllm(str(checkpoint("llava")), dtype="bfloat16", device="cpu")
    assert isinstance(mllm, TransformersMLLM)
    assert mllm._runner.model.dtype is torch.bfloat16
    row = (mllm.reply(image, QUESTIONS)[0].label_probabilities or ())[0]
    assert sum(row) == pytest.approx(1)


def test_loading_and_answering_say_nothing(checkpoint: Checkpoint, image: Image, capfd: pytest.CaptureFixture[str]) -> None:
    load_mllm(str(checkpoint("idefics3"))).reply(image, QUESTIONS)
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert re.search("no folder '.*nothing'", spec_error(str(tmp_path / "nothing")))


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert "no config.json" in spec_error(str(tmp_path))


def test_a_hub_id_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "'owner/no-such-model'" in spec_error("owner/no-such-model")


def test_an_adapter_that_is_none(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert "no adapter_config.json" in spec_error(f"{checkpoint('llava')}+{tmp_path}")


def test_an_adapter_for_a_base_of_another_size(checkpoint: Checkpoint, tmp_path: Path) -> None:
    adapter = save_adapter(LlavaForConditionalGeneration, checkpoint("llava"), tmp_path / "lora", PROJECTORS["llava"])
    assert "doesn't fit" in spec_error(f"{checkpoint('embedded')}+{adapter}")


def test_an_adapter_for_other_layers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    adapter = save_adapter(LlavaForConditionalGeneration, checkpoint("llava"), tmp_path / "lora", PROJECTORS["llava"])
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {key.replace("layers.0", "blocks.0"): value for key, value in weights.items()},
        adapter / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    assert "doesn't fit" in spec_error(f"{checkpoint('llava')}+{adapter}")


def test_a_checkpoint_that_lacks_weights(tmp_path: Path) -> None:
    folder = save_llava(tmp_path)
    weights = load_file(folder / "model.safetensors")
    gone = next(key for key in weights if "projector" in key)
    save_file({k: v for k, v in weights.items() if k != gone}, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 of the model's weights" in spec_error(str(folder))


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    folder = save_llava(tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "can't be loaded" in spec_error(str(folder))


def test_a_pickled_adapter_is_not_opened(checkpoint: Checkpoint, tmp_path: Path) -> None:
    adapter = save_adapter(LlavaForConditionalGeneration, checkpoint("llava"), tmp_path / "lora", PROJECTORS["llava"])
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors: pickled weights are not opened" in spec_error(f"{checkpoint('llava')}+{adapter}")


@pytest.mark.parametrize("pickled", [False, True])
def test_an_adapter_on_the_hub_is_opened_unless_it_is_pickled(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickled: bool
) -> None:
    """From the hub's cache, as it lies there after a download."""
    snapshot = tmp_path / "models--owner--lora" / "snapshots" / ("0" * 40)
    save_adapter(LlavaForConditionalGeneration, checkpoint("llava"), snapshot, PROJECTORS["llava"])
    (tmp_path / "models--owner--lora" / "refs").mkdir()
    (tmp_path / "models--owner--lora" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    spec = f"{checkpoint('llava')}+owner/lora"
    if pickled:
        torch.save(load_file(snapshot / "adapter_model.safetensors"), snapshot / "adapter_model.bin")
        (snapshot / "adapter_model.safetensors").unlink()
        assert "'owner/lora' has no adapter_model.safetensors" in spec_error(spec)
    else:
        assert load_mllm(spec).name == spec


@pytest.mark.parametrize("part", OWN_CODE)
def test_a_checkpoints_own_code_is_never_run(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    marker = add_own_code(checkpoint("llava"), tmp_path / "own", part)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    message = spec_error(str(tmp_path / "own"))
    assert "needs its own code, which is never run: choose" in message
    assert "\n" not in message
    assert not marker.exists()


def test_a_model_that_reads_no_pictures(tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path)
    message = spec_error(str(tmp_path))
    assert "can't be loaded" in message or "no processor for pictures and text" in message


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="says what happens without torchvision")
def test_a_family_that_needs_torchvision_says_so(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint("llava") / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"processor_class": "Qwen2VLProcessor"}))
    with pytest.raises(MissingExtraError, match=r"torchvision, which .* needs, is not installed: pip install"):
        load_mllm(str(tmp_path))


def test_devices_that_are_not_there_say_so(checkpoint: Checkpoint) -> None:
    with pytest.raises(SpecError, match="the device 'abacus' can't be used"):
        load_mllm(str(checkpoint("llava")), device="abacus")


def test_the_embedded_one_is_a_base_and_an_adapter_of_the_package(
    checkpoint: Checkpoint, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = save_adapter(LlavaForConditionalGeneration, checkpoint("llava"), tmp_path / "lora", PROJECTORS["llava"])
    folders = {"mllm": str(checkpoint("llava")), "adapter": str(adapter)}
    monkeypatch.setattr(checkpoints, "embedded_folder", folders.__getitem__)
    embedded, same = load_mllm("embedded"), load_mllm(f"{checkpoint('llava')}+{adapter}")
    assert embedded.name == "embedded"
    assert embedded.reply(image, QUESTIONS) == same.reply(image, QUESTIONS)
    other = save_adapter(LlavaForConditionalGeneration, checkpoint("llava"), tmp_path / "other", PROJECTORS["llava"])
    assert load_mllm(f"embedded+{other}").name == f"embedded+{other}"


def test_every_family_is_one_that_transformers_opens(checkpoint: Checkpoint) -> None:
    for family, kind in CLASSES.items():
        assert isinstance(AutoModelForImageTextToText.from_pretrained(checkpoint(family)), kind)
