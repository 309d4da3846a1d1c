"""Bootstrap intervals of metrics, and paired comparison of two runs over the same samples.

A metric is a `Statistic`: columns of per-sample numbers, and a function of the columns' sums. A resample draws as many samples
as there are, with replacement; its sums are the columns weighted by how often each sample was drawn. The seed is fixed, so
the same samples give the same intervals. Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Interval", "PairedDifference", "Statistic", "bootstrap_differences", "bootstrap_intervals", "ratio"]

Floats: TypeAlias = npt.NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]
"""The lower and the upper end."""

RESAMPLES = 2000
LEVEL = 0.95
_MAX_WEIGHTS = 2**21  # per block, 16 MiB
_DIGITS = 6  # of an interval's ends; further digits depend on the order of summation


@dataclass(frozen=True, eq=False)
class Statistic:
    """A metric that is a function of sums over samples.

    Attributes:
        columns: (samples, k).
        of_sums: Maps (..., k) sums to (...) values, NaN where the value is undefined.
    """

    columns: Floats
    of_sums: Callable[[Floats], Floats]

    @property
    def value(self) -> float | None:
        """The metric over all samples; None where it is undefined."""
        value = float(self.of_sums(self.columns.sum(0)))
        return None if np.isnan(value) else value


def ratio(numerator: Floats, denominator: Floats) -> Statistic:
    """Return the metric sum(numerator) / sum(denominator), undefined for a denominator of 0; both (samples,)."""
    return Statistic(np.stack([numerator, denominator], 1), _divide)


def _divide(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan))


def bootstrap_intervals(
    statistics: Mapping[str, Statistic], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Return the 95 % percentile interval of each metric that is defined, all from the same resamples."""
    resampled = _resample(statistics, resamples, seed)
    return {name: _interval(resampled[name]) for name, statistic in statistics.items() if statistic.value is not None}


@dataclass(frozen=True)
class PairedDifference:
    """A metric of two runs over the same samples.

    Attributes:
        first: The first run's value.
        second: The second run's value.
        interval: The 95 % interval of `second - first`.
        p: Two-sided p-value of no difference.
    """

    first: float
    second: float
    interval: Interval
    p: float

    @property
    def difference(self) -> float:
        """`second - first`."""
        return self.second - self.first


def bootstrap_differences(
    first: Mapping[str, Statistic], second: Mapping[str, Statistic], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, PairedDifference]:
    """Compare the metrics that both runs have, by resampling both with the same samples.

    Args:
        first: The first run's metrics by name; row i of every column belongs to sample i.
        second: The second run's, over the same samples in the same order.
        resamples: The number of resamples.
        seed: The seed of the resampling.

    Returns:
        The differences by metric. p is twice the share of resamples on the other side of 0, at least 1 / resamples.

    Raises:
        ValueError: The runs have different numbers of samples.
    """
    counts = {len(statistic.columns) for statistics in (first, second) for statistic in statistics.values()}
    if len(counts) > 1:
        raise ValueError(f"the runs are compared sample by sample, but have {' and '.join(map(str, sorted(counts)))} samples")
    resampled_first, resampled_second = (_resample(statistics, resamples, seed) for statistics in (first, second))
    differences = {}
    for name in [name for name in first if name in second]:
        first_value, second_value = first[name].value, second[name].value
        if first_value is None or second_value is None:
            continue
        gaps = resampled_second[name] - resampled_first[name]
        gaps = gaps[~np.isnan(gaps)]
        beyond = min(float((gaps <= 0).mean()), float((gaps >= 0).mean()))
        p = min(1.0, max(2 * beyond, 1 / resamples))
        differences[name] = PairedDifference(first_value, second_value, _interval(gaps), p)
    return differences


def _resample(statistics: Mapping[str, Statistic], resamples: int, seed: int) -> dict[str, Floats]:
    """Return each metric's values over the resamples, (resamples,), by name."""
    if not statistics:
        return {}
    columns = np.concatenate([statistic.columns for statistic in statistics.values()], axis=1)
    sums = _resampled_sums(columns, resamples, seed)
    ends = np.cumsum([statistic.columns.shape[1] for statistic in statistics.values()])[:-1]
    parts = np.split(sums, ends, axis=1)
    return {name: statistic.of_sums(part) for (name, statistic), part in zip(statistics.items(), parts, strict=True)}


def _resampled_sums(columns: Floats, resamples: int, seed: int) -> Floats:
    """Return the sums of the columns, (n, k), over samples drawn with replacement: (resamples, k)."""
    count = len(columns)
    if not count:
        return np.zeros((resamples, columns.shape[1]))
    rng = np.random.default_rng(seed)
    rows = max(1, _MAX_WEIGHTS // count)
    blocks = []
    for start in range(0, resamples, rows):
        height = min(rows, resamples - start)
        drawn = rng.integers(0, count, (height, count)) + count * np.arange(height)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=height * count).reshape(height, count)
        blocks.append(weights.astype(np.float64) @ columns)
    return np.concatenate(blocks)


def _interval(values: Floats) -> Interval:
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return round(float(low), _DIGITS), round(float(high), _DIGITS)
