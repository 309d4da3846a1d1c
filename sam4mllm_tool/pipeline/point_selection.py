"""Select points whose answers can be relied on, and the mask and box that fit the answers best.

Points near an edge are where models err and where a wrong answer does most harm. Points in the middle of what all candidate
masks agree on, or of what one alone takes in, are answered rightly and settle more (PinPoint, arXiv 2605.26689).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.models.segmenter.mask_choice import balanced_agreement, prompt_score
from sam4mllm_tool.types import Box, Mask, MaskCandidate, ObjectPrompt, Point, SegmentedObject

__all__ = [
    "pick_better",
    "select_medoid",
    "select_points",
    "select_stable_points",
    "tighten_box",
    "trim_box",
]

_ROUGH_BOX_IOU = 0.75
"""IoU of the mask's box with the prompted box below which the prompted box counts as rough."""
_OTHER_OBJECT_IOU = 0.3
"""IoU of both below which the mask is of another object in the box, or a speck."""
_REACH = 0.2
"""How far beyond the prompted box its object may reach, as a share of the box's sides."""
_SPECK_SHARE = 0.001
"""Share of a mask's pixels that may lie beyond each side of its box."""
_CLEARLY_BETTER = 1.1
"""Factor by which another mask's point score has to be higher."""
_COMPARABLE = 0.9
"""Share of the best point score that a candidate needs to count in the choice of the medoid."""

_CELLS = 48
"""Cells per side of the grid over the box on which candidates are compared."""
_MAX_DEPTH = 8
"""Cells from the next edge that are far enough."""
_CENTER_PULL = 0.5
"""Cells of depth that one cell of distance from the middle costs, so that points stay spread."""


def select_stable_points(candidates: Sequence[Mask], box: Box, *, columns: int = 3, rows: int = 3) -> tuple[Point, ...]:
    """Select one point in each of columns x rows equal parts of the box where it is far from all edges.

    Args:
        candidates: Masks that the segmenter proposes for the box, (H, W) bool each.
        box: In pixels of the image.
        columns: Parts from left to right.
        rows: Parts from top to bottom.

    Returns:
        Points in pixels of the image, row by row.
    """
    sides = ((box.x1, box.x2), (box.y1, box.y2))
    xs, ys = (low + (np.arange(_CELLS) + 0.5) / _CELLS * (high - low) for low, high in sides)
    depths = _measure_depths(_label_regions(candidates, xs, ys))
    points = []
    for top, bottom in _split_cells(rows):
        for left, right in _split_cells(columns):
            down, across = np.mgrid[top:bottom, left:right]
            distances = np.hypot(down - (top + bottom - 1) / 2, across - (left + right - 1) / 2)
            values = np.minimum(depths[top:bottom, left:right], _MAX_DEPTH) - _CENTER_PULL * distances
            row, column = np.unravel_index(values.argmax(), values.shape)
            points.append(Point(float(xs[left + column]), float(ys[top + row])))
    return tuple(points)


def select_points(segmented: SegmentedObject) -> tuple[Point, ...]:
    """Select where to ask about an object that was segmented from its box alone."""
    masks = (segmented.mask, *(candidate.mask for candidate in segmented.alternatives))
    return select_stable_points(masks, segmented.prompt.box)


def pick_better(segmented: SegmentedObject, other: SegmentedObject) -> SegmentedObject:
    """Pick the object whose mask fits the answers about the first one's points better.

    The measure is the segmenter's score times the agreement with the answers. The first one stays unless the other is clearly
    better; the picked one carries the first one's points.
    """
    points = segmented.prompt.points
    if not points:
        return segmented
    own_score, other_score = (prompt_score(each.mask, each.score, points) for each in (segmented, other))
    if _CLEARLY_BETTER * own_score >= other_score:
        return segmented
    agreed = balanced_agreement(other.mask, points)
    return replace(other, prompt=ObjectPrompt(other.prompt.box, points), agreement=agreed)


