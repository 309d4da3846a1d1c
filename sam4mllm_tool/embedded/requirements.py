"""What the embedded pair must reach, and the kinds of expressions and the methods by which it is measured."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from sam4mllm_tool.config import Method
from sam4mllm_tool.embedded.everyday import SINGLE_OBJECT_KINDS

__all__ = ["BOX_KINDS", "GROUPS", "METHODS", "REQUIREMENTS", "Figures", "Requirement"]

Figures: TypeAlias = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Requirement:
    """What the embedded pair must reach on the test split.

    Attributes:
        description: What is measured, in words.
        read: Reads the figure from what `measure_pair` returns.
        relation: How the figure must relate to the limit: >=, > or <=.
        limit: The limit.
    """

    description: str
    read: Callable[[Figures], float]
    relation: str
    limit: float

    def value(self, figures: Figures) -> float:
        """Return the figure, NaN where it has no samples."""
        try:
            return self.read(figures)
        except KeyError:
            return math.nan

    def holds(self, figures: Figures) -> bool:
        """Return whether the figures meet the requirement; a figure without samples doesn't."""
        value = self.value(figures)
        return {">=": value >= self.limit, ">": value > self.limit, "<=": value <= self.limit}[self.relation]


def _gain(figures: Figures, method: str, over: str) -> float:
    return figures["all"][f"{method}_cIoU"] - figures["all"][f"{over}_cIoU"]


GROUPS = {
    "single": tuple(kind for kind in SINGLE_OBJECT_KINDS if kind != "implicit_held_out"),
    "parts": ("part", "part_whole"),
}
"""Kinds of expressions that are measured together too, by the group's name."""
BOX_KINDS = (*SINGLE_OBJECT_KINDS, "part", "part_whole")
"""Kinds of which box accuracy is measured, where an expression has one target."""
METHODS: tuple[Method, ...] = ("box", "ppg", "pqpp", "points")
"""The methods that are measured."""
REQUIREMENTS = (
    Requirement("box Acc@0.5, single-object kinds", lambda f: f["single"]["box_acc"], ">=", 0.90),
    Requirement("box Acc@0.5, parts", lambda f: f["parts"]["box_acc"], ">=", 0.80),
    Requirement("box Acc@0.5, implicit with known phrasings", lambda f: f["implicit"]["box_acc"], ">=", 0.90),
    Requirement("points that pass the thresholds, right", lambda f: f["present"]["right_of_passing"], ">=", 0.96),
    Requirement("points that pass the thresholds, share", lambda f: f["present"]["passing"], ">=", 0.50),
    Requirement("present refused", lambda f: f["present"]["refused"], "<=", 0.03),
    Requirement("N-acc, easy absence", lambda f: f["absent_easy"]["refused"], ">=", 0.97),
    Requirement("N-acc, hard absence", lambda f: f["absent_hard"]["refused"], ">=", 0.85),
    Requirement("ppg cIoU above box-only", lambda f: _gain(f, "ppg", "box"), ">", 0.0),
    Requirement("pqpp cIoU above ppg", lambda f: _gain(f, "pqpp", "ppg"), ">", 0.0),
    Requirement("pqpp cIoU above box-only", lambda f: _gain(f, "pqpp", "box"), ">=", 0.04),
    Requirement("segmenter alone, 5 true points, mean IoU", lambda f: f["segmenter"]["mean_iou"], ">=", 0.92),
)
"""For 700 scenes."""
