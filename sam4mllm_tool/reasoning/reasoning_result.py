"""What a run came to: the answer, how sure it is, and why, in plain words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sam4mllm_tool.reasoning.attempts import Attempt
from sam4mllm_tool.reasoning.budget import Spent
from sam4mllm_tool.reasoning.decision import BestAnswer, EndReason, choose_best
from sam4mllm_tool.reasoning.explanation import explain_answer
from sam4mllm_tool.types import Segmentation, Size

__all__ = ["ReasoningResult", "build_reasoning_result"]


@dataclass(frozen=True, eq=False)
class ReasoningResult:
    """What a run came to.

    Args:
        segmentation: The answer, without objects where there is none; None where the agent abstains or could read nothing.
        confidence: Probability that the answer is right; None where it was never verified, or where `warnings` say that
            probabilities mean nothing.
        attempts: All attempts, in order.
        ended: Why the run ended.
        spent: What it took.
        expression: What was meant.
        size: Of the image, in pixels; None in results written before version 0.3.
    """

    segmentation: Segmentation | None
    confidence: float | None
    attempts: tuple[Attempt, ...]
    ended: EndReason
    spent: Spent
    expression: str = ""
    size: Size | None = None

    @property
    def reason(self) -> str:
        """Why this is the answer, in plain words."""
        return explain_answer(self.attempts, self.ended)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the answer may mean nothing, each once: the warnings of all attempts, also where there is no answer."""
        results = [self.segmentation, *(attempt.result for attempt in self.attempts)]
        return tuple(dict.fromkeys(warning for result in results if result is not None for warning in result.warnings))

    def as_segmentation(self) -> Segmentation:
        """Return the answer as a segmentation, with `reason` as its last note.

        Where there is no answer it has no objects and is marked `abstained`: not sure enough, which isn't "no such object".

        Raises:
            ValueError: The result was written before version 0.3, and has neither an answer nor a readable attempt.
        """
        segmentation = self.segmentation or self._build_empty()
        return replace(segmentation, warnings=self.warnings, notes=(*segmentation.notes, self.reason))

    def _build_empty(self) -> Segmentation:
        results = [attempt.result for attempt in self.attempts if attempt.result is not None]
        size = self.size or next((result.size for result in results), None)
        if size is None:
            raise ValueError("the result doesn't say how large the image is: run the expression once more")
        return Segmentation(self.expression, size, (), abstained=True)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; the attempts are under `tried`."""
        return {
            "expression": self.expression,
            "size": None if self.size is None else {"width": self.size.width, "height": self.size.height},
            "segmentation": None if self.segmentation is None else self.segmentation.to_dict(),
            "confidence": self.confidence,
            "warnings": list(self.warnings),
            "reason": self.reason,
            "tried": [attempt.to_dict() for attempt in self.attempts],
            "ended": self.ended,
            "spent": self.spent.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ReasoningResult":
        """Read what `to_dict` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        segmentation, size = fields["segmentation"], fields.get("size")
        attempts = tuple(Attempt.from_dict(attempt) for attempt in fields["tried"])
        return cls(
            None if segmentation is None else Segmentation.from_dict(segmentation),
            fields["confidence"],
            attempts,
            fields["ended"],
            Spent(**fields["spent"]),
            str(fields.get("expression") or (attempts[0].expression if attempts else "")),
            None if size is None else Size(int(size["width"]), int(size["height"])),
        )


def build_reasoning_result(
    expression: str, size: Size, attempts: Sequence[Attempt], ended: EndReason, spent: Spent, *, abstain: float = 0.0
) -> ReasoningResult:
    """Build the result that the attempts amount to.

    Args:
        expression: What was meant.
        size: Of the image, in pixels.
        attempts: All attempts, in order.
        ended: Why the run ended.
        spent: What it took.
        abstain: Confidence below which no answer is given, whatever ended the run.
    """
    best = choose_best(attempts)
    is_unsure = best.confidence is not None and best.confidence < abstain
    is_withheld = ended == "abstained" or not best.exists or is_unsure
    segmentation = None if is_withheld else _build_segmentation(expression, size, attempts, best)
    return ReasoningResult(segmentation, best.confidence, tuple(attempts), ended, spent, expression, size)


def _build_segmentation(expression: str, size: Size, attempts: Sequence[Attempt], best: BestAnswer) -> Segmentation:
    attempt = None if best.attempt is None else attempts[best.attempt]
    if attempt is None or attempt.result is None:
        return Segmentation(expression, size, (), confidence=best.confidence)
    objects = tuple(replace(attempt.result.objects[index], confidence=attempt.confidences[index]) for index in attempt.kept)
    return replace(attempt.result, expression=expression, objects=objects, confidence=best.confidence)
