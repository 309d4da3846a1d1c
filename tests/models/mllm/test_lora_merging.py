"""Plain LoRA adapters are merged without peft, to the same weights; whatever is more than that is left to peft."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from sam4mllm_tool.models.mllm.lora_merging import merge_plain_lora
from tests.checkpoints import PROJECTORS, save_adapter

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def base(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("llava")


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(LlavaForConditionalGeneration, base, tmp_path_factory.mktemp("lora"), PROJECTORS["llava"])


def load(base: Path, dtype: torch.dtype = torch.float32) -> Any:
    return LlavaForConditionalGeneration.from_pretrained(base, dtype=dtype)


def read_settings(lora: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((lora / SETTINGS).read_text())
    return settings


@pytest.mark.parametrize("saved", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_weights_are_those_of_peft_to_the_bit(
    base: Path, lora: Path, tmp_path: Path, dtype: torch.dtype, saved: torch.dtype
) -> None:
    tensors = {name: value.to(saved) for name, value in load_file(lora / WEIGHTS).items()}
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    (tmp_path / SETTINGS).write_text(json.dumps(read_settings(lora) | {"lora_alpha": 7, "use_rslora": saved == torch.float16}))
    merged, plain = load(base, dtype), load(base, dtype).state_dict()
    assert merge_plain_lora(merged, read_settings(tmp_path), tmp_path / WEIGHTS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        expected = PeftModel.from_pretrained(load(base, dtype), str(tmp_path)).merge_and_unload().state_dict()
    actual = merged.state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], value) and actual[name].dtype == value.dtype for name, value in expected.items())
    assert sum(not torch.equal(actual[name], value) for name, value in plain.items()) == len(tensors) - len(
        [name for name in tensors if "lora_A" in name]
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"use_dora": True}, id="a variant of LoRA"),
        pytest.param({"alpha_pattern": {"q_proj": 3}}, id="another scale in some layers"),
        pytest.param({"peft_type": "LOHA"}, id="another kind"),
        pytest.param({"bias": "all"}, id="biases"),
        pytest.param({"init_lora_weights": "pissa"}, id="a changed base"),
        pytest.param({"a_setting_of_next_year": 1}, id="an unknown setting"),
        pytest.param({"target_modules": ["q_proj"]}, id="weights that it doesn't name"),
        pytest.param({"target_modules": ["q_proj", "v_proj", "o_proj"]}, id="weights that it lacks"),
        pytest.param({"r": 3}, id="another rank"),
        pytest.param({"modules_to_save": None}, id="whole modules that it doesn't name"),
    ],
)
def test_what_is_more_than_plain_or_does_not_fit_is_left_to_peft(base: Path, lora: Path, change: dict[str, Any]) -> None:
    model = load(base)
    assert not merge_plain_lora(model, read_settings(lora) | change, lora / WEIGHTS)
    assert all(torch.equal(value, own) for value, own in zip(model.parameters(), load(base).parameters(), strict=True))
