"""A dialogue that also asks, beside its last questions, whether the object in each box is what the expression means.

The paper's dialogue never asks that, and a wrong box costs far more than a wrong point. The questions stand alone, so that the
model is not shown its own answer, and are asked together with those about points, so no round is added.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol.dialogues import PQPP
from sam4mllm_tool.protocol.exchanges import Exchange, check_reply_count
from sam4mllm_tool.protocol.reply_parser import LabelAndConfidence
from sam4mllm_tool.types import Box, ObjectPrompt, PointAnswer, Question, Reply

__all__ = ["Verified"]


@dataclass(frozen=True)
class Verified:
    """Run `pqpp`, which is past its first round, and verify its boxes.

    Args:
        pqpp: The dialogue whose boxes are verified. Points are asked about in the boxes that the model named.
        verifications: For each box whether it is what was meant; None where the dialect has no words for the question or the
            reply can't be parsed. None as a whole before the replies.
        verification_history: The verification questions with their replies.
        replacement_boxes: Boxes in pixels in place of those of `pqpp`, for the verification and for `prompts`.
    """

    pqpp: PQPP
    verifications: tuple[LabelAndConfidence | None, ...] | None = None
    verification_history: tuple[Exchange, ...] = ()
    replacement_boxes: tuple[Box, ...] | None = None

    @property
    def match_probabilities(self) -> tuple[float | None, ...] | None:
        """For each box the probability that it is what was meant, None where unknown; None before the replies."""
        return None if self.verifications is None else tuple(map(_match_probability, self.verifications))

    @property
    def expression(self) -> str:
        return self.pqpp.expression

    @property
    def pending(self) -> tuple[Question, ...]:
        return (*self.pqpp.pending, *self._verification_questions()) if self.verifications is None else ()

    @property
    def prompts(self) -> tuple[ObjectPrompt, ...]:
        pairs = zip(self.pqpp.prompts, self._boxes, strict=True)
        return tuple(replace(prompt, box=box) for prompt, box in pairs)

    @property
    def point_answers(self) -> tuple[PointAnswer, ...]:
        """All answers about points in order, also those that the thresholds keep out of `prompts`."""
        return self.pqpp.point_answers

    @property
    def history(self) -> tuple[Exchange, ...]:
        return (*self.pqpp.history, *self.verification_history)

    def answer(self, replies: Sequence[Reply]) -> "Verified":
        """Return the last state. Raises ReplyError where the answers about points can't be parsed."""
        about_points, about_boxes = self._split(replies)
        return self._finish(self.pqpp.answer(about_points) if about_points else self.pqpp, about_boxes)

    def faults(self, replies: Sequence[Reply]) -> tuple[ReplyError | None, ...]:
        """As for any dialogue. An unreadable verification is no fault: the box then goes unverified."""
        about_points, about_boxes = self._split(replies)
        return (*(self.pqpp.faults(about_points) if about_points else ()), *[None] * len(about_boxes))

    def drop_unreadable_points(self, replies: Sequence[Reply]) -> "Verified | None":
        """Keep the points whose answers can be parsed; None in round 1."""
        about_points, about_boxes = self._split(replies)
        pqpp = self.pqpp.drop_unreadable_points(about_points) if about_points else self.pqpp
        return None if pqpp is None else self._finish(pqpp, about_boxes)

    @property
    def _boxes(self) -> tuple[Box, ...]:
        return (self.pqpp.boxes or ()) if self.replacement_boxes is None else self.replacement_boxes

    def _verification_questions(self) -> list[Question]:
        ask, expression, size = self.pqpp.dialect.ask_verification, self.pqpp.expression, self.pqpp.size
        return [question for box in self._boxes if (question := ask(expression, box, size)) is not None]

    def _split(self, replies: Sequence[Reply]) -> tuple[Sequence[Reply], Sequence[Reply]]:
        """Split the replies into those about points and those about boxes."""
        check_reply_count(self.pending, replies)
        count = len(self.pqpp.pending)
        return replies[:count], replies[count:]

    def _finish(self, pqpp: PQPP, replies: Sequence[Reply]) -> "Verified":
        exchanges = tuple(Exchange(*pair) for pair in zip(self._verification_questions(), replies, strict=True))
        verifications = tuple(map(self._parse_verification, exchanges)) or (None,) * len(self._boxes)
        return replace(self, pqpp=pqpp, verifications=verifications, verification_history=exchanges)

    def _parse_verification(self, exchange: Exchange) -> LabelAndConfidence | None:
        try:
            (verification,) = self.pqpp.dialect.parse_labels(exchange.question, exchange.reply)
        except ReplyError:
            return None
        return verification


def _match_probability(verification: LabelAndConfidence | None) -> float | None:
    label, confidence = verification or (0, None)
    return None if confidence is None else confidence if label else 1 - confidence
