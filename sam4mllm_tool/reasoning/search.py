"""The search for an answer as one flow: take steps until one is sure enough, or nothing is left that helps.

`agents/reasoning.py` is the same as a LangGraph graph, whose state can be stored between two steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from sam4mllm_tool.pipeline.crop_refinement import refine_crops
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.reasoning.attempts import Attempt, ReasoningConfig
from sam4mllm_tool.reasoning.budget import Meter
from sam4mllm_tool.reasoning.decision import END_REASONS, EndReason, next_step, reserved_rounds
from sam4mllm_tool.reasoning.reasoning_result import ReasoningResult, build_reasoning_result
from sam4mllm_tool.reasoning.strategies import ReasoningStrategies

__all__ = ["FindWordings", "StepWatcher", "build_answer", "reserve_rounds", "run_reasoning", "select_step"]

FindWordings: TypeAlias = Callable[[str, Meter], Sequence[str]]
"""Gives other words for an expression, and counts on the meter what that took."""
StepWatcher: TypeAlias = Callable[[str, Sequence[Attempt], Sequence[Attempt]], None]
"""Is called after each step with its name, and the attempts before and after it."""


def run_reasoning(
    strategies: ReasoningStrategies,
    meter: Meter,
    *,
    find_wordings: FindWordings | None = None,
    watch: StepWatcher | None = None,
) -> Flow[ReasoningResult]:
    """Search for an answer within the budget.

    Args:
        strategies: For the expression; its config has `rephrase` only where there is `find_wordings`.
        meter: Holds the run to the budget: also give it to the driver, as a hook.
        find_wordings: Gives other wordings; called in the thread that drives the flow.
        watch: Is called after each step.

    Raises:
        ExpressionError: The expression is empty or too long.
        BackendError: A model failed.
    """
    config, attempts, done = strategies.config, list[Attempt](), list[str]()
    while (step := select_step(attempts, done, config, meter)) not in END_REASONS:
        reserve_rounds(step, done, config, meter)
        wordings = find_wordings(strategies.expression, meter) if find_wordings and step == "rephrase" else ()
        extended = yield from strategies.take_step(step, attempts, wordings)
        if watch is not None:
            watch(step, attempts, extended)
        meter.reserved_rounds = 0
        attempts, done = extended, [*done, step]
    ended: EndReason = next(reason for reason in END_REASONS if reason == step)
    return (yield from build_answer(strategies, attempts, ended, meter))


def select_step(attempts: Sequence[Attempt], done: Sequence[str], config: ReasoningConfig, meter: Meter) -> str:
    """Return the step to take next, or why the run ends; see `next_step`."""
    return next_step(attempts, done, config, lambda rounds: meter.affords(rounds=rounds), refused=meter.spent.refused)


def reserve_rounds(step: str, done: Sequence[str], config: ReasoningConfig, meter: Meter) -> None:
    """Make the meter keep the MLLM calls that a later step needs, while `step` is taken; see `reserved_rounds`."""
    meter.reserved_rounds = reserved_rounds(step, done, config, lambda rounds: meter.affords(rounds=rounds))


def build_answer(
    strategies: ReasoningStrategies, attempts: Sequence[Attempt], ended: EndReason, meter: Meter
) -> Flow[ReasoningResult]:
    """Build the answer that the attempts amount to, and refine its masks on crops."""
    config = strategies.config
    result = build_reasoning_result(
        strategies.expression, strategies.size, attempts, ended, meter.spent, abstain=config.abstain
    )
    segmentation = result.segmentation
    if segmentation and segmentation.objects and config.refine_crops:
        objects = yield from refine_crops(strategies.run.with_new_transcript(), segmentation.objects)
        segmentation = replace(segmentation, objects=tuple(objects))
    return replace(result, segmentation=segmentation, spent=meter.spent)
