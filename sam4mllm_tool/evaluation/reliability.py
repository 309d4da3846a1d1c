"""Whether confidences can be believed: of the answers given with a confidence of 0.8, are 80 % right?

What is right is decided where a sample is judged (`judging.py`): a point answer, by the truth at the point; an object, by an
IoU of at least 0.5 with a true object. Here pairs of confidence and rightness become a reliability curve and its ECE.
Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017): equal bins over [0, 1], 15 of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sam4mllm_tool.evaluation.bootstrap import Floats, Statistic

__all__ = ["BINS", "Bin", "Graded", "calibration_error", "reliability"]

BINS = 15

Graded = tuple[float, bool]
"""A confidence in [0, 1], and whether what it was said of is right."""


@dataclass(frozen=True)
class Bin:
    """The answers of a confidence above `low` and up to `high`: their mean confidence, and the share that is right."""

    low: float
    high: float
    count: int
    confidence: float
    right: float


def reliability(graded: Sequence[Graded]) -> list[Bin]:
    """The bins that hold any answer, the lowest first."""
    found = []
    for index in range(BINS):
        inside = [one for one in graded if _bin(one[0]) == index]
        if inside:
            confidence, right = np.array(inside, np.float64).mean(0).tolist()
            found.append(Bin(index / BINS, (index + 1) / BINS, len(inside), confidence, right))
    return found


def calibration_error(samples: Sequence[Sequence[Graded]]) -> Statistic:
    """Expected calibration error over samples, each with any number of answers; no value without any.

    The mean over answers of how far their bin's mean confidence lies from the share that is right in it.
    """
    columns = np.zeros((len(samples), BINS + 1))
    for row, graded in zip(columns, samples, strict=True):
        for confidence, right in graded:
            row[_bin(confidence)] += confidence - right
            row[BINS] += 1
    return Statistic(columns, _error)


def _error(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        gaps = np.abs(sums[..., :BINS]).sum(-1)
        return np.asarray(np.where(sums[..., BINS] > 0, gaps / sums[..., BINS], np.nan))


def _bin(confidence: float) -> int:
    """Bins are open below and closed above, as in the paper; 0 is in the first."""
    return min(BINS - 1, max(0, int(np.ceil(confidence * BINS)) - 1))
