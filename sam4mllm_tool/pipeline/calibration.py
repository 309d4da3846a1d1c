"""How likely an answer is right: what a model says of it, set right by what was learnt on data where the truth is known.

A model that is asked whether an object is the one meant is seldom as sure as it should be. Platt's scaling mends that with two
numbers: the log-odds of the model's probability times a slope, plus an offset. They are kept as calibration.json beside the
weights they were fitted for; without a file the model is taken at its word.
Source: Platt, Probabilistic outputs for support vector machines (1999); Guo et al., On Calibration of Modern Neural Networks
(ICML 2017).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sam4mllm_tool.models.metadata import read_metadata
from sam4mllm_tool.models.mllm import split_spec

__all__ = ["CALIBRATION_FILE", "Calibration", "Scaling", "find_calibration", "fit_scaling"]

CALIBRATION_FILE = "calibration.json"
_SURE = 30.0
"""Log-odds beyond which a float tells no difference."""
_RIDGE = 1e-3


@dataclass(frozen=True)
class Scaling:
    """From a probability to a better one: sigmoid(slope * log-odds + offset)."""

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, probability: float) -> float:
        """Both in [0, 1]."""
        if self == Scaling():
            return probability
        return 1 / (1 + math.exp(-max(-_SURE, min(_SURE, self.slope * _log_odds(probability) + self.offset))))

    def after(self, first: "Scaling") -> "Scaling":
        """Both in one: `first`, then this one."""
        return Scaling(self.slope * first.slope, self.slope * first.offset + self.offset)


@dataclass(frozen=True)
class Calibration:
    """objects: of the probability that an object is one that was meant; none: of that of the answer that there is none."""

    objects: Scaling = Scaling()
    none: Scaling = Scaling()

    def to_json(self) -> str:
        """What `from_json` reads."""
        told = {
            name: {"slope": part.slope, "offset": part.offset}
            for name, part in (("objects", self.objects), ("none", self.none))
        }
        return json.dumps(told, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Calibration":
        """Raises ValueError naming the fault."""
        try:
            parts = {name: Scaling(float(part["slope"]), float(part["offset"])) for name, part in json.loads(text).items()}
            found = cls(**parts)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a calibration: {error}") from error
        if not all(math.isfinite(n) for part in (found.objects, found.none) for n in (part.slope, part.offset)):
            raise ValueError("not a calibration: a number in it is not finite")
        return found


def find_calibration(mllm: str) -> Calibration:
    """Return the calibration.json beside the spec's adapter or model; without one, a calibration that changes nothing.

    A base model's own calibration does not hold for what an adapter makes of it, so with an adapter only its file counts.

    Raises:
        SpecError: The file can't be read, or the hub can't be reached.
    """
    _base, adapter = split_spec(mllm)
    return read_metadata(mllm if adapter is None else adapter, CALIBRATION_FILE, Calibration.from_json) or Calibration()


def fit_scaling(graded: Sequence[tuple[float, bool]]) -> Scaling:
    """The scaling under which these probabilities of being right are likeliest, by Newton's method.

    graded: probability and whether it was right. What is all right or all wrong still gets a finite offset: a small ridge pulls
    towards no change. Raises ValueError for none.
    """
    if not graded:
        raise ValueError("nothing to fit: there is no answer with a confidence")
    x = np.array([[_log_odds(probability), 1.0] for probability, _ in graded])
    y = np.array([float(right) for _, right in graded])
    start = np.array([1.0, 0.0])
    weights = start.copy()
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -_SURE, _SURE)))
        gradient = x.T @ (p - y) + _RIDGE * len(y) * (weights - start)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + _RIDGE * len(y) * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 5 / (np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] < 0:  # surer and less often right: there is nothing in these confidences but their level
        level = y.mean().clip(1e-3, 1 - 1e-3)
        return Scaling(0.0, _log_odds(float(level)))
    return Scaling(float(weights[0]), float(weights[1]))


def _log_odds(probability: float) -> float:
    inside = min(max(probability, 1e-13), 1 - 1e-13)
    return math.log(inside / (1 - inside))
