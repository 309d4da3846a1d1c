"""A dialogue between two tool calls: the replies so far as small JSON, from which the protocol's state is rebuilt.

`PQPP` is a value that its replies alone determine, so nothing else is kept: a dialogue can be resumed after a restart,
branched, or answered again from an earlier turn. The JSON comes back from a conversation, or from whoever wrote one, and is
validated like any input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from sam4mllm_tool.errors import BackendError, ReplyError, Sam4MllmError
from sam4mllm_tool.models.validation import validate_replies
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.protocol import PQPP, BoxOnly, PointsByBox
from sam4mllm_tool.tools.artifacts import MAX_OBJECTS
from sam4mllm_tool.types import Box, Point, PointPrompt, Reply, Size

__all__ = ["DialogueError", "DialogueState", "NumberedPoint", "PointRound", "find_nearest_box"]

GroupedPoints = tuple[tuple[Point, ...], ...]
"""Points in pixels, grouped by the box that they are asked about in."""


class DialogueError(Sam4MllmError, ValueError):
    """A dialogue that can't go on as requested. It stays as it was."""


@dataclass(frozen=True)
class PointRound:
    """One round of points, and the replies to the questions about them."""

    points: GroupedPoints
    replies: tuple[Reply, ...]


class NumberedPoint(NamedTuple):
    """A point with its answer. Numbers count from 1 over all rounds, so they stay when more points are checked."""

    number: int
    box_index: int
    point: PointPrompt


