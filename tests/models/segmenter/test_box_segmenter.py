"""The segmenter that draws its prompts, which replaces a model in tests."""

import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, Segmenter

IMAGE = Image.new("RGB", (10, 6))


def test_a_box_is_filled() -> None:
    segmenter: Segmenter = BoxSegmenter(name="double")
    (segmented,) = segmenter.segment(IMAGE, [ObjectPrompt(Box(2, 1, 5, 4))])
    expected = np.zeros((6, 10), bool)
    expected[1:4, 2:5] = True
    assert np.array_equal(segmented.mask, expected)
    assert (segmented.score, segmented.confidence, segmenter.name) == (1.0, None, "double")


def test_a_pixel_follows_its_nearest_point() -> None:
    points = (PointPrompt(1, 3, 1, 0.8), PointPrompt(1, 2, 1, 0.8), PointPrompt(9, 3, 0, 0.9))
    (segmented,) = BoxSegmenter().segment(IMAGE, [ObjectPrompt(Box(0, 0, 10, 6), points)])
    assert np.array_equal(segmented.mask, np.repeat([[True] * 5 + [False] * 5], 6, 0))
    assert (segmented.confidence, segmented.agreement) == (None, pytest.approx(0.85))


def test_points_alone_reach_over_the_whole_image() -> None:
    points = (PointPrompt(1, 3, 1), PointPrompt(9, 3, 0))
    (segmented,) = BoxSegmenter().segment(IMAGE, [ObjectPrompt.from_points(points)])
    assert np.array_equal(segmented.mask, np.repeat([[True] * 5 + [False] * 5], 6, 0))
    assert segmented.prompt.box == Box(0, 0, 5, 6)


async def test_async_calls_give_the_same_and_calls_are_recorded() -> None:
    segmenter = BoxSegmenter()
    prompts = (ObjectPrompt(Box(2, 1, 5, 4)), ObjectPrompt(Box(-3, -3, 99, 99)))
    _, whole = await segmenter.asegment(IMAGE, prompts)
    assert whole.mask.all()
    assert segmenter.calls == [prompts]
