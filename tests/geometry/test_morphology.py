"""Morphology bit for bit against loops that shift the mask by one pixel at a time."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sam4mllm_tool.geometry.morphology import dilate_mask, erode_mask, erosion_depth
from sam4mllm_tool.types import Mask

MASKS = arrays(
    np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24), elements=st.sampled_from([False] * 5 + [True])
)
SOLID_MASKS = arrays(
    np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24), elements=st.sampled_from([True] * 9 + [False])
)
RADII = st.integers(0, 9)


def shifted_octagon(mask: Mask, steps: int) -> Mask:
    """Dilation as overlays were drawn: every second step also goes diagonally."""
    for step in range(steps):
        tall = mask.copy()
        tall[1:] |= mask[:-1]
        tall[:-1] |= mask[1:]
        sideways = tall if step % 2 else mask
        wide = tall.copy()
        wide[:, 1:] |= sideways[:, :-1]
        wide[:, :-1] |= sideways[:, 1:]
        mask = wide
    return mask


def shifted_diamond(mask: Mask, steps: int) -> Mask:
    """Dilation as rejected objects were erased: steps along rows and columns alone."""
    for _ in range(steps):
        wide = np.pad(mask, 1)
        mask = wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    return mask


def shifted_erosion(mask: Mask) -> Mask:
    """Erosion by a step, as the middle of a mask was looked for."""
    return ~shifted_diamond(~np.pad(mask, 1), 1)[1:-1, 1:-1]


def counted_depth(mask: Mask) -> npt.NDArray[np.int64]:
    depth = np.zeros(mask.shape, np.int64)
    while mask.any():
        depth += mask
        mask = shifted_erosion(mask)
    return depth


@pytest.mark.parametrize(
    ("shape", "reference"), [("octagon", shifted_octagon), ("diamond", shifted_diamond)], ids=["octagon", "diamond"]
)
@given(mask=MASKS, radius=RADII)
@example(mask=np.zeros((3, 4), bool), radius=5)
@example(mask=np.ones((3, 4), bool), radius=5)
def test_dilation_equals_the_shifted_masks(shape, reference: Callable[[Mask, int], Mask], mask: Mask, radius: int) -> None:
    dilated = dilate_mask(mask, radius, shape=shape)
    assert dilated.dtype == np.bool_
    assert np.array_equal(dilated, reference(mask, radius))


@given(mask=SOLID_MASKS, radius=st.integers(0, 4))
@example(mask=np.ones((30, 20), bool), radius=3)
def test_erosion_equals_the_shifted_masks_with_background_outside(mask: Mask, radius: int) -> None:
    expected = mask
    for _ in range(radius):
        expected = shifted_erosion(expected)
    assert np.array_equal(erode_mask(mask, radius), expected)


@settings(max_examples=60)
@given(SOLID_MASKS)
@example(np.zeros((5, 5), bool))
@example(np.ones((9, 30), bool))
def test_depth_counts_the_erosions_that_a_pixel_survives(mask: Mask) -> None:
    assert np.array_equal(erosion_depth(mask), counted_depth(mask))


def test_masks_of_the_caller_stay_as_they_were() -> None:
    mask = np.eye(5, dtype=bool)
    dilate_mask(mask, 0)[:] = True
    dilate_mask(mask, 2)
    erode_mask(mask, 1)
    assert np.array_equal(mask, np.eye(5, dtype=bool))
