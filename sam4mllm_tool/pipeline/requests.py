"""What answering an expression takes, step by step, with no model and no clock in it.

A flow is a generator that yields requests, questions to answer (`MLLMRequest`) or prompts to segment (`SegmentRequest`), and
is sent the results. Flows are composed with `yield from`. Thin drivers serve them (`Sam4Mllm.run`, `arun`, many at once), so
that blocking, async and batched callers get the same results. What is done next is decided here and nowhere else.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from sam4mllm_tool.errors import BackendError, ReplyError, Sam4MllmError
from sam4mllm_tool.geometry.crops import ImageTransform
from sam4mllm_tool.pipeline.calibration import Calibration
from sam4mllm_tool.protocol import Dialect, Dialogue, Exchange, Grid, Sampler, Thresholds, turns
from sam4mllm_tool.types import (
    Box,
    ObjectPrompt,
    Question,
    Reply,
    Segmentation,
    SegmentedObject,
    Size,
    Tokens,
    Usage,
)

__all__ = [
    "WITHOUT_POINTS",
    "Flow",
    "Flows",
    "MLLMRequest",
    "Request",
    "SegmentRequest",
    "Transcript",
    "on_crop",
    "yes_probability",
]

WITHOUT_POINTS = "went on without unreadable points"
"""How the note begins that says so."""
MAX_MASK_BYTES = 2**31
"""Of all masks of an expression together, a byte a pixel: 33 objects on the largest picture, 100 on one of 21 megapixels."""


@dataclass(frozen=True)
class MLLMRequest:
    """Wanted: a list with a Reply for each question, which the driver validates (validation.py).

    sight: how the picture is to be shown; None: as it is.
    """

    questions: tuple[Question, ...]
    sight: ImageTransform | None = None


@dataclass(frozen=True)
class SegmentRequest:
    """Wanted: a list with a SegmentedObject for each prompt, validated likewise. sight: as in `MLLMRequest`."""

    prompts: tuple[ObjectPrompt, ...]
    sight: ImageTransform | None = None


T = TypeVar("T")
D = TypeVar("D", bound=Dialogue)
Request: TypeAlias = MLLMRequest | SegmentRequest
Flow: TypeAlias = Generator[Request, Any, T]


def on_crop(sight: ImageTransform, flow: Flow[T]) -> Flow[T]:
    """The flow, about the picture as `sight` shows it: what it asks and is told is in pixels of that.

    Raises ValueError for a flow that is about a sight already: one isn't seen through another.
    """
    try:
        need = next(flow)
        while True:
            try:
                if need.sight is not None:
                    raise ValueError(f"the flow is about {need.sight.words} already, it can't be shown {sight.words}")
                result = yield replace(need, sight=sight)
            except Sam4MllmError as error:  # what a meter throws in is the flow's to deal with
                need = flow.throw(error)
            else:
                need = flow.send(result)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


@dataclass
class Transcript:
    """What was said about an expression, what did not go as asked, and what it took."""

    said: list[Exchange] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rounds: int = 0
    points: int = 0
    """How many were asked about, where that is bounded."""
    seconds: dict[str, float] = field(default_factory=lambda: {"mllm": 0.0, "segmenter": 0.0})
    """By whoever drives the flow."""

    @property
    def tokens(self) -> Tokens | None:
        """None where one of the replies doesn't say."""
        counts = [exchange.reply.tokens for exchange in self.said]
        if not counts or None in counts:
            return None
        return Tokens(*(sum(column) for column in zip(*(count for count in counts if count), strict=True)))


