"""Refine a result once, by an instruction, by clicks, or by both: from one `InteractiveState` to the next.

Nothing is changed in place. A refinement that can't be made raises a `RefineError` that says why; the state before it stays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TypeAlias

from sam4mllm_tool.config import Method
from sam4mllm_tool.geometry.boxes import format_box, mask_iou
from sam4mllm_tool.interactive.alternatives import (
    MIN_AREA_CHANGE,
    SAME_MASK_IOU,
    SAME_OBJECT_IOU,
    find_other_boxes,
    resized_candidates,
    segment_known_boxes,
)
from sam4mllm_tool.interactive.clicks import apply_clicks, check_clicks
from sam4mllm_tool.interactive.instructions import Instruction, read_instruction
from sam4mllm_tool.interactive.references import complete_expression, is_plural, pluralize
from sam4mllm_tool.interactive.state import InteractiveState, RefineError
from sam4mllm_tool.pipeline.methods import segment_expression
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.types import Box, MaskCandidate, ObjectPrompt, PointPrompt, Segmentation, SegmentedObject

__all__ = ["RefinementResult", "refine"]

_MIN_INSIDE = 0.5
"""Share of a mask that must lie in an object for it to be a part of that object."""
_MIN_REMAINING = 0.1
"""Share of an object that must remain when a part is cut out."""
_BOX_SCALE = 1.25
"""Factor by which a box is enlarged, or shrunk, where no candidate mask is bigger, or smaller."""
_MAX_LISTED = 10
"""Boxes that a text lists at most."""

_Step: TypeAlias = Flow[tuple[InteractiveState, str]]
"""Comes to the next state and how the instruction was understood."""


@dataclass(frozen=True, eq=False)
class RefinementResult:
    """What a refinement comes to.

    Attributes:
        state: The next state.
        understood: How the instruction and each click were understood, in words.
        segmentation: The next state's objects as a result; its turns and usage are those of this refinement.
    """

    state: InteractiveState
    understood: tuple[str, ...]
    segmentation: Segmentation


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
        instruction: What the user wants changed, such as "no, the other one".
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
    state = replace(state, clicks=() if forget_clicks else state.clicks)
    check_clicks(clicks, state.clicks, state.size)
    understood: list[str] = []
    add = False
    if instruction is not None:
        parsed = read_instruction(instruction)
        state = replace(state, instructions=(*state.instructions, instruction))
        add = bool(clicks) and parsed.action in ("also", "also_other")  # the clicks show what to add
        if not add:
            state, words = yield from _ACTIONS[parsed.action](run, state, parsed)
            understood.append(words)
    state, click_words = yield from apply_clicks(run, state, clicks, add=add)
    segmentation = run.build_result(state.expression, state.objects)
    return RefinementResult(state, (*understood, *click_words), segmentation)


# Other objects --------------------------------------------------------------------------------------------------------


def _take_other(run: RunContext, state: InteractiveState, _instruction: Instruction) -> _Step:
    """Reject the objects, and look for another one that the expression means."""
    remaining = state.reject(state.objects)
    expression = _quote(state.expression)
    boxes: Sequence[Box] = yield from _find_others(run, state.expression, remaining.rejected)
    if not boxes:
        raise RefineError(
            f"no other {expression} can be found; the result stays. Left out so far: {_list_prompts(remaining.rejected)}. "
            "Describe the object in other words, or click on it"
        )
    words = f"another {expression} than {_list_prompts(remaining.rejected)}"
    if len(boxes) > 1 and not is_plural(state.expression):
        sorted_boxes = yield from _sort_by_probability(run, state.expression, boxes)
        words += f"; it could also be {_list_boxes(sorted_boxes[1:])}: ask for the other one again"
        boxes = sorted_boxes[:1]
    objects = yield from segment_known_boxes(run, state.expression, boxes)
    return replace(remaining, objects=tuple(objects), clicks=()), words


def _add_others(run: RunContext, state: InteractiveState, _instruction: Instruction) -> _Step:
    """Keep the objects, and add all others that the expression means."""
    expression = _quote(state.expression)
    current = [segmented.prompt for segmented in state.objects]
    boxes = yield from _find_others(run, state.expression, [*state.rejected, *current])
    if not boxes:
        raise RefineError(f"no further {expression} can be found; the result stays. Describe it, or click on it")
    objects = yield from segment_known_boxes(run, state.expression, boxes)
    return replace(state, objects=(*state.objects, *objects)), f"the other {expression} as well"


def _find_others(run: RunContext, expression: str, known: Sequence[ObjectPrompt]) -> Flow[tuple[Box, ...]]:
    """Find boxes of other objects, by the expression itself and by its plural."""
    expressions = list(dict.fromkeys((expression, pluralize(expression))))
    return (yield from find_other_boxes(run, expressions, known))


def _sort_by_probability(run: RunContext, expression: str, boxes: Sequence[Box]) -> Flow[list[Box]]:
    """Sort the boxes by the probability that the expression means their object, highest first."""
    probabilities = yield from run.verify_boxes(expression, boxes)
    order = sorted(range(len(boxes)), key=lambda index: -(probabilities[index] or 0.0))
    return [boxes[index] for index in order]


def _bring_back(run: RunContext, state: InteractiveState, _instruction: Instruction) -> _Step:
    """Take the object that was rejected last in the place of the current ones."""
    if not state.rejected:
        raise RefineError("nothing was left out yet that could come back; an earlier result can be refined by its own handle")
    *earlier, prompt = state.rejected
    objects = yield from run.segment_prompts([prompt])
    remaining = replace(state, rejected=tuple(earlier)).reject(state.objects)
    return replace(remaining, objects=tuple(objects), clicks=()), f"the one before, {_list_prompts([prompt])}"


# Descriptions ---------------------------------------------------------------------------------------------------------


def _describe(run: RunContext, state: InteractiveState, instruction: Instruction) -> _Step:
    """Segment a new description, completed from the expression before."""
    expression, objects = yield from _segment_description(run, state, instruction.what)
    dropped = [segmented for segmented in state.objects if not _matching([segmented], objects)]
    words = f"a new description, {_quote(expression)}"
    if not dropped and len(objects) == len(state.objects):
        words += ", which is what was found before"
    return replace(state.reject(dropped), objects=objects, expression=expression, clicks=()), words


def _add_described(run: RunContext, state: InteractiveState, instruction: Instruction) -> _Step:
    """Keep the objects, and add those that the instruction describes."""
    expression, objects = yield from _segment_description(run, state, instruction.what)
    new = [segmented for segmented in objects if not _matching([segmented], state.objects)]
    if not new:
        raise RefineError(
            f"{_quote(expression)} is what the result holds already; it stays. Describe the one to add, or click on it"
        )
    combined = f"{state.expression} and {expression}"
    return replace(state, objects=(*state.objects, *new), expression=combined), f"{_quote(expression)} as well"


def _segment_description(run: RunContext, state: InteractiveState, words: str) -> Flow[tuple[str, tuple[SegmentedObject, ...]]]:
    """Segment what the words mean: completed from the expression before, or else as they are."""
    expressions = tuple(dict.fromkeys((complete_expression(words, state.expression), words)))
    for expression in expressions:
        objects = yield from _segment(run, expression)
        if objects:
            return expression, objects
    tried = " nor ".join(map(_quote, expressions))
    raise RefineError(
        f"there is no {tried} in the image, as the model sees it; the result stays. Use other words, or click on it"
    )


def _segment(run: RunContext, expression: str) -> Flow[tuple[SegmentedObject, ...]]:
    segmentation = yield from segment_expression(run, expression, run.config.method)
    return segmentation.objects


# Parts and sizes ------------------------------------------------------------------------------------------------------


def _take_out(run: RunContext, state: InteractiveState, instruction: Instruction) -> _Step:
    """Take out objects, or parts of objects, that the instruction describes."""
    if not state.objects:
        raise RefineError("there is nothing to take out of: the result holds no object")
    words = instruction.what
    completed = complete_expression(words, state.expression)
    for expression in dict.fromkeys((completed, words, f"{words} of {state.expression}")):
        objects = yield from _segment(run, expression)
        # A reply to "the handle of the mug" that is a whole object is about the mug
        may_be_whole = len(state.objects) > 1 and expression in (completed, words)
        if may_be_whole and (meant := _matching(state.objects, objects)):
            return state.reject(meant), f"without {_quote(expression)}"
        parts = [segmented for segmented in objects if any(_is_part(segmented, whole) for whole in state.objects)]
        if parts:
            return _cut_out(state, parts), f"without {_quote(expression)}"
    if len(state.objects) == 1 and _matching(state.objects, (yield from _segment(run, completed))):
        return (yield from _take_other(run, state, instruction))
    raise RefineError(f"no {_quote(words)} can be found in the result, which stays: click on what is not meant, with label 0")


def _matching(objects: Sequence[SegmentedObject], others: Sequence[SegmentedObject]) -> list[SegmentedObject]:
    """Return the objects whose mask is also one of the others'."""
    return [each for each in objects if any(mask_iou(each.mask, other.mask) >= SAME_OBJECT_IOU for other in others)]


