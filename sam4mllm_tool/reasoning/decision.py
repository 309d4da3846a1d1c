"""Which answer is the best so far, and whether to try again.

`choose_best` weighs all attempts against one another and against "there is no such object"; `next_step` says which strategy
follows, or why the run ends. Values in, values out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from sam4mllm_tool.reasoning.attempts import STRATEGY_ROUNDS, Attempt, ReasoningConfig, Strategy
from sam4mllm_tool.reasoning.counting import parse_ordinal

__all__ = ["END_REASONS", "BestAnswer", "EndReason", "choose_best", "next_step", "reserved_rounds"]

EndReason: TypeAlias = Literal["confident", "exhausted", "unverified", "abstained", "budget"]
"""Why a run ended.

- confident: the answer is sure enough.
- exhausted: nothing is left to try, and the best answer is at least as probable as `ReasoningConfig.abstain`.
- abstained: nothing is left to try, and the best answer is less probable, or no reply could be read.
- unverified: nobody can tell how probable the answer is: the MLLM gives no probabilities, or warns of the image.
- budget: something is left to try, or to verify, that the budget doesn't allow.
"""
END_REASONS: tuple[EndReason, ...] = get_args(EndReason)


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


def choose_best(attempts: Sequence[Attempt]) -> BestAnswer:
    """Choose the most probable answer: an attempt's objects, or that there is no such object.

    The latter is as probable as the MLLM's own answer that there is none, where it gave one in the first attempt, times the
    probability that all objects of the other attempts are wrong. That other words name nothing says nothing of the expression.
    Where a count has too few objects, the one that an ordinal means is there only if the count is wrong.
    """
    answers = [(index, attempt) for index, attempt in enumerate(attempts) if attempt.result is not None]
    readable = [(index, attempt) for index, attempt in answers if attempt.count is None]
    counted, count = next(((index, attempt) for index, attempt in answers if attempt.count is not None), (None, None))
    if not readable:
        return BestAnswer(None, False, None)
    first_index, first = readable[0]
    is_known = first.confidence is not None and (count is None or count.none is not None)
    if not is_known and count is not None and count.is_too_few:
        return BestAnswer(counted, True, count.none)
    if first.confidence is None:
        return BestAnswer(first_index, not first.boxes, None)
    too_few = count.none or 0.0 if count is not None and count.is_too_few else 0.0
    with_objects = [
        (index, attempt.confidence * (1 - too_few))
        for index, attempt in readable
        if attempt.boxes and attempt.confidence is not None
    ]
    none = math.prod(1 - confidence for _, confidence in with_objects)
    none *= 1.0 if first.boxes or first.none is None else first.none
    best, confidence = max(with_objects, key=lambda pair: pair[1], default=(first_index, 0.0))
    if none > confidence:
        stated = next((index for index, attempt in readable if not attempt.boxes and attempt.step != "rephrase"), None)
        stated = counted if too_few else stated
        return BestAnswer(stated, True, none, is_inferred=stated is None)
    return BestAnswer(best, False, confidence)


def next_step(
    attempts: Sequence[Attempt],
    done: Sequence[str],
    config: ReasoningConfig,
    affords: Callable[[int], bool],
    *,
    refused: bool = False,
) -> Literal["look"] | Strategy | EndReason:
    """Return the strategy to try next, or why the run ends.

    Args:
        attempts: So far.
        done: The steps taken so far.
        config: When to try again, and how.
        affords: Whether so many MLLM calls are left in the budget.
        refused: Whether the budget refused a request of a step that was taken.
    """
    if "look" not in done:
        return "look" if affords(1) else "budget"
    if not attempts:
        return "budget"  # which didn't reach to a first reply
    if _needs_count(attempts, done, config):
        return "count" if affords(STRATEGY_ROUNDS["count"]) else "budget"
    if refused and "count" in done and all(attempt.step != "count" for attempt in attempts):
        return "budget"  # which didn't reach to a count
    best = choose_best(attempts)
    if best.exists and best.confidence is None:
        return "budget" if refused else "unverified"
    if best.is_sure(config):
        return "confident"
    left = [step for step in config.steps if step not in done and _is_applicable(step, attempts)]
    if not left and refused:
        return "budget"
    if not left:
        confidence = best.confidence or 0.0
        return "exhausted" if best.exists and confidence >= config.abstain else "abstained"
    rounds = {step: STRATEGY_ROUNDS[step] + reserved_rounds(step, done, config, affords) for step in left}
    return next((step for step in left if affords(rounds[step])), "budget")


def reserved_rounds(step: str, done: Sequence[str], config: ReasoningConfig, affords: Callable[[int], bool]) -> int:
    """Return the MLLM calls that a step has to leave for `rephrase`, where that comes later and is affordable.

    Args:
        step: The step that is about to be taken.
        done: The steps taken so far.
        config: Has the order of the steps.
        affords: Whether so many MLLM calls are left in the budget.
    """
    if step == "count":
        return 0  # which comes before all others
    later = config.steps[config.steps.index(step) + 1 :] if step in config.steps else ()
    rounds = STRATEGY_ROUNDS["rephrase"]
    return rounds if "rephrase" in later and "rephrase" not in done and affords(rounds) else 0


def _needs_count(attempts: Sequence[Attempt], done: Sequence[str], config: ReasoningConfig) -> bool:
    """Whether there is an object that an ordinal may mean, and nothing was counted yet."""
    has_boxes = any(attempt.boxes for attempt in attempts)
    return "count" in config.steps and "count" not in done and has_boxes and parse_ordinal(attempts[0].expression) is not None


def _is_applicable(step: str, attempts: Sequence[Attempt]) -> bool:
    """Whether there is a box to verify, or to ask for others than; counting is a matter of its own."""
    return step != "count" and (step not in ("verify", "other") or any(attempt.boxes for attempt in attempts))
