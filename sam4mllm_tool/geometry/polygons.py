"""A mask's outlines as polygons that give the mask back to the pixel.

Outlines run along the edges between pixels, so a corner (x, y) is the top-left corner of pixel (x, y). Pixels that touch at
a corner alone belong to different outlines.
"""

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.types import Mask

_Ints = npt.NDArray[np.int64]


def polygons(mask: Mask) -> list[list[float]]:
    """COCO-style polygons [x1, y1, x2, y2, ...] of a (H, W) bool mask, in pixels, from top to bottom.

    Outer outlines run clockwise as seen on the screen, holes anticlockwise, each without repeating its first corner. Filled
    by the even-odd rule, all together are the mask. COCO's own polygons know no holes: a reader that joins the polygons
    fills them, so where a mask has holes exchange its RLE.
    Raises ValueError for another shape or dtype.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"expected a (H, W) bool mask, got shape {mask.shape} of {mask.dtype}")
    padded = np.pad(mask, 1).view(np.int8)
    # Every edge goes with the mask on its right hand: rightwards along tops, downwards along right sides, and so on.
    across = _edges(padded[1:, 1:-1] - padded[:-1, 1:-1])
    down = _edges((padded[1:-1, :-1] - padded[1:-1, 1:]).T)[:, [1, 0, 3, 2, 4]]
    after_across = _followers(across, down, turns=(-1, 1))
    after_down = _followers(down, across, turns=(1, -1))
    return _rings(across, after_down[after_across])


def _edges(steps: npt.NDArray[np.int8]) -> _Ints:
    """Straight edges along the rows of `steps`, as long as they go one way: (n, 5) x1, y1, x2, y2, way.

    steps: (rows, columns), 1 where the edge between (column, row) and (column + 1, row) goes that way, -1 where it goes back.
    """
    changes = np.diff(np.pad(steps, ((0, 0), (1, 1))), axis=1)
    framed = np.pad(steps, ((0, 0), (1, 1)))
    ends_row, ends = np.nonzero((changes != 0) & (framed[:, :-1] != 0))
    starts_row, starts = np.nonzero((changes != 0) & (framed[:, 1:] != 0))
    way = steps[starts_row, starts].astype(np.int64)
    forward = way > 0
    return np.stack((np.where(forward, starts, ends), starts_row, np.where(forward, ends, starts), ends_row, way), axis=1)


def _followers(edges: _Ints, others: _Ints, turns: tuple[int, int]) -> _Ints:
    """For each edge the index of the other that goes on from its end.

    Where two begin there, pixels touch at a corner; turning right keeps them apart. turns: the way that a right turn leads
    to, for an edge of way -1 and of way 1.
    """
    right = np.where(edges[:, 4] < 0, turns[0], turns[1])
    ending = np.lexsort((right, edges[:, 2], edges[:, 3]))
    beginning = np.lexsort((others[:, 4], others[:, 0], others[:, 1]))
    followers = np.empty(len(edges), np.int64)
    followers[ending] = beginning
    return followers


def _rings(across: _Ints, following: _Ints) -> list[list[float]]:
    """Each closed walk over the horizontal edges, as its corners."""
    corners, order = across[:, :4].astype(float).tolist(), following.tolist()
    rings: list[list[float]] = []
    seen = [False] * len(order)
    for first in range(len(order)):
        ring: list[float] = []
        edge = first
        while not seen[edge]:
            seen[edge] = True
            ring += corners[edge]
            edge = order[edge]
        if ring:
            rings.append(ring)
    return rings
