"""Refine a result once, by an instruction, by clicks, or by both: from one `InteractiveState` to the next.

Nothing is changed in place. A refinement that can't be made raises a `RefineError` that says why; the state before it stays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sam4mllm_tool.config import Method
from sam4mllm_tool.interactive.clicks import apply_clicks, check_clicks
from sam4mllm_tool.interactive.described_objects import add_described, describe_anew, keep_described, take_out
from sam4mllm_tool.interactive.instructions import Instruction, read_instruction
from sam4mllm_tool.interactive.interactive_objects import ObjectCandidate, number_objects
from sam4mllm_tool.interactive.mask_sizes import resize_masks
from sam4mllm_tool.interactive.number_selection import (
    add_back,
    add_numbered,
    keep_numbered,
    list_nouns,
    refuse_unclear,
    remove_numbered,
)
from sam4mllm_tool.interactive.object_alternatives import add_others, go_back, take_other
from sam4mllm_tool.interactive.state import InteractiveState, RefineError, RefineStep
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.types import PointPrompt, Segmentation

__all__ = ["RefinementResult", "refine"]


@dataclass(frozen=True, eq=False)
class RefinementResult:
    """What a refinement comes to.

    Attributes:
        state: The next state.
        understood: How the instruction and each click were understood, in words.
        segmentation: The next state's objects as a result; its turns and usage are those of this refinement.
        is_changed: Whether it shows other masks than before, so that there is something to undo.
    """

    state: InteractiveState
    understood: tuple[str, ...]
    segmentation: Segmentation
    is_changed: bool = True

    @property
    def choices(self) -> tuple[ObjectCandidate, ...]:
        """Other objects that the expression may mean; their numbers follow those of the objects."""
        return self.state.choices


def refine(
    run: RunContext,
    state: InteractiveState,
    *,
    instruction: str | None = None,
    clicks: Sequence[PointPrompt] = (),
    forget_clicks: bool = False,
    method: Method | None = None,
) -> Flow[RefinementResult]:
    """Apply an instruction, then clicks.

    Args:
        run: A run on the state's image.
        state: The result to refine.
        instruction: What the user wants changed, such as "no, the other one" or "remove 3".
        clicks: Points on the object (label 1) or off it (label 0), in pixels.
        forget_clicks: Drop the clicks of earlier refinements.
        method: How a new description is segmented; by default as `run.config` says.

    Returns:
        The next state, and how the input was understood.

    Raises:
        RefineError: There is nothing to refine by, or the refinement can't be made.
        ExpressionError: The instruction is empty or too long.
        ReplyError: The boxes stay unreadable.
        BackendError: A model failed.
    """
    if instruction is None and not clicks:
        raise RefineError("nothing to refine by: give an instruction, such as 'the other one', or clicks, or both")
    if method is not None:
        run = replace(run, config=replace(run.config, method=method))
    before = state
    state = replace(state, clicks=() if forget_clicks else state.clicks, step=state.step + 1)
    check_clicks(clicks, state.clicks, state.size)
    understood: list[str] = []
    add = False
    if instruction is not None:
        parsed = read_instruction(instruction, list_nouns(state))
        state = replace(state, instructions=(*state.instructions, instruction))
        add = bool(clicks) and parsed.action in ("also", "also_other")  # the clicks show what to add
        if not add:
            state, words = yield from _ACTIONS[parsed.action](run, state, parsed)
            understood.append(words)
    state, click_words = yield from apply_clicks(run, state, clicks, add=add)
    is_changed = not state.shows_same(before)
    if is_changed and state.previous is before.previous:  # going back goes further back next time
        state = replace(state, previous=before)
    segmentation = run.build_result(state.expression, state.objects)
    if segmentation.warnings:  # which leave no confidence
        state = replace(state, objects=number_objects(segmentation.objects, state.expression))
    return RefinementResult(state, (*understood, *click_words), segmentation, is_changed)


_ACTIONS: dict[str, Callable[[RunContext, InteractiveState, Instruction], RefineStep]] = {
    "other": take_other,
    "also": add_described,
    "also_other": add_others,
    "without": take_out,
    "bigger": resize_masks,
    "smaller": resize_masks,
    "back": go_back,
    "describe": describe_anew,
    "keep": keep_described,
    "remove_numbers": remove_numbered,
    "keep_numbers": keep_numbered,
    "add_numbers": add_numbered,
    "add_back": add_back,
    "unclear": refuse_unclear,
}
