"""What dialogues of a single question share: its reply is parsed into prompts, and then they are done."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol.dialect import Dialect
from sam4mllm_tool.protocol.exchanges import Dialogue, Exchange, catch_reply_error, check_reply_count
from sam4mllm_tool.types import ObjectPrompt, PointAnswer, Question, Reply, Size

__all__ = ["SingleRound"]


@dataclass(frozen=True)
class SingleRound(ABC):
    """A dialogue (`exchanges.Dialogue`) of one question.

    Args:
        expression: On one line, as `validate_expression` returns it.
        size: Of the image, in pixels.
        dialect: Writes the question and parses the reply.
        parsed_prompts: What the reply said; None before it.
        history: The exchange, once there is a reply.
    """

    expression: str
    size: Size
    dialect: Dialect
    parsed_prompts: tuple[ObjectPrompt, ...] | None = None
    history: tuple[Exchange, ...] = ()

    @abstractmethod
    def _ask(self) -> Question: ...

    @abstractmethod
    def _parse(self, question: Question, reply: Reply) -> tuple[ObjectPrompt, ...]:
        """Return one prompt per object, in pixels. Raises ReplyError."""

    @property
    def pending(self) -> tuple[Question, ...]:
        return (self._ask(),) if self.parsed_prompts is None else ()

    @property
    def point_answers(self) -> tuple[PointAnswer, ...]:
        return ()

    @property
    def prompts(self) -> tuple[ObjectPrompt, ...]:
        return self.parsed_prompts or ()

    def answer(self, replies: Sequence[Reply]) -> Self:
        pending = self.pending
        check_reply_count(pending, replies)
        (question,), (reply,) = pending, replies
        return replace(self, parsed_prompts=self._parse(question, reply), history=(Exchange(question, reply),))

    def faults(self, replies: Sequence[Reply]) -> tuple[ReplyError | None, ...]:
        return (catch_reply_error(lambda: self.answer(replies)),)

    def drop_unreadable_points(self, replies: Sequence[Reply]) -> Dialogue | None:  # noqa: ARG002
        return None
