"""Trace the outlines of a mask as polygons that reproduce the mask exactly when they are filled.

Outlines run along the edges between pixels, so a corner (x, y) is the top-left corner of pixel (x, y). Pixels that touch at a
corner alone belong to different outlines.
"""

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.types import Mask

__all__ = ["mask_to_polygons"]

_Ints = npt.NDArray[np.int64]


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
