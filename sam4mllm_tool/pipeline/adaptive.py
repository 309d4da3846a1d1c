"""The method `adaptive`: ask where an answer decides something, and whether the box is the right one at all.

The paper asks where a fixed grid falls, about a box that it takes for granted. Here
1. the MLLM names boxes, and the segmenter proposes masks for each from the box alone;
2. in one round the MLLM is asked about few points, where these masks say that an answer can be relied on, and
   whether what is in each box is what was meant (protocol/verified.py), which, calibrated, is the object's confidence; a rough
   box gives way to its mask's own there and from then on;
3. box and answers prompt the segmenter again; of candidates about as good as one another the most typical is taken, unless
   the box alone does clearly better by our own measure, and a mask that outgrows its box is tried as a box itself;
4. where a box is doubted, by what is said of it or because no point in it is on the object, and where several were named, the
   MLLM is asked for others, which go through the same; the more likely ones stay;
5. their masks are made anew from close by (crop_refinement.py).
It passes over the fourth step where nothing is in doubt, and asks about no more points than its budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sam4mllm_tool.geometry.boxes import distinct_boxes, format_box, mask_iou
from sam4mllm_tool.pipeline import point_selection
from sam4mllm_tool.pipeline.crop_refinement import refine_crops
from sam4mllm_tool.pipeline.requests import Flow, Flows, Transcript
from sam4mllm_tool.protocol import PQPP, BoxOnly, Exchange, Placed, Verified
from sam4mllm_tool.protocol.dialect import MAX_OBJECTS
from sam4mllm_tool.types import Box, ObjectPrompt, Point, Reply, SegmentedObject, Size

__all__ = ["Answer", "min_confidence", "run_adaptive", "segment_boxes"]

_DOUBT = 0.7
"""Confidence below which a box is doubted."""
_BELIEVED = 0.8
"""Confidence that one among several needs to be added to them."""
_DENIED = 0.4
"""Confidence below which one among several is dropped."""
_SAME = 0.5
"""IoU of two boxes that are one object's."""
_TWICE = 0.8
"""IoU of two masks that are one object's."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """An object and what was said of it. meant: calibrated, None where nobody said how likely; denied: said without saying
    how likely."""

    thing: SegmentedObject
    meant: float | None
    denied: bool

    @property
    def likely(self) -> float:
        """What nobody was asked is believed."""
        return 0.0 if self.denied else 1.0 if self.meant is None else self.meant

    @property
    def told(self) -> SegmentedObject:
        """With how likely it is as its confidence; where nobody said, how far mask and answers agree."""
        return replace(self.thing, confidence=point_selection.point_agreement(self.thing) if self.meant is None else self.meant)

    @property
    def is_doubted(self) -> bool:
        points = self.thing.prompt.points
        return self.likely < _DOUBT or (bool(points) and not any(point.label for point in points))


@dataclass(frozen=True, eq=False)
class Answer:
    """expression: as it was asked. confidence: how likely all of it is right, that of the least likely object or that there is
    none; None where nobody said."""

    expression: str
    objects: Sequence[SegmentedObject]
    confidence: float | None


def run_adaptive(flows: Flows, expression: str, size: Size, talk: Transcript) -> Flow[Answer]:
    """What the expression means."""
    named = yield from flows.settle(BoxOnly.start(expression, size, dialect=flows.dialect), talk)
    boxes = [prompt.box for prompt in named.prompts]
    told = named.history[0]
    if not boxes:
        return Answer(named.expression, (), flows.sure_of_none(told.reply))
    found = yield from _look(flows, named.expression, boxes, told, size, talk)
    if len(found) > 1 or found[0].is_doubted:
        boxes = [seen.thing.prompt.box for seen in found]  # those told, or the better ones
        others = yield from flows.others(named.expression, boxes, size, talk)
        new = distinct_boxes(others or (), boxes, _SAME)[: MAX_OBJECTS - len(boxes)]
        more = (yield from _look(flows, named.expression, new, talk.said[-1], size, talk)) if new else []
        found = _between(found, more, talk)
    objects = yield from _finished(flows, found, size, talk)
    return Answer(named.expression, objects, min_confidence(objects))


def min_confidence(objects: Sequence[SegmentedObject]) -> float | None:
    """The confidence of the least likely one."""
    return min((thing.confidence for thing in objects if thing.confidence is not None), default=None)


def segment_boxes(
    flows: Flows, expression: str, boxes: Sequence[Box], size: Size, talk: Transcript
) -> Flow[list[SegmentedObject]]:
    """The objects in boxes that are known, as if the MLLM had just named them: all but step 4."""
    if not boxes:
        return []
    start = BoxOnly.start(expression, size, dialect=flows.dialect)
    told = Exchange(start.pending[0], Reply(flows.dialect.tell_boxes(boxes, size)))
    found = yield from _look(flows, start.expression, boxes, told, size, talk)
    return (yield from _finished(flows, found, size, talk))


def _finished(flows: Flows, found: Sequence[_Seen], size: Size, talk: Transcript) -> Flow[list[SegmentedObject]]:
    """As they are told: each once, with masks made from close by, if that is wanted."""
    found = _once(found, talk)
    if flows.closer:
        near = yield from refine_crops(flows, [seen.thing for seen in found], size, talk)
        found = [replace(seen, thing=thing) for seen, thing in zip(found, near, strict=True)]
    return [seen.told for seen in found]


def _once(found: Sequence[_Seen], talk: Transcript) -> list[_Seen]:
    """Without those whose masks are all but one that is likelier, or as likely and named before."""
    kept: list[_Seen] = []
    for seen in sorted(found, key=lambda seen: -seen.likely):
        if any(mask_iou(seen.thing.mask, other.thing.mask) >= _TWICE for other in kept if other.thing.mask.any()):
            talk.notes.append(f"left out the object at {_place(seen)}, which was named twice")
        else:
            kept.append(seen)
    return [seen for seen in found if seen in kept]


def _look(
    flows: Flows, expression: str, boxes: Sequence[Box], told: Exchange, size: Size, talk: Transcript
) -> Flow[list[_Seen]]:
    """An object for each box, as it was told, with what is said of it: steps 1 to 3."""
    start = PQPP.start(expression, size, dialect=flows.dialect, thresholds=flows.thresholds)
    alone = yield from flows.masks([ObjectPrompt(box) for box in boxes], size)
    asking = replace(start, boxes=tuple(boxes), history=(told,), sampler=Placed(_places(boxes, alone, flows.budget, talk)))
    better = tuple(_better_box(flows, thing, size) for thing in alone)
    checked = yield from flows.settle(Verified(asking, better=better), talk)
    pointed = yield from flows.masks(checked.prompts, size)
    found = [
        point_selection.pick_better(point_selection.select_medoid(thing), bare)
        for thing, bare in zip(pointed, alone, strict=True)
    ]
    asked = [(n, thing) for n, thing in enumerate(found) if thing.prompt.points]  # else nothing tells which is better
    again = {n: prompt for n, thing in asked if (prompt := point_selection.tighten_box(thing)) is not None}
    redone = yield from flows.masks(list(again.values()), size)
    for number, thing in zip(again, redone, strict=True):
        found[number] = point_selection.pick_better(found[number], thing)
    said = (checked.opinions if isinstance(checked, Verified) else None) or (None,) * len(found)
    return [_seen(flows, thing, opinion) for thing, opinion in zip(found, said, strict=True)]


def _better_box(flows: Flows, thing: SegmentedObject, size: Size) -> Box:
    """The box told, or, where that is a rough one, its mask's own as the dialect can tell it."""
    told, prompt = thing.prompt.box, point_selection.tighten_box(thing)
    if prompt is None:
        return told
    own = flows.dialect.snap_box(prompt.box, size)
    return own if own.iou(prompt.box) > told.iou(prompt.box) else told


