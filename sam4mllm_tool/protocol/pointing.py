"""Pointing, a dialogue of one round: the model points to each object, and the segmenter is prompted without a box.

For models that point better than they box. A dialect with words for it (`Dialect.ask_pointing_text`) asks for one point on each
object; any other asks PPG's question and leaves the boxes of the reply out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol.dialect import Dialect
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.protocol.exchanges import Exchange, check_reply_count
from sam4mllm_tool.types import ObjectPrompt, PointAnswer, PointPrompt, Question, Reply, Size

__all__ = ["Pointing"]

_ON, _OFF = 2, 1
"""The paper's numbers of points, where PPG's question is asked."""


@dataclass(frozen=True)
class Pointing:
    """One round: a point on each object, or that there is no such object."""

    expression: str
    size: Size
    dialect: Dialect
    parsed_prompts: tuple[ObjectPrompt, ...] | None = None
    history: tuple[Exchange, ...] = ()

    @classmethod
    def start(cls, expression: str, size: Size, *, dialect: Dialect) -> "Pointing":
        """Return the first state. Raises ExpressionError."""
        return cls(validate_expression(expression), size, dialect)

    @property
    def pending(self) -> tuple[Question, ...]:
        if self.parsed_prompts is not None:
            return ()
        return (self.dialect.ask_pointing(self.expression) or self.dialect.ask_prompts(self.expression, _ON, _OFF),)

    @property
    def point_answers(self) -> tuple[PointAnswer, ...]:
        return ()

    @property
    def prompts(self) -> tuple[ObjectPrompt, ...]:
        return self.parsed_prompts or ()

    def answer(self, replies: Sequence[Reply]) -> "Pointing":
        check_reply_count(self.pending, replies)
        (question,), (reply,) = self.pending, replies
        return replace(self, parsed_prompts=self._parse(question, reply), history=(Exchange(question, reply),))

    def faults(self, replies: Sequence[Reply]) -> tuple[ReplyError | None, ...]:
        try:
            self.answer(replies)
        except ReplyError as error:
            return (error,)
        return (None,)

    def drop_unreadable_points(self, replies: Sequence[Reply]) -> None:  # noqa: ARG002
        return None

    def _parse(self, question: Question, reply: Reply) -> tuple[ObjectPrompt, ...]:
        if self.dialect.ask_pointing_text:
            points = self.dialect.parse_points(question, reply, self.size)
            return tuple(ObjectPrompt.from_points([PointPrompt(*point, 1)]) for point in points)
        prompts = self.dialect.parse_prompts(question, reply, self.size)
        for prompt in prompts:
            if not any(point.label for point in prompt.points):
                raise ReplyError("expected a point on each object, got a box without one", question, reply)
        return tuple(ObjectPrompt.from_points(prompt.points) for prompt in prompts)
