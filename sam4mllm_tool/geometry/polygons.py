"""Trace the outlines of a mask as polygons that reproduce the mask exactly when they are filled.

Outlines run along the edges between pixels, so a corner (x, y) is the top-left corner of pixel (x, y). Pixels that touch at a
corner alone belong to different outlines.
"""

from collections import defaultdict
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.types import Mask

__all__ = ["Ring", "mask_to_parts", "mask_to_polygons", "to_pixel_ring"]

_Ints = npt.NDArray[np.int64]
Ring: TypeAlias = list[tuple[float, float]]
"""Corners (x, y) of a closed outline, without repeating the first."""


def mask_to_polygons(mask: Mask) -> list[list[float]]:
    """Return COCO-style polygons [x1, y1, x2, y2, ...] of a mask, in pixels, from top to bottom.

    Outer outlines run clockwise as seen on the screen, holes counterclockwise, each without repeating its first corner. Filled
    together by the even-odd rule they are the mask. COCO's own polygons know no holes: a reader that merges the polygons fills
    them, so exchange the RLE of a mask that has holes.

    Args:
        mask: (H, W) bool.

    Raises:
        ValueError: The mask has another shape or dtype.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"expected a (H, W) bool mask, got shape {mask.shape} of {mask.dtype}")
    padded = np.pad(mask, 1).view(np.int8)
    # Every edge has the mask on its right: edges on top of the mask run right, those on its right side run down, and so on.
    horizontal = _edges(padded[1:, 1:-1] - padded[:-1, 1:-1])
    vertical = _edges((padded[1:-1, :-1] - padded[1:-1, 1:]).T)[:, [1, 0, 3, 2, 4]]
    after_horizontal = _next_edges(horizontal, vertical, right_turns=(-1, 1))
    after_vertical = _next_edges(vertical, horizontal, right_turns=(1, -1))
    return _collect_rings(horizontal, after_vertical[after_horizontal])


def mask_to_parts(mask: Mask) -> list[list[Ring]]:
    """Return the connected parts of a mask, each as its outer ring and the rings of its holes, with corners between pixels.

    Outer rings run clockwise as seen on the screen, holes counterclockwise. No ring visits a corner twice, so that the parts
    are valid polygons of the Simple Features standard.

    Args:
        mask: (H, W) bool. Pixels that touch at a corner alone are not connected.

    Raises:
        ValueError: The mask has another shape or dtype.
    """
    from scipy import ndimage  # type: ignore[import-untyped]

    numbers: _Ints = ndimage.label(mask)[0]
    parts: dict[int, list[Ring]] = defaultdict(list)
    for outline in mask_to_polygons(mask):
        ring = list(zip(outline[::2], outline[1::2], strict=True))
        (x1, y), (x2, _) = ring[:2]  # the first side is horizontal, with the mask on its right
        number = int(numbers[int(y), int(x1)] if x2 > x1 else numbers[int(y) - 1, int(x1) - 1])
        for simple in _split_ring(ring):
            parts[number].insert(0 if _signed_area(simple) > 0 else len(parts[number]), simple)
    return list(parts.values())


def to_pixel_ring(ring: Ring) -> Ring:
    """Move a ring of corners between pixels to the pixels inside along it, as tools write it that draw outlines too.

    Filling the result and drawing its outline, as OpenCV's `findContours` and `fillPoly` and LabelMe do, gives the pixels back.

    Args:
        ring: One of `mask_to_parts`.

    Returns:
        As many corners, (column, row) of pixels.
    """
    corners = np.array(ring)
    along = np.sign(np.roll(corners, -1, axis=0) - corners)  # of the side that begins at each corner
    inward = np.stack((-along[:, 1], along[:, 0]), axis=1)
    moved = corners + (inward + np.roll(inward, 1, axis=0)) / 2 - 0.5
    return [(float(x), float(y)) for x, y in moved]


def _split_ring(ring: Ring) -> list[Ring]:
    """Split a ring at the corners that it visits twice."""
    rings: list[Ring] = []
    path: Ring = []
    places: dict[tuple[float, float], int] = {}
    for corner in ring:
        if corner in places:
            start = places[corner]
            rings.append(path[start:])
            for left in path[start + 1 :]:
                del places[left]
            del path[start + 1 :]
        else:
            places[corner] = len(path)
            path.append(corner)
    return [*rings, path]


def _signed_area(ring: Ring) -> float:
    """Return the area in square pixels, negative for a ring that runs counterclockwise on the screen."""
    x, y = np.array(ring).T
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


def _edges(steps: npt.NDArray[np.int8]) -> _Ints:
    """Return the longest straight edges along the rows of `steps`: (n, 5) x1, y1, x2, y2, direction.

    Args:
        steps: (rows, columns), 1 where the edge from (column, row) to (column + 1, row) runs forward, -1 where backward.
    """
    changes = np.diff(np.pad(steps, ((0, 0), (1, 1))), axis=1)
    framed = np.pad(steps, ((0, 0), (1, 1)))
    ends_row, ends = np.nonzero((changes != 0) & (framed[:, :-1] != 0))
    starts_row, starts = np.nonzero((changes != 0) & (framed[:, 1:] != 0))
    direction = steps[starts_row, starts].astype(np.int64)
    forward = direction > 0
    return np.stack((np.where(forward, starts, ends), starts_row, np.where(forward, ends, starts), ends_row, direction), axis=1)


def _next_edges(edges: _Ints, candidates: _Ints, right_turns: tuple[int, int]) -> _Ints:
    """Return for each edge the index of the candidate that continues from its end.

    Where two candidates begin there, pixels touch at a corner; turning right keeps them apart.

    Args:
        edges: (n, 5), as `_edges` returns them.
        candidates: (n, 5), the edges of the other orientation.
        right_turns: The direction after a right turn, for an edge of direction -1 and of direction 1.
    """
    right = np.where(edges[:, 4] < 0, right_turns[0], right_turns[1])
    ending = np.lexsort((right, edges[:, 2], edges[:, 3]))
    beginning = np.lexsort((candidates[:, 4], candidates[:, 0], candidates[:, 1]))
    following = np.empty(len(edges), np.int64)
    following[ending] = beginning
    return following


def _collect_rings(horizontal: _Ints, following: _Ints) -> list[list[float]]:
    """Return the corners of each closed walk over the horizontal edges."""
    corners, next_edge = horizontal[:, :4].astype(float).tolist(), following.tolist()
    rings: list[list[float]] = []
    visited = [False] * len(next_edge)
    for first in range(len(next_edge)):
        ring: list[float] = []
        edge = first
        while not visited[edge]:
            visited[edge] = True
            ring += corners[edge]
            edge = next_edge[edge]
        if ring:
            rings.append(ring)
    return rings
