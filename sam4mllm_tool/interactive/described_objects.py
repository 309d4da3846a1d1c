"""Objects by description: in the place of the result, beside it, out of it, or the only ones of it that stay."""

import re
from collections.abc import Sequence
from dataclasses import replace

from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.interactive.instructions import Instruction
from sam4mllm_tool.interactive.interactive_objects import InteractiveObject, match_objects
from sam4mllm_tool.interactive.number_listing import format_numbers, list_numbers, quote_expression
from sam4mllm_tool.interactive.object_alternatives import take_other
from sam4mllm_tool.interactive.state import InteractiveState, RefineError, RefineStep
from sam4mllm_tool.pipeline.methods import segment_expression
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.protocol.references import complete_expression, is_plural
from sam4mllm_tool.types import SegmentedObject

__all__ = ["add_described", "describe_anew", "keep_described", "take_out"]

_SAME_RESULT_IOU = 0.9
"""IoU from which on a mask that was segmented again is the one that is shown."""
_MIN_INSIDE = 0.5
"""Share of a mask that must lie in an object for it to be a part of that object."""
_MIN_REMAINING = 0.1
"""Share of an object that must remain when a part is cut out."""
_EVERYTHING = re.compile(r"(?:it|this|that|these|those|them|both|all|everything)(?: (?:all|of (?:it|them|these|those)))?", re.I)
_BOTH = re.compile(r"both\b", re.I)


def describe_anew(run: RunContext, state: InteractiveState, instruction: Instruction) -> RefineStep:
    """Segment a new description, completed from the expression before."""
    expression, objects = yield from _segment_description(run, state, instruction.what)
    words = f"a new description, {quote_expression(expression)}"
    if _are_same(state.objects, objects):
        same = [replace(segmented, expression=expression) for segmented in state.objects]
        return state.with_objects(same), f"{words}, which is the result already"
    dropped = [segmented for segmented in state.objects if not match_objects([segmented], objects)]
    cleared = replace(state.reject(dropped), objects=(), clicks=(), choices=())
    return cleared.add_objects(objects, expression), words


def _are_same(objects: Sequence[SegmentedObject], others: Sequence[SegmentedObject]) -> bool:
    return len(objects) == len(others) and all(
        any(mask_iou(each.mask, other.mask) >= _SAME_RESULT_IOU for other in others) for each in objects
    )


def add_described(run: RunContext, state: InteractiveState, instruction: Instruction) -> RefineStep:
    """Keep the objects, and add those that the instruction describes."""
    expression, objects = yield from _segment_description(run, state, instruction.what)
    new = [segmented for segmented in objects if not _is_among(segmented, state.objects)]
    if not new:
        raise RefineError(
            f"{quote_expression(expression)} is what the result holds already. Describe the one to add, or click on it"
        )
    return state.add_objects(new, expression), f"{quote_expression(expression)} as well"


def keep_described(run: RunContext, state: InteractiveState, instruction: Instruction) -> RefineStep:
    """Keep only those of the objects that the instruction describes."""
    if _EVERYTHING.fullmatch(instruction.what):
        _check_both(state, instruction.what, state.objects)
        return state, "the result as it is"
    words = dict.fromkeys((complete_expression(instruction.what, state.latest_expression), instruction.what))
    for expression in words:
        objects = yield from _segment(run, expression)
        if kept := match_objects(state.objects, objects):
            _check_singular(expression, kept, "keep")
            _check_both(state, instruction.what, kept)
            dropped = [segmented for segmented in state.objects if not any(segmented is each for each in kept)]
            return state.reject(dropped), f"only {quote_expression(expression)}"
    raise RefineError(f"no {quote_expression(instruction.what)} is in the result, which stays: {list_numbers(state)}")


def take_out(run: RunContext, state: InteractiveState, instruction: Instruction) -> RefineStep:
    """Take out objects, or parts of objects, that the instruction describes."""
    if not state.objects:
        raise RefineError("there is nothing to take out of: the result holds no object")
    words = instruction.what
    if _EVERYTHING.fullmatch(words):
        _check_both(state, words, state.objects)
        return state.reject(state.objects), "without all of it"
    completed = complete_expression(words, state.latest_expression)
    for expression in dict.fromkeys((completed, words, f"{words} of {state.latest_expression}")):
        objects = yield from _segment(run, expression)
        # A reply to "the handle of the mug" that is a whole object is about the mug
        may_be_whole = len(state.objects) > 1 and expression in (completed, words)
        if may_be_whole and (meant := match_objects(state.objects, objects)):
            _check_singular(expression, meant, "remove")
            _check_both(state, words, meant)
            return state.reject(meant), f"without {quote_expression(expression)}"
        parts = [segmented for segmented in objects if any(_is_part(segmented, whole) for whole in state.objects)]
        if parts:
            return _cut_out(state, parts), f"without {quote_expression(expression)}"
    if len(state.objects) == 1 and match_objects(state.objects, (yield from _segment(run, completed))):
        return (yield from take_other(run, state, instruction))
    raise RefineError(
        f"no {quote_expression(words)} can be found in the result, which stays: say a number to remove, or click on what is "
        "not meant"
    )


def _check_singular(expression: str, meant: Sequence[InteractiveObject], verb: str) -> None:
    """Refuse to guess where words for a single object fit several."""
    if len(meant) > 1 and not is_plural(expression):
        numbers = [segmented.number for segmented in meant]
        raise RefineError(
            f"{quote_expression(expression)} may mean {format_numbers(numbers)}; the result stays. Say which, such as "
            f"'{verb} {numbers[0]}'"
        )


def _check_both(state: InteractiveState, words: str, meant: Sequence[InteractiveObject]) -> None:
    """Refuse to guess which two "both" means where it isn't exactly two objects."""
    if _BOTH.match(words) and len(meant) != 2:
        raise RefineError(f"{quote_expression(words)} isn't clear, as it means two; the result stays: {list_numbers(state)}")


def _segment_description(run: RunContext, state: InteractiveState, words: str) -> Flow[tuple[str, tuple[SegmentedObject, ...]]]:
    """Segment what the words mean: completed from the expression before, or else as they are."""
    expressions = tuple(dict.fromkeys((complete_expression(words, state.latest_expression), words)))
    for expression in expressions:
        objects = yield from _segment(run, expression)
        if objects:
            return expression, objects
    tried = " nor ".join(map(quote_expression, expressions))
    raise RefineError(
        f"there is no {tried} in the image, as the model sees it; the result stays. Use other words, or click on it"
    )


def _segment(run: RunContext, expression: str) -> Flow[tuple[SegmentedObject, ...]]:
    segmentation = yield from segment_expression(run, expression, run.config.method)
    return segmentation.objects


def _is_among(segmented: SegmentedObject, objects: Sequence[InteractiveObject]) -> bool:
    return bool(match_objects(objects, [segmented]))


def _is_part(part: SegmentedObject, whole: SegmentedObject) -> bool:
    """Whether the part lies in the object and leaves something of it."""
    area = int(part.mask.sum())
    shared = int((part.mask & whole.mask).sum())
    return area > 0 and shared >= _MIN_INSIDE * area and shared <= (1 - _MIN_REMAINING) * int(whole.mask.sum())


def _cut_out(state: InteractiveState, parts: Sequence[SegmentedObject]) -> InteractiveState:
    objects = state.objects
    for part in parts:
        objects = tuple(replace(each, mask=each.mask & ~part.mask, alternatives=()) for each in objects)
    return state.with_objects([each for each in objects if each.mask.any()])
