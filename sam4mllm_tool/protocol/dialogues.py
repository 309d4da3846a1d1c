"""The SAM4MLLM dialogue as a value: pending questions in, replies in, next state out; no model and no I/O.

Three ways through it, all frozen and all with the same face (`Dialogue`):
- PQPP, proactive query of prompt points: a box, then whether each point of a grid inside it is on the object.
- PPG, prompt-point generation: box and points in one answer.
- BoxOnly: the first round of PQPP and nothing more.

    while dialogue.pending:
        dialogue = dialogue.answer(mllm.reply(image, dialogue.pending))

Being a value, a dialogue pickles, is answered again from any earlier state, and is rebuilt from its replies alone
(`replay`). Training dialogues come from the same states, run on true answers (`truth.py`), so the two cannot drift apart.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Protocol, Self, TypeVar

from sam4mllm_tool.errors import ExpressionError, ReplyError
from sam4mllm_tool.protocol.dialect import Dialect
from sam4mllm_tool.protocol.samplers import Grid, Sampler
from sam4mllm_tool.types import Box, Label, ObjectPrompt, Point, PointPrompt, Question, Reply, Size, Turn

MAX_EXPRESSION = 2000
"""Characters; far above any referring expression, far below any context window."""


@dataclass(frozen=True)
class Thresholds:
    """Which answers about points are kept: on the object above `on`, off it above `off`, else dropped. The paper's values."""

    on: float = 0.75
    off: float = 0.9

    def __post_init__(self) -> None:
        if not (0 <= self.on <= 1 and 0 <= self.off <= 1):
            raise ValueError(f"thresholds are probabilities from 0 to 1, not {self.on} and {self.off}")

    def keep(self, point: PointPrompt) -> bool:
        """A point without a confidence is kept: there is nothing to judge it by."""
        return point.confidence is None or point.confidence > (self.on if point.label else self.off)


@dataclass(frozen=True)
class Exchange:
    """One question and the reply it got."""

    question: Question
    reply: Reply


Labelled = tuple[Label, float | None]
"""The label of a point and its confidence."""


class Dialogue(Protocol):
    """What the pipeline, the tools and the training data builder drive."""

    @property
    def expression(self) -> str: ...

    @property
    def pending(self) -> tuple[Question, ...]:
        """The questions to ask now, side by side; empty when the dialogue is done."""

    @property
    def prompts(self) -> tuple[ObjectPrompt, ...]:
        """One per object, complete once nothing is pending; empty then: there is no such object."""

    @property
    def history(self) -> tuple[Exchange, ...]:
        """Everything asked and replied so far."""

    def answer(self, replies: Sequence[Reply]) -> Self:
        """The next state. Raises ReplyError if a reply breaks the format; this state stays as it was."""

    def faults(self, replies: Sequence[Reply]) -> tuple[ReplyError | None, ...]:
        """For each pending question why its reply can't be read, None where it can."""

    def without_points(self, replies: Sequence[Reply]) -> "Dialogue | None":
        """The state to go on from when the pending replies stay unreadable, or None if there is none."""


def turns(history: Iterable[Exchange]) -> tuple[Turn, ...]:
    """The exchanges as one readable sequence; turns that an exchange shares with the one before it stand once.

    One that takes up an exchange from further back, as a question that is asked again, repeats it.
    """
    told: list[Turn] = []
    before: tuple[Turn, ...] = ()
    for exchange in history:
        *earlier, asked = exchange.question.turns
        shared = len(list(takewhile(lambda pair: _same(*pair), zip(earlier, before, strict=False))))
        replied = Turn("assistant", exchange.reply.text)
        told += [*earlier[shared:], asked, replied]
        before = (*earlier, asked, replied)
    return tuple(told)


def _same(a: Turn, b: Turn) -> bool:
    """Whether they are one turn, but for how an answer starts."""
    return a.role == b.role and a.text.strip() == b.text.strip()


def _fault(read: Callable[[], object]) -> ReplyError | None:
    try:
        read()
    except ReplyError as error:
        return error
    return None


D = TypeVar("D", bound=Dialogue)


def replay(dialogue: D, rounds: Iterable[Sequence[Reply]]) -> D:
    """The state after these rounds of replies; inverse of keeping nothing but the replies."""
    for replies in rounds:
        dialogue = dialogue.answer(replies)
    return dialogue


