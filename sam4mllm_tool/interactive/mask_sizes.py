"""Take the next bigger or smaller mask of an object, from Segment Anything's candidates or from a scaled box."""

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter

from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.interactive.instructions import Instruction
from sam4mllm_tool.interactive.interactive_objects import InteractiveObject
from sam4mllm_tool.interactive.number_selection import resolve_numbers
from sam4mllm_tool.interactive.state import InteractiveState, RefineError, RefineStep
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.types import Box, MaskCandidate, ObjectPrompt, SegmentedObject

__all__ = ["resize_masks", "resized_candidates"]

_SAME_MASK_IOU = 0.9
"""IoU from which on a mask is not offered as another one."""
_MIN_AREA_CHANGE = 0.03
"""By which share of its area a mask must grow or shrink to count as bigger or smaller."""
_BOX_SCALE = 1.25
"""Factor by which a box is enlarged, or shrunk, where no candidate mask is bigger, or smaller."""


def resized_candidates(segmented: SegmentedObject) -> list[MaskCandidate]:
    """Return the alternatives that are bigger or smaller than the mask and differ from each other, smallest first."""
    kept: list[MaskCandidate] = []
    area = int(segmented.mask.sum())
    for candidate in segmented.alternatives:
        known_masks = (segmented.mask, *(other.mask for other in kept))
        is_resized = abs(int(candidate.mask.sum()) - area) > _MIN_AREA_CHANGE * area
        if candidate.mask.any() and is_resized and all(mask_iou(candidate.mask, mask) < _SAME_MASK_IOU for mask in known_masks):
            kept.append(candidate)
    return sorted(kept, key=lambda candidate: int(candidate.mask.sum()))


def resize_masks(run: RunContext, state: InteractiveState, instruction: Instruction) -> RefineStep:
    """Take the next bigger, or smaller, mask for the same prompts, or else for larger, or smaller, boxes.

    With numbers, only those objects change.
    """
    word = instruction.action
    if not state.objects:
        raise RefineError(f"there is nothing to make {word}: the result holds no object. Describe what to segment")
    sign = 1 if word == "bigger" else -1
    count = len(state.objects)
    numbers = resolve_numbers(state, instruction, range(1, count + 1)) if instruction.numbers else range(1, count + 1)
    chosen = [segmented for segmented in state.objects if segmented.number in numbers]
    prompts = [segmented.prompt for segmented in chosen]
    same_boxes = yield from run.segment_prompts(prompts)
    scaled_boxes = yield from run.segment_prompts([_scale_box(run, prompt, _BOX_SCALE**sign) for prompt in prompts])
    resized = [
        _next_size(segmented, sources, sign) for segmented, *sources in zip(chosen, same_boxes, scaled_boxes, strict=True)
    ]
    if not any(resized):
        raise RefineError(f"the segmenter has no {word} mask for that; the result stays. Click on what is wrong with it")
    for old, new in zip(chosen, resized, strict=True):
        state = state.replace_object(old, new or old)
    return state, f"a {word} mask of the same object"


def _next_size(segmented: InteractiveObject, sources: Sequence[SegmentedObject], sign: int) -> InteractiveObject | None:
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
            if change > _MIN_AREA_CHANGE * area and mask_iou(candidate.mask, segmented.mask) < _SAME_MASK_IOU
        ]
        if sufficient:
            _, nearest = min(sufficient, key=itemgetter(0))
            return replace(segmented, mask=nearest.mask, score=nearest.score, prompt=source.prompt, alternatives=())
    return None


def _scale_box(run: RunContext, prompt: ObjectPrompt, factor: float) -> ObjectPrompt:
    box = prompt.box
    dx, dy = (factor - 1) / 2 * box.width, (factor - 1) / 2 * box.height
    return ObjectPrompt(Box(box.x1 - dx, box.y1 - dy, box.x2 + dx, box.y2 + dy).clip(run.size))
