"""Candidate masks for an object that clicks correct, and the choice among them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.interactive.mask_geometry import mask_contains
from sam4mllm_tool.models.segmenter.mask_choice import agreement
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.types import Box, Mask, ObjectPrompt, PointPrompt, SegmentedObject

__all__ = ["edit_mask", "is_near_box", "select_best", "try_boxes"]

_NEAR_BOX = 0.25
"""How far outside a box a click may lie and still be about its object, as a share of the box's sides."""
_MLLM_POINT_REACH = 0.1
"""How close to a click a contradicting point of the MLLM is dropped, as a share of the box's sides."""


def try_boxes(
    run: RunContext, segmented: SegmentedObject, boxes: Sequence[Box], clicks: Sequence[PointPrompt]
) -> Flow[list[SegmentedObject]]:
    """Prompt each box with the MLLM's points and the clicks near it, and with the clicks alone; return every mask."""
    prompts: list[ObjectPrompt] = []
    for box in boxes:
        near = tuple(click for click in clicks if is_near_box(box, click))
        points = (point for point in segmented.prompt.points if not any(_overrules(click, point, box) for click in near))
        prompts += [ObjectPrompt(box, (*points, *near)), ObjectPrompt(box, near)]
    objects = yield from run.segment_prompts(list(dict.fromkeys(prompts)))
    return [candidate for each in objects for candidate in _all_masks(each)]


def _all_masks(segmented: SegmentedObject) -> Iterator[SegmentedObject]:
    yield segmented
    for candidate in segmented.alternatives:
        yield replace(segmented, mask=candidate.mask, score=candidate.score, alternatives=())


def _overrules(click: PointPrompt, point: PointPrompt, box: Box) -> bool:
    """Whether a point of the MLLM contradicts a click close to it."""
    dx, dy = _MLLM_POINT_REACH * box.width, _MLLM_POINT_REACH * box.height
    return click.label != point.label and abs(click.x - point.x) <= dx and abs(click.y - point.y) <= dy


def edit_mask(segmented: SegmentedObject, mask: Mask, score_factor: float) -> SegmentedObject:
    """Return the object with an edited mask, and with its score times `score_factor`."""
    return replace(segmented, mask=mask, score=score_factor * segmented.score)


def select_best(
    candidates: Sequence[SegmentedObject], clicks: Sequence[PointPrompt], before: SegmentedObject
) -> SegmentedObject | None:
    """Return the candidate that agrees with the most clicks near it; among equals, the best by points, score and overlap.

    Clicks on distant objects don't count. None where all masks are empty.
    """
    relevant = [click for click in clicks if any(is_near_box(each.prompt.box, click) for each in (before, *candidates))]

    def rate(candidate: SegmentedObject) -> tuple[int, float]:
        agreeing = sum(mask_contains(candidate.mask, click) == bool(click.label) for click in relevant)
        point_agreement = agreement(candidate.mask, before.prompt.points)
        weight = 1.0 if point_agreement is None else point_agreement
        return agreeing, candidate.score * weight * (1 + mask_iou(candidate.mask, before.mask))

    best = max((candidate for candidate in candidates if candidate.mask.any()), key=rate, default=None)
    return best and replace(best, alternatives=())


def is_near_box(box: Box, click: PointPrompt) -> bool:
    """Whether a click is in the box, or near enough to be about its object."""
    dx, dy = _NEAR_BOX * box.width, _NEAR_BOX * box.height
    return box.x1 - dx <= click.x <= box.x2 + dx and box.y1 - dy <= click.y <= box.y2 + dy
