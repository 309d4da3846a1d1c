"""Crops of an image and the way back, against pixels counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sam4mllm_tool.geometry.crops import Crop, crop_around, crop_quadrants
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, RunLengthMask, SegmentedObject, Size

SIZE = Size(200, 100)
CENTER = Crop(50, 25, 100, 50, SIZE)


def test_a_crop_shows_its_part_at_the_size_of_the_image() -> None:
    image = Image.new("RGB", SIZE)
    image.paste((255, 255, 255), (50, 25, 150, 75))
    pixels = np.asarray(CENTER.apply(image))
    assert pixels.shape == (100, 200, 3)
    assert pixels[5:-5, 5:-5].min() == 255, "all but the border, where resampling mixes in neighboring pixels"


def test_a_crop_is_shown_no_longer_than_its_limit() -> None:
    crop = Crop(50, 25, 100, 50, SIZE, longest=80)
    assert crop.output_size == (80, 40)
    assert crop.apply(Image.new("RGB", SIZE)).size == (80, 40)
    assert crop.to_image_box(Box(0, 0, 80, 40)) == Box(50, 25, 150, 75)


def test_a_mask_of_a_crop_is_placed_where_the_crop_lies() -> None:
    mask = np.zeros((100, 200), bool)
    mask[:50, :100] = True
    expected = np.zeros((100, 200), bool)
    expected[25:50, 50:100] = True
    assert np.array_equal(CENTER.to_image_mask(mask), expected)


def test_a_box_is_clipped_to_the_crop_and_points_outside_are_dropped() -> None:
    points = (PointPrompt(60, 30, 1), PointPrompt(10, 10, 0))
    prompt = CENTER.to_crop_prompt(ObjectPrompt(Box(40, 20, 100, 50), points))
    assert prompt == ObjectPrompt(Box(0, 0, 100, 50), (PointPrompt(20, 10, 1),))


def test_a_mask_input_and_points_alone_are_moved_to_the_crop() -> None:
    mask = np.zeros((100, 200), bool)
    mask[30:40, 60:120] = True
    prompt = ObjectPrompt.from_points((PointPrompt(100, 35, 1),), RunLengthMask.of(mask))
    moved = CENTER.to_crop_prompt(prompt)
    expected = np.zeros((100, 200), bool)
    expected[10:30, 20:140] = True
    assert moved.mask_input is not None
    assert np.array_equal(moved.mask_input.mask(), expected)
    assert (moved.points, moved.points_only) == ((PointPrompt(100, 20, 1),), True)


def test_an_object_of_a_crop_is_moved_to_the_image_with_its_prompt() -> None:
    prompt = ObjectPrompt(Box(60, 30, 100, 50), (PointPrompt(70, 40, 1, 0.9),))
    in_crop = SegmentedObject(np.ones((100, 200), bool), CENTER.to_crop_prompt(prompt), 0.8, 0.7)
    moved = CENTER.to_image_object(in_crop)
    assert moved.prompt == prompt
    assert (moved.score, moved.confidence) == (0.8, 0.7)
    assert moved.mask.sum() == 100 * 50


@pytest.mark.parametrize(("box", "expected"), [(Box(90, 40, 110, 50), (66, 28, 67, 33)), (Box(0, 0, 20, 10), (0, 0, 67, 33))])
def test_the_box_is_centered_as_far_as_the_image_reaches(box: Box, expected: tuple[int, ...]) -> None:
    crop = crop_around(box, SIZE, 0.3)
    assert crop is not None
    assert (crop.left, crop.top, crop.width, crop.height) == expected
    assert crop.magnification == pytest.approx(200 / 67)


def test_a_box_that_takes_much_of_the_image_gets_no_crop() -> None:
    assert crop_around(Box(0, 0, 100, 50), SIZE, 0.5) is None
    assert crop_around(Box(0, 0, 78, 10), SIZE, 0.5) is not None


@given(
    st.tuples(*[st.integers(1, 400)] * 2),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.sampled_from([0.15, 0.25, 0.3, 0.45, 0.9]),
)
def test_every_crop_lies_in_the_image_holds_the_box_and_gives_it_back(
    sides: tuple[int, int], corners: tuple[float, ...], share: float
) -> None:
    size = Size(*sides)
    (x1, x2), (y1, y2) = sorted(corners[:2]), sorted(corners[2:])
    box = Box(x1 * size.width, y1 * size.height, max(x2, x1 + 0.01) * size.width, max(y2, y1 + 0.01) * size.height)
    crop = crop_around(box, size, share)
    if crop is None:
        return
    assert 0 <= crop.left <= crop.left + crop.width <= size.width
    assert 0 <= crop.top <= crop.top + crop.height <= size.height
    moved_back = crop.to_image_box(crop.to_crop_prompt(ObjectPrompt(box)).box)
    pixel = max(1.0, 1 / crop.magnification)
    assert moved_back == pytest.approx(box.clip(size), abs=pixel + 0.5)


def test_quadrants_overlap_and_cover_the_image() -> None:
    covered = np.zeros((100, 200), int)
    for crop in crop_quadrants(SIZE):
        covered += crop.to_image_mask(np.ones((100, 200), bool))
    assert covered.min() == 1
    assert covered.max() == 4
