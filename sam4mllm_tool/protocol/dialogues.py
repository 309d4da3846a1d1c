"""The SAM4MLLM dialogue as a value: pending questions out, replies in, next state out; no model and no I/O.

Three dialogues, all frozen, share one interface (`Dialogue`):
- PQPP, proactive query of prompt points: boxes, then whether each point of a grid inside a box is on the object.
- PPG, prompt-point generation: boxes and points in one reply.
- BoxOnly: the first round of PQPP alone.

    while dialogue.pending:
        dialogue = dialogue.answer(mllm.reply(image, dialogue.pending))

Because a dialogue is a value, it pickles, can be answered again from any earlier state, and is rebuilt from its replies alone
(`replay`). Training dialogues run the same states on true answers (oracle.py), so training and inference can't drift apart.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from sam4mllm_tool.errors import ExpressionError, ReplyError
from sam4mllm_tool.protocol.dialect import Dialect
from sam4mllm_tool.protocol.exchanges import Dialogue, Exchange, catch_reply_error, check_reply_count
from sam4mllm_tool.protocol.reply_parser import LabelAndConfidence
from sam4mllm_tool.protocol.samplers import Grid, Sampler
from sam4mllm_tool.protocol.single_round import SingleRound
from sam4mllm_tool.types import Box, ObjectPrompt, Point, PointAnswer, PointPrompt, Question, Reply, Size, Turn

__all__ = [
    "MAX_EXPRESSION_LENGTH",
    "PPG",
    "PQPP",
    "BoxOnly",
    "Thresholds",
    "validate_expression",
]

MAX_EXPRESSION_LENGTH = 2000
"""In characters: far above any referring expression, far below any context window."""


@dataclass(frozen=True)
class Thresholds:
    """Confidences above which an answer about a point is kept. The defaults are the paper's.

    Args:
        on: For points on the object, from 0 to 1.
        off: For points off the object, from 0 to 1.
    """

    on: float = 0.75
    off: float = 0.9

    def __post_init__(self) -> None:
        if not (0 <= self.on <= 1 and 0 <= self.off <= 1):
            raise ValueError(f"thresholds are probabilities from 0 to 1, not {self.on} and {self.off}")

    def keep(self, point: PointPrompt) -> bool:
        """Return whether the point is kept. One without a confidence is: there is nothing to judge it by."""
        return point.confidence is None or point.confidence > (self.on if point.label else self.off)


_HIDDEN = re.compile(
    "[\u0000-\u0008\u000e-\u001b\u007f-\u0084\u0086-\u009f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Control characters but blanks, direction marks, overrides and isolates, soft hyphens, zero-width spaces, and tags."""


def validate_expression(expression: object) -> str:
    """Return the expression on one line, without characters that a person doesn't see and a model does.

    Control and direction characters and hidden tags are removed everywhere, zero-width joiners at the ends alone: some scripts
    and emoji need them. Lone surrogates are replaced.

    Raises:
        ExpressionError: It is not text, is empty, or is longer than `MAX_EXPRESSION_LENGTH`.
    """
    if not isinstance(expression, str):
        raise ExpressionError(f"expected the expression as text, got {type(expression).__name__}")
    text = expression.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # tokenizers refuse lone surrogates
    text = _HIDDEN.sub("", text)
    visible = [index for index, character in enumerate(text) if not _is_invisible(character)]
    if not visible:
        raise ExpressionError("the expression is empty: say what to segment, as in 'the red mug'")
    line = " ".join(text[visible[0] : visible[-1] + 1].split())
    if len(line) > MAX_EXPRESSION_LENGTH:
        raise ExpressionError(f"the expression has {len(line):,} characters; at most {MAX_EXPRESSION_LENGTH:,} are allowed")
    return line


def _is_invisible(character: str) -> bool:
    """Blanks, and format characters such as zero-width joiners and direction marks."""
    return character.isspace() or unicodedata.category(character) == "Cf"


@dataclass(frozen=True)
class BoxOnly(SingleRound):
    """One round: boxes, or that there is no such object."""

    @classmethod
    def start(cls, expression: str, size: Size, *, dialect: Dialect) -> "BoxOnly":
        """Return the first state. Raises ExpressionError."""
        return cls(validate_expression(expression), size, dialect)

    def _ask(self) -> Question:
        return self.dialect.ask_boxes(self.expression)

    def _parse(self, question: Question, reply: Reply) -> tuple[ObjectPrompt, ...]:
        return tuple(map(ObjectPrompt, self.dialect.parse_boxes(question, reply, self.size)))


@dataclass(frozen=True)
class PPG(SingleRound):
    """One round: the model writes `on` points on the object and `off` beside it itself; the paper's n1 = 2, n2 = 1."""

    on: int = 2
    off: int = 1

    def __post_init__(self) -> None:
        if self.on < 0 or self.off < 0:
            raise ValueError(f"expected numbers of points from 0 on, got {self.on} on and {self.off} off")

    @classmethod
    def start(cls, expression: str, size: Size, *, dialect: Dialect, on: int = 2, off: int = 1) -> "PPG":
        """Return the first state. Raises ExpressionError."""
        return cls(validate_expression(expression), size, dialect, on=on, off=off)

    def _ask(self) -> Question:
        return self.dialect.ask_prompts(self.expression, self.on, self.off)

    def _parse(self, question: Question, reply: Reply) -> tuple[ObjectPrompt, ...]:
        prompts = self.dialect.parse_prompts(question, reply, self.size)
        for prompt in (prompt for prompt in prompts if not prompt.points_only):  # a family that only points decides itself
            on, off = (sum(point.label == label for point in prompt.points) for label in (1, 0))
            if (on, off) != (self.on, self.off):
                expected = f"{self.on} points on and {self.off} off"
                raise ReplyError(f"expected {expected} each object, got {on} and {off}", question, reply)
        return prompts

    def drop_unreadable_points(self, replies: Sequence[Reply]) -> Dialogue:  # noqa: ARG002
        """Return a dialogue that asks for boxes alone."""
        return BoxOnly.start(self.expression, self.size, dialect=self.dialect)


