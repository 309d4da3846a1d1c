"""What was seen each time a picture was looked at, what speaks for it, and whether to look again: the agent `reasoning`'s mind.

An `Attempt` holds what one look found and how likely each object is what the expression means. `stand` weighs all attempts
against one another and against "there is no such object"; `next_step` says how to look again, if at all. Values in, values
out, each with a form in plain JSON, so that a run can be stored between any two steps; looking itself is again.py's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from sam4mllm_tool.reasoning.budget import Spent
from sam4mllm_tool.types import Box, Segmentation, Size

__all__ = ["AGAIN", "Again", "Attempt", "Ended", "Looking", "Reasoned", "Standing", "answer", "next_step", "stand"]

Again: TypeAlias = Literal["verify", "other", "rephrase", "zoom"]
"""Ways of looking again."""
AGAIN: Mapping[Again, int] = {"verify": 1, "other": 1, "rephrase": 3, "zoom": 1}
"""How many rounds each takes at least."""
Ended: TypeAlias = Literal["confident", "budget", "abstained", "exhausted"]
"""Why a run ended: sure enough; what is left to try could cost more than is left; nothing left to try, and the best is not
likely enough to be told, or it is."""


@dataclass(frozen=True)
class Looking:
    """When to look again, and how.

    sure: the confidence from which on an object is not doubted; sure_none: that of "there is no such object". abstain: that
    below which no answer is given. steps: the ways of looking again, in the order in which they are tried; those that need what
    a model has not are passed over. wordings: how many other wordings are tried at most. closer: whether masks are made anew
    from close by, which asks the MLLM nothing. overlay: whether the MLLM can read its answer drawn on the picture (`verify`);
    None: where the dialect has words for corrections, which it has not for a checkpoint that was trained on this dialogue alone
    and never saw a drawing.
    """

    sure: float = 0.98
    sure_none: float = 0.8
    abstain: float = 0.5
    steps: tuple[Again, ...] = ("verify", "zoom", "other", "rephrase")
    wordings: int = 3
    closer: bool = True
    overlay: bool | None = None

    def __post_init__(self) -> None:
        for name in ("sure", "sure_none"):
            if not 0 <= self.abstain <= getattr(self, name) <= 1:
                raise ValueError(f"expected 0 <= abstain <= {name} <= 1, got {self.abstain} and {getattr(self, name)}")
        if unknown := set(self.steps) - set(AGAIN):
            raise ValueError(f"no such way of looking again: {', '.join(sorted(unknown))}; there are {', '.join(AGAIN)}")


@dataclass(frozen=True)
class Attempt:
    """What one look found.

    step: what kind of look. expression: the words that were asked with. result: `Segmentation.to_dict()`, None where nothing
    could be read. checks: for each object the probabilities that it is what the expression means, one for each time that the
    MLLM was asked. none: the probability of its answer that there is no such object. note: what went wrong.
    """

    step: str
    expression: str
    result: Mapping[str, Any] | None = None
    checks: tuple[tuple[float, ...], ...] = ()
    none: float | None = None
    note: str = ""

    @property
    def boxes(self) -> tuple[Box, ...]:
        return () if self.result is None else tuple(Box(*thing["box"]) for thing in self.result["objects"])

    @property
    def confidences(self) -> tuple[float | None, ...]:
        """Of each object: its checks together, the mean of their log-odds."""
        return tuple(_together(asked) if asked else None for asked in self.checks)

    @property
    def kept(self) -> tuple[int, ...]:
        """The objects that are rather meant than not; all where none is, or where nobody knows."""
        likely = tuple(n for n, sure in enumerate(self.confidences) if sure is None or sure >= 0.5)
        return likely or tuple(range(len(self.boxes)))

    @property
    def confidence(self) -> float | None:
        """That of its least sure object, of those kept; or that there is no such object."""
        if not self.boxes:
            return self.none
        sure = [self.confidences[n] for n in self.kept]
        return None if None in sure else min(one for one in sure if one is not None)

    def checked(self, more: Sequence[float]) -> "Attempt":
        """With one more check of each object."""
        return replace(self, checks=tuple((*asked, one) for asked, one in zip(self.checks, more, strict=True)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "checks": [list(asked) for asked in self.checks], "confidence": self.confidence}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "Attempt":
        """Inverse of `to_dict`."""
        fields = {name: value for name, value in told.items() if name != "confidence"}
        return cls(**{**fields, "checks": tuple(tuple(asked) for asked in told["checks"])})


@dataclass(frozen=True)
class Standing:
    """The best answer so far. best: the number of its attempt, None for one that no attempt gave. none: it is that there is no
    such object. confidence: None where nobody knows. inferred: nobody said so, it follows from what was seen being wrong."""

    best: int | None
    none: bool
    confidence: float | None
    inferred: bool = False

    @property
    def known(self) -> bool:
        """Whether there is any answer."""
        return self.none or self.best is not None

    def surely(self, settings: Looking) -> bool:
        """Whether it is not to be doubted."""
        sure = settings.sure_none if self.none else settings.sure
        return self.known and not self.inferred and self.confidence is not None and self.confidence >= sure


def _together(checks: Sequence[float]) -> float:
    """One that is certain doesn't outweigh all others: log-odds are taken up to 7, which is one in a thousand."""
    odds = [math.log(sure / (1 - sure)) for sure in (min(max(one, 1e-3), 1 - 1e-3) for one in checks)]
    return checks[0] if len(checks) == 1 else 1 / (1 + math.exp(-sum(odds) / len(odds)))