def _is_part(part: SegmentedObject, whole: SegmentedObject) -> bool:
    """Whether the part lies in the object and leaves something of it."""
    area = int(part.mask.sum())
    shared = int((part.mask & whole.mask).sum())
    return area > 0 and shared >= _MIN_INSIDE * area and shared <= (1 - _MIN_REMAINING) * int(whole.mask.sum())


def _cut_out(state: InteractiveState, parts: Sequence[SegmentedObject]) -> InteractiveState:
    objects = state.objects
    for part in parts:
        objects = tuple(replace(each, mask=each.mask & ~part.mask, alternatives=()) for each in objects)
    return replace(state, objects=tuple(each for each in objects if each.mask.any()))


def _resize(run: RunContext, state: InteractiveState, instruction: Instruction) -> _Step:
    """Take the next bigger, or smaller, mask for the same prompts, or else for larger, or smaller, boxes."""
    word = instruction.action
    if not state.objects:
        raise RefineError(f"there is nothing to make {word}: the result holds no object. Describe what to segment")
    sign = 1 if word == "bigger" else -1
    prompts = [segmented.prompt for segmented in state.objects]
    same_boxes = yield from run.segment_prompts(prompts)
    scaled_boxes = yield from run.segment_prompts([_scale_box(run, prompt, _BOX_SCALE**sign) for prompt in prompts])
    resized = [
        _next_size(segmented, sources, sign)
        for segmented, *sources in zip(state.objects, same_boxes, scaled_boxes, strict=True)
    ]
    if not any(resized):
        raise RefineError(f"the segmenter has no {word} mask for that; the result stays. Click on what is wrong with it")
    objects = tuple(new or old for new, old in zip(resized, state.objects, strict=True))
    return replace(state, objects=objects), f"a {word} mask of the same object"


