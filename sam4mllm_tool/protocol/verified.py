"""A dialogue with a second opinion: beside its last questions, whether what is in each box is what was meant at all.

The paper's dialogue never asks that, and a wrong box costs far more than a wrong point. The questions stand alone, so that the
model is not shown its own answer, and go along with those about points: no round is added.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol.dialogues import PQPP, Dialogue, Exchange, Labelled
from sam4mllm_tool.types import Box, ObjectPrompt, Question, Reply

__all__ = ["Verified"]


@dataclass(frozen=True)
class Verified:
    """`inner` past its first round. opinions: for each of its boxes whether it is one that was meant, as label and confidence
    (None where the model gives none), or None where the dialect has no words for the question or the reply can't be read.
    better: boxes in place of inner's for the opinion and for the prompts, where such are known; points are asked about in the
    boxes that the model named."""

    inner: PQPP
    opinions: tuple[Labelled | None, ...] | None = None
    heard: tuple[Exchange, ...] = ()
    better: tuple[Box, ...] | None = None

    @property
    def meant(self) -> tuple[float | None, ...] | None:
        """For each box the probability that it is one that was meant, None where nobody said; None before the answer."""
        if self.opinions is None:
            return None
        return tuple(_yes(opinion) for opinion in self.opinions)

    @property
    def expression(self) -> str:
        return self.inner.expression

    @property
    def pending(self) -> tuple[Question, ...]:
        return (*self.inner.pending, *self._whether()) if self.opinions is None else ()

    @property
    def prompts(self) -> tuple[ObjectPrompt, ...]:
        pairs = zip(self.inner.prompts, self._boxes, strict=True)
        return tuple(replace(prompt, box=box) for prompt, box in pairs)

    @property
    def history(self) -> tuple[Exchange, ...]:
        return (*self.inner.history, *self.heard)

    def answer(self, replies: Sequence[Reply]) -> "Verified":
        """Raises ReplyError where the answers about points can't be read."""
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

    @property
    def _boxes(self) -> tuple[Box, ...]:
        return (self.inner.boxes or ()) if self.better is None else self.better

    def _whether(self) -> list[Question]:
        inner = self.inner
        asked = (inner.dialect.ask_whether(inner.expression, box, inner.size) for box in self._boxes)
        return [question for question in asked if question is not None]

    def _with(self, inner: PQPP, replies: Sequence[Reply]) -> "Verified":
        heard = tuple(Exchange(*pair) for pair in zip(self._whether(), replies, strict=True))
        told = tuple(self._read(exchange) for exchange in heard) or (None,) * len(self._boxes)
        return replace(self, inner=inner, opinions=told, heard=heard)

    def _read(self, exchange: Exchange) -> Labelled | None:
        try:
            (opinion,) = self.inner.dialect.read_labels(exchange.question, exchange.reply)
        except ReplyError:
            return None
        return opinion


def _yes(opinion: Labelled | None) -> float | None:
    label, confidence = opinion or (0, None)
    return None if confidence is None else confidence if label else 1 - confidence


def _check_count(pending: Sequence[Question], replies: Sequence[Reply]) -> None:
    if len(replies) != len(pending):
        raise ValueError(f"{len(pending)} questions are pending, got {len(replies)} replies")
