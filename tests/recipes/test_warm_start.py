"""The recipe starts from an earlier pair's vision tower."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from recipes.embedded.__main__ import create_mllm
from recipes.embedded.warm_start import resize_grid
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


def test_resizing_a_grid_to_its_own_size_changes_nothing_and_keeps_a_ramp_a_ramp() -> None:
    ramp = torch.arange(12.0).repeat(12, 1)[..., None]
    assert torch.equal(resize_grid(ramp, 12), ramp)
    larger = resize_grid(ramp, 14)
    assert larger.shape == (14, 14, 1)
    assert (larger[:, 1:] > larger[:, :-1]).all()
