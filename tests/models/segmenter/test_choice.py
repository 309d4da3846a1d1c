"""The choice among candidates, against cases counted by hand."""

import numpy as np
import pytest

from sam4mllm_tool.models.segmenter.choice import agreement, choose, choose_object
from sam4mllm_tool.types import Box, MaskCandidate, ObjectPrompt, PointPrompt

LEFT = np.array([[1, 1, 0, 0]] * 2, np.bool_)
RIGHT = ~LEFT
NOTHING = np.zeros((2, 4), np.bool_)


def prompt(*points):
    return ObjectPrompt(Box(0, 0, 4, 2), tuple(points))


@pytest.mark.parametrize(
    ("mask", "points", "expected"),
    [
        pytest.param(LEFT, [], None, id="no points say nothing"),
        pytest.param(LEFT, [PointPrompt(0.5, 0.5, 1, 0.9)], 0.9, id="on it and said so"),
        pytest.param(LEFT, [PointPrompt(0.5, 0.5, 0, 0.9)], 0.1, id="on it, said to be off"),
        pytest.param(LEFT, [PointPrompt(3.5, 0.5, 0, 0.8)], 0.8, id="off it and said so"),
        pytest.param(LEFT, [PointPrompt(3.5, 0.5, 1, 0.8)], 0.2, id="off it, said to be on"),
        pytest.param(LEFT, [PointPrompt(0.5, 0.5, 1)], 1.0, id="unknown confidence is certain"),
        pytest.param(LEFT, [PointPrompt(0.5, 0.5, 0)], 0.0, id="unknown confidence is certainly wrong"),
        pytest.param(LEFT, [PointPrompt(0, 0, 1, 0.9), PointPrompt(3, 1, 1, 0.7)], 0.6, id="mean of 0.9 and 0.3"),
        pytest.param(LEFT, [PointPrompt(1.99, 1.99, 1, 0.9)], 0.9, id="a pixel reaches up to the next"),
        pytest.param(LEFT, [PointPrompt(2.0, 1.0, 1, 0.9)], 0.1, id="the next pixel starts at its integer"),
        pytest.param(RIGHT, [PointPrompt(4.0, 2.0, 1, 0.9)], 0.9, id="the far corner belongs to the last pixel"),
        pytest.param(LEFT, [PointPrompt(-3.0, -0.1, 1, 0.9)], 0.9, id="beyond the edge, the nearest pixel"),
        pytest.param(NOTHING, [PointPrompt(1, 1, 0, 0.75)], 0.75, id="an empty mask agrees with every no"),
    ],
)
def test_agreement_is_the_mean_probability_of_what_the_mask_says(mask, points, expected):
    assert agreement(mask, points) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("by", "points", "expected"),
    [
        pytest.param("score", [PointPrompt(3, 0, 1, 0.9)], [0, 1, 2], id="the paper's choice doesn't see points"),
        pytest.param("agreement", [PointPrompt(3, 0, 1, 0.9)], [1, 0, 2], id="agreements .1 .9 .1, equals by score"),
        pytest.param("both", [PointPrompt(3, 0, 1, 0.9)], [1, 0, 2], id="products .09 .72 .05"),
        pytest.param("both", [PointPrompt(3, 0, 1, 0.52)], [0, 1, 2], id="products .432 .416 .24: a weak answer yields"),
        pytest.param("agreement", [PointPrompt(3, 0, 1, 0.52)], [1, 0, 2], id="agreement alone does not"),
        pytest.param("agreement", [], [0, 1, 2], id="without points the score decides"),
        pytest.param("both", [], [0, 1, 2], id="without points the score decides, too"),
    ],
)
def test_choose_orders_candidates(by, points, expected):
    candidates = [MaskCandidate(LEFT, 0.9), MaskCandidate(RIGHT, 0.8), MaskCandidate(NOTHING, 0.5)]
    assert choose(candidates, prompt(*points), by=by) == expected


def test_choose_keeps_the_order_of_equals():
    assert choose([MaskCandidate(LEFT, 0.5), MaskCandidate(LEFT, 0.5)], prompt()) == [0, 1]


def test_choose_refuses_another_rule():
    with pytest.raises(ValueError, match="'score', 'agreement' or 'both', got 'iou'"):
        choose([MaskCandidate(LEFT, 0.5)], prompt(), by="iou")


def test_an_object_carries_its_alternatives_and_how_far_the_points_agree():
    candidates = [MaskCandidate(LEFT, 0.9), MaskCandidate(NOTHING, 0.5), MaskCandidate(RIGHT, 0.8)]
    asked = prompt(PointPrompt(3, 0, 1, 0.9), PointPrompt(0, 0, 0, 0.7), PointPrompt(2, 0, 0))
    chosen = choose_object(candidates, asked)
    assert chosen.mask is RIGHT
    assert chosen.score == 0.8
    assert chosen.confidence == pytest.approx(0.8), "of the two points whose confidence is known"
    assert [candidate.score for candidate in chosen.alternatives] == [0.9, 0.5]
    assert chosen.prompt is asked


@pytest.mark.parametrize("points", [[], [PointPrompt(1, 1, 1)]], ids=["no points", "points of unknown confidence"])
def test_without_known_confidences_an_object_has_none(points):
    assert choose_object([MaskCandidate(LEFT, 0.9)], prompt(*points)).confidence is None
