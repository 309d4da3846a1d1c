"""What each attempt at an expression found, which answer is the best so far, and whether to try again.

An `Attempt` holds the objects of one attempt and the probability of each that it is what the expression means. `choose_best`
weighs all attempts against one another and against "there is no such object"; `next_step` says which strategy follows, if any.
Values in, values out, each with a form in plain JSON, so that a run can be stored between any two steps.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, replace
from typing import Any, Literal, TypeAlias

from sam4mllm_tool.reasoning.budget import Spent
from sam4mllm_tool.types import Box, Segmentation, Size

__all__ = [
    "STRATEGY_ROUNDS",
    "Attempt",
    "BestAnswer",
    "EndReason",
    "ReasoningConfig",
    "ReasoningResult",
    "Strategy",
    "build_reasoning_result",
    "choose_best",
    "next_step",
]

Strategy: TypeAlias = Literal["verify", "other", "rephrase", "zoom"]
"""Ways of trying again."""
STRATEGY_ROUNDS: Mapping[Strategy, int] = {"verify": 1, "other": 1, "rephrase": 3, "zoom": 1}
"""MLLM calls that each takes at least."""
EndReason: TypeAlias = Literal["confident", "budget", "abstained", "exhausted"]
"""Why a run ended: the answer is sure enough; the next strategy could cost more than is left; nothing is left to try and the
best answer's confidence is below `ReasoningConfig.abstain`; nothing is left to try and it is not."""


@dataclass(frozen=True)
class ReasoningConfig:
    """When to try again, and how.

    Args:
        sure: Confidence from which on an object is not doubted.
        sure_none: Confidence from which on "there is no such object" is not doubted.
        abstain: Confidence below which no answer is given.
        steps: Strategies in the order in which they are tried; one that needs what a model lacks is skipped.
        wordings: Maximum number of other wordings that are tried.
        refine_crops: Whether the final masks are refined in crops, which asks the MLLM nothing.
        overlay: Whether the MLLM can read its answer drawn on the image (`verify`). None: where the dialect has words for
            corrections; a checkpoint that was trained on this dialogue alone has none and never saw a drawing.
        closer: The name of `refine_crops` before version 0.2.

    Raises:
        ValueError: A confidence is out of order, or there is no such strategy.
    """

    sure: float = 0.98
    sure_none: float = 0.8
    abstain: float = 0.5
    steps: tuple[Strategy, ...] = ("verify", "zoom", "other", "rephrase")
    wordings: int = 3
    refine_crops: bool = True
    overlay: bool | None = None
    closer: InitVar[bool | None] = None

    def __post_init__(self, closer: bool | None) -> None:
        if closer is not None:
            warnings.warn("closer= is deprecated: use refine_crops=", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "refine_crops", closer)
        for name in ("sure", "sure_none"):
            if not 0 <= self.abstain <= getattr(self, name) <= 1:
                raise ValueError(f"expected 0 <= abstain <= {name} <= 1, got {self.abstain} and {getattr(self, name)}")
        if unknown := set(self.steps) - set(STRATEGY_ROUNDS):
            raise ValueError(f"no such strategy: {', '.join(sorted(unknown))}; there are {', '.join(STRATEGY_ROUNDS)}")

    def without(self, strategy: Strategy) -> "ReasoningConfig":
        """Return the config without a strategy."""
        return replace(self, steps=tuple(step for step in self.steps if step != strategy))


@dataclass(frozen=True, eq=False)
class Attempt:
    """What one attempt found.

    Args:
        step: The strategy, or `look` for the first attempt.
        expression: The wording that was asked with.
        result: None where no reply could be read.
        checks: For each object the probabilities that it is what the expression means, one for each time that the MLLM was
            asked.
        none: The probability of the MLLM's answer that there is no such object.
        note: What went wrong.
    """

    step: str
    expression: str
    result: Segmentation | None = None
    checks: tuple[tuple[float, ...], ...] = ()
    none: float | None = None
    note: str = ""

    @property
    def boxes(self) -> tuple[Box, ...]:
        return () if self.result is None else tuple(segmented.prompt.box for segmented in self.result.objects)

    @property
    def confidences(self) -> tuple[float | None, ...]:
        """Of each object: its checks combined, by the mean of their log-odds; None without checks."""
        return tuple(_combine(checks) if checks else None for checks in self.checks)

    @property
    def kept(self) -> tuple[int, ...]:
        """Indices of the objects that are rather meant than not; of all where none is, or where that is unknown."""
        kept = tuple(index for index, confidence in enumerate(self.confidences) if confidence is None or confidence >= 0.5)
        return kept or tuple(range(len(self.boxes)))

    @property
    def confidence(self) -> float | None:
        """The lowest of the kept objects' confidences, or that of "there is no such object"."""
        if not self.boxes:
            return self.none
        confidences = [self.confidences[index] for index in self.kept]
        return None if None in confidences else min(value for value in confidences if value is not None)

    def with_checks(self, probabilities: Sequence[float]) -> "Attempt":
        """Return the attempt with one more check of each object."""
        pairs = zip(self.checks, probabilities, strict=True)
        return replace(self, checks=tuple((*checks, probability) for checks, probability in pairs))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "step": self.step,
            "expression": self.expression,
            "result": None if self.result is None else self.result.to_dict(),
            "checks": [list(checks) for checks in self.checks],
            "none": self.none,
            "note": self.note,
            "confidence": self.confidence,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Attempt":
        """Read what `to_dict` wrote."""
        result = fields["result"]
        return cls(
            fields["step"],
            fields["expression"],
            None if result is None else Segmentation.from_dict(result),
            tuple(tuple(checks) for checks in fields["checks"]),
            fields["none"],
            fields["note"],
        )


