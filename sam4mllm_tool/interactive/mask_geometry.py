"""Where a click lies in a mask, and how deep a mask is, for the clicks and the descriptions of objects."""

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.geometry.boxes import mask_to_box
from sam4mllm_tool.geometry.morphology import erosion_depth
from sam4mllm_tool.types import Mask, Point, PointPrompt, SegmentedObject

__all__ = ["click_distances", "deepest_point", "is_central_click", "mask_contains", "mask_window"]

_CENTRAL_DEPTH = 0.5
"""Distance from a mask's edge at which its centre begins, as a share of the greatest such distance."""
_MAX_DEPTH_CELLS = 128
"""Cells per side of the grid on which these distances are measured, at most."""


def mask_contains(mask: Mask, click: PointPrompt) -> bool:
    """Whether the pixel under the click is in the mask; a click on the far edge belongs to the last pixel."""
    height, width = mask.shape
    return bool(mask[min(int(click.y), height - 1), min(int(click.x), width - 1)])


def click_distances(click: PointPrompt, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return the distance of each pixel's centre from the click, (H, W), in pixels."""
    dy, dx = np.arange(shape[0])[:, None] + 0.5 - click.y, np.arange(shape[1])[None] + 0.5 - click.x
    distances: npt.NDArray[np.float64] = np.hypot(dy, dx)
    return distances


def is_central_click(mask: Mask, click: PointPrompt) -> bool:
    """Whether a click in the mask is at least half as far from its edge as a point in it can be.

    A user who means a whole object clicks at its centre; a user who means a part that sticks out clicks near the edge.
    """
    window = mask_window(mask, 1)
    part, step, depth = _measure_depth(mask, window)
    shifted = PointPrompt(click.x - window[1].start + 1, click.y - window[0].start + 1, 1)
    distance_to_edge = click_distances(shifted, part.shape)[~part].min()
    return bool(distance_to_edge >= _CENTRAL_DEPTH * step * int(depth.max()))


def deepest_point(segmented: SegmentedObject) -> Point:
    """Return the point of the mask that is furthest from its edge, in pixels; the box's centre where the mask is empty."""
    if not segmented.mask.any():
        return segmented.prompt.box.center
    window = mask_window(segmented.mask, 1)
    part, step, depth = _measure_depth(segmented.mask, window)
    deepest = depth == depth.max()
    if not depth.any():  # the mask is thinner than a step
        deepest, step = part, 1
    ys, xs = np.nonzero(deepest)
    central = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
    return Point(float(xs[central] * step + window[1].start - 0.5), float(ys[central] * step + window[0].start - 0.5))


def _measure_depth(mask: Mask, window: tuple[slice, slice]) -> tuple[Mask, int, npt.NDArray[np.int64]]:
    """Return the window with a border of 1, every how many pixels depth is measured in it, and the depths in such steps."""
    part = np.pad(mask[window], 1)
    step = max(1, max(part.shape) // _MAX_DEPTH_CELLS)
    return part, step, erosion_depth(part[::step, ::step])


def mask_window(mask: Mask, margin: int) -> tuple[slice, slice]:
    """Return the rows and columns of a non-empty mask, with `margin` pixels around it."""
    x1, y1, x2, y2 = (int(side) for side in mask_to_box(mask))
    return slice(max(0, y1 - margin), y2 + margin), slice(max(0, x1 - margin), x2 + margin)
