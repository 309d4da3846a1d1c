"""An encoded image, and masks on the coarse grid of the decoder's logits: comparing them there saves upsampling."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sam4mllm_tool.models.devices import count_bytes
from sam4mllm_tool.types import Mask, ObjectPrompt, PointPrompt

__all__ = ["DecoderGrid", "EncodedImage", "grid_ious", "scale_prompts"]

_COMPARED_CELLS = 256
_MIN_COVERAGE = 1e-3
"""How far the share of a cell under the mask is kept from 0 and 1: logits stay within 6.9, where most of the decoder's are."""


@dataclass(frozen=True)
class EncodedImage:
    """An image as the decoder takes it.

    Attributes:
        embeddings: The model's keyword arguments that replace pixel values.
        original: (height, width) of the image in pixels.
        processed: (height, width) of the image in the model's input, without padding.
        padded: (height, width) of the model's input.
        unpadding: Arguments that post-processing takes besides the original size.
    """

    embeddings: dict[str, Any]
    original: tuple[int, int]
    processed: tuple[int, int]
    padded: tuple[int, int]
    unpadding: dict[str, Any]

    @property
    def bytes(self) -> int:
        """The memory that the embeddings take."""
        return count_bytes(self.embeddings)


@dataclass(frozen=True)
class DecoderGrid:
    """The cells of a (height, width) grid over the model's input that lie on the image, not on padding.

    Attributes:
        rows: The image's pixel row under the center of each row of cells.
        columns: The image's pixel column under the center of each column of cells.
        scale: Cells per pixel, (x, y).
    """

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    scale: tuple[float, float]

    @classmethod
    def over(cls, encoded: EncodedImage, height: int, width: int) -> Self:
        """Return the grid of `height` x `width` cells over an encoded image."""
        sides = zip(encoded.original, encoded.processed, encoded.padded, (height, width), strict=True)
        scale_y, scale_x = ((cells / padded) * (processed / original) for original, processed, padded, cells in sides)
        rows = ((np.arange(height) + 0.5) / scale_y).astype(np.int64)
        columns = ((np.arange(width) + 0.5) / scale_x).astype(np.int64)
        return cls(rows[rows < encoded.original[0]], columns[columns < encoded.original[1]], (scale_x, scale_y))

    def scale_points(self, prompt: ObjectPrompt) -> ObjectPrompt:
        """Return the prompt with its points in cells; its box, which doesn't affect the choice among masks, in pixels."""
        scale_x, scale_y = self.scale
        points = (PointPrompt(p.x * scale_x, p.y * scale_y, p.label, p.confidence) for p in prompt.points)
        return ObjectPrompt(prompt.box, tuple(points))


def scale_prompts(prompts: Sequence[ObjectPrompt], encoded: EncodedImage, device: torch.device) -> dict[str, Tensor]:
    """Return prompts as tensors, in pixels of the model's input.

    Args:
        prompts: n prompts with equally many points, all with or all without a box; one that has a mask input stands alone.
        encoded: The image.
        device: Where the tensors are wanted.

    Returns:
        `boxes` (n, 4), `points` (n, k, 2) and `labels` (n, k), and `masks` (1, 1, h, w) logits; those that the prompts have.
    """
    scale = torch.tensor([encoded.processed[1] / encoded.original[1], encoded.processed[0] / encoded.original[0]])
    tensors: dict[str, Tensor] = {}
    if not prompts[0].points_only:
        tensors["boxes"] = torch.tensor([prompt.box for prompt in prompts]) * scale.repeat(2)
    if prompts[0].points:
        tensors["points"] = torch.tensor([[(point.x, point.y) for point in prompt.points] for prompt in prompts]) * scale
        tensors["labels"] = torch.tensor([[point.label for point in prompt.points] for prompt in prompts])
    if prompts[0].mask_input is not None:
        tensors["masks"] = _encode_mask_input(prompts[0].mask_input.mask(), encoded)
    return {kind: tensor.to(device) for kind, tensor in tensors.items()}


def _encode_mask_input(mask: Mask, encoded: EncodedImage) -> Tensor:
    """Return a mask as the prompt encoder takes it: (1, 1, h, w) logits on a grid of four cells per embedding and side.

    Args:
        mask: (H, W) bool on the image.
        encoded: The image.
    """
    embeddings = encoded.embeddings["image_embeddings"]
    prompted = embeddings[-1] if isinstance(embeddings, list) else embeddings  # SAM 2 and later: coarsest last
    grid = [4 * side for side in prompted.shape[-2:]]
    sides = zip(grid, encoded.processed, encoded.padded, strict=True)
    height, width = (max(1, round(cells * processed / padded)) for cells, processed, padded in sides)
    coverage = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None].float(), (height, width), mode="bilinear", antialias=True
    )
    padded = torch.nn.functional.pad(coverage, (0, grid[1] - width, 0, grid[0] - height))
    return padded.logit(eps=_MIN_COVERAGE)


def grid_ious(logits: Tensor, truth: Mask, encoded: EncodedImage) -> npt.NDArray[np.float64]:
    """Return the (n,) IoU of masks with the true mask, on a grid of about 256 cells a side.

    Args:
        logits: (n, h, w) mask logits on the decoder's grid.
        truth: (H, W) bool on the image.
        encoded: The image.
    """
    factor = max(1, _COMPARED_CELLS // max(logits.shape[-2:]))
    if factor > 1:
        logits = torch.nn.functional.interpolate(logits[:, None], scale_factor=factor, mode="bilinear")[:, 0]
    grid = DecoderGrid.over(encoded, *logits.shape[-2:])
    sampled = torch.from_numpy(truth[np.ix_(grid.rows, grid.columns)]).to(logits.device)
    masks = logits[:, : grid.rows.size, : grid.columns.size] > 0
    intersection, union = (masks & sampled).sum((1, 2)), (masks | sampled).sum((1, 2))
    return (intersection / union.clamp(min=1)).double().cpu().numpy()
