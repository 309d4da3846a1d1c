"""Correct a result by clicks: points with labels that a user or an agent sets, as opposed to the MLLM's own points.

A click that the masks agree with changes nothing. For a click that contradicts them, the object under it is segmented first
(`other_objects.segment_at_click`). Then several prompts are tried: the object's box as it was, the box extended to the click,
and the box of the object under the click, each with the MLLM's points and all clicks. The mask that agrees with the most clicks
is kept; among equals, the better one. SAM itself treats a click as one point among many and may overrule it; the choice among
its masks does not.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from sam4mllm_tool.geometry.boxes import SAME_OBJECT_IOU, mask_iou, mask_to_box
from sam4mllm_tool.interactive.interactive_objects import InteractiveObject
from sam4mllm_tool.interactive.mask_candidates import edit_mask, is_near_box, select_best, try_boxes
from sam4mllm_tool.interactive.mask_geometry import click_distances, is_central_click, mask_contains
from sam4mllm_tool.interactive.other_objects import (
    find_other_boxes,
    segment_at_click,
    segment_known_boxes,
    segment_with_points,
)
from sam4mllm_tool.interactive.state import InteractiveState, RefineError, RefineStep
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.protocol.references import is_plural
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, SegmentedObject, Size

__all__ = ["apply_clicks", "check_clicks"]

_SAME_PLACE = 2.0
"""Distance in pixels, along x and y, within which two clicks are at one place."""
_MAX_SHARED = 0.1
"""Share of a mask below which its overlap with another mask doesn't count."""
_MIN_REMAINING = 0.2
"""Share of a mask that must remain when the object under a click is cut out of it."""
_EXTENT_MARGIN = 0.05
"""Margin around a click when a box is extended to it, as a share of the box's longer side."""
_EDITED_SCORE = 0.9
"""Factor on the score of a mask that was merged or cut, relative to one that the segmenter drew."""
_DENTED_SCORE = 0.5
"""The same for a mask that only lost a disc."""
_DISC_MARGIN = 1.5
"""Pixels by which that disc reaches beyond the mask's edge."""


def check_clicks(clicks: Sequence[PointPrompt], earlier: Sequence[PointPrompt], size: Size, *, noun: str = "click") -> None:
    """Check new clicks against the image's size, against earlier clicks and against each other.

    Args:
        clicks: New clicks, in pixels.
        earlier: Clicks of earlier refinements.
        size: Of the image.
        noun: What a message calls them, where they are no clicks.

    Raises:
        RefineError: A click lies outside the image, or two clicks give one place both labels.
    """
    for click in clicks:
        _check_inside(click, size, noun)
    for number, click in enumerate(clicks):
        if (other := _find_contradiction(click, earlier)) is not None:
            cure = "refine the result from before that click, or forget the earlier clicks"
            raise RefineError(f"{_describe_contradiction(click, other, noun, 'earlier ')}: {cure}")
        if (other := _find_contradiction(click, clicks[:number])) is not None:
            raise RefineError(f"{_describe_contradiction(click, other, noun)}: leave one of them out")


def _check_inside(click: PointPrompt, size: Size, noun: str) -> None:
    if not (0 <= click.x <= size.width and 0 <= click.y <= size.height):
        raise RefineError(
            f"the {noun} ({click.x:g}, {click.y:g}) is outside the image of {size.width} x {size.height} pixels: "
            f"x goes from 0 to {size.width}, y from 0 to {size.height}"
        )


def _find_contradiction(click: PointPrompt, others: Sequence[PointPrompt]) -> PointPrompt | None:
    """Return the first of the others that has another label at the same place."""
    for other in others:
        is_close = abs(click.x - other.x) <= _SAME_PLACE and abs(click.y - other.y) <= _SAME_PLACE
        if is_close and click.label != other.label:
            return other
    return None


def _describe_contradiction(click: PointPrompt, other: PointPrompt, noun: str, when: str = "") -> str:
    return (
        f"the {noun}s contradict one another: ({click.x:g}, {click.y:g}) is {_side(click)} the object and "
        f"{when}({other.x:g}, {other.y:g}) {_side(other)} it"
    )


def _side(click: PointPrompt) -> str:
    return "on" if click.label else "off"