@dataclass(frozen=True)
class DialogueState:
    """What a dialogue consists of.

    Attributes:
        expression: What is looked for.
        size: The image's size in pixels.
        boxes_reply: The reply that named the boxes.
        confidences: For each box, the probability that it is meant, in [0, 1]; None where unknown.
        rounds: The rounds of points, oldest first.
    """

    expression: str
    size: Size
    boxes_reply: Reply
    confidences: tuple[float | None, ...] = ()
    rounds: tuple[PointRound, ...] = ()

    def boxes(self, run: RunContext) -> tuple[Box, ...]:
        """Return the boxes in pixels; none mean that there is no such object.

        Raises:
            ReplyError: The reply can't be read in this dialect.
            DialogueError: There are more than `MAX_OBJECTS` boxes.
        """
        dialogue = BoxOnly.start(self.expression, self.size, dialect=run.dialect).answer([self.boxes_reply])
        if len(dialogue.prompts) > MAX_OBJECTS:
            raise DialogueError(
                f"the dialogue has {len(dialogue.prompts):,} boxes, at most {MAX_OBJECTS} can be used: name fewer"
            )
        return tuple(prompt.box for prompt in dialogue.prompts)

    def check_points(self, run: RunContext, points: Sequence[tuple[Point, ...]]) -> Flow["DialogueState"]:
        """Ask about points and return the dialogue with that round added.

        Args:
            run: A run on the dialogue's image.
            points: For each box its points, at least one in all.
        """
        dialogue = yield from run.run_dialogue(self._ask_points(run, tuple(points)))
        replies = tuple(exchange.reply for exchange in dialogue.history[1:])
        return replace(self, rounds=(*self.rounds, PointRound(tuple(points), replies)))

    def numbered_points(self, run: RunContext) -> list[NumberedPoint]:
        """Return every answered point, earlier rounds first, then box by box.

        Raises:
            DialogueError: The replies don't belong to the questions about the points.
        """
        numbered: list[NumberedPoint] = []
        for point_round in self.rounds:
            for box_index, points in enumerate(self._answer_points(run, point_round).answers or ()):
                numbered += [NumberedPoint(len(numbered) + n, box_index, point) for n, point in enumerate(points, start=1)]
        return numbered

    def points(self, run: RunContext) -> tuple[tuple[PointPrompt, ...], ...]:
        """Return the answered points of each box, in the order of their numbers. Raises DialogueError as `numbered_points`."""
        numbered = self.numbered_points(run)
        return tuple(
            tuple(entry.point for entry in numbered if entry.box_index == index) for index in range(len(self.boxes(run)))
        )

    def _ask_points(self, run: RunContext, points: GroupedPoints) -> PQPP:
        """Return the protocol's state with these points pending."""
        boxes = self.boxes(run)
        if len(points) != len(boxes) or not any(points):
            raise DialogueError(f"the dialogue has points for {len(points)} boxes and {len(boxes)} boxes: {_CURE}")
        sampler = PointsByBox(tuple(zip(boxes, points, strict=True)))
        dialogue = PQPP.start(
            self.expression, self.size, dialect=run.dialect, sampler=sampler, thresholds=run.config.thresholds
        )
        return dialogue.answer([self.boxes_reply])

    def _answer_points(self, run: RunContext, point_round: PointRound) -> PQPP:
        dialogue = self._ask_points(run, point_round.points)
        try:
            replies = validate_replies("the dialogue", dialogue.pending, point_round.replies)
        except BackendError as error:
            raise DialogueError(f"{error}: {_CURE}") from error
        try:
            return dialogue.answer(replies)
        except ReplyError:
            return dialogue.drop_unreadable_points(replies) or dialogue

    # As JSON

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; `from_dict` is its inverse."""
        return {
            "expression": self.expression,
            "size": {"width": self.size.width, "height": self.size.height},
            "said": _reply_to_dict(self.boxes_reply),
            "confidences": list(self.confidences),
            "rounds": [
                {
                    "places": [[list(point) for point in points] for points in point_round.points],
                    "replies": [_reply_to_dict(reply) for reply in point_round.replies],
                }
                for point_round in self.rounds
            ],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "DialogueState":
        """Rebuild a dialogue from its JSON. Raises DialogueError where it is not what `to_dict` wrote."""
        try:
            fields = _StateFields.model_validate(state)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, fault["loc"]))
            raise DialogueError(f"the dialogue can't be read back ({place}: {fault['msg']}): {_CURE}") from error
        return cls(
            fields.expression,
            Size(fields.size.width, fields.size.height),
            fields.boxes_reply.to_reply(),
            tuple(fields.confidences),
            tuple(point_round.to_round() for point_round in fields.rounds),
        )


_CURE = "call propose_boxes once more"

_Coordinate = Annotated[float, Field(ge=-1e6, le=1e6)]
_Probability = Annotated[float, Field(ge=0, le=1)]


class _SizeFields(BaseModel):
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]


class _ReplyFields(BaseModel):
    text: str
    label_probabilities: list[list[_Probability]] | None

    def to_reply(self) -> Reply:
        rows = self.label_probabilities
        return Reply(self.text, None if rows is None else tuple(map(tuple, rows)))


class _RoundFields(BaseModel):
    places: list[list[tuple[_Coordinate, _Coordinate]]]
    replies: list[_ReplyFields]

    def to_round(self) -> PointRound:
        points = tuple(tuple(Point(x, y) for x, y in box_points) for box_points in self.places)
        return PointRound(points, tuple(reply.to_reply() for reply in self.replies))


class _StateFields(BaseModel):
    expression: str
    size: _SizeFields
    boxes_reply: Annotated[_ReplyFields, Field(alias="said")]
    confidences: list[_Probability | None]
    rounds: list[_RoundFields]


def _reply_to_dict(reply: Reply) -> dict[str, Any]:
    rows = reply.label_probabilities
    return {"text": reply.text, "label_probabilities": None if rows is None else [list(row) for row in rows]}


def find_nearest_box(boxes: Sequence[Box], x: float, y: float) -> int:
    """Return the index of the smallest box that holds the point, else of the nearest one."""

    def measure_distance(box: Box) -> tuple[float, float]:
        outside = max(box.x1 - x, x - box.x2, box.y1 - y, y - box.y2, 0.0)
        return outside, box.area

    return min(range(len(boxes)), key=lambda index: measure_distance(boxes[index]))
