"""The choice among candidate masks, against cases computed by hand."""

from dataclasses import replace

import numpy as np
import pytest

from sam4mllm_tool.models.segmenter.mask_choice import (
    agreement,
    balanced_agreement,
    choose_object,
    prompt_score,
    rank_candidates,
)
from sam4mllm_tool.types import Box, MaskCandidate, ObjectPrompt, PointPrompt

LEFT = np.array([[1, 1, 0, 0]] * 2, np.bool_)
RIGHT = ~LEFT
EMPTY = np.zeros((2, 4), np.bool_)


def prompt(*points):
    return ObjectPrompt(Box(0, 0, 4, 2), tuple(points))


@pytest.mark.parametrize(
    ("mask", "points", "expected"),
    [
        pytest.param(LEFT, [], None, id="no points"),
        pytest.param(LEFT, [PointPrompt(0.5, 0.5, 1, 0.9)], 0.9, id="on the mask, label 1"),
        pytest.param(LEFT, [PointPrompt(0.5, 0.5, 0, 0.9)], 0.1, id="on the mask, label 0"),
        pytest.param(LEFT, [PointPrompt(3.5, 0.5, 0, 0.8)], 0.8, id="off the mask, label 0"),
        pytest.param(LEFT, [PointPrompt(3.5, 0.5, 1, 0.8)], 0.2, id="off the mask, label 1"),
        pytest.param(LEFT, [PointPrompt(0.5, 0.5, 1)], 1.0, id="no confidence counts as certain"),
        pytest.param(LEFT, [PointPrompt(0.5, 0.5, 0)], 0.0, id="no confidence counts as certainly wrong"),
        pytest.param(LEFT, [PointPrompt(0, 0, 1, 0.9), PointPrompt(3, 1, 1, 0.7)], 0.6, id="mean of 0.9 and 0.3"),
        pytest.param(LEFT, [PointPrompt(1.99, 1.99, 1, 0.9)], 0.9, id="just inside a pixel"),
        pytest.param(LEFT, [PointPrompt(2.0, 1.0, 1, 0.9)], 0.1, id="at the start of the next pixel"),
        pytest.param(RIGHT, [PointPrompt(4.0, 2.0, 1, 0.9)], 0.9, id="far corner of the image"),
        pytest.param(LEFT, [PointPrompt(-3.0, -0.1, 1, 0.9)], 0.9, id="outside the image"),
        pytest.param(EMPTY, [PointPrompt(1, 1, 0, 0.75)], 0.75, id="an empty mask agrees with label 0"),
    ],
)
def test_agreement_is_the_mean_probability_that_the_mask_is_right(mask, points, expected):
    assert agreement(mask, points) == (None if expected is None else pytest.approx(expected))


def test_the_prompt_score_is_the_score_times_the_agreement_or_the_score_without_points():
    points = [PointPrompt(0.5, 0.5, 1, 0.9), PointPrompt(3.5, 0.5, 1, 0.7)]
    assert prompt_score(LEFT, 0.8, points) == pytest.approx(0.8 * (0.9 + 0.3) / 2)
    assert prompt_score(LEFT, 0.8, []) == 0.8


@pytest.mark.parametrize(
    ("by", "points", "expected"),
    [
        pytest.param("score", [PointPrompt(3, 0, 1, 0.9)], [0, 1, 2], id="the paper's rule ignores points"),
        pytest.param("agreement", [PointPrompt(3, 0, 1, 0.9)], [1, 0, 2], id="agreements .1 .9 .1, ties by score"),
        pytest.param("both", [PointPrompt(3, 0, 1, 0.9)], [1, 0, 2], id="products .09 .72 .05"),
        pytest.param("both", [PointPrompt(3, 0, 1, 0.52)], [0, 1, 2], id="products .432 .416 .24: a weak answer loses"),
        pytest.param("agreement", [PointPrompt(3, 0, 1, 0.52)], [1, 0, 2], id="agreements .48 .52 .48"),
        pytest.param("agreement", [], [0, 1, 2], id="agreement without points: the score"),
        pytest.param("both", [], [0, 1, 2], id="product without points: the score"),
    ],
)
def test_candidates_are_ranked_by_the_given_rule(by, points, expected):
    candidates = [MaskCandidate(LEFT, 0.9), MaskCandidate(RIGHT, 0.8), MaskCandidate(EMPTY, 0.5)]
    assert rank_candidates(candidates, prompt(*points), by=by) == expected


def test_equal_candidates_keep_their_order():
    assert rank_candidates([MaskCandidate(LEFT, 0.5), MaskCandidate(LEFT, 0.5)], prompt()) == [0, 1]


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'score', 'agreement' or 'both', got 'iou'"):
        rank_candidates([MaskCandidate(LEFT, 0.5)], prompt(), by="iou")


def test_an_object_has_its_alternatives_and_no_confidence():
    candidates = [MaskCandidate(LEFT, 0.9), MaskCandidate(EMPTY, 0.5), MaskCandidate(RIGHT, 0.8)]
    answered = prompt(PointPrompt(3, 0, 1, 0.9), PointPrompt(0, 0, 0, 0.7), PointPrompt(2, 0, 0))
    chosen = choose_object(candidates, answered)
    assert chosen.mask is RIGHT
    assert chosen.score == 0.8
    assert (chosen.confidence, chosen.agreement) == (None, None), "one point on the object is too few"
    assert [candidate.score for candidate in chosen.alternatives] == [0.9, 0.5]
    assert chosen.prompt is answered


def test_the_box_of_a_prompt_of_points_becomes_that_of_its_mask():
    on_left = ObjectPrompt.from_points([PointPrompt(0.5, 1, 1)])
    assert on_left.box == Box(0.5, 1, 0.5, 1)
    assert choose_object([MaskCandidate(LEFT, 0.9)], on_left).prompt == replace(on_left, box=Box(0, 0, 2, 2))
    assert choose_object([MaskCandidate(EMPTY, 0.9)], on_left).prompt == on_left


@pytest.mark.parametrize("points", [[], [PointPrompt(1, 1, 1)]], ids=["no points", "points without confidence"])
def test_an_object_without_confident_points_has_no_agreement(points):
    assert choose_object([MaskCandidate(LEFT, 0.9)], prompt(*points)).agreement is None


def test_agreement_counts_points_on_the_object_as_much_as_those_off_it():
    missed = [PointPrompt(3, 0, 1, 0.9), PointPrompt(2, 1, 1, 0.9)]
    off = [PointPrompt(3, y, 0, 0.98) for y in (0, 1) for _ in range(10)]
    assert balanced_agreement(LEFT, [*missed, *off]) == pytest.approx((0.1 + 0.98) / 2)
    assert balanced_agreement(LEFT, [PointPrompt(0, 0, 1, 0.9), PointPrompt(1, 1, 1, 0.7)]) == pytest.approx(0.8)
    assert balanced_agreement(LEFT, off) is None, "the left eye: nothing on it, all off it"
    assert balanced_agreement(LEFT, [*missed[:1], *off]) is None
