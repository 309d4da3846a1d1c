"""Correct the MLLM's probabilities by what was learnt on data where the truth is known.

A model that is asked whether an object is the one meant is seldom as sure as it should be. Platt scaling mends that with two
numbers: the log-odds of the model's probability times a slope, plus an offset. They are kept as calibration.json beside the
weights that they were fitted for; without a file the model's probabilities stay as they are.

Source: Platt, Probabilistic outputs for support vector machines (1999); Guo et al., On Calibration of Modern Neural Networks
(ICML 2017).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sam4mllm_tool.models.metadata import read_metadata
from sam4mllm_tool.text import parse_json

__all__ = ["CALIBRATION_FILE", "Calibration", "Scaling", "find_calibration", "fit_scaling"]

CALIBRATION_FILE = "calibration.json"
_MAX_LOG_ODDS = 30.0
"""Log-odds beyond which a float shows no difference."""
_RIDGE = 1e-3
"""Weight of the pull towards no change."""


@dataclass(frozen=True)
class Scaling:
    """Maps a probability to a better one: sigmoid(slope * log-odds + offset)."""

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, probability: float) -> float:
        """Return the corrected probability; both are in [0, 1]."""
        if self == Scaling():
            return probability
        log_odds = self.slope * _log_odds(probability) + self.offset
        return 1 / (1 + math.exp(-max(-_MAX_LOG_ODDS, min(_MAX_LOG_ODDS, log_odds))))

    def after(self, first: "Scaling") -> "Scaling":
        """Return the scaling that applies `first`, then this one."""
        return Scaling(self.slope * first.slope, self.slope * first.offset + self.offset)


@dataclass(frozen=True)
class Calibration:
    """The scalings for one set of weights.

    Args:
        objects: Of the probability that an object is one that was meant.
        none: Of the probability of the answer that there is no such object.
    """

    objects: Scaling = Scaling()
    none: Scaling = Scaling()

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        scalings = {"objects": self.objects, "none": self.none}
        fields = {name: {"slope": scaling.slope, "offset": scaling.offset} for name, scaling in scalings.items()}
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Calibration":
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        try:
            scalings = {
                name: Scaling(float(fields["slope"]), float(fields["offset"])) for name, fields in parse_json(text).items()
            }
            calibration = cls(**scalings)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a calibration: {error}") from error
        numbers = (number for scaling in scalings.values() for number in (scaling.slope, scaling.offset))
        if not all(map(math.isfinite, numbers)):
            raise ValueError("not a calibration: a number in it is not finite")
        return calibration


def find_calibration(mllm: str) -> Calibration:
    """Return the calibration.json beside the spec's adapter or model; without one, a calibration that changes nothing.

    A base model's own calibration does not hold for what an adapter makes of it, so with an adapter only its file counts.

    Raises:
        SpecError: The file can't be read, or the hub can't be reached.
    """
    return read_metadata(mllm, CALIBRATION_FILE, Calibration.from_json, adapter_only=True) or Calibration()


def fit_scaling(graded: Sequence[tuple[float, bool]]) -> Scaling:
    """Fit the scaling under which these probabilities of being right are most likely, by Newton's method.

    Args:
        graded: Pairs of a probability and whether the answer was right. If all are right, or all wrong, a small ridge still
            gives a finite offset.

    Raises:
        ValueError: There is no pair.
    """
    if not graded:
        raise ValueError("nothing to fit: there is no answer with a confidence")
    x = np.array([[_log_odds(probability), 1.0] for probability, _ in graded])
    y = np.array([float(is_right) for _, is_right in graded])
    start = np.array([1.0, 0.0])
    weights = start.copy()
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -_MAX_LOG_ODDS, _MAX_LOG_ODDS)))
        gradient = x.T @ (p - y) + _RIDGE * len(y) * (weights - start)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + _RIDGE * len(y) * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step * min(1.0, 5 / (np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] < 0:  # the surer, the less often right: only the mean of these confidences tells anything
        mean = y.mean().clip(1e-3, 1 - 1e-3)
        return Scaling(0.0, _log_odds(float(mean)))
    return Scaling(float(weights[0]), float(weights[1]))


def _log_odds(probability: float) -> float:
    inside = min(max(probability, 1e-13), 1 - 1e-13)
    return math.log(inside / (1 - inside))
