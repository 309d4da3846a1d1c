"""ECE and the reliability curve on cases worked out by hand."""

import numpy as np
import pytest

from sam4mllm_tool.evaluation.calibration_error import BINS, compute_reliability, expected_calibration_error


def test_calibrated_confidences_have_no_error() -> None:
    graded = [(0.8, True)] * 8 + [(0.8, False)] * 2 + [(0.5, True), (0.5, False)]
    assert expected_calibration_error([graded]).value == pytest.approx(0)


def test_the_error_is_the_mean_gap_over_answers() -> None:
    # 0.9 twice, one right: a gap of 0.4; 0.6 twice, both right: a gap of 0.4; 1.0 once, right: none.
    samples = [[(0.9, True), (0.9, False)], [(0.6, True)], [], [(0.6, True), (1.0, True)]]
    assert expected_calibration_error(samples).value == pytest.approx((2 * 0.4 + 2 * 0.4) / 5)


def test_gaps_cancel_within_a_bin_and_not_across_bins() -> None:
    across = [[(0.99, False), (0.99, True)], [(0.01, True), (0.01, False)]]
    assert expected_calibration_error(across).value == pytest.approx(0.49)
    assert expected_calibration_error([[(0.51, False), (0.52, True)]]).value == pytest.approx(0.015)


def test_the_error_is_undefined_without_answers() -> None:
    assert expected_calibration_error([[], []]).value is None
    assert compute_reliability([]) == []


def test_bins_are_closed_above() -> None:
    edges = [0.0, 1 / BINS, 1 / BINS + 1e-9, 1.0]
    bins = compute_reliability([(edge, True) for edge in edges])
    assert [(round(row.low * BINS), row.count) for row in bins] == [(0, 2), (1, 1), (14, 1)]
    assert [row.right for row in bins] == [1, 1, 1]


def test_the_error_agrees_with_a_loop_over_bins() -> None:
    rng = np.random.default_rng(6)
    samples = [[(float(c), bool(rng.random() < c**2)) for c in rng.random(rng.integers(0, 20))] for _ in range(200)]
    answers = [answer for sample in samples for answer in sample]
    expected = 0.0
    for index in range(BINS):
        inside = [answer for answer in answers if index / BINS < answer[0] <= (index + 1) / BINS]
        if inside:
            expected += abs(sum(c for c, _ in inside) - sum(r for _, r in inside)) / len(answers)
    assert expected_calibration_error(samples).value == pytest.approx(expected)
    assert sum(row.count for row in compute_reliability(answers)) == len(answers)
