"""What clicks make of a result: points that a person or an agent set, told apart from the MLLM's own.

A click that the masks already agree with changes nothing. One that they contradict is first asked what it lies on
(`finding.at_click`); then several prompts are tried, the box as it was, grown to take in the click, and around what lies there,
each with the MLLM's points and all clicks, and the mask that most clicks agree with is kept, of equals the better one. SAM
itself takes a click for one point among many and may overrule it; the choice among its masks does not.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from sam4mllm_tool.geometry.boxes import mask_iou, mask_to_box
from sam4mllm_tool.interactive.alternatives import SAME, another, asker, at_click, distances, from_boxes, holds, in_the_middle
from sam4mllm_tool.interactive.references import plural
from sam4mllm_tool.interactive.state import Found, RefineError
from sam4mllm_tool.models.segmenter.mask_choice import agreement
from sam4mllm_tool.pipeline.methods import Method
from sam4mllm_tool.pipeline.requests import Flow, Flows, Transcript
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, SegmentedObject, Size

__all__ = ["check_clicks", "click_on"]

_NEAR = 0.25
"""How far beside a box, in units of its sides, a click may lie and still be about the object in it."""
_PLACE = 2.0
"""Pixels within which two clicks are on one place."""
_SHARED = 0.1
"""Share of a mask that another one may cover by the way."""
_LEFT = 0.2
"""Share of a mask that has to remain for its object to remain."""
_EDITED = 0.9
"""What a mask that was added or cut by hand counts, beside one that the segmenter draws."""
_DENTED = 0.5
"""What one counts that is only dented."""
_RIM = 1.5
"""Pixels by which a dent reaches over the edge."""


def check_clicks(clicks: Sequence[PointPrompt], earlier: Sequence[PointPrompt], size: Size) -> None:
    """Raises RefineError for clicks outside the picture and for those that say yes and no of one place."""
    for click in clicks:
        if not (0 <= click.x <= size.width and 0 <= click.y <= size.height):
            raise RefineError(
                f"the click ({click.x:g}, {click.y:g}) is outside the picture of {size.width} x {size.height} pixels: "
                f"x goes from 0 to {size.width}, y from 0 to {size.height}"
            )
    for number, click in enumerate(clicks):
        for other, before in product((*earlier, *clicks[:number]), (len(earlier),)):
            if click.label != other.label and abs(click.x - other.x) <= _PLACE and abs(click.y - other.y) <= _PLACE:
                told = any(other is one for one in earlier) and before
                cure = (
                    "leave one of them out"
                    if not told
                    else "refine the result from before that click, or give forget_clicks=true to drop all earlier clicks"
                )
                raise RefineError(
                    f"the clicks contradict one another: ({click.x:g}, {click.y:g}) is said to be "
                    f"{'on' if click.label else 'off'} the object and {'earlier ' if told else ''}"
                    f"({other.x:g}, {other.y:g}) {'on' if other.label else 'off'} it: {cure}"
                )


def click_on(
    flows: Flows, found: Found, clicks: Sequence[PointPrompt], talk: Transcript, method: Method = "pqpp", *, add: bool = False
) -> Flow[tuple[Found, list[str]]]:
    """The result as the clicks correct it, and what each was taken for, in words.

    clicks: already checked. method: how another object is asked about. add: a click on another object adds it, where else it
    takes the place of a single one.
    """
    told: list[str] = []
    for click in clicks:
        inside = next((thing for thing in found.objects if holds(thing.mask, click)), None)
        found = replace(found, clicks=(*found.clicks, click))
        if click.label == (inside is not None):
            told.append(f"{_named(click)}: the masks agree with it")
        elif inside is None:
            found, words = yield from _missed(flows, found, click, talk, add)
            told.append(f"{_named(click)}: {words}")
        else:
            found, words = yield from _wrong(flows, found, inside, click, talk, method)
            told.append(f"{_named(click)}: {words}")
    return found, told


def _named(click: PointPrompt) -> str:
    return f"click ({click.x:g}, {click.y:g}) {'on' if click.label else 'off'} the object"


def _missed(flows: Flows, found: Found, click: PointPrompt, talk: Transcript, add: bool) -> Flow[tuple[Found, str]]:
    """After a click on what no mask takes in."""
    size = found.size
    there: SegmentedObject | None = yield from at_click(flows, click, size)
    near = [thing for thing in found.objects if _is_near(thing.prompt.box, click)]
    boxed = any(_distance(thing.prompt.box, click) == 0 for thing in near)
    if near and (there is None or boxed or not all(_beside(there, thing) for thing in near)):
        thing = min(near, key=lambda one: _distance(one.prompt.box, click))
        tried = yield from _grown_to(flows, thing, there, click, found.clicks, size)
        best = _best([*tried, *_joined(thing, there)], found.clicks, thing)
        if best is not None and holds(best.mask, click):
            return _replaced(found, thing, best), "the object takes it in"
    if there is None:
        raise RefineError(f"nothing can be made out at ({click.x:g}, {click.y:g}): click in the middle of the object")
    settled = yield from _with_points(flows, found.expression, there, click, size, talk)
    there = _best([settled, there], [click], there) or there
    if add or len(found.objects) != 1 or plural(found.expression):
        return replace(found, objects=(*found.objects, there)), "another object, added"
    return replace(found.rejecting(found.objects), objects=(there,)), "another object, taken instead"


def _wrong(
    flows: Flows, found: Found, thing: SegmentedObject, click: PointPrompt, talk: Transcript, method: Method
) -> Flow[tuple[Found, str]]:
    """After a click that says that a part of a mask, or all of it, is not the object."""
    size = found.size
    there: SegmentedObject | None = yield from at_click(flows, click, size)
    whole = there is not None and mask_iou(there.mask, thing.mask) > SAME and in_the_middle(thing.mask, click)
    if whole and not _confirmed(found, thing):
        left = found.rejecting([thing])
        if left.objects:
            return left, "that object is left out"
        boxes = yield from another(flows, size, [found.expression], left.rejected, talk)
        objects = yield from asker(method)(flows, found.expression, boxes[:1], size, talk)
        words = "that object is left out, another one taken" if objects else "that object is left out; there is no other"
        return replace(left, objects=tuple(objects)), words
    tried = yield from _shrunk_from(flows, thing, there, found.clicks, size)
    best = _best([*tried, *_cut(thing, there), _dented(thing, click)], found.clicks, thing)
    if best is None:
        return found.rejecting([thing]), "that object is left out: nothing of it remains"
    return _replaced(found, thing, best), "the object leaves it out"


def _confirmed(found: Found, thing: SegmentedObject) -> bool:
    """Whether an earlier click said that the object is meant."""
    return any(click.label == 1 and holds(thing.mask, click) for click in found.clicks)


# Prompts that are tried -------------------------------------------------------------------------------------------------


def _grown_to(
    flows: Flows,
    thing: SegmentedObject,
    there: SegmentedObject | None,
    click: PointPrompt,
    clicks: Sequence[PointPrompt],
    size: Size,
) -> Flow[list[SegmentedObject]]:
    box = thing.prompt.box
    margin = 0.05 * max(box.x2 - box.x1, box.y2 - box.y1)
    around = Box(click.x - margin, click.y - margin, click.x + margin, click.y + margin)
    boxes = [box, _hull(box, around, size)]
    if there is not None:
        boxes += [mask_to_box(there.mask), _hull(box, mask_to_box(there.mask), size)]
    return (yield from _try(flows, thing, boxes, clicks, size))


def _shrunk_from(
    flows: Flows, thing: SegmentedObject, there: SegmentedObject | None, clicks: Sequence[PointPrompt], size: Size
) -> Flow[list[SegmentedObject]]:
    boxes = [thing.prompt.box]
    if there is not None and (thing.mask & ~there.mask).any():
        boxes.append(mask_to_box(thing.mask & ~there.mask))
    return (yield from _try(flows, thing, boxes, clicks, size))


def _try(
    flows: Flows, thing: SegmentedObject, boxes: Sequence[Box], clicks: Sequence[PointPrompt], size: Size
) -> Flow[list[SegmentedObject]]:
    """The masks of each box with the MLLM's points and the clicks in it, with the clicks alone, and all their candidates."""
    prompts: list[ObjectPrompt] = []
    for box in boxes:
        given = tuple(click for click in clicks if _is_near(box, click))
        told = tuple(point for point in thing.prompt.points if not any(_overrules(click, point, box) for click in given))
        prompts += [ObjectPrompt(box, (*told, *given)), ObjectPrompt(box, given)]
    things: list[SegmentedObject] = yield from flows.masks(list(dict.fromkeys(prompts)), size)
    return [one for thing in things for one in _candidates(thing)]