def select_medoid(segmented: SegmentedObject) -> SegmentedObject:
    """Return the object with the candidate mask that is most like the others, among those of comparable point scores.

    Where the segmenter proposes one object three times, each with slips of its own, the medoid has the fewest. Where it
    proposes a whole and its parts, the answers tell them apart and there is nothing to choose from.
    """
    points = segmented.prompt.points
    if not points:
        return segmented
    candidates = [MaskCandidate(segmented.mask, segmented.score), *segmented.alternatives]
    scores = [prompt_score(candidate.mask, candidate.score, points) for candidate in candidates]
    comparable = [index for index, score in enumerate(scores) if score >= _COMPARABLE * max(scores)]
    if len(comparable) < 3:
        return segmented
    likeness = {
        index: sum(mask_iou(candidates[index].mask, candidates[other].mask) for other in comparable) for index in comparable
    }
    best = max(comparable, key=likeness.__getitem__)
    others = tuple(candidate for index, candidate in enumerate(candidates) if index != best)
    mask, score = candidates[best].mask, candidates[best].score
    return replace(segmented, mask=mask, score=score, alternatives=others, agreement=balanced_agreement(mask, points))


def trim_box(mask: Mask, share: float) -> Box | None:
    """Return the box around a (H, W) mask without a share of its pixels on each side, maybe specks; None if it is empty."""
    if not mask.any():
        return None
    rows, columns = (np.cumsum(mask.sum(axis)) / np.count_nonzero(mask) for axis in (1, 0))
    (top, left), (bottom, right) = (
        [int(np.searchsorted(side, limit)) for side in (rows, columns)] for limit in (share, 1 - share)
    )
    return Box(float(left), float(top), float(right + 1), float(bottom + 1))


def tighten_box(segmented: SegmentedObject) -> ObjectPrompt | None:
    """Return the prompt with the mask's own box where the prompted box is a rough one of it.

    Returns:
        None where the prompted box fits, or is of another object. Mask pixels far outside the prompted box are another
        object's and don't count.
    """
    box = segmented.prompt.box
    right, down = _REACH * box.width, _REACH * box.height
    near = np.zeros_like(segmented.mask)
    window = (
        slice(max(int(box.y1 - down), 0), math.ceil(box.y2 + down)),
        slice(max(int(box.x1 - right), 0), math.ceil(box.x2 + right)),
    )
    near[window] = segmented.mask[window]
    own_box = trim_box(near, _SPECK_SHARE)
    if own_box is None or not _OTHER_OBJECT_IOU <= own_box.iou(box) < _ROUGH_BOX_IOU:
        return None
    return replace(segmented.prompt, box=own_box)


def _split_cells(count: int) -> list[tuple[int, int]]:
    return [(part * _CELLS // count, (part + 1) * _CELLS // count) for part in range(count)]


def _label_regions(
    candidates: Sequence[Mask], xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Return (cells, cells): which of the candidates take in a cell, as bits."""
    regions = np.zeros((ys.size, xs.size), np.int64)
    for number, mask in enumerate(candidates):
        height, width = mask.shape
        rows, columns = ys.astype(int).clip(0, height - 1), xs.astype(int).clip(0, width - 1)
        regions |= mask[np.ix_(rows, columns)].astype(np.int64) << number
    return regions


def _measure_depths(regions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return (cells, cells): steps that it takes to leave a cell's region, or the grid, up to `_MAX_DEPTH`."""
    depths = np.zeros(regions.shape, np.int64)
    inner = np.ones(regions.shape, np.bool_)
    around = np.pad(regions, 1, constant_values=-1)
    center, before, after = slice(1, -1), slice(0, -2), slice(2, None)
    neighbors = ((before, center), (after, center), (center, before), (center, after))
    for _ in range(_MAX_DEPTH):
        depths += inner
        inside = np.pad(inner, 1)
        for window in neighbors:
            inner = inner & inside[window] & (around[window] == regions)
        if not inner.any():
            break
    return depths
