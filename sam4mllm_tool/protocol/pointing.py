"""Pointing, a dialogue of one round: the model points to each object, and the segmenter is prompted without a box.

For models that point better than they box. A dialect with words for it (`Dialect.ask_pointing_text`) asks for one point on each
object; any other asks PPG's question and leaves the boxes of the reply out.
"""

from dataclasses import dataclass

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol.dialect import Dialect
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.protocol.single_round import SingleRound
from sam4mllm_tool.types import ObjectPrompt, PointPrompt, Question, Reply, Size

__all__ = ["Pointing"]

_ON, _OFF = 2, 1
"""The paper's numbers of points, where PPG's question is asked."""


@dataclass(frozen=True)
class Pointing(SingleRound):
    """One round: a point on each object, or that there is no such object."""

    @classmethod
    def start(cls, expression: str, size: Size, *, dialect: Dialect) -> "Pointing":
        """Return the first state. Raises ExpressionError."""
        return cls(validate_expression(expression), size, dialect)

    def _ask(self) -> Question:
        return self.dialect.ask_pointing(self.expression) or self.dialect.ask_prompts(self.expression, _ON, _OFF)

    def _parse(self, question: Question, reply: Reply) -> tuple[ObjectPrompt, ...]:
        if self.dialect.ask_pointing_text:
            points = self.dialect.parse_points(question, reply, self.size)
            return tuple(ObjectPrompt.from_points([PointPrompt(*point, 1)]) for point in points)
        prompts = self.dialect.parse_prompts(question, reply, self.size)
        for prompt in prompts:
            if not any(point.label for point in prompt.points):
                raise ReplyError("expected a point on each object, got a box without one", question, reply)
        return tuple(ObjectPrompt.from_points(prompt.points) for prompt in prompts)
