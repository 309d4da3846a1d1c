"""Parts of a picture and the way back, against pixels counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sam4mllm_tool.geometry.crops import Crop, crop_around, quadrants
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, SegmentedObject, Size

SIZE = Size(200, 100)


def test_a_view_shows_its_part_as_large_as_the_picture() -> None:
    picture = Image.new("RGB", SIZE)
    picture.paste((255, 255, 255), (50, 25, 150, 75))
    seen = np.asarray(Crop(50, 25, 100, 50, SIZE).picture(picture))
    assert seen.shape == (100, 200, 3)
    assert seen[5:-5, 5:-5].min() == 255, "but for the edge, which neighbours shine through"


def test_a_mask_in_a_view_is_cut_out_where_it_lies() -> None:
    view = Crop(50, 25, 100, 50, SIZE)
    mask = np.zeros((100, 200), bool)
    mask[:50, :100] = True
    whole = view.mask_out(mask)
    expected = np.zeros((100, 200), bool)
    expected[25:50, 50:100] = True
    assert np.array_equal(whole, expected)


def test_what_lies_outside_is_moved_to_the_edge_and_points_there_left_out() -> None:
    points = (PointPrompt(60, 30, 1), PointPrompt(10, 10, 0))
    seen = Crop(50, 25, 100, 50, SIZE).prompt_in(ObjectPrompt(Box(40, 20, 100, 50), points))
    assert seen == ObjectPrompt(Box(0, 0, 100, 50), (PointPrompt(20, 10, 1),))


def test_an_object_comes_out_with_its_prompt_on_the_whole_picture() -> None:
    view = Crop(50, 25, 100, 50, SIZE)
    prompt = ObjectPrompt(Box(60, 30, 100, 50), (PointPrompt(70, 40, 1, 0.9),))
    inside = SegmentedObject(np.ones((100, 200), bool), view.prompt_in(prompt), 0.8, 0.7)
    out = view.object_out(inside)
    assert out.prompt == prompt
    assert (out.score, out.confidence) == (0.8, 0.7)
    assert out.mask.sum() == 100 * 50


@pytest.mark.parametrize(("box", "expected"), [(Box(90, 40, 110, 50), (66, 28, 67, 33)), (Box(0, 0, 20, 10), (0, 0, 67, 33))])
def test_the_box_is_in_the_middle_as_far_as_the_picture_reaches(box: Box, expected: tuple[int, ...]) -> None:
    view = crop_around(box, SIZE, 0.3)
    assert view is not None
    assert (view.left, view.top, view.width, view.height) == expected
    assert view.zoom == pytest.approx(200 / 67)


def test_a_box_that_takes_much_of_the_picture_has_no_view() -> None:
    assert crop_around(Box(0, 0, 100, 50), SIZE, 0.5) is None
    assert crop_around(Box(0, 0, 78, 10), SIZE, 0.5) is not None


@given(
    st.tuples(*[st.integers(1, 400)] * 2),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.sampled_from([0.15, 0.25, 0.3, 0.45, 0.9]),
)
def test_every_view_lies_in_the_picture_holds_the_box_and_gives_it_back(
    sides: tuple[int, int], corners: tuple[float, ...], share: float
) -> None:
    size = Size(*sides)
    (x1, x2), (y1, y2) = sorted(corners[:2]), sorted(corners[2:])
    box = Box(x1 * size.width, y1 * size.height, max(x2, x1 + 0.01) * size.width, max(y2, y1 + 0.01) * size.height)
    view = crop_around(box, size, share)
    if view is None:
        return
    assert 0 <= view.left <= view.left + view.width <= size.width
    assert 0 <= view.top <= view.top + view.height <= size.height
    back = view.box_out(view.prompt_in(ObjectPrompt(box)).box)
    pixel = max(1.0, 1 / view.zoom)
    held = Box(max(box.x1, 0), max(box.y1, 0), min(box.x2, size.width), min(box.y2, size.height))
    assert back == pytest.approx(held, abs=pixel + 0.5)


def test_quadrants_overlap_and_show_everything() -> None:
    shown = np.zeros((100, 200), int)
    for view in quadrants(SIZE):
        shown += view.mask_out(np.ones((100, 200), bool))
    assert shown.min() == 1
    assert shown.max() == 4
