"""Which modules are trained, in every family: the language model's projections and the projector, never the vision tower."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.training.target_modules import PROJECTIONS, find_target_modules

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "head_dim": 8,
}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
QWEN_VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
ROTATED = TEXT | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
SMALL: dict[str, dict[str, Any]] = {
    "llava": {"text_config": TEXT, "vision_config": VISION | {"image_size": 32, "patch_size": 8}},
    "llava_next": {"text_config": TEXT, "vision_config": VISION | {"image_size": 32, "patch_size": 8}},
    "qwen2_vl": {"text_config": ROTATED, "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2}},
    "qwen2_5_vl": {"text_config": ROTATED, "vision_config": QWEN_VISION | {"fullatt_block_indexes": [1]}},
    "qwen3_vl": {"text_config": ROTATED, "vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0, 1]}},
    "internvl": {
        "text_config": TEXT | {"model_type": "qwen2"},
        "vision_config": VISION | {"image_size": [32, 32], "patch_size": [8, 8]},
    },
    "idefics3": {"text_config": TEXT | {"model_type": "llama"}, "vision_config": VISION | {"image_size": 32, "patch_size": 8}},
    "smolvlm": {"text_config": TEXT | {"model_type": "llama"}, "vision_config": VISION | {"image_size": 32, "patch_size": 8}},
    "gemma3": {"text_config": TEXT, "vision_config": VISION | {"image_size": 32, "patch_size": 8}},
}
PROJECTOR = {
    "llava": ["model.multi_modal_projector"],
    "llava_next": ["model.multi_modal_projector"],
    "qwen2_vl": ["model.visual.merger"],
    "qwen2_5_vl": ["model.visual.merger"],
    "qwen3_vl": ["model.visual.merger", "model.visual.deepstack_merger_list.0", "model.visual.deepstack_merger_list.1"],
    "internvl": ["model.multi_modal_projector"],
    "idefics3": ["model.connector"],
    "smolvlm": ["model.connector"],
    "gemma3": ["model.multi_modal_projector"],
}


def build_small(family: str) -> nn.Module:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **SMALL[family]))


@pytest.mark.parametrize("family", SMALL)
def test_the_projections_and_the_projector_are_the_targets_in_every_family(family: str) -> None:
    model = build_small(family)
    targets = find_target_modules(model)
    assert list(targets.projector) == PROJECTOR[family]
    matched = [name for name, _ in model.named_modules() if re.fullmatch(targets.lora_pattern, name)]
    assert len(matched) == 2 * len(PROJECTIONS), "seven projections in each of two layers"
    assert {name.rpartition(".")[2] for name in matched} == set(PROJECTIONS)
    assert all(name.startswith(targets.language_model) for name in matched)
    assert not [name for name in matched if "vision" in name or "visual" in name]


def test_names_or_a_regular_expression_choose_other_layers() -> None:
    model = build_small("llava")
    by_name = find_target_modules(model, targets=["q_proj"]).lora_pattern
    assert [n for n, _ in model.named_modules() if re.fullmatch(by_name, n)] == [
        f"model.language_model.layers.{i}.self_attn.q_proj" for i in (0, 1)
    ]
    assert find_target_modules(model, targets=r".*layers\.1\..*v_proj").lora_pattern == r".*layers\.1\..*v_proj"
    assert find_target_modules(model, projector=False).projector == ()
    assert find_target_modules(model, projector=["model.multi_modal_projector.linear_2"]).projector == (
        "model.multi_modal_projector.linear_2",
    )


def test_targets_that_the_model_does_not_have_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"lora_targets \['query'\] match none"):
        find_target_modules(build_small("llava"), targets=["query"])
    with pytest.raises(SpecError, match=r"no module 'connector'.*multi_modal_projector"):
        find_target_modules(build_small("llava"), projector=["connector"])
