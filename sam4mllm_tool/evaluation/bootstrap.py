"""How sure a figure is: percentile intervals by resampling the samples, and the difference of two runs on the same samples.

A figure is a `Statistic`: columns of per-sample numbers, and a function of their sums. A resample draws as many samples as
there are, with replacement; its sums are the columns weighted by how often each sample was drawn. Seeded: the same samples
give the same intervals. Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Difference", "Floats", "Interval", "Statistic", "differences", "intervals", "ratio"]

Floats: TypeAlias = npt.NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]

RESAMPLES = 2000
LEVEL = 0.95
_CELLS = 2**21  # of a block of weights: 16 MiB
_DIGITS = 6  # of an interval: beyond them, the order of a sum shows


@dataclass(frozen=True, eq=False)
class Statistic:
    """A figure over samples. columns: (samples, k). of_sums: from (..., k) sums to (...) values, NaN where there is none."""

    columns: Floats
    of_sums: Callable[[Floats], Floats]

    @property
    def value(self) -> float | None:
        """The figure; None where it has nothing to be computed from."""
        value = float(self.of_sums(self.columns.sum(0)))
        return None if np.isnan(value) else value


def ratio(numerator: Floats, denominator: Floats) -> Statistic:
    """A sum over samples divided by another, of (samples,) each."""
    return Statistic(np.stack([numerator, denominator], 1), _divide)


def _divide(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan))


def intervals(statistics: Mapping[str, Statistic], *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
    """The 95 % interval of each figure that has a value, all from the same resamples."""
    drawn = _resampled(statistics, resamples, seed)
    return {name: _interval(drawn[name]) for name, statistic in statistics.items() if statistic.value is not None}


@dataclass(frozen=True)
class Difference:
    """A figure of two runs. difference: second less first, with its interval. p: two-sided, of no difference."""

    first: float
    second: float
    interval: Interval
    p: float

    @property
    def difference(self) -> float:
        return self.second - self.first


def differences(
    first: Mapping[str, Statistic], second: Mapping[str, Statistic], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """The figures that both runs have, compared over the same samples in the same order: both are resampled alike.

    p: twice the share of resamples on the other side of 0, at least 1 / resamples. Raises ValueError where the numbers of
    samples differ.
    """
    counts = {len(one.columns) for group in (first, second) for one in group.values()}
    if len(counts) > 1:
        raise ValueError(f"the runs are compared sample by sample, but have {' and '.join(map(str, sorted(counts)))} samples")
    ours, theirs = (_resampled(group, resamples, seed) for group in (first, second))
    found = {}
    for name in [name for name in first if name in second]:
        one, other = first[name].value, second[name].value
        if one is None or other is None:
            continue
        gaps = theirs[name] - ours[name]
        gaps = gaps[~np.isnan(gaps)]
        beyond = min(float((gaps <= 0).mean()), float((gaps >= 0).mean()))
        found[name] = Difference(one, other, _interval(gaps), min(1.0, max(2 * beyond, 1 / resamples)))
    return found


def _resampled(statistics: Mapping[str, Statistic], resamples: int, seed: int) -> dict[str, Floats]:
    """By name, the figure of each resample, (resamples,)."""
    if not statistics:
        return {}
    columns = np.concatenate([one.columns for one in statistics.values()], axis=1)
    sums = _resampled_sums(columns, resamples, seed)
    ends = np.cumsum([one.columns.shape[1] for one in statistics.values()])[:-1]
    parts = np.split(sums, ends, axis=1)
    return {name: one.of_sums(part) for (name, one), part in zip(statistics.items(), parts, strict=True)}


def _resampled_sums(columns: Floats, resamples: int, seed: int) -> Floats:
    """(resamples, k): the sums of the columns, (n, k), over samples drawn with replacement."""
    count = len(columns)
    if not count:
        return np.zeros((resamples, columns.shape[1]))
    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS // count)
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