def checked_expression(expression: object) -> str:
    """The expression on one line, half characters replaced, none at its ends that can't be seen.

    Raises ExpressionError if it is no text, empty or over the limit.
    """
    if not isinstance(expression, str):
        raise ExpressionError(f"expected the expression as text, got {type(expression).__name__}")
    whole = expression.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # tokenizers refuse lone surrogates
    seen = [place for place, character in enumerate(whole) if not _is_blank(character)]
    if not seen:
        raise ExpressionError("the expression is empty: say what to segment, as in 'the red ring'")
    tidy = " ".join(whole[seen[0] : seen[-1] + 1].split())
    if len(tidy) > MAX_EXPRESSION:
        raise ExpressionError(f"the expression has {len(tidy):,} characters; at most {MAX_EXPRESSION:,} are allowed")
    return tidy


def _is_blank(character: str) -> bool:
    """Blanks, and what only tells how its neighbours are set: a blank of no width, a mark of direction."""
    return character.isspace() or unicodedata.category(character) == "Cf"


def _check_count(pending: Sequence[Question], replies: Sequence[Reply]) -> None:
    if not pending:
        raise ValueError("the dialogue is done: nothing is pending")
    if len(replies) != len(pending):
        raise ValueError(f"{len(pending)} questions are pending, got {len(replies)} replies")


@dataclass(frozen=True)
class BoxOnly:
    """One round: boxes, or that there is no such object."""

    expression: str
    size: Size
    dialect: Dialect
    boxes: tuple[Box, ...] | None = None
    history: tuple[Exchange, ...] = ()

    @classmethod
    def start(cls, expression: str, size: Size, *, dialect: Dialect) -> "BoxOnly":
        return cls(checked_expression(expression), size, dialect)

    @property
    def pending(self) -> tuple[Question, ...]:
        return (self.dialect.ask_boxes(self.expression),) if self.boxes is None else ()

    @property
    def prompts(self) -> tuple[ObjectPrompt, ...]:
        return tuple(ObjectPrompt(box) for box in self.boxes or ())

    def answer(self, replies: Sequence[Reply]) -> "BoxOnly":
        _check_count(self.pending, replies)
        (question,), (reply,) = self.pending, replies
        boxes = self.dialect.read_boxes(question, reply, self.size)
        return replace(self, boxes=boxes, history=(Exchange(question, reply),))

    def faults(self, replies: Sequence[Reply]) -> tuple[ReplyError | None, ...]:
        return (_fault(lambda: self.answer(replies)),)

    def without_points(self, replies: Sequence[Reply]) -> None:  # noqa: ARG002
        return None


@dataclass(frozen=True)
class PPG:
    """One round: the model writes `on` points on the object and `off` beside it itself; the paper's n1 = 2, n2 = 1."""

    expression: str
    size: Size
    dialect: Dialect
    on: int = 2
    off: int = 1
    answered: tuple[ObjectPrompt, ...] | None = None
    history: tuple[Exchange, ...] = ()

    def __post_init__(self) -> None:
        if self.on < 0 or self.off < 0:
            raise ValueError(f"expected numbers of points from 0 on, got {self.on} on and {self.off} off")

    @classmethod
    def start(cls, expression: str, size: Size, *, dialect: Dialect, on: int = 2, off: int = 1) -> "PPG":
        return cls(checked_expression(expression), size, dialect, on, off)

    @property
    def pending(self) -> tuple[Question, ...]:
        return (self.dialect.ask_prompt(self.expression, self.on, self.off),) if self.answered is None else ()

    @property
    def prompts(self) -> tuple[ObjectPrompt, ...]:
        return self.answered or ()

    def answer(self, replies: Sequence[Reply]) -> "PPG":
        _check_count(self.pending, replies)
        (question,), (reply,) = self.pending, replies
        prompts = self.dialect.read_prompt(question, reply, self.size)
        for prompt in prompts:
            counts = tuple(sum(p.label == label for p in prompt.points) for label in (1, 0))
            if counts != (self.on, self.off):
                expected = f"{self.on} points on and {self.off} off"
                raise ReplyError(f"expected {expected} each object, got {counts[0]} and {counts[1]}", question, reply)
        return replace(self, answered=prompts, history=(Exchange(question, reply),))

    def faults(self, replies: Sequence[Reply]) -> tuple[ReplyError | None, ...]:
        return (_fault(lambda: self.answer(replies)),)

    def without_points(self, replies: Sequence[Reply]) -> Dialogue:  # noqa: ARG002
        return BoxOnly.start(self.expression, self.size, dialect=self.dialect)


