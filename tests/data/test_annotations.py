"""Regions decode as in pycocotools, and boxes are reconciled with them."""

import pickle
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as cocomask

from sam4mllm_tool.data.annotations import (
    Polygons,
    RegionError,
    RunLengths,
    read_box_xywh,
    read_segmentation,
    reconcile_box,
    region_box,
)
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.boxes import mask_to_box
from sam4mllm_tool.types import Box, Size
from tests.data.layouts import HEIGHT, SQUARE, TALL, WIDTH, rectangle

SIZE = Size(WIDTH, HEIGHT)
TRIANGLE = [3.5, 2.25, 21.75, 9.5, 8.1, 27.9]
BLOB = rectangle(4, 3, 9, 20) | rectangle(20, 1, 33, 7)
COMPRESSED = cocomask.encode(np.asfortranarray(BLOB.astype(np.uint8)))


def run_lengths(mask: np.ndarray) -> list[int]:
    """Count the run lengths pixel by pixel."""
    runs, value = [0], False
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            runs.append(0)
            value = bool(pixel)
        runs[-1] += 1
    return runs


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize(
    "segmentation",
    [
        pytest.param([SQUARE], id="one polygon"),
        pytest.param([TRIANGLE], id="corners between pixels"),
        pytest.param([SQUARE, TALL], id="two parts"),
        pytest.param([SQUARE, TRIANGLE], id="parts that overlap"),
        pytest.param([[-10.0, -10.0, 60.0, -10.0, 60.0, 12.0, -10.0, 12.0]], id="a polygon past every edge"),
        pytest.param([[6.0, 6.0, 9.0, 9.0], SQUARE], id="a first part of two points, which pycocotools would take for a box"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": run_lengths(BLOB)}, id="run lengths"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": COMPRESSED["counts"].decode()}, id="a compressed RLE"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": COMPRESSED["counts"]}, id="a compressed RLE in bytes"),
    ],
)
def test_a_segmentation_decodes_as_in_pycocotools(segmentation: Any) -> None:
    if isinstance(segmentation, list):
        parts = [part for part in segmentation if len(part) >= 6]
        theirs = cocomask.merge(cocomask.frPyObjects(parts, HEIGHT, WIDTH))
    elif isinstance(segmentation["counts"], list):
        theirs = cocomask.frPyObjects(segmentation, HEIGHT, WIDTH)
    else:
        theirs = segmentation
    region = read_segmentation(segmentation)
    mask = region.mask(SIZE)
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, cocomask.decode(theirs).astype(bool))
    assert region_box(region, SIZE) == mask_to_box(mask)
    assert np.array_equal(pickle.loads(pickle.dumps(region)).mask(SIZE), mask)


def test_a_square_polygon_covers_the_pixels_between_its_corners() -> None:
    assert np.array_equal(read_segmentation([SQUARE]).mask(SIZE), rectangle(5, 5, 15, 15))


@pytest.mark.parametrize(
    ("segmentation", "what"),
    [
        pytest.param([], "the mask is empty", id="no part"),
        pytest.param([[1.0, 1.0, 5.0, 5.0]], "the mask is empty", id="a line"),
        pytest.param([[1.0, 1.0, 5.0, 5.0, 3.0, 3.0, 1.0]], "not x, y", id="an odd number of numbers"),
        pytest.param([[1.0, float("nan"), 5.0, 5.0, 3.0, 3.0]], "far outside", id="not a number"),
        pytest.param([[1.0, 1e12, 5.0, 5.0, 3.0, 3.0]], "far outside", id="a corner that would take all memory"),
        pytest.param([["a", "b"]], "not a list of numbers", id="letters"),
        pytest.param("M 1 1 L 5 5", "neither polygons nor an RLE", id="text"),
        pytest.param(None, "neither polygons nor an RLE", id="nothing"),
        pytest.param({"counts": "abc"}, "malformed", id="an RLE without a size"),
        pytest.param({"size": [30], "counts": "abc"}, "malformed", id="an RLE of one side"),
        pytest.param({"size": [30, 40], "counts": 5}, "malformed", id="an RLE without counts"),
    ],
)
def test_an_invalid_segmentation_is_an_error_with_a_reason(segmentation: Any, what: str) -> None:
    with pytest.raises(RegionError, match=what):
        read_segmentation(segmentation)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        pytest.param({"size": [WIDTH, HEIGHT], "counts": [1200]}, "size differs", id="height and width exchanged"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": [1199]}, "malformed", id="a pixel too few"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": [600, -5, 605]}, "malformed", id="a negative run"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": "~~~~"}, "malformed", id="a string with an unterminated number"),
    ],
)
def test_an_rle_of_another_size_is_an_error_when_decoded(code: Any, what: str) -> None:
    with pytest.raises(RegionError, match=what):
        read_segmentation(code).mask(SIZE)


