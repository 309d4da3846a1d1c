"""Intervals cover what they should, and the same samples give the same ones."""

import numpy as np
import pytest

from sam4mllm_tool.evaluation.bootstrap import differences, intervals, ratio


def test_an_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, 4000)
    ((low, high),) = intervals({"mean": ratio(values, np.ones(4000))}).values()
    margin = 1.96 * values.std() / np.sqrt(4000)
    assert low == pytest.approx(values.mean() - margin, abs=margin / 8)
    assert high == pytest.approx(values.mean() + margin, abs=margin / 8)


def test_a_95_percent_interval_holds_the_truth_about_95_times_of_100() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(300):
        sizes = rng.uniform(1, 100, 120)
        shares = rng.beta(4, 2, 120)
        ((low, high),) = intervals({"cIoU": ratio(sizes * shares, sizes)}, resamples=400).values()
        held += low <= 4 / 6 <= high
    assert 0.90 <= held / 300 <= 0.99


def test_the_seed_decides() -> None:
    values = {"mean": ratio(np.random.default_rng(3).random(50), np.ones(50))}
    assert intervals(values) == intervals(values)
    assert intervals(values, seed=1) != intervals(values)


def test_a_figure_without_a_value_has_no_interval() -> None:
    assert intervals({"N-acc": ratio(np.zeros(5), np.zeros(5))}) == {}
    assert intervals({"mean": ratio(np.zeros(0), np.zeros(0))}) == {}


def test_a_paired_difference_is_surer_than_the_runs() -> None:
    rng = np.random.default_rng(4)
    first = rng.random(500)
    second = np.clip(first + rng.normal(0.02, 0.03, 500), 0, 1)  # better by little, sample for sample
    one, other = ({"gIoU": ratio(values, np.ones(500))} for values in (first, second))
    found = differences(one, other)["gIoU"]
    assert found.difference == pytest.approx(second.mean() - first.mean())
    assert 0 < found.interval[0] < found.difference < found.interval[1]
    assert found.p < 0.01
    apart = [intervals(run)["gIoU"] for run in (one, other)]
    assert apart[0][1] > apart[1][0]


def test_a_run_does_not_differ_from_itself() -> None:
    run = {"gIoU": ratio(np.random.default_rng(5).random(40), np.ones(40))}
    found = differences(run, run)["gIoU"]
    assert (found.difference, found.interval, found.p) == (0, (0, 0), 1)


def test_runs_of_different_numbers_of_samples_are_not_compared() -> None:
    with pytest.raises(ValueError, match="have 3 and 4 samples"):
        differences({"a": ratio(np.ones(3), np.ones(3))}, {"a": ratio(np.ones(4), np.ones(4))})
