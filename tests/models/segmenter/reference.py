"""Masks that a model of transformers and its own processor give by themselves, and comparisons with a segmenter's."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PILImage
from PIL import ImageDraw
from transformers import AutoModelForMaskGeneration, AutoProcessor, Sam3TrackerConfig, Sam3TrackerModel, Sam3TrackerProcessor

from sam4mllm_tool.types import Box, Image, Mask, ObjectPrompt, PointPrompt, RunLengthMask, SegmentedObject


def make_image(width: int, height: int, seed: int = 0) -> Image:
    """Return an image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return PILImage.fromarray(pixels)


def predict_masks(folder: Path, image: Image, prompt: ObjectPrompt) -> tuple[Mask, npt.NDArray[np.float32]]:
    """Return masks (3, H, W) and scores (3,), best first, computed with transformers alone."""
    model, processor = _load(folder)
    prompts: dict[str, Any] = {} if prompt.points_only else {"input_boxes": [[list(prompt.box)]]}
    if prompt.points:
        prompts["input_points"] = [[[[point.x, point.y] for point in prompt.points]]]
        prompts["input_labels"] = [[[point.label for point in prompt.points]]]
    inputs = processor(images=image, return_tensors="pt", **prompts)
    sizes = [inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
    if prompt.mask_input is not None:
        size = model.prompt_encoder.image_embedding_size
        side = 4 * (size if isinstance(size, int) else size[0])
        inputs["input_masks"] = resize_mask(prompt.mask_input.mask(), side, pads=len(sizes) > 1)
    with torch.no_grad():
        output = model(**inputs)
    masks = processor.post_process_masks(output.pred_masks, *sizes)[0][0].numpy()
    scores = output.iou_scores[0, 0].numpy()
    order = np.argsort(-scores, kind="stable")
    return masks[order], scores[order]


@lru_cache(maxsize=2)
def _load(folder: Path) -> tuple[Any, Any]:
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] == "sam3_video":
        heads = {
            name: config["tracker_config"][name] for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
        }
        tracker = Sam3TrackerModel.from_pretrained(folder, config=Sam3TrackerConfig(**heads))
        return tracker, Sam3TrackerProcessor.from_pretrained(folder)
    return AutoModelForMaskGeneration.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def resize_mask(mask: Mask, side: int, *, pads: bool) -> torch.Tensor:
    """Return logits (1, 1, side, side) of a mask: stretched, or as SAM pads images, at the right and at the bottom."""
    height, width = (round(side * length / max(mask.shape)) if pads else side for length in mask.shape)
    grid = torch.zeros(1, 1, side, side)
    resized = PILImage.fromarray(mask.astype(np.float32)).resize((width, height), PILImage.Resampling.BILINEAR)
    grid[..., :height, :width] = torch.from_numpy(np.array(resized))
    return torch.logit(grid.clamp(1e-3, 1 - 1e-3))


def prompts_without_box_or_with_mask(size: tuple[int, int]) -> tuple[ObjectPrompt, ObjectPrompt, ObjectPrompt]:
    """Return a prompt of points alone, one with a mask input, and one of points and a mask input, for (width, height)."""
    width, height = size
    ellipse = PILImage.new("1", size)
    ImageDraw.Draw(ellipse).ellipse((width // 4, height // 4, width // 2, height // 2), fill=1)
    mask_input = RunLengthMask.of(np.asarray(ellipse))
    points = (PointPrompt(30, 20, 1, 0.9), PointPrompt(10, 12, 0))
    return (
        ObjectPrompt.from_points(points),
        ObjectPrompt(Box(10, 10, 45, 45), points[:1], mask_input),
        ObjectPrompt.from_points(points, mask_input),
    )


def masks_of(segmented: SegmentedObject) -> Mask:
    """Return all candidates' masks (3, H, W), the chosen one first."""
    return np.stack([segmented.mask, *(candidate.mask for candidate in segmented.alternatives)])


def scores_of(segmented: SegmentedObject) -> npt.NDArray[np.float64]:
    """Return all candidates' scores (3,), that of the chosen one first."""
    return np.array([segmented.score, *(candidate.score for candidate in segmented.alternatives)])


def assert_equal_objects(objects: Sequence[SegmentedObject], expected: Sequence[SegmentedObject]) -> None:
    """Compare, except for pixels whose logit is zero up to rounding, which depends on how many prompts a run has."""
    assert len(objects) == len(expected)
    for first, second in zip(objects, expected, strict=True):
        assert first.prompt == second.prompt
        np.testing.assert_allclose(scores_of(first), scores_of(second), atol=1e-5)
        assert (masks_of(first) != masks_of(second)).mean() < 1e-3
