"""The calibration that a finished run's confidences should have had.

Only the method `adaptive` asks for the probability that an object was meant, so `fit_calibration` takes only its runs. Fit on
samples that the model was neither tuned on nor will be reported on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import DataError, count_noun
from sam4mllm_tool.evaluation.calibration_error import Graded, expected_calibration_error, grade_none, grade_objects
from sam4mllm_tool.evaluation.records import METRICS_FILE, read_order, read_records, select_scored
from sam4mllm_tool.pipeline.calibration import Calibration, Scaling, fit_scaling

__all__ = ["CalibrationFit", "fit_calibration"]

_MIN_ANSWERS, _MIN_RIGHT_AND_WRONG = 20, 5
"""With fewer answers, or fewer right or fewer wrong ones among them, nothing is fitted."""


@dataclass(frozen=True)
class CalibrationFit:
    """A fitted calibration.

    Attributes:
        calibration: What to use from now on.
        errors: For "objects" and "none", the number of answers and the ECE of their confidences before and after.
        not_fitted: For a part that keeps the scaling that the run used, the reason: how many answers there are, and need be.
    """

    calibration: Calibration
    errors: dict[str, tuple[int, float, float]]
    not_fitted: dict[str, str]


def fit_calibration(run: Path) -> CalibrationFit:
    """Fit the calibration of a run's models to the run's confidences.

    A part (objects, or none) with too few answers, or too few right or wrong ones, keeps the scaling that the run used, and
    `not_fitted` says so.

    Args:
        run: The folder of a finished evaluation with the method `adaptive`.

    Raises:
        DataError: The folder holds no such run, no answer has a confidence, or there are too few answers to fit any part.
    """
    used = _used_calibration(run)
    records = select_scored(read_records(run))
    objects, none = ([graded for record in records for graded in grade(record)] for grade in (grade_objects, grade_none))
    if not objects and not none:
        raise DataError(f"{run}: no answer has a confidence; does the MLLM give probabilities?")
    parts = {"objects": (objects, used.objects), "none": (none, used.none)}
    not_fitted = {name: shortage for name, (graded, _) in parts.items() if (shortage := _describe_shortage(graded))}
    if len(not_fitted) == len(parts):
        reasons = "; ".join(f"{name}: {shortage}" for name, shortage in not_fitted.items())
        raise DataError(f"{run} has too few answers to fit a calibration: {reasons}. Evaluate more samples")
    scalings, errors = {}, {}
    for name, (graded, before) in parts.items():
        change = Scaling() if name in not_fitted else fit_scaling(graded)
        scalings[name] = change.after(before)
        if graded:
            rescaled = [(change(confidence), right) for confidence, right in graded]
            errors[name] = (len(graded), _ece(graded), _ece(rescaled))
    return CalibrationFit(Calibration(**scalings), errors, not_fitted)


def _describe_shortage(graded: Sequence[Graded]) -> str:
    """Return how many answers there are and how many a fit needs; "" where there are enough."""
    right = sum(right for _, right in graded)
    wrong = len(graded) - right
    if len(graded) >= _MIN_ANSWERS and min(right, wrong) >= _MIN_RIGHT_AND_WRONG:
        return ""
    needed = f"at least {_MIN_ANSWERS} answers, {_MIN_RIGHT_AND_WRONG} of them right and {_MIN_RIGHT_AND_WRONG} wrong"
    return f"{count_noun(len(graded), 'answer')}, {right:,} right and {wrong:,} wrong, where a fit needs {needed}"


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
