"""Regions decode as pycocotools decodes them, and boxes end up agreeing with them."""

import pickle
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as cocomask

from sam4mllm_tool.data.annotations import (
    Polygons,
    RegionError,
    RunLengths,
    Together,
    agreed_box,
    box_of_mask,
    box_of_region,
    box_xyxy,
    read_segmentation,
)
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.types import Box, Size
from tests.data.layouts import HEIGHT, SQUARE, TALL, WIDTH, rectangle

SIZE = Size(WIDTH, HEIGHT)
TRIANGLE = [3.5, 2.25, 21.75, 9.5, 8.1, 27.9]
BLOB = rectangle(4, 3, 9, 20) | rectangle(20, 1, 33, 7)
COMPRESSED = cocomask.encode(np.asfortranarray(BLOB.astype(np.uint8)))


def run_lengths(mask: np.ndarray) -> list[int]:
    """Counted here, one pixel after another."""
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
def test_a_segmentation_decodes_as_pycocotools_decodes_it(segmentation: Any) -> None:
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
    assert box_of_region(region, SIZE) == box_of_mask(mask)
    assert np.array_equal(pickle.loads(pickle.dumps(region)).mask(SIZE), mask)


def test_a_square_polygon_covers_the_pixels_between_its_corners() -> None:
    assert np.array_equal(read_segmentation([SQUARE]).mask(SIZE), rectangle(5, 5, 15, 15))


def test_regions_together_are_their_union_and_know_its_box() -> None:
    both = Together((read_segmentation([SQUARE]), RunLengths(SIZE, rle.encode(rectangle(30, 2, 36, 22))["counts"])))
    assert np.array_equal(both.mask(SIZE), rectangle(5, 5, 15, 15) | rectangle(30, 2, 36, 22))
    assert both.box(SIZE) == Box(5, 2, 36, 22)


@pytest.mark.parametrize(
    ("segmentation", "what"),
    [
        pytest.param([], "the mask is empty", id="no part"),
        pytest.param([[1.0, 1.0, 5.0, 5.0]], "the mask is empty", id="a line"),
        pytest.param([[1.0, 1.0, 5.0, 5.0, 3.0, 3.0, 1.0]], "not x, y", id="a number too many"),
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
def test_what_is_no_segmentation_says_why(segmentation: Any, what: str) -> None:
    with pytest.raises(RegionError, match=what):
        read_segmentation(segmentation)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        pytest.param({"size": [WIDTH, HEIGHT], "counts": [1200]}, "another size", id="height and width exchanged"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": [1199]}, "malformed", id="a pixel too few"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": [600, -5, 605]}, "malformed", id="a run of less than nothing"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": "~~~~"}, "malformed", id="a string that never ends its number"),
    ],
)
def test_an_rle_that_does_not_fit_says_so_when_it_is_decoded(code: Any, what: str) -> None:
    with pytest.raises(RegionError, match=what):
        read_segmentation(code).mask(SIZE)


@pytest.mark.parametrize(
    ("annotated", "expected", "mended"),
    [
        pytest.param(Box(5, 5, 15, 15), Box(5, 5, 15, 15), 0, id="as the mask has it"),
        pytest.param(Box(5.2, 4.9, 14.8, 15), Box(5.2, 4.9, 14.8, 15), 0, id="off by less than a pixel is kept"),
        pytest.param(Box(20, 5, 30, 15), Box(5, 5, 15, 15), 1, id="somewhere else"),
        pytest.param(Box(5, 5, 10, 15), Box(5, 5, 15, 15), 1, id="half of it"),
        pytest.param(Box(-9, 5, 15, 15), Box(5, 5, 15, 15), 1, id="outside the picture"),
        pytest.param(Box(5, 5, 15, 45), Box(5, 5, 15, 15), 1, id="below the picture"),
        pytest.param(None, Box(5, 5, 15, 15), 1, id="no box"),
    ],
)
def test_a_box_that_disagrees_with_its_mask_gives_way_to_the_masks(annotated: Box | None, expected: Box, mended: int) -> None:
    problems = Problems()
    assert agreed_box(Polygons((np.array(SQUARE),)), annotated, SIZE, problems, "here") == expected
    assert sum(problems.counts.values()) == mended
    assert all(fate == "mended" for fate, _ in problems.counts)


def test_a_box_half_a_pixel_past_the_edge_is_cut_at_the_edge() -> None:
    problems = Problems()
    region = RunLengths(SIZE, rle.encode(rectangle(0, 0, 40, 10))["counts"])
    assert agreed_box(region, Box(-0.4, 0, 40.5, 10), SIZE, problems, "here") == Box(0, 0, 40, 10)
    assert not problems


def test_an_object_without_a_pixel_can_not_be_used() -> None:
    with pytest.raises(RegionError, match="empty"):
        agreed_box(RunLengths(SIZE, (HEIGHT * WIDTH,)), Box(1, 1, 2, 2), SIZE, Problems(), "here")
    outside = read_segmentation([[100.0, 100.0, 120.0, 100.0, 120.0, 120.0]])
    with pytest.raises(RegionError, match="empty"):
        agreed_box(outside, None, SIZE, Problems(), "here")


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
def test_what_is_no_box_is_none(box: Any) -> None:
    assert box_xyxy(box) is None


def test_cocos_box_is_a_corner_and_a_size() -> None:
    assert box_xyxy([5, 6, 10, 20.5]) == Box(5, 6, 15, 26.5)
