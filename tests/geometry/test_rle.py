"""The run-length encoding against pycocotools, which defines it."""

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from sam4mllm_tool.geometry import rle

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


def blobs(height: int, width: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return a mask with curved outlines and long runs, as a segmenter makes them."""
    y, x = np.mgrid[:height, :width]
    return np.asarray(np.sin(x / 37) * np.cos(y / 53) + np.sin((x + y) / 91) > 0.3)


@given(MASKS)
def test_decode_inverts_encode(mask):
    assert np.array_equal(rle.decode(rle.encode(mask)), mask)


@given(MASKS)
def test_counts_are_byte_for_byte_those_of_pycocotools(mask):
    reference = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert rle.encode(mask) == {"size": list(reference["size"]), "counts": reference["counts"].decode()}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(np.zeros((480, 640), bool), id="empty"),
        pytest.param(np.ones((480, 640), bool), id="full"),
        pytest.param(np.ones((1, 1), bool), id="one pixel"),
        pytest.param(blobs(480, 640), id="blobs"),
        pytest.param(blobs(640, 480).T, id="not contiguous"),
        pytest.param(np.indices((301, 299)).sum(0) % 2 == 0, id="chessboard"),
        pytest.param(np.arange(3_000_000).reshape(2000, 1500) == 2_999_999, id="a run of millions"),
    ],
)
def test_large_and_extreme_masks_agree_with_pycocotools_both_ways(mask):
    encoded = rle.encode(mask)
    assert encoded["counts"] == coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()
    assert np.array_equal(coco.decode(encoded), mask)
    assert np.array_equal(rle.decode(encoded), mask)


def test_decode_takes_bytes_and_uncompressed_counts():
    mask = blobs(30, 50)
    assert np.array_equal(rle.decode(coco.encode(np.asfortranarray(mask, dtype=np.uint8))), mask)
    assert np.array_equal(rle.decode({"size": [2, 3], "counts": [1, 2, 3]}), [[False, True, False], [True, False, False]])
    assert np.array_equal(rle.decode({"size": (2, 2), "counts": np.array([0, 4])}), np.ones((2, 2), bool))


@pytest.mark.parametrize(
    ("malformed", "message"),
    [
        pytest.param({"counts": "04"}, "size", id="no size"),
        pytest.param({"size": "22", "counts": "04"}, "size", id="size is a string"),
        pytest.param({"size": [2, 2, 1], "counts": "04"}, "size", id="three sides"),
        pytest.param({"size": [2, -2], "counts": "04"}, "size", id="negative side"),
        pytest.param({"size": [2, 2.0], "counts": "04"}, "size", id="side is a float"),
        pytest.param({"size": [10**6, 10**6], "counts": "04"}, "can count", id="more pixels than 32 bits"),
        pytest.param({"size": [2, 2]}, "NoneType", id="no counts"),
        pytest.param({"size": [2, 2], "counts": 4}, "int", id="counts is a number"),
        pytest.param({"size": [2, 2], "counts": ""}, "cover 0 pixels", id="empty counts"),
        pytest.param({"size": [2, 2], "counts": []}, "cover 0 pixels", id="empty list"),
        pytest.param({"size": [2, 2], "counts": "03"}, "cover 3 pixels", id="too few pixels"),
        pytest.param({"size": [2, 2], "counts": "041"}, "cover 5 pixels", id="too many pixels"),
        pytest.param({"size": [2, 2], "counts": [5, -1]}, "whole numbers", id="negative listed run"),
        pytest.param({"size": [2, 2], "counts": [1.5, 2.5]}, "whole numbers", id="listed fractions"),
        pytest.param({"size": [2, 2], "counts": ["4"]}, "whole numbers", id="listed strings"),
        pytest.param({"size": [2, 2], "counts": "O5"}, "run of -1", id="negative run"),
        pytest.param({"size": [2, 2], "counts": "ooooooo1"}, "characters", id="number over 32 bits"),
        pytest.param({"size": [2, 2], "counts": "0T"}, "middle of a number", id="cut off"),
        pytest.param({"size": [2, 2], "counts": "0 4"}, "at 1", id="a space"),
        pytest.param({"size": [2, 2], "counts": "04\x7f"}, "at 2", id="a control character"),
        pytest.param(
            {"size": [2, 2], "counts": "04\N{GREEK SMALL LETTER ALPHA}"}, "\N{GREEK SMALL LETTER ALPHA}", id="not ASCII"
        ),
    ],
)
def test_malformed_rle_is_a_value_error_naming_the_fault(malformed, message):
    with pytest.raises(ValueError, match=message):
        rle.decode(malformed)


@given(
    st.binary(max_size=40) | st.text("0123456789PQRSTUVWXYZ`abcdefghijklmno", max_size=40), st.integers(0, 6), st.integers(0, 6)
)
def test_any_string_gives_a_mask_of_the_size_or_a_value_error(counts, height, width):
    with contextlib.suppress(ValueError):
        assert rle.decode({"size": [height, width], "counts": counts}).shape == (height, width)


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(np.zeros((2, 3), np.uint8), id="uint8"),
        pytest.param(np.zeros((2, 3, 1), bool), id="three axes"),
    ],
)
def test_encode_refuses_all_but_a_bool_mask(mask):
    with pytest.raises(ValueError, match=r"\(H, W\) bool"):
        rle.encode(mask)