def apply_clicks(
    run: RunContext, state: InteractiveState, clicks: Sequence[PointPrompt], *, add: bool = False
) -> Flow[tuple[InteractiveState, list[str]]]:
    """Correct the state by each click in turn.

    Args:
        run: The run. Its method decides how another object is asked about.
        state: The state before.
        clicks: Checked by `check_clicks`.
        add: Whether a click on another object always adds it; otherwise it takes the place of a single object.

    Returns:
        The next state, and for each click how it was understood.

    Raises:
        RefineError: There is no object at a click.
    """
    understood: list[str] = []
    for click in clicks:
        state = replace(state, clicks=(*state.clicks, click))
        state, words = yield from _apply_click(run, state, click, add)
        understood.append(f"click ({click.x:g}, {click.y:g}) {_side(click)} the object: {words}")
    return state, understood


def _apply_click(run: RunContext, state: InteractiveState, click: PointPrompt, add: bool) -> RefineStep:
    clicked = next((segmented for segmented in state.objects if mask_contains(segmented.mask, click)), None)
    if click.label == (clicked is not None):
        return state, "the masks agree with it"
    if clicked is None:
        return (yield from _include(run, state, click, add))
    return (yield from _exclude(run, state, clicked, click))


# Clicks on what no mask contains --------------------------------------------------------------------------------------


def _include(run: RunContext, state: InteractiveState, click: PointPrompt, add: bool) -> RefineStep:
    """Extend the object that a click is about, or add or take the other object under it."""
    under_click = yield from segment_at_click(run, click)
    target = _object_to_extend(state, click, under_click)
    if target is not None:
        extended = yield from _extend(run, state, target, click, under_click)
        if extended is not None and mask_contains(extended.mask, click):
            return state.replace_object(target, extended), "the object takes it in"
    if under_click is None:
        raise RefineError(f"there is no object at the click ({click.x:g}, {click.y:g}): click in the middle of the object")
    new = yield from _segment_clicked(run, state.latest_expression, under_click, click)
    if add or len(state.objects) != 1 or is_plural(state.expression):
        return state.add_objects([new], ""), "another object, added"
    return state.reject(state.objects).add_objects([new], ""), "another object, taken instead"


def _object_to_extend(
    state: InteractiveState, click: PointPrompt, under_click: SegmentedObject | None
) -> InteractiveObject | None:
    """Return the object that a click outside its mask is about; None where it is about another object."""
    near = [segmented for segmented in state.objects if is_near_box(segmented.prompt.box, click)]
    is_in_box = any(segmented.prompt.box.contains(click.x, click.y) for segmented in near)
    if under_click is not None and not is_in_box and all(_is_separate(under_click, segmented) for segmented in near):
        return None
    return min(near, key=lambda segmented: _box_distance(segmented.prompt.box, click), default=None)


def _is_separate(under_click: SegmentedObject, segmented: SegmentedObject) -> bool:
    """Whether the object under the click hardly overlaps the other object's mask and lies mostly outside its box."""
    box, area = segmented.prompt.box, max(1, int(under_click.mask.sum()))
    in_box = under_click.mask[int(box.y1) : math.ceil(box.y2), int(box.x1) : math.ceil(box.x2)]
    shared = int((under_click.mask & segmented.mask).sum())
    return shared < _MAX_SHARED * area and int(in_box.sum()) < SAME_OBJECT_IOU * area


def _extend(
    run: RunContext,
    state: InteractiveState,
    segmented: SegmentedObject,
    click: PointPrompt,
    under_click: SegmentedObject | None,
) -> Flow[SegmentedObject | None]:
    """Return the object's best mask among those whose prompts reach to the click."""
    box = segmented.prompt.box
    margin = _EXTENT_MARGIN * max(box.width, box.height)
    around_click = Box(click.x - margin, click.y - margin, click.x + margin, click.y + margin)
    boxes = [box, _enclose(box, around_click, run.size)]
    if under_click is not None:
        other_box = mask_to_box(under_click.mask)
        boxes += [other_box, _enclose(box, other_box, run.size)]
    candidates = yield from try_boxes(run, segmented, boxes, state.clicks)
    if under_click is not None:
        candidates.append(edit_mask(segmented, segmented.mask | under_click.mask, _EDITED_SCORE))
    return select_best(candidates, state.clicks, segmented)


