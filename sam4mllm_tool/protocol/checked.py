"""A dialogue with a second opinion: beside its last questions, whether what is in each box is what was meant at all.

The paper's dialogue never asks that, and a wrong box costs far more than a wrong point. The questions stand alone, so that the
model is not shown its own answer, and go along with those about points: no round is added.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol.dialogue import PQPP, Dialogue, Exchange
from sam4mllm_tool.types import ObjectPrompt, Question, Reply

__all__ = ["Checked"]


@dataclass(frozen=True)
class Checked:
    """`inner` past its first round. meant: for each of its boxes the probability that it is one that was meant; None before
    the answer, and for every box where the dialect has no words for the question or the model gives no probability."""

    inner: PQPP
    meant: tuple[float | None, ...] | None = None
    opinions: tuple[Exchange, ...] = ()

    @property
    def expression(self) -> str:
        return self.inner.expression

    @property
    def pending(self) -> tuple[Question, ...]:
        return (*self.inner.pending, *self._whether()) if self.meant is None else ()

    @property
    def prompts(self) -> tuple[ObjectPrompt, ...]:
        return self.inner.prompts

    @property
    def history(self) -> tuple[Exchange, ...]:
        return (*self.inner.history, *self.opinions)

    def answer(self, replies: Sequence[Reply]) -> "Checked":
        """Raises ReplyError where the answers about points can't be read; opinions without a probability are none."""
        _check_count(self.pending, replies)
        count = len(self.inner.pending)
        return self._with(self.inner.answer(replies[:count]) if count else self.inner, replies[count:])

    def faults(self, replies: Sequence[Reply]) -> tuple[ReplyError | None, ...]:
        _check_count(self.pending, replies)
        count = len(self.inner.pending)
        told = self.inner.faults(replies[:count]) if count else ()
        return (*told, *[None] * (len(replies) - count))

    def without_points(self, replies: Sequence[Reply]) -> "Dialogue | None":
        _check_count(self.pending, replies)
        count = len(self.inner.pending)
        inner = self.inner.without_points(replies[:count]) if count else self.inner
        return None if inner is None else self._with(inner, replies[count:])

    def _whether(self) -> list[Question]:
        inner = self.inner
        asked = (inner.dialect.ask_whether(inner.expression, box, inner.size) for box in inner.boxes or ())
        return [question for question in asked if question is not None]

    def _with(self, inner: PQPP, replies: Sequence[Reply]) -> "Checked":
        rows = [reply.label_probabilities for reply in replies]
        told = [None if row is None else row[0][0] for row in rows]
        opinions = tuple(Exchange(*pair) for pair in zip(self._whether(), replies, strict=True))
        return replace(self, inner=inner, meant=tuple(told or [None] * len(inner.boxes or ())), opinions=opinions)


def _check_count(pending: Sequence[Question], replies: Sequence[Reply]) -> None:
    if len(replies) != len(pending):
        raise ValueError(f"{len(pending)} questions are pending, got {len(replies)} replies")
