"""How well confidences are calibrated, and the calibration that a finished run's confidences should have had.

A confidence is graded by whether its answer is right: a point answer by the truth at the point, an object by an IoU of at
least 0.5 with a true object (scoring.py). Graded confidences give a reliability curve and the expected calibration error
(ECE), in 15 equal bins over [0, 1]. Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017).

Only the method `adaptive` asks for the probability that an object was meant, so `fit_calibration` takes only its runs. Fit on
samples that the model was neither tuned on nor will be reported on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation.bootstrap import Floats, Statistic
from sam4mllm_tool.evaluation.records import METRICS_FILE, SampleRecord, read_order, read_records, select_scored
from sam4mllm_tool.pipeline.calibration import Calibration, Scaling, fit_scaling

__all__ = [
    "BINS",
    "CalibrationFit",
    "Graded",
    "ReliabilityBin",
    "compute_reliability",
    "expected_calibration_error",
    "fit_calibration",
    "grade_none",
    "grade_objects",
    "grade_points",
]

BINS = 15
_MIN_ANSWERS, _MIN_RIGHT_AND_WRONG = 20, 5
"""With fewer answers, or fewer right or fewer wrong ones among them, nothing is fitted."""

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


# Fitting ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CalibrationFit:
    """A fitted calibration.

    Attributes:
        calibration: What to use from now on.
        errors: For "objects" and "none", the number of answers and the ECE of their confidences before and after.
    """

    calibration: Calibration
    errors: dict[str, tuple[int, float, float]]


def fit_calibration(run: Path) -> CalibrationFit:
    """Fit the calibration of a run's models to the run's confidences.

    A part (objects, or none) with too few answers, or too few right or wrong ones, keeps the scaling that the run used.

    Args:
        run: The folder of a finished evaluation with the method `adaptive`.

    Raises:
        DataError: The folder holds no such run, or no answer has a confidence.
    """
    used = _used_calibration(run)
    records = select_scored(read_records(run))
    objects, none = ([graded for record in records for graded in grade(record)] for grade in (grade_objects, grade_none))
    if not objects and not none:
        raise DataError(f"{run}: no answer has a confidence; does the MLLM give probabilities?")
    scalings, errors = {}, {}
    for name, graded, before in (("objects", objects, used.objects), ("none", none, used.none)):
        change = fit_scaling(graded) if _is_enough(graded) else Scaling()
        scalings[name] = change.after(before)
        if graded:
            rescaled = [(change(confidence), right) for confidence, right in graded]
            errors[name] = (len(graded), _ece(graded), _ece(rescaled))
    return CalibrationFit(Calibration(**scalings), errors)


def _is_enough(graded: Sequence[Graded]) -> bool:
    right = sum(right for _, right in graded)
    return len(graded) >= _MIN_ANSWERS and min(right, len(graded) - right) >= _MIN_RIGHT_AND_WRONG


def _ece(graded: Sequence[Graded]) -> float:
    return expected_calibration_error([graded]).value or 0.0


def _used_calibration(run: Path) -> Calibration:
    """Return the calibration that the run used, if the run can be fitted. Raises DataError."""
    order = read_order(run)
    if order.get("method") != "adaptive":
        raise DataError(f"{run} is not a run of --method adaptive: other methods don't ask for an object's probability")
    models: dict[str, Any] = order.get("models", {})
    if models.get("abstain"):
        raise DataError(f"{run} was run with --abstain: objects that were left out can't be fitted")
    try:
        return Calibration.from_json(json.dumps(models["calibration"]))
    except (KeyError, ValueError) as error:
        raise DataError(f"{run / METRICS_FILE} has no valid calibration ({error}): evaluate again") from error