@dataclass(frozen=True)
class Flows:
    """How a pair of models is worked with: the steps that the methods (methods.py) and all other flows are made of.

    repeats: whether the MLLM says the same whenever it is asked the same (`types.MLLM`). The others: see `Sam4Mllm`.
    """

    dialect: Dialect
    sampler: Sampler = Grid()
    thresholds: Thresholds = Thresholds()
    retries: int = 2
    calibration: Calibration = Calibration()
    abstain: float = 0.0
    budget: int = 225
    closer: bool = True
    repeats: bool = False
    mllm: str = "the MLLM"
    segmenter: str = "the segmenter"

    def told(
        self, expression: str, size: Size, objects: Sequence[SegmentedObject], talk: Transcript, confidence: float | None = None
    ) -> Segmentation:
        """Objects and the talk that led to them as a result."""
        seconds = dict(talk.seconds) if any(talk.seconds.values()) else {}  # nobody counted
        usage = Usage(self.mllm, self.segmenter, len(talk.said), seconds, talk.tokens, talk.rounds)
        return Segmentation(expression, size, tuple(objects), turns(talk.said), usage, tuple(talk.notes), confidence)

    def settle(self, dialogue: D, talk: Transcript) -> Flow[D | Dialogue]:
        """The dialogue when nothing is pending any more; falls back where replies stay unreadable, or raises ReplyError."""
        state: D | Dialogue = dialogue
        while state.pending:
            replies = yield from self._replies(state, talk)
            try:
                state = state.answer(replies)
            except ReplyError as error:
                without = state.without_points(replies)
                if without is None:
                    raise
                talk.notes.append(f"{WITHOUT_POINTS}: {error.reason}")
                state = without
        return state

    def masks(self, prompts: Sequence[ObjectPrompt], size: Size) -> Flow[list[SegmentedObject]]:
        """An object for each prompt. Raises BackendError where their masks would take too much memory."""
        if not prompts:
            return []
        _check_room(len(prompts), size)
        objects: list[SegmentedObject] = yield SegmentRequest(tuple(prompts))
        return objects

    def whether(self, expression: str, boxes: Sequence[Box], size: Size, talk: Transcript) -> Flow[list[float | None]]:
        """For each box, the probability that the object in it is one that the expression means, all asked at once.

        None where the dialect has no words for that or the model gives no probabilities.
        """
        questions = [self.dialect.ask_whether(expression, box, size) for box in boxes]
        asked = [question for question in questions if question is not None]
        if not asked:
            return [None] * len(boxes)
        replies = yield from self.ask(asked, talk)
        return list(map(yes_probability, replies))

    def sure_of_none(self, reply: Reply) -> float | None:
        """How likely the reply that there is no such object is right; None where it doesn't say how likely its text is."""
        return None if reply.log_probability is None else self.calibration.none(math.exp(reply.log_probability))

    def others(self, expression: str, boxes: Sequence[Box], size: Size, talk: Transcript) -> Flow[tuple[Box, ...] | None]:
        """The boxes of what the expression means besides what is in `boxes`; None without words for that.

        A reply that can't be read, as often as it is asked for, names no other box.
        """
        question = self.dialect.ask_other(expression, boxes, size)
        left = self.retries
        while question is not None:
            (reply,) = yield from self.ask([question], talk)
            try:
                return self.dialect.read_boxes(question, reply, size)
            except ReplyError as error:
                again = self.dialect.ask_again(question, reply, error.reason)
                if not left or (self.repeats and again == question):
                    talk.notes.append(f"went on without another box: {error.reason}")
                    return ()
                question, left = again, left - 1
        return None

    def ask(self, questions: Sequence[Question], talk: Transcript) -> Flow[list[Reply]]:
        """A reply to each question, as they come."""
        replies: list[Reply] = list((yield MLLMRequest(tuple(questions))))
        talk.said += [Exchange(question, reply) for question, reply in zip(questions, replies, strict=True)]
        talk.rounds += 1
        return replies

    def _replies(self, dialogue: Dialogue, talk: Transcript) -> Flow[list[Reply]]:
        """The replies to what is pending, those that can't be read asked for again, up to the bound."""
        asked = list(dialogue.pending)
        replies = yield from self.ask(asked, talk)
        for _ in range(self.retries):
            faults = [(i, fault) for i, fault in enumerate(dialogue.faults(replies)) if fault]
            again = {i: self.dialect.ask_again(asked[i], replies[i], fault.reason) for i, fault in faults}
            if self.repeats:  # asked the same, it says the same
                again = {i: question for i, question in again.items() if question != asked[i]}
            if not again:
                break
            count = f" {len(again)} questions" if len(again) > 1 else ""
            talk.notes.append(f"asked again{count}: {faults[0][1].reason}")
            told = yield from self.ask(list(again.values()), talk)
            for (i, question), reply in zip(again.items(), told, strict=True):
                asked[i], replies[i] = question, reply
        return replies


def yes_probability(reply: Reply) -> float | None:
    """The probability of the first word asked for, as in `Flows.whether`; None where the model gives none."""
    return reply.label_probabilities[0][0] if reply.label_probabilities else None


def _check_room(objects: int, size: Size) -> None:
    if objects * size.width * size.height > MAX_MASK_BYTES:
        raise BackendError(
            f"the masks of {objects} objects on a picture of {size.width} x {size.height} pixels would take more than "
            f"{MAX_MASK_BYTES / 2**30:g} GiB: make the picture smaller"
        )