def _candidates(thing: SegmentedObject) -> list[SegmentedObject]:
    return [thing, *(replace(thing, mask=other.mask, score=other.score, alternatives=()) for other in thing.alternatives)]


def _overrules(click: PointPrompt, point: PointPrompt, box: Box) -> bool:
    """A click says more than the MLLM's points do in the tenth of the box around it."""
    wide, high = 0.1 * (box.x2 - box.x1), 0.1 * (box.y2 - box.y1)
    return click.label != point.label and abs(click.x - point.x) <= wide and abs(click.y - point.y) <= high


def _with_points(
    flows: Flows, expression: str, there: SegmentedObject, click: PointPrompt, size: Size, talk: Transcript
) -> Flow[SegmentedObject]:
    """What lies there once more, with the MLLM's points."""
    (told,) = yield from from_boxes(flows, expression, [mask_to_box(there.mask)], size, talk)
    (thing,) = yield from flows.masks([ObjectPrompt(mask_to_box(there.mask), (*told.prompt.points, click))], size)
    return thing


def _joined(thing: SegmentedObject, there: SegmentedObject | None) -> list[SegmentedObject]:
    if there is None:
        return []
    return [replace(thing, mask=thing.mask | there.mask, score=_EDITED * thing.score)]


def _cut(thing: SegmentedObject, there: SegmentedObject | None) -> list[SegmentedObject]:
    if there is None:
        return []
    left = thing.mask & ~there.mask
    return [replace(thing, mask=left, score=_EDITED * thing.score)] if left.sum() >= _LEFT * thing.mask.sum() else []


