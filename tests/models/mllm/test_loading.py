"""From a spec to a model: what loads, and the one-line error if something can't be loaded."""

import ast
import json
import re
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import huggingface_hub.constants
import pytest
import torch
import transformers
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
from sam4mllm_tool.models.load_errors import explain_load_error
from sam4mllm_tool.models.mllm import TransformersMLLM, load_mllm, loading, split_spec
from sam4mllm_tool.models.mllm.adapters import attach_adapter
from sam4mllm_tool.types import FreeText, Image, Labels
from tests.checkpoints import FAMILIES, PROJECTORS, save_adapter, save_llava
from tests.custom_code import CUSTOM_PARTS, copy_with_custom_code
from tests.models.mllm.questions import YES_NO, assert_same, make_question

Checkpoint = Callable[[str], Path]
CLASSES = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
    "idefics3": Idefics3ForConditionalGeneration,
    "gemma3": Gemma3ForConditionalGeneration,
}
QUESTIONS = [make_question("on it ?", Labels(1, YES_NO)), make_question("where ?", FreeText(6))]


def spec_error(spec: str) -> str:
    """Return the one-line message of loading a spec."""
    with pytest.raises(SpecError) as caught:
        load_mllm(spec)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="session")
def lora(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an adapter for LLaVA, saved once; tests that change it copy it."""
    return save_adapter(
        LlavaForConditionalGeneration, checkpoint("llava"), tmp_path_factory.mktemp("lora"), PROJECTORS["llava"]
    )


@pytest.fixture
def lora_copy(lora: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lora, tmp_path / "lora"))


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        _ = sam4mllm_tool.models.mllm.Nothing


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param("embedded", ("embedded", None), id="embedded"),
        pytest.param("owner/model", ("owner/model", None), id="a hub id"),
        pytest.param("owner/model+./lora", ("owner/model", "./lora"), id="a hub id and a folder"),
        pytest.param("embedded+a/b", ("embedded", "a/b"), id="embedded with another adapter"),
        pytest.param("c++", ("c++", None), id="a folder with plus signs in its name"),
        pytest.param("c+++lora", ("c++", "lora"), id="such a folder and an adapter"),
        pytest.param("c+++c++", ("c++", "c++"), id="such a folder and such an adapter"),
    ],
)
def test_a_spec_is_split_into_base_and_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, expected: tuple[str, str | None]
) -> None:
    (tmp_path / "c++").mkdir()
    monkeypatch.chdir(tmp_path)
    assert split_spec(spec) == expected


@pytest.mark.parametrize("spec", ["+lora", "owner/model+"])
def test_an_incomplete_spec_is_refused(spec: str) -> None:
    assert "incomplete: expected BASE+ADAPTER" in spec_error(spec)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_adapter_changes_weights_as_peft_defines_it(
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


def test_an_attached_adapter_gives_the_same_answers_as_a_merged_one(
    checkpoint: Checkpoint, image: Image, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a quantised base, into whose weights an adapter can't be merged."""
    spec = f"{checkpoint('llava')}+{lora}"
    merged = load_mllm(spec)
    monkeypatch.setattr(loading, "merge_adapter", lambda *of: attach_adapter(*of).get_base_model())
    attached = load_mllm(spec)
    assert isinstance(attached, TransformersMLLM)
    assert any("lora_A" in name for name, _ in attached._runner.model.named_parameters())
    for first, second in zip(merged.reply(image, QUESTIONS), attached.reply(image, QUESTIONS), strict=True):
        assert first.text == second.text
        if first.label_probabilities and second.label_probabilities:
            assert first.label_probabilities[0] == pytest.approx(second.label_probabilities[0], abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_checkpoints_run_in_float32_on_a_cpu(tmp_path: Path, image: Image, dtype: torch.dtype) -> None:
    mllm = load_mllm(str(save_llava(tmp_path, dtype=dtype)), device="cpu")
    assert isinstance(mllm, TransformersMLLM)
    assert {weight.dtype for weight in mllm._runner.model.parameters()} == {torch.float32}
    assert mllm.reply(image, QUESTIONS)[0].label_probabilities


def test_the_requested_precision_is_used(checkpoint: Checkpoint, image: Image) -> None:
    mllm = load_mllm(str(checkpoint("llava")), dtype="bfloat16", device="cpu")
    assert isinstance(mllm, TransformersMLLM)
    assert mllm._runner.model.dtype is torch.bfloat16
    row = (mllm.reply(image, QUESTIONS)[0].label_probabilities or ())[0]
    assert sum(row) == pytest.approx(1)


def test_quantization_without_its_library_names_the_extra(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r'bitsandbytes, .* is not installed: pip install "sam4mllm-tool\[quantize\]"'):
        load_mllm(str(checkpoint("llava")), quantize="4bit")


@pytest.mark.parametrize(
    ("quantize", "expected"),
    [
        ("8bit", {"load_in_8bit": True}),
        ("4bit", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}),
    ],
)
def test_quantization_reaches_transformers(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, quantize: Literal["4bit", "8bit"], expected: dict[str, Any]
) -> None:
    passed: dict[str, Any] = {}

    def load(_: str, **arguments: Any) -> None:
        passed.update(arguments)
        raise OSError("stopped here")

    monkeypatch.setattr(loading, "find_spec", lambda _: object())
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", load)
    with pytest.raises(SpecError, match="stopped here"):
        load_mllm(str(checkpoint("llava")), quantize=quantize, dtype="bfloat16", device="cpu")
    config = passed["quantization_config"]
    assert {name: getattr(config, name) for name in expected} == expected
    assert passed["device_map"] == {"": torch.device("cpu")}
    (skipped,) = config.llm_int8_skip_modules
    for name in ("lm_head", "model.multi_modal_projector.linear_1", "model.visual.blocks.0.mlp.up_proj", "model.connector"):
        assert re.fullmatch(skipped, name)
    for name in ("model.language_model.layers.0.mlp.up_proj", "model.text_model.layers.0.self_attn.q_proj"):
        assert not re.match(skipped, name)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_a_quantized_model_answers_with_its_adapter(
    checkpoint: Checkpoint, lora: Path, image: Image, quantize: Literal["4bit", "8bit"], capfd: pytest.CaptureFixture[str]
) -> None:
    base = load_mllm(str(checkpoint("llava")), quantize=quantize, device="cpu")
    assert isinstance(base, TransformersMLLM)
    inside = {name for name, module in base._runner.model.named_modules() if type(module).__name__.endswith(("8bitLt", "4bit"))}
    assert inside
    assert all(name.startswith("model.language_model.") for name in inside)
    rough, exact = (model.reply(image, QUESTIONS)[0] for model in (base, load_mllm(str(checkpoint("llava")))))
    assert (rough.label_probabilities or ())[0] == pytest.approx((exact.label_probabilities or ())[0], abs=0.2)
    adapted = load_mllm(f"{checkpoint('llava')}+{lora}", quantize=quantize, device="cpu")
    expected = adapted.reply(image, QUESTIONS)
    assert expected != base.reply(image, QUESTIONS)
    assert_same(base.use(str(lora)).reply(image, QUESTIONS), expected)
    assert "cast" not in capfd.readouterr().err


def test_an_unknown_attention_is_refused_in_one_line(checkpoint: Checkpoint) -> None:
    with pytest.raises(SpecError, match=r"can't be loaded: .*magic.* is not supported") as caught:
        load_mllm(str(checkpoint("llava")), attention="magic")
    assert "\n" not in str(caught.value)


def test_a_device_map_answers_as_one_device_does(checkpoint: Checkpoint, image: Image) -> None:
    spread, alone = load_mllm(str(checkpoint("llava")), device_map="auto"), load_mllm(str(checkpoint("llava")), device="cpu")
    assert_same(spread.reply(image, QUESTIONS), alone.reply(image, QUESTIONS))


def test_loading_and_answering_print_nothing(checkpoint: Checkpoint, image: Image, capfd: pytest.CaptureFixture[str]) -> None:
    folder = checkpoint("idefics3")
    capfd.readouterr()  # saving the checkpoint shows its progress
    load_mllm(str(folder)).reply(image, QUESTIONS)
    assert capfd.readouterr() == ("", "")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert re.search("no folder '.*nothing'", spec_error(str(tmp_path / "nothing")))


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    assert "no config.json" in spec_error(str(tmp_path))


def test_an_unreachable_hub_id_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "'owner/no-such-model'" in spec_error("owner/no-such-model")


def test_a_folder_without_an_adapter_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert "no adapter_config.json" in spec_error(f"{checkpoint('llava')}+{tmp_path}")


def test_an_adapter_for_a_base_of_another_size_is_refused(checkpoint: Checkpoint, lora: Path) -> None:
    assert "doesn't fit" in spec_error(f"{checkpoint('embedded')}+{lora}")


def test_an_adapter_for_other_layers_is_refused(checkpoint: Checkpoint, lora_copy: Path) -> None:
    weights = load_file(lora_copy / "adapter_model.safetensors")
    save_file(
        {key.replace("layers.0", "blocks.0"): value for key, value in weights.items()},
        lora_copy / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    assert "doesn't fit" in spec_error(f"{checkpoint('llava')}+{lora_copy}")


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    folder = save_llava(tmp_path)
    weights = load_file(folder / "model.safetensors")
    removed = next(key for key in weights if "projector" in key)
    save_file({k: v for k, v in weights.items() if k != removed}, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 of the model's weights" in spec_error(str(folder))


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    folder = save_llava(tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "has pickled weights alone (pytorch_model.bin), which are never opened" in spec_error(str(folder))


def test_a_pickled_adapter_is_not_opened(checkpoint: Checkpoint, lora_copy: Path) -> None:
    torch.save(load_file(lora_copy / "adapter_model.safetensors"), lora_copy / "adapter_model.bin")
    (lora_copy / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors: pickled weights are not opened" in spec_error(
        f"{checkpoint('llava')}+{lora_copy}"
    )


@pytest.mark.parametrize("pickled", [False, True])
def test_an_adapter_on_the_hub_is_loaded_unless_it_is_pickled(
    checkpoint: Checkpoint, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickled: bool
) -> None:
    """From the hub's cache, laid out as after a download."""
    snapshot = tmp_path / "models--owner--lora" / "snapshots" / ("0" * 40)
    shutil.copytree(lora, snapshot)
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


def test_an_adapter_cannot_make_peft_import_a_module(
    checkpoint: Checkpoint, lora_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one whose name starts like the only module that peft itself allows."""
    package = lora_copy / "megatron"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "evil.py").write_text(f"open({str(lora_copy / 'it-ran')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(lora_copy)
    settings = lora_copy / "adapter_config.json"
    malicious = {"megatron_core": "megatron.evil", "megatron_config": {"hidden_size": 1}}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | malicious))
    message = spec_error(f"{checkpoint('llava')}+{lora_copy}")
    assert "sets megatron_core to 'megatron.evil': expected null or 'megatron.core'" in message
    assert not (lora_copy / "it-ran").exists()
    assert "megatron.evil" not in sys.modules


def test_every_auto_class_is_called_without_trust_in_remote_code() -> None:
    package = Path(sam4mllm_tool.models.mllm.__file__).parents[2]
    calls = [
        (path.name, node)
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and re.fullmatch(r"(\w+\.)*Auto\w+\.from_pretrained", ast.unparse(node.func))
    ]
    assert len(calls) >= 6
    assert [name for name, call in calls if "trust_remote_code=False" not in map(ast.unparse, call.keywords)] == []


@pytest.mark.parametrize("part", [*CUSTOM_PARTS, "tokenizer"])
def test_a_checkpoints_own_code_is_never_run(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    marker = copy_with_custom_code(checkpoint("llava"), tmp_path / "own", part)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    message = spec_error(str(tmp_path / "own"))
    assert "needs its own code, which is never run: choose" in message
    assert "\n" not in message
    assert not marker.exists()


def test_a_text_model_is_refused(tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path)
    assert "is a model of type 'bert': expected an MLLM, which reads an image and text" in spec_error(str(tmp_path))


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
@pytest.mark.parametrize(
    ("model_type", "processor"),
    [
        pytest.param("qwen2_vl", "Qwen2VLProcessor", id="a video processor"),
        pytest.param("llava_onevision", "LlavaOnevisionProcessor", id="another"),
        pytest.param("mistral3", "PixtralProcessor", id="transformers writes Torchvision"),
        pytest.param("llama4", "Llama4Processor", id="an image processor"),
    ],
)
def test_a_family_that_needs_torchvision_names_the_extra(
    checkpoint: Checkpoint, tmp_path: Path, model_type: str, processor: str
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint("llava") / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"processor_class": processor}))
    with pytest.raises(MissingExtraError, match=r"torchvision, which .* needs, is not installed: pip install .*\[sam\]"):
        load_mllm(str(tmp_path))


def _change_config(folder: Path, **settings: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "has no weights: expected model.safetensors beside its config.json",
    ),
    "GGUF weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model-Q4_K_M.gguf"),
        "has GGUF weights (model-Q4_K_M.gguf): serve it, for example with llama.cpp or Ollama, and name the server's model as "
        "openai:MODEL@URL",
    ),
    "a Git LFS pointer": (
        lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"),
        "is a Git LFS pointer, not the weights themselves: run 'git lfs pull' in its folder",
    ),
    "an unknown type": (
        lambda folder: _change_config(folder, model_type="brand_new_vl"),
        f"is of type 'brand_new_vl', which transformers {transformers.__version__} doesn't know: upgrade it",
    ),
    "an original release": (
        lambda folder: _change_config(folder, model_type="llava_llama"),
        "doesn't know: choose a converted one, llava-hf's, as llava-hf/llama3-llava-next-8b-hf",
    ),
    "no processor": (
        lambda folder: (folder / "processor_config.json").unlink(),
        "has no preprocessor_config.json: copy the processor's files from the model that it was made from",
    ),
    "no tokenizer": (
        lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "has no tokenizer.json that can be read: copy it from the model that it was made from",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_checkpoint_that_cannot_be_loaded_says_why_and_what_to_do(checkpoint: Checkpoint, tmp_path: Path, fault: str) -> None:
    break_it, message = BROKEN[fault]
    folder = Path(shutil.copytree(checkpoint("llava"), tmp_path / "broken"))
    break_it(folder)
    assert message in spec_error(str(folder))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sam_vit_h.pth", "is a file of pickled weights, which are never opened because they can run code: name the folder"),
        ("model.bin", "is a file of pickled weights"),
        ("model-Q4_K_M.gguf", "is a GGUF file: serve it, for example with llama.cpp or Ollama, and name the server's model as"),
        ("model.safetensors", "is a file: name its folder"),
        ("photo.png", "is a file: expected the folder of a checkpoint that contains config.json"),
    ],
)
def test_a_file_in_the_place_of_a_folder_says_what_to_write(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"0")
    assert message in spec_error(str(tmp_path / name))


def test_a_folder_of_one_gguf_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    assert "has GGUF weights (model.gguf): serve it" in spec_error(str(tmp_path))


def test_a_segmenter_is_not_an_mllm() -> None:
    assert "is a segmenter of type 'sam': name it as the segmenter" in spec_error(checkpoints.embedded_folder("sam"))


def test_a_library_that_a_checkpoint_needs_is_named_with_its_package() -> None:
    for text, cure in (
        (
            "SmolVLMProcessor requires the num2words library but it was not found. You can install it with pip:\n`pip install "
            "num2words`. Please restart",
            "needs num2words, which is not installed: pip install num2words",
        ),
        (
            "X requires the SentencePiece library but it was not found in your environment. Check out the instructions on the\n"
            "installation page",
            "needs SentencePiece, which is not installed: pip install sentencepiece",
        ),
    ):
        assert str(explain_load_error("a/b", ImportError(text), extra="sam")) == f"the checkpoint 'a/b' {cure}"


def test_an_unknown_device_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(SpecError, match="the device 'abacus' can't be used"):
        load_mllm(str(checkpoint("llava")), device="abacus")


def test_embedded_is_a_base_and_an_adapter_of_the_package(
    checkpoint: Checkpoint, image: Image, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"mllm": str(checkpoint("llava")), "adapter": str(lora)}
    monkeypatch.setattr(checkpoints, "embedded_folder", folders.__getitem__)
    embedded, same = load_mllm("embedded"), load_mllm(f"{checkpoint('llava')}+{lora}")
    assert embedded.name == "embedded"
    assert_same(embedded.reply(image, QUESTIONS), same.reply(image, QUESTIONS))
    folders["adapter"] = "absent"
    other = load_mllm(f"embedded+{lora}")
    assert other.name == f"embedded+{lora}"
    assert_same(other.reply(image, QUESTIONS), same.reply(image, QUESTIONS))


def test_transformers_opens_each_test_checkpoint_with_its_own_class(checkpoint: Checkpoint) -> None:
    for family, kind in CLASSES.items():
        assert isinstance(AutoModelForImageTextToText.from_pretrained(checkpoint(family)), kind)