@dataclass(frozen=True)
class PQPP:
    """Two rounds: boxes; then, for every box side by side, whether the sampler's points are on the object."""

    expression: str
    size: Size
    dialect: Dialect
    sampler: Sampler = Grid()
    thresholds: Thresholds = Thresholds()
    boxes: tuple[Box, ...] | None = None
    answers: tuple[tuple[PointPrompt, ...], ...] | None = None
    history: tuple[Exchange, ...] = ()

    @classmethod
    def start(
        cls,
        expression: str,
        size: Size,
        *,
        dialect: Dialect,
        sampler: Sampler = Grid(),
        thresholds: Thresholds = Thresholds(),
    ) -> "PQPP":
        return cls(checked_expression(expression), size, dialect, sampler, thresholds)

    @property
    def points(self) -> tuple[tuple[Point, ...], ...]:
        """For each box, the points of round 2, on the steps that the dialect can write."""
        snap = self.dialect.snap
        return tuple(tuple(snap(point, self.size) for point in self.sampler(box)) for box in self.boxes or ())

    @property
    def pending(self) -> tuple[Question, ...]:
        if self.boxes is None:
            return (self.dialect.ask_boxes(self.expression),)
        if self.answers is not None:
            return ()
        return tuple(question for group in self._point_questions() for question in group)

    def _point_questions(self) -> list[tuple[Question, ...]]:
        """The questions of round 2, grouped by box."""
        first = self.history[0]
        so_far = (*first.question.turns, Turn("assistant", self.dialect.as_taught(first.reply.text)))
        boxes = zip(self.boxes or (), self.points, strict=True)
        return [self.dialect.ask_points(so_far, box, points, self.size) for box, points in boxes]

    @property
    def prompts(self) -> tuple[ObjectPrompt, ...]:
        answers = self.answers or ((),) * len(self.boxes or ())
        keep = self.thresholds.keep
        kept = (tuple(point for point in points if keep(point)) for points in answers)
        return tuple(ObjectPrompt(box, points) for box, points in zip(self.boxes or (), kept, strict=True))

    def answer(self, replies: Sequence[Reply]) -> "PQPP":
        _check_count(self.pending, replies)
        if self.boxes is None:
            (question,), (reply,) = self.pending, replies
            boxes = self.dialect.read_boxes(question, reply, self.size)
            return replace(self, boxes=boxes, answers=None if boxes else (), history=(Exchange(question, reply),))
        return self._with_answers(replies, self.dialect.read_labels)

    def faults(self, replies: Sequence[Reply]) -> tuple[ReplyError | None, ...]:
        _check_count(self.pending, replies)
        if self.boxes is None:
            return (_fault(lambda: self.answer(replies)),)
        pairs = zip(self.pending, replies, strict=True)
        return tuple(_fault(partial(self.dialect.read_labels, question, reply)) for question, reply in pairs)

    def without_points(self, replies: Sequence[Reply]) -> "PQPP | None":
        """In round 2: the points whose answers can be read, the others dropped; at worst the boxes alone."""
        _check_count(self.pending, replies)
        if self.boxes is None:
            return None

        def read_or_drop(question: Question, reply: Reply) -> Sequence[Labelled]:
            try:
                return self.dialect.read_labels(question, reply)
            except ReplyError:
                return ()

        return self._with_answers(replies, read_or_drop)

    def _with_answers(self, replies: Sequence[Reply], read: Callable[[Question, Reply], Sequence[Labelled]]) -> "PQPP":
        remaining = iter(replies)
        exchanges: list[Exchange] = []
        answers: list[tuple[PointPrompt, ...]] = []
        for group, points in zip(self._point_questions(), self.points, strict=True):
            places = iter(points)
            told: list[PointPrompt] = []
            for question in group:
                reply = next(remaining)
                count = len(points) // len(group)
                asked = [next(places) for _ in range(count)]
                told += [PointPrompt(x, y, *label) for (x, y), label in zip(asked, read(question, reply), strict=False)]
                exchanges.append(Exchange(question, reply))
            answers.append(tuple(told))
        return replace(self, answers=tuple(answers), history=(*self.history, *exchanges))