def _dented(thing: SegmentedObject, click: PointPrompt) -> SegmentedObject:
    """Less a disc around the click that reaches a little over the mask's edge: what is left when no other mask will do."""
    off = distances(click, thing.mask.shape)
    reach = float(off[~thing.mask].min(initial=float(off.max()))) + _RIM
    return replace(thing, mask=thing.mask & (off > reach), score=_DENTED * thing.score)


# Choosing ---------------------------------------------------------------------------------------------------------------


def _best(things: Sequence[SegmentedObject], clicks: Sequence[PointPrompt], before: SegmentedObject) -> SegmentedObject | None:
    """The one that most of the clicks on this object agree with; of equals the one that its points and its score speak for.

    clicks: that an object should take in those on another one is not held against it: only what is near counts.
    """
    about = [click for click in clicks if any(_is_near(thing.prompt.box, click) for thing in (before, *things))]

    def merit(thing: SegmentedObject) -> tuple[int, float]:
        agreed = sum(holds(thing.mask, click) == bool(click.label) for click in about)
        told = agreement(thing.mask, before.prompt.points)
        return agreed, thing.score * (1.0 if told is None else told) * (1 + mask_iou(thing.mask, before.mask))

    best = max((thing for thing in things if thing.mask.any()), key=merit, default=None)
    return best and replace(best, alternatives=())


def _replaced(found: Found, old: SegmentedObject, new: SegmentedObject) -> Found:
    return replace(found, objects=tuple(new if thing is old else thing for thing in found.objects))


def _is_near(box: Box, click: PointPrompt) -> bool:
    wide, high = _NEAR * (box.x2 - box.x1), _NEAR * (box.y2 - box.y1)
    return box.x1 - wide <= click.x <= box.x2 + wide and box.y1 - high <= click.y <= box.y2 + high


def _beside(there: SegmentedObject, thing: SegmentedObject) -> bool:
    """Whether it is another object than this one: it has no pixel in common with it to speak of, and is not in its box."""
    box, area = thing.prompt.box, max(1, int(there.mask.sum()))
    boxed = there.mask[int(box.y1) : math.ceil(box.y2), int(box.x1) : math.ceil(box.x2)]
    return int((there.mask & thing.mask).sum()) < _SHARED * area and int(boxed.sum()) < SAME * area


def _distance(box: Box, click: PointPrompt) -> float:
    dx, dy = max(box.x1 - click.x, click.x - box.x2, 0), max(box.y1 - click.y, click.y - box.y2, 0)
    return max(dx, dy)


def _hull(a: Box, b: Box, size: Size) -> Box:
    x1, y1, x2, y2 = min(a.x1, b.x1), min(a.y1, b.y1), max(a.x2, b.x2), max(a.y2, b.y2)
    return Box(max(0.0, x1), max(0.0, y1), min(float(size.width), x2), min(float(size.height), y2))