def _next_size(segmented: SegmentedObject, sources: Sequence[SegmentedObject], sign: int) -> SegmentedObject | None:
    """Return the object with the mask nearest in area that is bigger (sign 1) or smaller (-1).

    The sources' masks are tried in their order: those of the object's own prompt come first.
    """
    area = int(segmented.mask.sum())
    for source in sources:
        candidates = [MaskCandidate(source.mask, source.score), *resized_candidates(source)]
        changes = [(sign * (int(candidate.mask.sum()) - area), candidate) for candidate in candidates if candidate.mask.any()]
        sufficient = [
            (change, candidate)
            for change, candidate in changes
            if change > MIN_AREA_CHANGE * area and mask_iou(candidate.mask, segmented.mask) < SAME_MASK_IOU
        ]
        if sufficient:
            _, nearest = min(sufficient, key=itemgetter(0))
            return replace(segmented, mask=nearest.mask, score=nearest.score, prompt=source.prompt, alternatives=())
    return None


def _scale_box(run: RunContext, prompt: ObjectPrompt, factor: float) -> ObjectPrompt:
    box = prompt.box
    dx, dy = (factor - 1) / 2 * box.width, (factor - 1) / 2 * box.height
    return ObjectPrompt(Box(box.x1 - dx, box.y1 - dy, box.x2 + dx, box.y2 + dy).clip(run.size))


_ACTIONS: dict[str, Callable[[RunContext, InteractiveState, Instruction], _Step]] = {
    "other": _take_other,
    "also": _add_described,
    "also_other": _add_others,
    "without": _take_out,
    "bigger": _resize,
    "smaller": _resize,
    "back": _bring_back,
    "describe": _describe,
}


# Words ----------------------------------------------------------------------------------------------------------------


def _quote(text: str) -> str:
    return f"'{text}'" if len(text) <= 80 else f"'{text[:80]}...'"


def _list_prompts(prompts: Sequence[ObjectPrompt]) -> str:
    return _list_boxes([prompt.box for prompt in prompts]) if prompts else "nothing"


def _list_boxes(boxes: Sequence[Box]) -> str:
    return ", ".join(f"the one at {format_box(box)}" for box in boxes[:_MAX_LISTED])