@dataclass(frozen=True)
class PQPP:
    """Two rounds: boxes; then, for all boxes at once, whether the sampler's points are on the object.

    Args:
        expression: On one line, as `validate_expression` returns it.
        size: Of the image, in pixels.
        dialect: Writes the questions and parses the replies.
        sampler: Chooses the points of round 2.
        thresholds: Decide which answered points become prompts.
        boxes: What round 1 named, in pixels; None before it.
        answers: For each box all answered points; None before round 2.
        history: The exchanges so far.
    """

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
        """Return the first state. Raises ExpressionError."""
        return cls(validate_expression(expression), size, dialect, sampler, thresholds)

    @property
    def points(self) -> tuple[tuple[Point, ...], ...]:
        """For each box the points of round 2, in pixels, moved to coordinates that the dialect can write."""
        snap_point = self.dialect.snap_point
        return tuple(tuple(snap_point(point, self.size) for point in self.sampler(box)) for box in self.boxes or ())

    @property
    def point_answers(self) -> tuple[PointAnswer, ...]:
        """All answers about points in order, also those that the thresholds keep out of `prompts`."""
        keep, pairs = self.thresholds.keep, zip(self.boxes or (), self._answers_by_box, strict=True)
        return tuple(PointAnswer(box, point, keep(point)) for box, points in pairs for point in points)

    @property
    def _answers_by_box(self) -> tuple[tuple[PointPrompt, ...], ...]:
        return self.answers or ((),) * len(self.boxes or ())

    @property
    def prompts(self) -> tuple[ObjectPrompt, ...]:
        pairs = zip(self.boxes or (), self._answers_by_box, strict=True)
        return tuple(ObjectPrompt(box, tuple(filter(self.thresholds.keep, points))) for box, points in pairs)

    @property
    def pending(self) -> tuple[Question, ...]:
        if self.boxes is None:
            return (self.dialect.ask_boxes(self.expression),)
        if self.answers is not None:
            return ()
        return tuple(question for questions in self._point_questions for question, _ in questions)

    def answer(self, replies: Sequence[Reply]) -> "PQPP":
        check_reply_count(self.pending, replies)
        if self.boxes is None:
            return self._answer_boxes(replies)
        return self._answer_points(replies, self.dialect.parse_labels)

    def faults(self, replies: Sequence[Reply]) -> tuple[ReplyError | None, ...]:
        pending = self.pending
        check_reply_count(pending, replies)
        parse = self._parse_boxes if self.boxes is None else self.dialect.parse_labels
        return tuple(catch_reply_error(partial(parse, *pair)) for pair in zip(pending, replies, strict=True))

    def drop_unreadable_points(self, replies: Sequence[Reply]) -> "PQPP | None":
        """Keep the points whose answers can be parsed; at worst the boxes alone. None in round 1."""
        check_reply_count(self.pending, replies)
        return None if self.boxes is None else self._answer_points(replies, self._parse_labels_or_none)

    def _parse_boxes(self, question: Question, reply: Reply) -> tuple[Box, ...]:
        return self.dialect.parse_boxes(question, reply, self.size)

    def _parse_labels_or_none(self, question: Question, reply: Reply) -> Sequence[LabelAndConfidence]:
        try:
            return self.dialect.parse_labels(question, reply)
        except ReplyError:
            return ()

    def __getstate__(self) -> dict[str, object]:
        """Pickle the fields alone, not what follows from them."""
        return {name: value for name, value in vars(self).items() if name != "_point_questions"}

    @cached_property
    def _point_questions(self) -> list[list[tuple[Question, tuple[Point, ...]]]]:
        """For each box the questions of round 2, each with the points that it asks about: one of them, or all."""
        first = self.history[0]
        turns = (*first.question.turns, Turn("assistant", self.dialect.restore_answer_start(first.reply.text)))
        groups = []
        for box, points in zip(self.boxes or (), self.points, strict=True):
            questions = self.dialect.ask_points(turns, box, points, self.size)
            count = len(points) // max(1, len(questions))
            groups.append([(question, points[n * count : (n + 1) * count]) for n, question in enumerate(questions)])
        return groups

    def _answer_boxes(self, replies: Sequence[Reply]) -> "PQPP":
        (question,), (reply,) = self.pending, replies
        boxes = self._parse_boxes(question, reply)
        return replace(self, boxes=boxes, answers=None if boxes else (), history=(Exchange(question, reply),))

    def _answer_points(
        self, replies: Sequence[Reply], parse: Callable[[Question, Reply], Sequence[LabelAndConfidence]]
    ) -> "PQPP":
        remaining = iter(replies)
        exchanges: list[Exchange] = []
        answers: list[tuple[PointPrompt, ...]] = []
        for questions in self._point_questions:
            answered: list[PointPrompt] = []
            for question, points in questions:
                exchange = Exchange(question, next(remaining))
                labels = parse(exchange.question, exchange.reply)  # none if the reply is unreadable
                answered += [PointPrompt(*point, *label) for point, label in zip(points, labels, strict=False)]
                exchanges.append(exchange)
            answers.append(tuple(answered))
        return replace(self, answers=tuple(answers), history=(*self.history, *exchanges))
