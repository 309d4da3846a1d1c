"""Bootstrap intervals have the coverage that they claim, and are reproducible."""

import numpy as np
import pytest

from sam4mllm_tool.evaluation.bootstrap import bootstrap_differences, bootstrap_intervals, ratio


def test_the_interval_of_a_mean_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, 4000)
    ((low, high),) = bootstrap_intervals({"mean": ratio(values, np.ones(4000))}).values()
    margin = 1.96 * values.std() / np.sqrt(4000)
    assert low == pytest.approx(values.mean() - margin, abs=margin / 8)
    assert high == pytest.approx(values.mean() + margin, abs=margin / 8)


def test_a_95_percent_interval_contains_the_true_value_about_95_times_of_100() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        sizes = rng.uniform(1, 100, 120)
        shares = rng.beta(4, 2, 120)
        ((low, high),) = bootstrap_intervals({"cIoU": ratio(sizes * shares, sizes)}, resamples=400).values()
        covered += low <= 4 / 6 <= high
    assert 0.90 <= covered / 300 <= 0.99


def test_the_seed_determines_the_intervals() -> None:
    values = {"mean": ratio(np.random.default_rng(3).random(50), np.ones(50))}
    assert bootstrap_intervals(values) == bootstrap_intervals(values)
    assert bootstrap_intervals(values, seed=1) != bootstrap_intervals(values)


def test_an_undefined_metric_has_no_interval() -> None:
    assert bootstrap_intervals({"N-acc": ratio(np.zeros(5), np.zeros(5))}) == {}
    assert bootstrap_intervals({"mean": ratio(np.zeros(0), np.zeros(0))}) == {}


def test_a_paired_difference_is_significant_where_the_intervals_overlap() -> None:
    rng = np.random.default_rng(4)
    first = rng.random(500)
    second = np.clip(first + rng.normal(0.02, 0.03, 500), 0, 1)  # slightly better on most samples
    runs = [{"gIoU": ratio(values, np.ones(500))} for values in (first, second)]
    paired = bootstrap_differences(*runs)["gIoU"]
    assert paired.difference == pytest.approx(second.mean() - first.mean())
    assert 0 < paired.interval[0] < paired.difference < paired.interval[1]
    assert paired.p < 0.01
    intervals = [bootstrap_intervals(run)["gIoU"] for run in runs]
    assert intervals[0][1] > intervals[1][0]


def test_a_run_does_not_differ_from_itself() -> None:
    run = {"gIoU": ratio(np.random.default_rng(5).random(40), np.ones(40))}
    paired = bootstrap_differences(run, run)["gIoU"]
    assert (paired.difference, paired.interval, paired.p) == (0, (0, 0), 1)


def test_runs_with_different_numbers_of_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="have 3 and 4 samples"):
        bootstrap_differences({"a": ratio(np.ones(3), np.ones(3))}, {"a": ratio(np.ones(4), np.ones(4))})
