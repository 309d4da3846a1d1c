"""Dilate and erode masks. SciPy is imported when it is used, so that importing the package stays fast."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.types import Mask

__all__ = ["dilate_mask", "erode_mask", "erosion_depth"]

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.bool_)
_SQUARE = np.ones((3, 3), np.bool_)


def dilate_mask(mask: Mask, radius: int, *, shape: Literal["octagon", "diamond"] = "octagon") -> Mask:
    """Return the mask and all pixels within `radius` of it.

    Args:
        mask: (H, W) bool.
        radius: In pixels, along rows and columns; 0 returns a copy.
        shape: What a single pixel grows to: an octagon, which is nearly round, or a diamond, which counts steps between
            neighbors in the same row or column.
    """
    squares = radius // 2 if shape == "octagon" else 0
    return _dilate(_dilate(mask, _CROSS, radius - squares), _SQUARE, squares)


def erode_mask(mask: Mask, radius: int) -> Mask:
    """Return the pixels of the (H, W) mask that are more than `radius` steps from its edge; outside the image is background."""
    return np.asarray(erosion_depth(mask) > radius)


def erosion_depth(mask: Mask) -> npt.NDArray[np.int64]:
    """Return for each pixel how many steps between neighbors in a row or column lead out of the mask.

    Args:
        mask: (H, W) bool. Outside the image is background.

    Returns:
        (H, W), 0 outside the mask, 1 at its edge. A pixel of depth d survives erosions by less than d.
    """
    depth = _ndimage().distance_transform_cdt(np.pad(mask, 1), metric="taxicab")[1:-1, 1:-1]
    return np.asarray(depth, np.int64)


def _dilate(mask: Mask, structure: npt.NDArray[np.bool_], times: int) -> Mask:
    if times == 0:  # SciPy would repeat until nothing changes
        return mask.copy()
    return np.asarray(_ndimage().binary_dilation(mask, structure, iterations=times), np.bool_)


def _ndimage() -> Any:
    from scipy import ndimage  # type: ignore[import-untyped]

    return ndimage