@dataclass(frozen=True)
class BestAnswer:
    """The best answer so far.

    Args:
        attempt: Index of the attempt that gave it; None for an answer that no attempt gave.
        is_none: Whether the answer is that there is no such object.
        confidence: None where unknown.
        is_inferred: Whether no reply says so, but it follows from all objects being denied.
    """

    attempt: int | None
    is_none: bool
    confidence: float | None
    is_inferred: bool = False

    @property
    def exists(self) -> bool:
        """Whether there is any answer."""
        return self.is_none or self.attempt is not None

    def is_sure(self, config: ReasoningConfig) -> bool:
        """Whether the answer is not to be doubted."""
        sure = config.sure_none if self.is_none else config.sure
        return self.exists and not self.is_inferred and self.confidence is not None and self.confidence >= sure


def _combine(checks: Sequence[float]) -> float:
    """Combine probabilities; log-odds are clipped at 7, one in a thousand, so that one certain check doesn't outweigh all."""
    if len(checks) == 1:
        return checks[0]
    log_odds = [math.log(p / (1 - p)) for p in (min(max(check, 1e-3), 1 - 1e-3) for check in checks)]
    return 1 / (1 + math.exp(-sum(log_odds) / len(log_odds)))


def choose_best(attempts: Sequence[Attempt]) -> BestAnswer:
    """Choose the most probable answer: an attempt's objects, or that there is no such object.

    The latter is as probable as the MLLM's own answer that there is none, where it gave one in the first attempt, times the
    probability that all objects of the other attempts are wrong.
    """
    readable = [(index, attempt) for index, attempt in enumerate(attempts) if attempt.result is not None]
    if not readable:
        return BestAnswer(None, False, None)
    first_index, first = readable[0]
    if first.confidence is None:
        return BestAnswer(first_index, not first.boxes, None)
    with_objects = [
        (index, attempt.confidence) for index, attempt in readable if attempt.boxes and attempt.confidence is not None
    ]
    none = math.prod(1 - confidence for _, confidence in with_objects)
    none *= 1.0 if first.boxes or first.none is None else first.none
    best, confidence = max(with_objects, key=lambda pair: pair[1], default=(first_index, 0.0))
    if none > confidence:
        stated = next((index for index, attempt in readable if not attempt.boxes), None)
        return BestAnswer(stated, True, none, is_inferred=stated is None)
    return BestAnswer(best, False, confidence)


def next_step(
    attempts: Sequence[Attempt], done: Sequence[str], config: ReasoningConfig, affords: Callable[[int], bool]
) -> Literal["look"] | Strategy | EndReason:
    """Return the strategy to try next, or why the run ends.

    Args:
        attempts: So far.
        done: The steps taken so far.
        config: When to try again, and how.
        affords: Whether so many MLLM calls are left in the budget.
    """
    if "look" not in done:
        return "look" if affords(1) else "budget"
    best = choose_best(attempts)
    if best.exists and best.confidence is None:
        return "exhausted"
    if best.is_sure(config):
        return "confident"
    left = [step for step in config.steps if step not in done and _is_applicable(step, attempts)]
    if not left:
        confidence = best.confidence or 0.0
        return "exhausted" if best.exists and confidence >= config.abstain else "abstained"
    return next((step for step in left if affords(STRATEGY_ROUNDS[step])), "budget")


def _is_applicable(step: Strategy, attempts: Sequence[Attempt]) -> bool:
    """Whether there is a box to verify, or to ask for others than."""
    return step not in ("verify", "other") or any(attempt.boxes for attempt in attempts)


@dataclass(frozen=True, eq=False)
class ReasoningResult:
    """What a run came to.

    Args:
        segmentation: The answer, without objects where there is none; None where the agent abstains or could read nothing.
        confidence: Probability that the answer is right; None where unknown.
        attempts: All attempts, in order.
        ended: Why the run ended.
        spent: What it took.
    """

    segmentation: Segmentation | None
    confidence: float | None
    attempts: tuple[Attempt, ...]
    ended: EndReason
    spent: Spent

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; the attempts are under `tried`."""
        return {
            "segmentation": None if self.segmentation is None else self.segmentation.to_dict(),
            "confidence": self.confidence,
            "tried": [attempt.to_dict() for attempt in self.attempts],
            "ended": self.ended,
            "spent": self.spent.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ReasoningResult":
        """Read what `to_dict` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        segmentation = fields["segmentation"]
        return cls(
            None if segmentation is None else Segmentation.from_dict(segmentation),
            fields["confidence"],
            tuple(Attempt.from_dict(attempt) for attempt in fields["tried"]),
            fields["ended"],
            Spent(**fields["spent"]),
        )


def build_reasoning_result(
    expression: str, size: Size, attempts: Sequence[Attempt], ended: EndReason, spent: Spent
) -> ReasoningResult:
    """Build the result that the attempts amount to."""
    best = choose_best(attempts)
    is_withheld = ended == "abstained" or not best.exists
    segmentation = None if is_withheld else _build_segmentation(expression, size, attempts, best)
    return ReasoningResult(segmentation, best.confidence, tuple(attempts), ended, spent)


def _build_segmentation(expression: str, size: Size, attempts: Sequence[Attempt], best: BestAnswer) -> Segmentation:
    attempt = None if best.attempt is None else attempts[best.attempt]
    if attempt is None or attempt.result is None:
        return Segmentation(expression, size, (), confidence=best.confidence)
    objects = tuple(replace(attempt.result.objects[index], confidence=attempt.confidences[index]) for index in attempt.kept)
    return replace(attempt.result, expression=expression, objects=objects, confidence=best.confidence)
