"""What each attempt at an expression gave, and the settings of a run.

An `Attempt` holds the objects of one attempt and the probability of each that it is what the expression means; decision.py
weighs the attempts. It has a form in plain JSON, so that a run can be stored between any two steps.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, replace
from typing import Any, Literal, TypeAlias

from sam4mllm_tool.deprecation import deprecated_names
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.types import Box, Segmentation

__all__ = ["STRATEGY_ROUNDS", "Attempt", "ReasoningConfig", "Strategy"]

_MOVED = "BestAnswer BestAnswer, ReasoningResult ReasoningResult, choose_best choose_best, next_step next_step"

__getattr__ = deprecated_names(__name__, "sam4mllm_tool.reasoning", _MOVED)

Strategy: TypeAlias = Literal["count", "verify", "other", "rephrase", "zoom"]
"""Ways of trying again."""
STRATEGY_ROUNDS: Mapping[Strategy, int] = {"count": 2, "verify": 1, "other": 1, "rephrase": 3, "zoom": 1}
"""MLLM calls that each takes at least."""


@dataclass(frozen=True)
class ReasoningConfig:
    """When to try again, and how.

    Args:
        sure: Confidence from which on an object is not doubted.
        sure_none: Confidence from which on "there is no such object" is not doubted.
        abstain: Confidence below which no answer is given.
        steps: Strategies in the order in which they are tried; one that needs what a model lacks is skipped. `count` is for
            ordinals alone, comes first wherever it stands, and is taken however sure the answer is.
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
    steps: tuple[Strategy, ...] = ("count", "verify", "zoom", "other", "rephrase")
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

    def for_models(self, dialect: Dialect, *, rephrases: bool) -> "ReasoningConfig":
        """Return the config without the strategies that the models can't take.

        Args:
            dialect: How the MLLM is asked; it says whether the MLLM can read overlays, where the config doesn't.
            rephrases: Whether there is a chat model.
        """
        reads_overlays = bool(dialect.ask_again_text) if self.overlay is None else self.overlay
        config = self if reads_overlays else self.without("verify")
        return config if rephrases else config.without("rephrase")

    def without(self, strategy: Strategy) -> "ReasoningConfig":
        """Return the config without a strategy."""
        return replace(self, steps=tuple(step for step in self.steps if step != strategy))


@dataclass(frozen=True, eq=False)
class Attempt:
    """What one attempt gave.

    Args:
        step: The strategy, or `look` for the first attempt.
        expression: The wording that was asked with.
        result: None where no reply could be read, or where every mask is empty.
        checks: For each object the probabilities that it is what the expression means, one for each time that the MLLM was
            asked; none of an object that was never verified, and where the models' warnings say that they mean nothing.
        none: The probability of the MLLM's answer that there is no such object; of a count, that there are too few.
        note: What went wrong.
        count: How many objects there are of the kind that an ordinal counts; None of other attempts.
        place: How many of them there have to be.
    """

    step: str
    expression: str
    result: Segmentation | None = None
    checks: tuple[tuple[float, ...], ...] = ()
    none: float | None = None
    note: str = ""
    count: int | None = None
    place: int | None = None

    @property
    def is_too_few(self) -> bool:
        """Whether there are fewer objects of the kind than an ordinal needs."""
        return self.count is not None and self.place is not None and self.count < self.place

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
            "count": self.count,
            "place": self.place,
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
            fields.get("count"),
            fields.get("place"),
        )


def _combine(checks: Sequence[float]) -> float:
    """Combine probabilities; log-odds are clipped at 7, one in a thousand, so that one certain check doesn't outweigh all."""
    if len(checks) == 1:
        return checks[0]
    log_odds = [math.log(p / (1 - p)) for p in (min(max(check, 1e-3), 1 - 1e-3) for check in checks)]
    return 1 / (1 + math.exp(-sum(log_odds) / len(log_odds)))
