"""Every answer about a point, also those that the thresholds dropped: what the accuracy and calibration of points are of.

A segmentation tells the points that Segment Anything was prompted with; which answers were given before some were dropped is
known where they are asked and read: in the dialect. So the models under evaluation speak through one that listens.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.types import Box, Label, Point, PointPrompt, Question, Reply, Size, Turn

__all__ = ["Listener"]


@dataclass
class _Heard:
    """A question about points of a box, and the labels that were read from its last readable reply."""

    box: Box
    points: tuple[Point, ...]
    labels: tuple[tuple[Label, float | None], ...] = ()


@dataclass(frozen=True)
class _Listening(Dialect):
    """The dialect it is made from, word for word. heard: by question, in the order asked."""

    heard: dict[Question, _Heard] = field(default_factory=dict, compare=False, repr=False)

    def ask_points(self, so_far: tuple[Turn, ...], box: Box, points: Sequence[Point], size: Size) -> tuple[Question, ...]:
        questions = super().ask_points(so_far, box, points, size)
        groups = [tuple(points)] if len(questions) == 1 else [(point,) for point in points]
        for question, group in zip(questions, groups, strict=True):
            self.heard.setdefault(question, _Heard(box, group))
        return questions

    def read_labels(self, question: Question, reply: Reply) -> tuple[tuple[Label, float | None], ...]:
        labels = super().read_labels(question, reply)
        if question in self.heard:
            self.heard[question].labels = labels
        return labels


class Listener:
    """The same models, overheard. models: what to segment with; it answers as the models that it is made from."""

    def __init__(self, models: Sam4Mllm) -> None:
        own = {one.name: getattr(models.dialect, one.name) for one in fields(Dialect)}
        self._dialect = _Listening(**own)
        self.models = copy.copy(models)
        self.models.dialect = self._dialect

    def forget(self) -> None:
        """Starts anew, for the next picture."""
        self._dialect.heard.clear()

    def points(self, expression: str) -> list[tuple[Box, PointPrompt]]:
        """The answers about points in the dialogue of an expression, as the segmentation has it, with the box asked about."""
        start = self._dialect.ask_boxes(expression).turns
        return [
            (heard.box, PointPrompt(point.x, point.y, *label))
            for question, heard in self._dialect.heard.items()
            if question.turns[: len(start)] == start
            for point, label in zip(heard.points, heard.labels, strict=False)
        ]