def stand(tried: Sequence[Attempt]) -> Standing:
    """What speaks most for itself: an attempt's objects, or that there is no such object.

    The latter is as likely as the MLLM said so, where it did in its own words, and as all that it saw elsewhere is wrong.
    """
    read = [(n, attempt) for n, attempt in enumerate(tried) if attempt.result is not None]
    if not read:
        return Standing(None, False, None)
    first, look = read[0]
    if look.confidence is None:
        return Standing(first, not look.boxes, None)
    seen = [(n, attempt.confidence) for n, attempt in read if attempt.boxes and attempt.confidence is not None]
    none = math.prod(1 - sure for _, sure in seen) * (1.0 if look.boxes or look.none is None else look.none)
    best, sure = max(seen, key=lambda one: one[1], default=(first, 0.0))
    if none > sure:
        said = next((n for n, attempt in read if not attempt.boxes), None)
        return Standing(said, True, none, inferred=said is None)
    return Standing(best, False, sure)


def next_step(
    tried: Sequence[Attempt], done: Sequence[str], settings: Looking, affords: Callable[[int], bool]
) -> Literal["look"] | Again | Ended:
    """How to look next, or why there is no more looking.

    done: the steps taken so far. affords: whether so many rounds are left.
    """
    if "look" not in done:
        return "look" if affords(1) else "budget"
    standing = stand(tried)
    if standing.known and standing.confidence is None:
        return "exhausted"
    if standing.surely(settings):
        return "confident"
    left = [step for step in settings.steps if step not in done and _makes_sense(step, tried)]
    if not left:
        sure = standing.confidence or 0.0
        return "exhausted" if standing.known and sure >= settings.abstain else "abstained"
    return next((step for step in left if affords(AGAIN[step])), "budget")


def _makes_sense(step: Again, tried: Sequence[Attempt]) -> bool:
    """A check or the question for another needs something that was seen."""
    return step not in ("verify", "other") or any(attempt.boxes for attempt in tried)


@dataclass(frozen=True, eq=False)
class Reasoned:
    """What a run came to.

    segmentation: the answer, no objects where there is none; None where the agent abstains or could read nothing. confidence:
    that it is right, None where nobody knows. tried: all that was seen, in order. ended: why it ended. spent: what it took.
    """

    segmentation: Segmentation | None
    confidence: float | None
    tried: tuple[Attempt, ...]
    ended: Ended
    spent: Spent

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "segmentation": None if self.segmentation is None else self.segmentation.to_dict(),
            "confidence": self.confidence,
            "tried": [attempt.to_dict() for attempt in self.tried],
            "ended": self.ended,
            "spent": self.spent.to_dict(),
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "Reasoned":
        """Inverse of `to_dict`. Raises ValueError, KeyError or TypeError for what that never wrote."""
        found = told["segmentation"]
        return cls(
            None if found is None else Segmentation.from_dict(found),
            told["confidence"],
            tuple(Attempt.from_dict(one) for one in told["tried"]),
            told["ended"],
            Spent(**told["spent"]),
        )


def answer(expression: str, size: Size, tried: Sequence[Attempt], ended: Ended, spent: Spent) -> Reasoned:
    """The answer that the attempts amount to."""
    standing = stand(tried)
    withheld = ended == "abstained" or not standing.known
    found = None if withheld else _told(expression, size, tried, standing)
    return Reasoned(found, standing.confidence, tuple(tried), ended, spent)


def _told(expression: str, size: Size, tried: Sequence[Attempt], standing: Standing) -> Segmentation:
    if standing.best is None:
        return Segmentation(expression, size, (), confidence=standing.confidence)
    best = tried[standing.best]
    whole = Segmentation.from_dict(best.result or {})
    objects = tuple(replace(whole.objects[n], confidence=best.confidences[n]) for n in best.kept)
    return replace(whole, expression=expression, objects=objects, confidence=standing.confidence)
