"""SAM 2, EdgeTAM and SAM 3 on tiny checkpoints in their real formats, against each model's own processor and forward pass."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt
from tests.models.segmenter.reference import (
    assert_equal_objects,
    make_image,
    masks_of,
    predict_masks,
    prompts_without_box_or_with_mask,
    scores_of,
)
from tests.sam2_checkpoints import SAVED, save_sam3
from tests.video_checkpoints import needs_torchvision

pytestmark = [needs_torchvision, pytest.mark.filterwarnings("ignore:.*timm.*")]

SIZES = [(50, 80), (112, 112), (200, 51)]
PROMPTS = (
    ObjectPrompt(Box(10, 10, 50, 45), (PointPrompt(30, 20, 1, 0.9),)),
    ObjectPrompt(Box(5.5, 5, 48, 40.25), (PointPrompt(10, 20, 1, 0.8), PointPrompt(40, 39, 0, 0.95))),
    ObjectPrompt(Box(0, 0, 20, 20)),
)


@pytest.fixture(scope="session", params=SAVED)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return the folder of a family's checkpoint, and its segmenter."""
    if request.param == "edgetam" and find_spec("timm") is None:
        pytest.skip("EdgeTAM's encoder needs timm")
    folder = SAVED[request.param](tmp_path_factory.mktemp(request.param))
    return folder, load_segmenter(str(folder), by="score")


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_masks_and_scores_are_those_of_the_models_own_processor(family: tuple[Path, Any], size: tuple[int, int]) -> None:
    folder, segmenter = family
    image = make_image(*size)
    prompts = [*PROMPTS, *prompts_without_box_or_with_mask(size)]
    for prompt in prompts:
        masks, scores = predict_masks(folder, image, prompt)
        (segmented,) = segmenter.segment(image, [prompt])
        np.testing.assert_allclose(scores_of(segmented), scores, atol=1e-5)
        assert (masks_of(segmented) != masks).mean() < 1e-3
        assert 0 < masks.mean() < 1, "a constant reference would prove nothing"


def test_the_tracker_of_facebook_sam3s_layout_has_the_checkpoints_weights(tmp_path: Path) -> None:
    folder = save_sam3(tmp_path)
    stored = load_file(folder / "model.safetensors")
    places = (
        ("vision_encoder.neck.", "tracker_neck."),
        ("vision_encoder.", "detector_model.vision_encoder."),
        ("", "tracker_model."),
    )
    for name, weight in load_segmenter(str(folder))._model.named_parameters():  # type: ignore[attr-defined]
        ours, theirs = next(pair for pair in places if name.startswith(pair[0]))
        assert torch.equal(weight, stored[theirs + name.removeprefix(ours)])


def test_many_prompts_give_what_each_gives_alone(family: tuple[Path, Any]) -> None:
    _, segmenter = family
    image, prompts = make_image(80, 50), [*PROMPTS, *prompts_without_box_or_with_mask((80, 50))]
    together = segmenter.segment(image, prompts)
    assert_equal_objects(together, [segmenter.segment(image, [prompt])[0] for prompt in prompts])
    assert all((together[0].mask != other.mask).any() for other in together[1:]), "masks depend on the prompts"