def _places(
    boxes: Sequence[Box], alone: Sequence[SegmentedObject], budget: int, talk: Transcript
) -> tuple[tuple[Box, tuple[Point, ...]], ...]:
    """Where to ask about each object, the first ones first, while the budget lasts."""
    places = []
    for box, thing in zip(boxes, alone, strict=True):
        points = point_selection.select_points(thing)[: budget - talk.points]
        talk.points += len(points)
        places.append((box, points))
    if not places[-1][1]:
        talk.notes.append(f"asked about no more than {budget} points; objects beyond have their box alone")
    return tuple(places)


def _seen(flows: Flows, thing: SegmentedObject, opinion: tuple[int, float | None] | None) -> _Seen:
    if opinion is None:
        return _Seen(thing, None, False)
    label, confidence = opinion
    if confidence is None:
        return _Seen(thing, None, label == 0)
    return _Seen(thing, flows.calibration.objects(confidence if label else 1 - confidence), False)


def _between(found: list[_Seen], more: list[_Seen], talk: Transcript) -> list[_Seen]:
    """Of one object, or of several, and of what else may be meant, those that are likelier to be."""
    if len(found) == 1:
        best = max((*found, *more), key=lambda seen: seen.likely)
        if best is not found[0]:
            talk.notes.append(f"took another object than the one at {_place(found[0])}, which was doubted")
        return [best]
    kept = [seen for seen in found if seen.likely >= _DENIED] or found
    talk.notes += [f"left out the object at {_place(seen)}, which is not what was meant" for seen in found if seen not in kept]
    added = [seen for seen in more if seen.meant is not None and seen.meant > _BELIEVED]
    talk.notes += [f"added the object at {_place(seen)}, which had been forgotten" for seen in added]
    return [*kept, *added]


def _place(seen: _Seen) -> str:
    return format_box(seen.thing.prompt.box)
