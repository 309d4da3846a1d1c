"""How well confidences are calibrated.

A confidence is graded by whether its answer is right: a point answer by the truth at the point, an object by an IoU of at
least 0.5 with a true object (scoring.py). Graded confidences give a reliability curve and the expected calibration error
(ECE), in 15 equal bins over [0, 1]. Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sam4mllm_tool.evaluation.bootstrap import Floats, Statistic
from sam4mllm_tool.evaluation.records import SampleRecord

__all__ = [
    "BINS",
    "Graded",
    "ReliabilityBin",
    "compute_reliability",
    "expected_calibration_error",
    "grade_none",
    "grade_objects",
    "grade_points",
]

BINS = 15

Graded: TypeAlias = tuple[float, bool]
"""A confidence in [0, 1], and whether the answer is right."""


# Grading ------------------------------------------------------------------------------------------------------------


def grade_points(record: SampleRecord) -> list[Graded]:
    """Grade the point answers that have a confidence and don't fall on ignored pixels."""
    return [
        (answer.confidence, answer.label == answer.truth)
        for answer in record.points
        if answer.confidence is not None and answer.truth is not None
    ]


def grade_objects(record: SampleRecord) -> list[Graded]:
    """Grade the predicted objects that have a confidence."""
    return [(answer.confidence, answer.right) for answer in record.objects if answer.confidence is not None]


def grade_none(record: SampleRecord) -> list[Graded]:
    """Grade the answer that there is no such object, where it was given with a confidence."""
    if record.objects or not record.counts.stated_none or record.confidence is None:
        return []
    return [(record.confidence, not record.counts.targeted)]


# Measuring ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReliabilityBin:
    """The answers with a confidence in (low, high].

    Attributes:
        low: The lower edge, excluded, except that 0 is in the first bin.
        high: The upper edge.
        count: The number of answers.
        confidence: Their mean confidence.
        right: The share of them that is right.
    """

    low: float
    high: float
    count: int
    confidence: float
    right: float


def compute_reliability(graded: Sequence[Graded]) -> list[ReliabilityBin]:
    """Return the bins of the reliability curve that hold any answer, the lowest first."""
    bins = []
    for index in range(BINS):
        inside = [(confidence, right) for confidence, right in graded if _bin_index(confidence) == index]
        if inside:
            confidence, right = np.array(inside, np.float64).mean(0).tolist()
            bins.append(ReliabilityBin(index / BINS, (index + 1) / BINS, len(inside), confidence, right))
    return bins


def expected_calibration_error(samples: Sequence[Sequence[Graded]]) -> Statistic:
    """Return the ECE over samples, each with any number of graded answers; it has no value without answers.

    It is the mean over answers of the gap, in the answer's bin, between mean confidence and the share that is right.
    """
    columns = np.zeros((len(samples), BINS + 1))
    for row, graded in zip(columns, samples, strict=True):
        for confidence, right in graded:
            row[_bin_index(confidence)] += confidence - right
            row[BINS] += 1
    return Statistic(columns, _ece_of_sums)


def _ece_of_sums(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        gaps = np.abs(sums[..., :BINS]).sum(-1)
        return np.asarray(np.where(sums[..., BINS] > 0, gaps / sums[..., BINS], np.nan))


def _bin_index(confidence: float) -> int:
    """Bins are open below and closed above, as in the paper; 0 is in the first."""
    return min(BINS - 1, max(0, int(np.ceil(confidence * BINS)) - 1))
