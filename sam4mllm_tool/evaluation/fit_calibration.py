"""From a finished run to the calibration of its models: what their confidences should have been.

Only `adaptive` asks how likely an object is the one that was meant, so only its runs can be fitted. The run's samples should be
neither those that the model was tuned on nor those that figures will be reported of.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation.records import read_records
from sam4mllm_tool.evaluation.reliability import Graded, calibration_error
from sam4mllm_tool.evaluation.summary import METRICS_FILE, scored
from sam4mllm_tool.pipeline.calibration import Calibration, Scaling, fit_scaling

__all__ = ["Calibrated", "calibrate"]

_FEWEST, _FEWEST_OF_EACH = 20, 5
"""Answers, and right and wrong ones among them, without which nothing is fitted."""


@dataclass(frozen=True)
class Calibrated:
    """errors: for objects and for none, the number of answers and the ECE of their confidences before and after."""

    calibration: Calibration
    errors: Mapping[str, tuple[int, float, float]]


def calibrate(run: Path) -> Calibrated:
    """run: the folder of a finished evaluation with --method adaptive.

    What has too few answers, or none that is wrong, keeps the scaling that it was run with. Raises DataError.
    """
    order = _order(run)
    used = Calibration.from_json(json.dumps(order["models"]["calibration"]))
    records = scored(read_records(run))
    objects = [(one.confidence, one.right) for record in records for one in record.objects if one.confidence is not None]
    none = [
        (record.confidence, not record.counts.targeted)
        for record in records
        if record.confidence is not None and record.counts.stated_none and not record.objects
    ]
    if not objects and not none:
        raise DataError(f"{run}: no answer has a confidence; does the MLLM give probabilities?")
    parts, errors = {}, {}
    for name, graded, before in (("objects", objects, used.objects), ("none", none, used.none)):
        change = fit_scaling(graded) if _is_enough(graded) else Scaling()
        parts[name] = change.after(before)
        if graded:
            errors[name] = (len(graded), _error(graded), _error([(change(said), right) for said, right in graded]))
    return Calibrated(Calibration(**parts), errors)


def _is_enough(graded: Sequence[Graded]) -> bool:
    right = sum(right for _, right in graded)
    return len(graded) >= _FEWEST and min(right, len(graded) - right) >= _FEWEST_OF_EACH


def _error(graded: Sequence[Graded]) -> float:
    return calibration_error([graded]).value or 0.0


def _order(run: Path) -> Mapping[str, Any]:
    try:
        order: Mapping[str, Any] = json.loads((run / METRICS_FILE).read_text(encoding="utf-8"))["order"]
        method, _ = order.get("method"), order.get("method") == "adaptive" and order["models"]["calibration"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{run / METRICS_FILE} can't be read ({error}): expected the folder of a finished evaluation"
        ) from error
    if method == "adaptive" and order["models"].get("abstain"):
        raise DataError(f"{run} was run with --abstain: what was left out can't be fitted")
    if method != "adaptive":
        raise DataError(f"{run} is not a run of --method adaptive: other methods don't ask how likely an object is meant")
    return order
