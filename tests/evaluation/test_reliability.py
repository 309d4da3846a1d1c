"""ECE and the reliability curve of cases that are worked out by hand."""

import numpy as np
import pytest

from sam4mllm_tool.evaluation.reliability import BINS, calibration_error, reliability


def test_confidences_that_are_kept_have_no_error() -> None:
    graded = [(0.8, True)] * 8 + [(0.8, False)] * 2 + [(0.5, True), (0.5, False)]
    assert calibration_error([graded]).value == pytest.approx(0)


def test_the_error_is_the_mean_gap_over_answers() -> None:
    # 0.9 twice, one right: a gap of 0.4; 0.6 twice, both right: a gap of 0.4; 1.0 once, right: none.
    samples = [[(0.9, True), (0.9, False)], [(0.6, True)], [], [(0.6, True), (1.0, True)]]
    assert calibration_error(samples).value == pytest.approx((2 * 0.4 + 2 * 0.4) / 5)


def test_gaps_within_a_bin_cancel_and_across_bins_do_not() -> None:
    assert calibration_error([[(0.99, False), (0.99, True)], [(0.01, True), (0.01, False)]]).value == pytest.approx(0.49)
    assert calibration_error([[(0.51, False), (0.52, True)]]).value == pytest.approx(0.015)


def test_without_answers_there_is_no_error() -> None:
    assert calibration_error([[], []]).value is None
    assert reliability([]) == []


def test_bins_are_closed_above() -> None:
    edges = [0.0, 1 / BINS, 1 / BINS + 1e-9, 1.0]
    found = reliability([(edge, True) for edge in edges])
    assert [(round(one.low * BINS), one.count) for one in found] == [(0, 2), (1, 1), (14, 1)]
    assert [one.right for one in found] == [1, 1, 1]


def test_the_error_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(6)
    samples = [[(float(c), bool(rng.random() < c**2)) for c in rng.random(rng.integers(0, 20))] for _ in range(200)]
    answers = [one for sample in samples for one in sample]
    expected = 0.0
    for index in range(BINS):
        inside = [one for one in answers if index / BINS < one[0] <= (index + 1) / BINS]
        if inside:
            expected += abs(sum(c for c, _ in inside) - sum(r for _, r in inside)) / len(answers)
    assert calibration_error(samples).value == pytest.approx(expected)
    assert sum(one.count for one in reliability(answers)) == len(answers)
