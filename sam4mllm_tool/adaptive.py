"""The method `adaptive`: ask where an answer decides something, and whether the box is the right one at all.

The paper asks where a fixed grid falls, about a box that it takes for granted. Here
1. the MLLM names boxes, and the segmenter proposes masks for each from the box alone;
2. in one round the MLLM is asked about few points, where these masks say that an answer can be relied on (stable.py), and
   whether what is in each box is what was meant (protocol/checked.py), which, calibrated, is the object's confidence;
3. box and answers prompt the segmenter again; of candidates about as good as one another the most typical is taken, unless
   the box alone does clearly better by our own measure, and a mask that outgrows a rough box is tried as a box itself;
4. where a box is doubted, and where several were named, the MLLM is asked for others, which go through the same; the more
   likely ones stay.
It stops after the second step where nothing is in doubt.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from sam4mllm_tool import stable
from sam4mllm_tool.boxes import box_iou
from sam4mllm_tool.flows import Flow, Flows, Talk
from sam4mllm_tool.protocol import PQPP, BoxOnly, Checked, Dialogue, Placed
from sam4mllm_tool.types import Reply, SegmentedObject, Size

__all__ = ["adaptively"]

_DOUBT = 0.7
"""Confidence below which a box is doubted."""
_BELIEVED = 0.8
"""Confidence that one among several needs to be added to them."""
_DENIED = 0.4
"""Confidence below which one among several is dropped."""
_SAME = 0.5
"""IoU of two boxes that are one object's."""


def adaptively(flows: Flows, expression: str, size: Size, talk: Talk) -> Flow[tuple[str, list[SegmentedObject], float | None]]:
    """The expression as it was asked, its objects, and how likely the whole answer is right."""
    named = yield from flows.settle(BoxOnly.start(expression, size, dialect=flows.dialect), talk)
    expression, boxes = named.expression, [prompt.box for prompt in named.prompts]
    if not boxes:
        likely = named.history[0].reply.log_probability
        return expression, [], None if likely is None else flows.calibration.none(math.exp(likely))
    found = yield from _look(flows, named, size, talk)
    if len(found) > 1 or _confidence(found) < _DOUBT:
        told = yield from flows.others(expression, boxes, size, talk)
        new = [box for box in told or () if all(box_iou(box, known) < _SAME for known in boxes)]
        again = BoxOnly.start(expression, size, dialect=flows.dialect)
        answered = again.answer([Reply(flows.dialect.tell_boxes(new, size))])
        found = _between(found, (yield from _look(flows, answered, size, talk)) if new else [])
    known = [thing.confidence for thing in found if thing.confidence is not None]
    return expression, found, min(known, default=None)


def _look(flows: Flows, named: Dialogue, size: Size, talk: Talk) -> Flow[list[SegmentedObject]]:
    """An object for each box that the answered first round names, with its confidence: steps 1 to 3."""
    alone = yield from flows.masks(named.prompts, size)
    places = ((prompt.box, stable.points_for(thing)) for prompt, thing in zip(named.prompts, alone, strict=True))
    start = PQPP.start(
        named.expression, size, dialect=flows.dialect, sampler=Placed(tuple(places)), thresholds=flows.thresholds
    )
    checked = yield from flows.settle(Checked(start.answer([named.history[0].reply])), talk)
    pointed = yield from flows.masks(checked.prompts, size)
    found = [stable.better(stable.middle(thing), bare) for thing, bare in zip(pointed, alone, strict=True)]
    again = {n: prompt for n, thing in enumerate(found) if (prompt := stable.reboxed(thing)) is not None}
    redone = yield from flows.masks(list(again.values()), size)
    for number, thing in zip(again, redone, strict=True):
        found[number] = stable.better(found[number], thing)
    meant = checked.meant if isinstance(checked, Checked) and checked.meant else [None] * len(found)
    return [
        thing if p is None else replace(thing, confidence=flows.calibration.objects(p))
        for thing, p in zip(found, meant, strict=True)
    ]


def _between(found: list[SegmentedObject], more: list[SegmentedObject]) -> list[SegmentedObject]:
    """Of one object, or of several, and of what else may be meant, those that are likelier to be."""
    if len(found) == 1:
        return [max((*found, *more), key=lambda thing: _confidence([thing]))]
    kept = [thing for thing in found if _confidence([thing]) >= _DENIED]
    return [*(kept or found), *(thing for thing in more if _confidence([thing]) > _BELIEVED and thing.confidence is not None)]


def _confidence(found: Sequence[SegmentedObject]) -> float:
    """Of the least likely one; what nobody knows is believed."""
    return min(1.0 if thing.confidence is None else thing.confidence for thing in found)
