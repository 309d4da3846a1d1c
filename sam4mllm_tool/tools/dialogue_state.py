"""A dialogue between calls: the replies so far as small JSON, the protocol's state rebuilt from them at every call.

Nothing is kept but what the MLLM said and where it was asked: `PQPP` is a value and is rebuilt from its replies alone, so that
a dialogue can be taken up again after a restart, branched, or answered once more from an earlier turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sam4mllm_tool.errors import ReplyError, Sam4MllmError
from sam4mllm_tool.pipeline.requests import Flow, Flows, Transcript
from sam4mllm_tool.protocol import PQPP, BoxOnly, PointsByBox
from sam4mllm_tool.types import Box, ObjectPrompt, Point, PointPrompt, Reply, Size

__all__ = ["DialogueError", "Round", "Rounds", "nearest"]


class DialogueError(Sam4MllmError, ValueError):
    """A dialogue that can't go on as asked. It stays as it was."""


@dataclass(frozen=True)
class Round:
    """One round of points: those asked about in each box, in the boxes' order, and the replies to the questions they became."""

    places: tuple[tuple[Point, ...], ...]
    replies: tuple[Reply, ...]


@dataclass(frozen=True)
class Rounds:
    """said: the reply that named the boxes. confidences: for each box, the probability that it is meant, where known."""

    expression: str
    size: Size
    said: Reply
    confidences: tuple[float | None, ...] = ()
    rounds: tuple[Round, ...] = ()

    def boxes(self, flows: Flows) -> tuple[Box, ...]:
        """In pixels; none: there is no such object. Raises ReplyError where other models can't read what was said."""
        return tuple(prompt.box for prompt in self._start(flows).prompts)

    def _start(self, flows: Flows) -> BoxOnly:
        return BoxOnly.start(self.expression, self.size, dialect=flows.dialect).answer([self.said])

    def _asking(self, flows: Flows, places: Sequence[tuple[Point, ...]]) -> PQPP:
        """The dialogue with these points pending."""
        sampler = PointsByBox(tuple(zip(self.boxes(flows), places, strict=True)))
        asked = PQPP.start(self.expression, self.size, dialect=flows.dialect, sampler=sampler, thresholds=flows.thresholds)
        return asked.answer([self.said])

    def check(self, flows: Flows, places: Sequence[tuple[Point, ...]], talk: Transcript) -> Flow["Rounds"]:
        """The dialogue after one more round. places: the points to ask about in each box, at least one in all."""
        done = yield from flows.settle(self._asking(flows, places), talk)
        replies = tuple(exchange.reply for exchange in done.history[1:])
        return replace(self, rounds=(*self.rounds, Round(tuple(places), replies)))

    def points(self, flows: Flows) -> tuple[tuple[PointPrompt, ...], ...]:
        """For each box the points that were asked about, in order, with their answers."""
        told: list[tuple[PointPrompt, ...]] = [() for _ in self.boxes(flows)]
        for one in self.rounds:
            asked = self._asking(flows, one.places)
            try:
                done = asked.answer(one.replies)
            except ReplyError:
                done = asked.drop_unreadable_points(one.replies) or asked
            told = [(*before, *new) for before, new in zip(told, done.answers or (), strict=True)]
        return tuple(told)

    def prompts(self, flows: Flows) -> tuple[ObjectPrompt, ...]:
        """What SAM would be prompted with: points that are sure enough."""
        pairs = zip(self.boxes(flows), self.points(flows), strict=True)
        return tuple(ObjectPrompt(box, tuple(filter(flows.thresholds.keep, points))) for box, points in pairs)

    # As JSON -------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Plain JSON; `read` is its inverse."""
        return {
            "expression": self.expression,
            "size": {"width": self.size.width, "height": self.size.height},
            "said": _reply_to(self.said),
            "confidences": list(self.confidences),
            "rounds": [
                {"places": [[list(p) for p in points] for points in one.places], "replies": [*map(_reply_to, one.replies)]}
                for one in self.rounds
            ],
        }

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> "Rounds":
        """Raises DialogueError where it is not what `state` wrote."""
        try:
            rounds = tuple(
                Round(
                    tuple(tuple(Point(float(x), float(y)) for x, y in points) for points in one["places"]),
                    tuple(map(_reply_from, one["replies"])),
                )
                for one in state["rounds"]
            )
            size = Size(int(state["size"]["width"]), int(state["size"]["height"]))
            sure = tuple(None if value is None else float(value) for value in state["confidences"])
            return cls(str(state["expression"]), size, _reply_from(state["said"]), sure, rounds)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise DialogueError(f"the dialogue can't be read back ({what}): call propose_boxes once more") from error


def _reply_to(reply: Reply) -> dict[str, Any]:
    rows = reply.label_probabilities
    return {"text": reply.text, "label_probabilities": None if rows is None else [list(row) for row in rows]}


def _reply_from(reply: Mapping[str, Any]) -> Reply:
    rows = reply["label_probabilities"]
    return Reply(str(reply["text"]), None if rows is None else tuple(tuple(map(float, row)) for row in rows))


def nearest(boxes: Sequence[Box], x: float, y: float) -> int:
    """The index of the smallest box that holds the point, else of the nearest one."""

    def far(box: Box) -> tuple[float, float]:
        outside = max(box.x1 - x, x - box.x2, box.y1 - y, y - box.y2, 0.0)
        return outside, (box.x2 - box.x1) * (box.y2 - box.y1)

    return min(range(len(boxes)), key=lambda index: far(boxes[index]))