def _segment_clicked(
    run: RunContext, expression: str, under_click: SegmentedObject, click: PointPrompt
) -> Flow[SegmentedObject]:
    """Segment the object under the click once more, with points from the MLLM."""
    box = mask_to_box(under_click.mask)
    (with_points,) = yield from segment_with_points(run, expression, [box])
    (prompted,) = yield from run.segment_prompts([ObjectPrompt(box, (*with_points.prompt.points, click))])
    return select_best([prompted, under_click], [click], under_click) or under_click


# Clicks that deny a part of a mask, or all of it ----------------------------------------------------------------------


def _exclude(run: RunContext, state: InteractiveState, segmented: InteractiveObject, click: PointPrompt) -> RefineStep:
    """Cut what a click denies out of the object, or reject the whole object."""
    under_click = yield from segment_at_click(run, click)
    is_whole = (
        under_click is not None
        and mask_iou(under_click.mask, segmented.mask) > SAME_OBJECT_IOU
        and is_central_click(segmented.mask, click)
    )
    if is_whole and not _is_confirmed(state, segmented):
        return (yield from _reject_whole(run, state, segmented))
    candidates = yield from _shrink(run, state, segmented, under_click)
    best = select_best([*candidates, _cut_disc(segmented, click)], state.clicks, segmented)
    if best is None:
        return state.reject([segmented]), "that object is left out: nothing of it remains"
    return state.replace_object(segmented, best), "the object leaves it out"


def _is_confirmed(state: InteractiveState, segmented: SegmentedObject) -> bool:
    """Whether a click confirmed that the object is meant."""
    return any(click.label == 1 and mask_contains(segmented.mask, click) for click in state.clicks)


def _reject_whole(run: RunContext, state: InteractiveState, segmented: InteractiveObject) -> RefineStep:
    """Reject the object; where no other object is left, look for one."""
    remaining = state.reject([segmented])
    if remaining.objects:
        return remaining, "that object is left out"
    expression = segmented.expression or state.expression
    boxes = yield from find_other_boxes(run, [expression], [candidate.prompt for candidate in remaining.rejected])
    objects = yield from segment_known_boxes(run, expression, boxes[:1])
    words = "that object is left out, another one taken" if objects else "that object is left out; there is no other"
    return remaining.add_objects(objects, expression), words


def _shrink(
    run: RunContext, state: InteractiveState, segmented: SegmentedObject, under_click: SegmentedObject | None
) -> Flow[list[SegmentedObject]]:
    """Return masks from the object's box, and without the object under the click."""
    if under_click is None:
        return (yield from try_boxes(run, segmented, [segmented.prompt.box], state.clicks))
    remaining = segmented.mask & ~under_click.mask
    boxes = [segmented.prompt.box, *([mask_to_box(remaining)] if remaining.any() else [])]
    candidates = yield from try_boxes(run, segmented, boxes, state.clicks)
    if remaining.sum() >= _MIN_REMAINING * segmented.mask.sum():
        candidates.append(edit_mask(segmented, remaining, _EDITED_SCORE))
    return candidates


def _cut_disc(segmented: SegmentedObject, click: PointPrompt) -> SegmentedObject:
    """Cut a disc around the click that reaches just beyond the mask's edge: the last resort, which always honours the click."""
    distances = click_distances(click, segmented.mask.shape)
    radius = float(distances[~segmented.mask].min(initial=float(distances.max()))) + _DISC_MARGIN
    return edit_mask(segmented, segmented.mask & (distances > radius), _DENTED_SCORE)


# Boxes and clicks -----------------------------------------------------------------------------------------------------


def _box_distance(box: Box, click: PointPrompt) -> float:
    """Return how far the click is outside the box along x or y, whichever is more; 0 inside."""
    return max(box.x1 - click.x, click.x - box.x2, box.y1 - click.y, click.y - box.y2, 0)


def _enclose(a: Box, b: Box, size: Size) -> Box:
    """Return the smallest box around both, clipped to the image."""
    return Box(min(a.x1, b.x1), min(a.y1, b.y1), max(a.x2, b.x2), max(a.y2, b.y2)).clip(size)