@pytest.mark.parametrize(
    ("annotated", "expected", "corrected"),
    [
        pytest.param(Box(5, 5, 15, 15), Box(5, 5, 15, 15), 0, id="equal to the mask's box"),
        pytest.param(Box(5.2, 4.9, 14.8, 15), Box(5.2, 4.9, 14.8, 15), 0, id="off by less than a pixel is kept"),
        pytest.param(Box(20, 5, 30, 15), Box(5, 5, 15, 15), 1, id="somewhere else"),
        pytest.param(Box(5, 5, 10, 15), Box(5, 5, 15, 15), 1, id="half of it"),
        pytest.param(Box(-9, 5, 15, 15), Box(5, 5, 15, 15), 1, id="outside the image"),
        pytest.param(Box(5, 5, 15, 45), Box(5, 5, 15, 15), 1, id="below the image"),
        pytest.param(None, Box(5, 5, 15, 15), 1, id="no box"),
    ],
)
def test_a_box_that_disagrees_with_its_mask_is_replaced_by_the_masks_box(
    annotated: Box | None, expected: Box, corrected: int
) -> None:
    problems = Problems()
    assert reconcile_box(Polygons((np.array(SQUARE),)), annotated, SIZE, problems, "here") == expected
    assert sum(problems.counts.values()) == corrected
    assert all(fate == "corrected" for fate, _ in problems.counts)


def test_a_box_half_a_pixel_past_the_edge_is_clipped() -> None:
    problems = Problems()
    region = RunLengths(SIZE, rle.encode(rectangle(0, 0, 40, 10))["counts"])
    assert reconcile_box(region, Box(-0.4, 0, 40.5, 10), SIZE, problems, "here") == Box(0, 0, 40, 10)
    assert not problems


def test_an_empty_mask_is_an_error() -> None:
    with pytest.raises(RegionError, match="empty"):
        reconcile_box(RunLengths(SIZE, (HEIGHT * WIDTH,)), Box(1, 1, 2, 2), SIZE, Problems(), "here")
    outside = read_segmentation([[100.0, 100.0, 120.0, 100.0, 120.0, 120.0]])
    with pytest.raises(RegionError, match="empty"):
        reconcile_box(outside, None, SIZE, Problems(), "here")


@pytest.mark.parametrize(
    "box",
    [
        pytest.param(None, id="none"),
        pytest.param([1, 2, 3], id="three numbers"),
        pytest.param([1, 2, 0, 4], id="no width"),
        pytest.param([1, 2, 3, float("inf")], id="infinite"),
        pytest.param(["1", 2, 3, 4], id="letters"),
    ],
)
def test_an_invalid_box_is_none(box: Any) -> None:
    assert read_box_xywh(box) is None


def test_a_coco_box_is_a_corner_and_a_size() -> None:
    assert read_box_xywh([5, 6, 10, 20.5]) == Box(5, 6, 15, 26.5)
