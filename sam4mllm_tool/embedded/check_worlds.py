"""The drawn worlds as the embedded pair is measured on them: how scenes are drawn, the kinds of expressions, what must hold."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from sam4mllm_tool.config import Method
from sam4mllm_tool.embedded import EMBEDDED_WORLD, WorldName, everyday, expressions
from sam4mllm_tool.embedded.drawn_worlds import DRAWN_WORLDS, DrawnWorld

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


@dataclass(frozen=True)
class MeasuredWorld:
    """A world with what is measured in it.

    Attributes:
        drawn: How scenes are drawn.
        groups: Kinds of expressions that are measured together too, by the group's name.
        kinds: All kinds, in the table's order.
        box_kinds: Kinds of which box accuracy is measured, where an expression has one target.
        absent_kinds: Kinds that fit nothing in the scene.
        methods: The methods that are measured.
        requirements: What the pair must reach.
    """

    drawn: DrawnWorld
    groups: dict[str, tuple[str, ...]]
    kinds: tuple[str, ...]
    box_kinds: tuple[str, ...]
    absent_kinds: tuple[str, ...]
    methods: tuple[Method, ...]
    requirements: tuple[Requirement, ...] = field(repr=False)


def _gain(figures: Figures, method: str, over: str) -> float:
    return figures["all"][f"{method}_cIoU"] - figures["all"][f"{over}_cIoU"]


_COMMON = (
    Requirement("points that pass the thresholds, share", lambda f: f["present"]["passing"], ">=", 0.50),
    Requirement("present refused", lambda f: f["present"]["refused"], "<=", 0.03),
    Requirement("segmenter alone, 5 true points, mean IoU", lambda f: f["segmenter"]["mean_iou"], ">=", 0.92),
    Requirement("box Acc@0.5, single-object kinds", lambda f: f["single"]["box_acc"], ">=", 0.90),
)

SHAPES = MeasuredWorld(
    drawn=DRAWN_WORLDS["shapes"],
    groups={"single": expressions.SINGLE_OBJECT_KINDS},
    kinds=expressions.KINDS,
    box_kinds=expressions.SINGLE_OBJECT_KINDS,
    absent_kinds=("absent",),
    methods=("box", "ppg", "pqpp"),
    requirements=(
        *_COMMON,
        Requirement(
            "box Acc@0.5, worst of them",
            lambda f: min(f[k]["box_acc"] for k in expressions.SINGLE_OBJECT_KINDS if k in f),
            ">=",
            0.80,
        ),
        Requirement("points that pass the thresholds, right", lambda f: f["present"]["right_of_passing"], ">=", 0.97),
        Requirement("absent recognised", lambda f: f["absent"]["refused"], ">=", 0.90),
        Requirement("pqpp cIoU", lambda f: f["all"]["pqpp_cIoU"], ">=", 0.80),
        Requirement("pqpp cIoU above box-only", lambda f: _gain(f, "pqpp", "box"), ">", 0.0),
    ),
)
"""The world of coloured shapes; its requirements are for 300 scenes."""

EVERYDAY = MeasuredWorld(
    drawn=DRAWN_WORLDS["everyday"],
    groups={
        "single": tuple(kind for kind in everyday.SINGLE_OBJECT_KINDS if kind != "implicit_held_out"),
        "parts": ("part", "part_whole"),
    },
    kinds=everyday.KINDS,
    box_kinds=(*everyday.SINGLE_OBJECT_KINDS, "part", "part_whole"),
    absent_kinds=everyday.ABSENT_KINDS,
    methods=("box", "ppg", "pqpp", "points"),
    requirements=(
        *_COMMON,
        Requirement("box Acc@0.5, parts", lambda f: f["parts"]["box_acc"], ">=", 0.80),
        Requirement("box Acc@0.5, implicit with known phrasings", lambda f: f["implicit"]["box_acc"], ">=", 0.90),
        Requirement("points that pass the thresholds, right", lambda f: f["present"]["right_of_passing"], ">=", 0.96),
        Requirement("N-acc, easy absence", lambda f: f["absent_easy"]["refused"], ">=", 0.97),
        Requirement("N-acc, hard absence", lambda f: f["absent_hard"]["refused"], ">=", 0.85),
        Requirement("ppg cIoU above box-only", lambda f: _gain(f, "ppg", "box"), ">", 0.0),
        Requirement("pqpp cIoU above ppg", lambda f: _gain(f, "pqpp", "ppg"), ">", 0.0),
        Requirement("pqpp cIoU above box-only", lambda f: _gain(f, "pqpp", "box"), ">=", 0.04),
    ),
)
"""The world of everyday things; its requirements are for 700 scenes."""

WORLDS: dict[WorldName, MeasuredWorld] = {"shapes": SHAPES, "everyday": EVERYDAY}
DEFAULT_WORLD = WORLDS[EMBEDDED_WORLD]
"""The world that the weights in the package were trained on."""
