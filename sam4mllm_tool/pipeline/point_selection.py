"""Where an answer about a point can be relied on: away from every edge that a candidate mask draws, spread over the box.

Points near an edge are where models err and where a wrong answer does most harm; points in the middle of what all candidates
agree on, or of what one alone takes in, are answered rightly and settle more (PinPoint, arXiv 2605.26689). NumPy alone.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.models.segmenter.choice import agreement
from sam4mllm_tool.types import Box, Mask, MaskCandidate, ObjectPrompt, Point, PointPrompt, SegmentedObject

__all__ = [
    "pick_better",
    "point_agreement",
    "select_medoid",
    "select_points",
    "select_stable_points",
    "tighten_box",
    "trimmed_box",
]

_ROUGH = 0.75
"""IoU of a mask's box with the box told, below which the latter counts as rough."""
_ABOUT = 0.3
"""That below which the mask is of something else in the box, or a speck."""
_BEYOND = 0.2
"""How far beyond a box told what it is about may reach, in parts of its sides."""
_SPECKS = 0.001
"""What part of a mask's pixels may lie beyond each side of its box."""
_CLEARLY = 1.1
"""How many times better by our own measure another mask has to be."""

_ALIKE = 0.9
"""What part of the best candidate's measure another needs to have a say in which of them is the most typical."""

_CELLS = 48
"""Cells a side of the grid over the box on which candidates are looked at."""
_DEEP = 8
"""Cells from the next edge that are far enough."""
_PULL = 0.5
"""What a cell of distance from the middle costs, in cells of depth: points stay spread."""


def select_stable_points(candidates: Sequence[Mask], box: Box, *, columns: int = 3, rows: int = 3) -> tuple[Point, ...]:
    """One point in each of columns x rows equal parts of the box, row by row, where it is far from all edges.

    candidates: (H, W) bool each, the masks that the segmenter proposes for the box. box: in pixels, on the picture.
    """
    xs, ys = (low + (np.arange(_CELLS) + 0.5) / _CELLS * (high - low) for low, high in ((box.x1, box.x2), (box.y1, box.y2)))
    depth = _depth(_regions(candidates, xs, ys))
    points = []
    for top, bottom in _parts(rows):
        for left, right in _parts(columns):
            down, across = np.mgrid[top:bottom, left:right]
            off = np.hypot(down - (top + bottom - 1) / 2, across - (left + right - 1) / 2)
            worth = np.minimum(depth[top:bottom, left:right], _DEEP) - _PULL * off
            row, column = np.unravel_index(worth.argmax(), worth.shape)
            points.append(Point(float(xs[left + column]), float(ys[top + row])))
    return tuple(points)


def select_points(thing: SegmentedObject) -> tuple[Point, ...]:
    """Where to ask about an object of which the segmenter has only seen the box."""
    return select_stable_points((thing.mask, *(candidate.mask for candidate in thing.alternatives)), thing.prompt.box)


def pick_better(thing: SegmentedObject, other: SegmentedObject) -> SegmentedObject:
    """The one whose mask agrees more with the answers about `thing`'s points, times the segmenter's score: `thing` unless the
    other is clearly better.

    It is told with `thing`'s points, whichever mask it has.
    """
    points = thing.prompt.points
    if not points or _CLEARLY * _merit(thing, points) >= _merit(other, points):
        return thing
    taken = replace(other, prompt=ObjectPrompt(other.prompt.box, points))
    return replace(taken, confidence=point_agreement(taken))


def point_agreement(thing: SegmentedObject) -> float | None:
    """How far its mask agrees with the answers about its points that came with a probability; None where none did."""
    return agreement(thing.mask, [point for point in thing.prompt.points if point.confidence is not None])


def select_medoid(thing: SegmentedObject) -> SegmentedObject:
    """With the candidate that is most like the others as its mask, among those about as good by our own measure.

    Where the segmenter proposes one thing three times, each with slips of its own, the one in the middle has the fewest; where
    it proposes a whole and its parts, the answers tell them apart, and there is nothing to choose from.
    """
    candidates = [MaskCandidate(thing.mask, thing.score), *thing.alternatives]
    points = thing.prompt.points
    merits = [one.score * (agreement(one.mask, points) or 0.0) for one in candidates]
    good = [number for number, merit in enumerate(merits) if merit >= _ALIKE * max(merits)]
    if not points or len(good) < 3:
        return thing
    likeness = {n: sum(mask_iou(candidates[n].mask, candidates[other].mask) for other in good) for n in good}
    best = max(good, key=likeness.__getitem__)
    others = tuple(one for number, one in enumerate(candidates) if number != best)
    chosen = replace(thing, mask=candidates[best].mask, score=candidates[best].score, alternatives=others)
    return replace(chosen, confidence=point_agreement(chosen))


def _merit(thing: SegmentedObject, points: Sequence[PointPrompt]) -> float:
    return thing.score * (agreement(thing.mask, points) or 0.0)


def trimmed_box(mask: Mask, share: float) -> Box | None:
    """The box around a (H, W) mask but for a share of its pixels on each side, maybe specks; None around an empty one."""
    if not mask.any():
        return None
    rows, columns = (np.cumsum(mask.sum(axis)) / np.count_nonzero(mask) for axis in (1, 0))
    (top, left), (bottom, right) = (
        [int(np.searchsorted(side, beyond)) for side in (rows, columns)] for beyond in (share, 1 - share)
    )
    return Box(float(left), float(top), float(right + 1), float(bottom + 1))


def tighten_box(thing: SegmentedObject) -> ObjectPrompt | None:
    """The prompt with the mask's own box, where the box told is a rough one of it; None where it fits, or is of something else.

    What is masked far outside the box told is another thing's.
    """
    x1, y1, x2, y2 = thing.prompt.box
    right, down = _BEYOND * (x2 - x1), _BEYOND * (y2 - y1)
    near = np.zeros_like(thing.mask)
    window = (slice(max(int(y1 - down), 0), math.ceil(y2 + down)), slice(max(int(x1 - right), 0), math.ceil(x2 + right)))
    near[window] = thing.mask[window]
    own = trimmed_box(near, _SPECKS)
    if own is None or not _ABOUT <= own.iou(thing.prompt.box) < _ROUGH:
        return None
    return replace(thing.prompt, box=own)


def _parts(count: int) -> list[tuple[int, int]]:
    return [(part * _CELLS // count, (part + 1) * _CELLS // count) for part in range(count)]


def _regions(candidates: Sequence[Mask], xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(cells, cells): which of the candidates take in a cell, as bits."""
    regions = np.zeros((ys.size, xs.size), np.int64)
    for number, mask in enumerate(candidates):
        height, width = mask.shape
        rows, columns = ys.astype(int).clip(0, height - 1), xs.astype(int).clip(0, width - 1)
        regions |= mask[np.ix_(rows, columns)].astype(np.int64) << number
    return regions


def _depth(regions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(cells, cells): how many steps it takes to leave a cell's region, or the grid, up to `_DEEP`."""
    depth = np.zeros(regions.shape, np.int64)
    inner = np.ones(regions.shape, np.bool_)
    for _ in range(_DEEP):
        depth += inner
        inside = np.pad(inner, 1)
        around = np.pad(regions, 1, constant_values=-1)
        middle = slice(1, -1)
        for rows, columns in (
            ((0, -2), middle),
            ((2, None), middle),
            (middle, (0, -2)),
            (middle, (2, None)),
        ):
            where = tuple(side if isinstance(side, slice) else slice(*side) for side in (rows, columns))
            inner = inner & inside[where] & (around[where] == regions)
        if not inner.any():
            break
    return depth
