"""PPG's training targets: of many random groups of points, those from which the real segmenter makes the best mask.

Source: SAM4MLLM, section 3.2: K = 64 groups of n1 = 2 points on the object and n2 = 1 beside it, the k = 1 best by IoU kept.
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

__all__ = ["Group", "best_groups", "random_groups"]

_SHORTLIST = 16
_TRIES = 20
"""How often a point is drawn anew that the dialect's steps would move off (or onto) the object."""


@runtime_checkable
class Comparer(Protocol):
    """A segmenter that can try many prompts faster than by making every mask."""

    def compare(self, image: Image, prompts: Sequence[ObjectPrompt], truth: Mask) -> npt.NDArray[np.float64]: ...


@dataclass(frozen=True)
class Group:
    """Points for one object, those on it first, and the IoU of the segmenter's mask with the truth."""

    points: tuple[PointPrompt, ...]
    iou: float


def best_groups(
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
) -> list[Group]:
    """The `keep` best of `groups` random groups, best first; none where the object leaves no room for its points.

    Every group is tried with the box and the points as the dialect writes them, which is what will be read back, all over one
    embedding of the picture. Where there are many, `compare` makes a shortlist of `_SHORTLIST` (or 4 times `keep`), which is
    then ranked by the masks in full; so is the IoU told. On the embedded pair the group kept is within 0.002 of the best.
    """
    size = Size(*image.size)
    told = dialect.snap_box(box, size)
    drawn = random_groups(mask, box, dialect, rng, count=groups, on=on, off=off)
    prompts = [ObjectPrompt(told, points) for points in drawn]
    shortlist = max(_SHORTLIST, 4 * keep)
    if len(prompts) > shortlist and isinstance(segmenter, Comparer):
        ious = segmenter.compare(image, prompts, mask)
        prompts = [prompts[index] for index in sorted(np.argsort(-ious, kind="stable")[:shortlist])]
    made = validate_objects(segmenter.name, size, prompts, segmenter.segment(image, prompts)) if prompts else []
    found = [Group(prompt.points, mask_iou(thing.mask, mask)) for prompt, thing in zip(prompts, made, strict=True)]
    return sorted(found, key=lambda group: -group.iou)[:keep]


def random_groups(
    mask: Mask, box: Box, dialect: Dialect, rng: Random, *, count: int, on: int, off: int
) -> list[tuple[PointPrompt, ...]]:
    """`count` groups of `on` points on the mask and `off` beside it, where the dialect can write them.

    Points beside it lie in its box, or just outside where the object fills its box. Within a group, points of one label
    stand from left to right: one order is easier to learn than any. No groups where the mask leaves no room for them.
    """
    inside = _Pixels.of(mask, box, 0.0)
    beside = _Pixels.of(~mask, box, 0.0)
    if not beside:
        beside = _Pixels.of(~mask, box, 0.1)
    drawn = []
    for _ in range(count):
        group = [*_draw(inside, mask, 1, on, dialect, rng), *_draw(beside, mask, 0, off, dialect, rng)]
        if len(group) == on + off:
            drawn.append(tuple(group))
    return drawn


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Pixels to draw from: their columns and rows."""

    xs: npt.NDArray[np.int64]
    ys: npt.NDArray[np.int64]

    @classmethod
    def of(cls, mask: Mask, box: Box, margin: float) -> "_Pixels":
        """Those of the mask that lie in the box, made larger by a share of its sides."""
        across, down = margin * (box.x2 - box.x1) + 2 * (margin > 0), margin * (box.y2 - box.y1) + 2 * (margin > 0)
        left, top = max(0, int(box.x1 - across)), max(0, int(box.y1 - down))
        ys, xs = np.nonzero(mask[top : int(np.ceil(box.y2 + down)), left : int(np.ceil(box.x2 + across))])
        return cls(xs + left, ys + top)

    def __len__(self) -> int:
        return len(self.xs)


def _draw(pixels: _Pixels, mask: Mask, label: Label, count: int, dialect: Dialect, rng: Random) -> list[PointPrompt]:
    """Up to `count` points, from left to right, each on a step of the dialect where the mask says `label`."""
    height, width = mask.shape
    drawn: list[PointPrompt] = []
    for _ in range(_TRIES * count if len(pixels) else 0):
        index = rng.randrange(len(pixels))
        point = Point(float(pixels.xs[index]) + 0.5, float(pixels.ys[index]) + 0.5)
        x, y = dialect.snap_point(point, Size(width, height))
        if label_point(mask, Point(x, y)) == label:
            drawn.append(PointPrompt(x, y, label))
        if len(drawn) == count:
            break
    return sorted(drawn, key=lambda point: (point.x, point.y))
