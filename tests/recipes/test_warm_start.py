"""The recipe starts from an earlier pair's vision tower and Segment Anything."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipes.embedded.__main__ import create_mllm, create_sam
from recipes.embedded.sam_model import CHANNELS
from recipes.embedded.warm_start import load_sam, resize_grid
from sam4mllm_tool.models.checkpoints import embedded_folder

WEIGHTS = Path(embedded_folder("mllm")).parent


def test_the_tower_of_an_earlier_pair_is_loaded_and_the_language_model_is_not() -> None:
    fresh, started = create_mllm(), create_mllm(WEIGHTS)
    earlier = load_file(WEIGHTS / "mllm" / "model.safetensors")
    name = "encoder.layers.5.mlp.fc1.weight"
    (expected,) = (value for key, value in earlier.items() if key.endswith(f"vision_tower.{name}"))
    assert torch.equal(started.model.vision_tower.get_parameter(name), expected.float())
    languages = (model.model.language_model.state_dict() for model in (fresh, started))
    assert all(torch.equal(a, b) for a, b in zip(*(weights.values() for weights in languages), strict=True))


def test_segment_anything_of_an_earlier_pair_is_loaded_and_widened() -> None:
    started = create_sam(WEIGHTS).state_dict()
    earlier = load_file(WEIGHTS / "sam" / "model.safetensors")
    layer = "vision_encoder.layers.3.mlp.lin1.weight"
    assert torch.equal(started[layer], earlier[layer].float())
    token, earlier_token = (weights["mask_decoder.iou_token.weight"][0].float() for weights in (started, earlier))
    assert len(token) == CHANNELS
    repeated = earlier_token if len(earlier_token) == CHANNELS else earlier_token.unflatten(0, (2, -1)).repeat(1, 2).flatten()
    assert torch.equal(token, repeated)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    weights = load_file(WEIGHTS / "sam" / "model.safetensors")
    del weights["vision_encoder.neck.conv1.weight"]
    (tmp_path / "sam").mkdir()
    save_file(weights, tmp_path / "sam" / "model.safetensors")
    with pytest.raises(ValueError, match=r"has another architecture: missing .*neck\.conv1\.weight"):
        load_sam(create_sam(), tmp_path)


def test_resizing_a_grid_to_its_own_size_changes_nothing_and_keeps_a_ramp_a_ramp() -> None:
    ramp = torch.arange(12.0).repeat(12, 1)[..., None]
    assert torch.equal(resize_grid(ramp, 12), ramp)
    larger = resize_grid(ramp, 14)
    assert larger.shape == (14, 14, 1)
    assert (larger[:, 1:] > larger[:, :-1]).all()
