"""PPG's training targets: of many random groups of points, those with which the real segmenter makes the best mask.

Source: SAM4MLLM, section 3.2: K = 64 groups of n1 = 2 points on the object and n2 = 1 off it, of which the k = 1 best by IoU
are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.models.validation import validate_objects
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.protocol.oracle import label_point
from sam4mllm_tool.types import Box, Image, Label, Mask, ObjectPrompt, Point, PointPrompt, Segmenter, Size

__all__ = ["PointGroup", "draw_point_groups", "select_point_groups"]

_SHORTLIST = 16
_ATTEMPTS = 20
"""How often a point is drawn again because rounding by the dialect would move it off (or onto) the object."""


@runtime_checkable
class _PromptComparer(Protocol):
    """A segmenter that can rank many prompts faster than by making every mask."""

    def compare(self, image: Image, prompts: Sequence[ObjectPrompt], truth: Mask) -> npt.NDArray[np.float64]: ...


@dataclass(frozen=True)
class PointGroup:
    """Points for one object, those on it first, and the IoU of the segmenter's mask with the true mask, in [0, 1]."""

    points: tuple[PointPrompt, ...]
    iou: float


def select_point_groups(
    image: Image,
    mask: Mask,
    box: Box,
    segmenter: Segmenter,
    dialect: Dialect,
    rng: Random,
    *,
    groups: int = 64,
    keep: int = 1,
    on: int = 2,
    off: int = 1,
) -> list[PointGroup]:
    """Return the groups of points whose masks have the highest IoU with the true mask.

    Every group is tried with the box and the points as the dialect rounds them, which is what inference will read, and with
    one encoding of the image. Where there are many groups, the segmenter's `compare` makes a shortlist, which is ranked by the
    full masks. With the embedded pair the IoU of the group that is kept is within 0.002 of the best.

    Args:
        image: RGB.
        mask: The object's true mask, (H, W) bool.
        box: The object's box, in pixels.
        segmenter: Makes the masks.
        dialect: Rounds box and points.
        rng: Draws the points.
        groups: How many groups are drawn.
        keep: How many groups are returned.
        on: Points on the object in a group.
        off: Points off the object in a group.

    Returns:
        At most `keep` groups, best first; none where the object leaves no room for its points.
    """
    size = Size(*image.size)
    rounded_box = dialect.snap_box(box, size)
    drawn = draw_point_groups(mask, box, dialect, rng, count=groups, on=on, off=off)
    prompts = [ObjectPrompt(rounded_box, points) for points in drawn]
    shortlist = max(_SHORTLIST, 4 * keep)
    if len(prompts) > shortlist and isinstance(segmenter, _PromptComparer):
        ious = segmenter.compare(image, prompts, mask)
        prompts = [prompts[index] for index in sorted(np.argsort(-ious, kind="stable")[:shortlist])]
    objects = validate_objects(segmenter.name, size, prompts, segmenter.segment(image, prompts)) if prompts else []
    ranked = [PointGroup(prompt.points, mask_iou(obj.mask, mask)) for prompt, obj in zip(prompts, objects, strict=True)]
    return sorted(ranked, key=lambda group: -group.iou)[:keep]


def draw_point_groups(
    mask: Mask, box: Box, dialect: Dialect, rng: Random, *, count: int, on: int, off: int
) -> list[tuple[PointPrompt, ...]]:
    """Draw `count` random groups of `on` points on the mask and `off` points off it, at positions the dialect can write.

    Points off the mask lie in its box, or just outside where the mask fills its box. In a group, points of one label run from
    left to right, because a fixed order is easier to learn. The list is empty where the mask leaves no room.
    """
    inside = _CandidatePixels.within(mask, box, 0.0)
    outside = _CandidatePixels.within(~mask, box, 0.0)
    if not outside:
        outside = _CandidatePixels.within(~mask, box, 0.1)
    drawn = []
    for _ in range(count):
        group = [*_draw_points(inside, mask, 1, on, dialect, rng), *_draw_points(outside, mask, 0, off, dialect, rng)]
        if len(group) == on + off:
            drawn.append(tuple(group))
    return drawn


@dataclass(frozen=True, eq=False)
class _CandidatePixels:
    """Columns and rows of the pixels to draw from."""

    xs: npt.NDArray[np.int64]
    ys: npt.NDArray[np.int64]

    @classmethod
    def within(cls, mask: Mask, box: Box, margin: float) -> "_CandidatePixels":
        """Return the mask's pixels in the box, which is enlarged on each side by a share `margin` of its size."""
        dx, dy = margin * box.width + 2 * (margin > 0), margin * box.height + 2 * (margin > 0)
        left, top = max(0, int(box.x1 - dx)), max(0, int(box.y1 - dy))
        ys, xs = np.nonzero(mask[top : int(np.ceil(box.y2 + dy)), left : int(np.ceil(box.x2 + dx))])
        return cls(xs + left, ys + top)

    def __len__(self) -> int:
        return len(self.xs)


def _draw_points(
    pixels: _CandidatePixels, mask: Mask, label: Label, count: int, dialect: Dialect, rng: Random
) -> list[PointPrompt]:
    """Draw up to `count` points, from left to right, that keep their label when the dialect rounds them."""
    height, width = mask.shape
    drawn: list[PointPrompt] = []
    for _ in range(_ATTEMPTS * count if len(pixels) else 0):
        index = rng.randrange(len(pixels))
        point = Point(float(pixels.xs[index]) + 0.5, float(pixels.ys[index]) + 0.5)
        x, y = dialect.snap_point(point, Size(width, height))
        if label_point(mask, Point(x, y)) == label:
            drawn.append(PointPrompt(x, y, label))
        if len(drawn) == count:
            break
    return sorted(drawn, key=lambda point: (point.x, point.y))
