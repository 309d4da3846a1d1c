"""Which prompts are valid, and how they are clipped."""

import math

import numpy as np
import pytest

from sam4mllm_tool.models.segmenter.prompt_clipping import clip_prompt
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, RunLengthMask, Size

SIZE = Size(80, 50)
BOX = Box(1, 2, 30, 40)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param(BOX, BOX, id="inside"),
        pytest.param(Box(0, 0, 80, 50), Box(0, 0, 80, 50), id="the whole image"),
        pytest.param(Box(-5, -1e9, 30, 40), Box(0, 0, 30, 40), id="over the top left corner"),
        pytest.param(Box(70, 45, 81, 999), Box(70, 45, 80, 50), id="over the bottom right corner"),
    ],
)
def test_boxes_are_clipped_to_the_image(box, expected):
    assert clip_prompt(ObjectPrompt(box), SIZE) == ObjectPrompt(expected)


def test_points_are_clipped_to_the_image():
    clipped = clip_prompt(ObjectPrompt(BOX, (PointPrompt(-1, 60, 0, 0.5), PointPrompt(7.5, 8.5, 1))), SIZE)
    assert clipped.points == (PointPrompt(0, 50, 0, 0.5), PointPrompt(7.5, 8.5, 1))


def test_a_prompt_of_points_needs_no_box_with_an_area():
    clipped = clip_prompt(ObjectPrompt.from_points([PointPrompt(90, 8, 1), PointPrompt(7, 9, 0)]), SIZE)
    assert clipped.points == (PointPrompt(80, 8, 1), PointPrompt(7, 9, 0))
    assert (clipped.box, clipped.points_only) == (Box(80, 8, 80, 8), True)


def test_a_mask_input_is_kept():
    prompt = ObjectPrompt(BOX, mask_input=RunLengthMask.of(np.ones((50, 80), bool)))
    assert clip_prompt(prompt, SIZE) == prompt


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param(ObjectPrompt(Box(math.nan, 0, 5, 5)), "finite numbers, got .nan", id="not a number"),
        pytest.param(ObjectPrompt(Box(0, 0, math.inf, 5)), "finite numbers", id="infinite"),
        pytest.param(ObjectPrompt(Box(9, 0, 5, 5)), r"x1 < x2 and y1 < y2, got \(9, 0, 5, 5\)", id="inverted in x"),
        pytest.param(ObjectPrompt(Box(0, 9, 5, 5)), "x1 < x2 and y1 < y2", id="inverted in y"),
        pytest.param(ObjectPrompt(Box(5, 0, 5, 5)), "x1 < x2 and y1 < y2", id="without area"),
        pytest.param(ObjectPrompt(Box(80, 0, 90, 5)), "on the image of 80 x 50 pixels", id="outside the image"),
        pytest.param(ObjectPrompt(BOX, points_only=True), "a point on the object", id="no box and no point"),
        pytest.param(
            ObjectPrompt(BOX, mask_input=RunLengthMask((80, 50), "")), "80 x 50 .* got 50 x 80", id="a mask of another size"
        ),
        pytest.param(ObjectPrompt(BOX, (PointPrompt(math.nan, 3, 1),)), "finite coordinates", id="point not a number"),
        pytest.param(ObjectPrompt(BOX, (PointPrompt(3, 3, -10),)), "label of 0 or 1, got -10", id="padding's label"),
        pytest.param(ObjectPrompt(BOX, (PointPrompt(3, 3, 1, 1.5),)), r"in \[0, 1\], got 1.5", id="confidence above 1"),
        pytest.param(ObjectPrompt(BOX, (PointPrompt(3, 3, 1, math.nan),)), "got nan", id="confidence not a number"),
    ],
)
def test_an_invalid_prompt_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        clip_prompt(bad, SIZE)
