"""How a picture is looked at, and looked at again: the steps of the agent `reasoning`, without LangChain.

A step is a generator: it yields a picture (the whole one, a part, the one with the answer drawn on it) with a flow about it
(flows.py), is sent what the flow came to, and ends with the attempts so far. Boxes come from the MLLM's words, from a part of
the picture or from the question for another; each is then asked about in one round on the whole picture: few points where an
answer can be relied on (stable.py), and whether it is what the expression means. Whatever the budget doesn't allow is left out.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np

from sam4mllm_tool import stable
from sam4mllm_tool.attempts import Attempt, Looking, stand
from sam4mllm_tool.boxes import box_iou
from sam4mllm_tool.budget import Meter, OverBudgetError
from sam4mllm_tool.drawing import overlay
from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.flows import Flow, Flows, Talk
from sam4mllm_tool.pipeline import Sam4Mllm
from sam4mllm_tool.protocol import PQPP, BoxOnly, Checked, Placed, turns
from sam4mllm_tool.types import Box, Image, ObjectPrompt, Reply, Segmentation, SegmentedObject, Size, Usage
from sam4mllm_tool.views import View, quadrants, view_around

__all__ = ["Looker", "Step", "alook_through", "look_through"]

T = TypeVar("T")
Step: TypeAlias = Generator[tuple[Image, Flow[Any]], Any, T]

_CONTEXT = 0.3
"""Of the part that is looked into once more, how much a doubtful box takes."""
_CLOSE = (0.25, 0.35, 0.45)
"""Of the parts that masks are made from, how much the box takes in each; the majority of them counts for a pixel."""
_SAME = 0.5
"""IoU from which on two boxes are one, or two masks of one thing."""


def look_through(models: Sam4Mllm, meter: Meter, step: Step[T]) -> T:
    """What a step comes to, within what the meter allows."""
    told: Any = None
    while True:
        try:
            picture, flow = step.send(told)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        told = models.run(picture, meter.metered(flow))


async def alook_through(models: Sam4Mllm, meter: Meter, step: Step[T]) -> T:
    """As `look_through`, without blocking the event loop."""
    told: Any = None
    while True:
        try:
            picture, flow = step.send(told)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        told = await models.arun(picture, meter.metered(flow))


@dataclass(frozen=True)
class Looker:
    """The steps about one expression. Each takes the whole picture and the attempts so far, and gives them with its own."""

    flows: Flows
    expression: str
    settings: Looking

    def look(self, picture: Image, tried: Sequence[Attempt]) -> Step[list[Attempt]]:
        """The dialogue as it is, straight through, and whether its boxes are what is meant."""
        found = yield picture, self._attempt("look", self.expression, _size(picture))
        return [*tried, *found]

    def reword(self, picture: Image, tried: Sequence[Attempt], wordings: Sequence[str]) -> Step[list[Attempt]]:
        """The dialogue in other words, until the answer is sure; what is found is held against the expression itself."""
        told = list(tried)
        for wording in wordings[: self.settings.wordings]:
            found = yield picture, self._attempt("rephrase", wording, _size(picture))
            told = _with_new(told, found)
            if stand(told).surely(self.settings):
                break
        return told

    def other(self, picture: Image, tried: Sequence[Attempt]) -> Step[list[Attempt]]:
        """What the MLLM names when all that was seen so far is left out."""
        boxes, size, talk = _seen(tried), _size(picture), Talk()
        named = yield picture, _within(self.flows.others(self.expression, boxes, size, talk))
        if named is None:
            return list(tried)
        if not named:
            return [*tried, self._nothing("other", self.expression, size, talk)]
        found = yield picture, self._checked("other", self.expression, named, size, talk)
        return _with_new(tried, found)

    def zoom(self, picture: Image, tried: Sequence[Attempt]) -> Step[list[Attempt]]:
        """What is seen in a part: around the likeliest box, asked once more whether it is meant, or, where none was named, in
        each quarter. Nothing is nearer to be seen around a box that takes much of the picture."""
        size, talk, named, told = _size(picture), Talk(), list[Box](), list(tried)
        number = _likeliest(tried)
        known = () if number is None else tried[number].boxes
        for view in _views(known, size):
            inside = [view.prompt_in(ObjectPrompt(box)).box for box in known]
            boxes, sure = (yield view.picture(picture), _within(self._peek(inside, size, talk))) or ((), [])
            if number is not None and len(sure) == len(known):
                told[number] = told[number].checked(sure)
            for box in map(view.box_out, boxes):
                if all(box_iou(box, other) < _SAME for other in (*named, *_seen(tried))):
                    named.append(box)
        if not named:
            return told
        found = yield picture, self._checked("zoom", self.expression, named, size, talk)
        return _with_new(told, found)

    def verify(self, picture: Image, tried: Sequence[Attempt]) -> Step[list[Attempt]]:
        """The MLLM is shown its own answer, drawn on the picture, and asked once more whether that is what was meant."""
        number = _likeliest(tried)
        if number is None:
            return list(tried)
        attempt = tried[number]
        drawn = overlay(picture, Segmentation.from_dict(attempt.result or {}))
        asked = self.flows.whether(self.expression, attempt.boxes, _size(picture), Talk())
        sure = yield drawn, _within(asked)
        likely = _known(sure or ())
        doubted = attempt.checked(likely) if len(likely) == len(attempt.boxes) else attempt
        return [doubted if n == number else one for n, one in enumerate(tried)]

    def closer(self, picture: Image, objects: Sequence[SegmentedObject]) -> Step[list[SegmentedObject]]:
        """The objects with masks made from close by, in several views; one that would be another thing's stays as it was."""
        size, found = _size(picture), list[SegmentedObject]()
        for thing in objects:
            views = [view for share in _CLOSE if (view := view_around(thing.prompt.box, size, share)) is not None]
            masks, scores = [], []
            for view in views:
                near = yield view.picture(picture), _within(self.flows.masks([view.prompt_in(thing.prompt)], size))
                if near:
                    masks.append(view.mask_out(near[0].mask))
                    scores.append(near[0].score)
            found.append(_seen_closer(thing, masks, scores))
        return found

    # Flows about one picture -----------------------------------------------------------------------------------------

    def _attempt(self, step: str, wording: str, size: Size) -> Flow[list[Attempt]]:
        """The dialogue in these words; nothing where the budget doesn't reach to a first reply and its masks."""
        talk = Talk()
        try:
            asked = yield from self.flows.settle(BoxOnly.start(wording, size, dialect=self.flows.dialect), talk)
        except OverBudgetError:
            return []
        except ReplyError as error:
            return [Attempt(step, wording, note=error.reason)]
        if not asked.prompts:
            return [self._nothing(step, wording, size, talk)]
        return (yield from self._checked(step, wording, [prompt.box for prompt in asked.prompts], size, talk))

    def _checked(self, step: str, wording: str, boxes: Sequence[Box], size: Size, talk: Talk) -> Flow[list[Attempt]]:
        """The objects in boxes, with their points and how likely they are what is meant, as far as the budget reaches.

        Whatever words led to the boxes, it is the expression itself that they are asked about. The calibration is for boxes
        that the MLLM names at first sight; those that it names when pressed are less often right.
        """
        flows, dialect = self.flows, self.flows.dialect
        alone = yield from _within(flows.masks([ObjectPrompt(box) for box in boxes], size))
        if alone is None:
            return []
        places = Placed(
            tuple((dialect.snap_box(box, size), stable.points_for(thing, box)) for box, thing in zip(boxes, alone, strict=True))
        )
        start = PQPP.start(self.expression, size, dialect=dialect, sampler=places, thresholds=flows.thresholds)
        checked = Checked(start.answer([Reply(dialect.tell_boxes(boxes, size))]))
        settled = yield from _within(flows.settle(checked, talk))
        if settled is None:
            talk.notes.append("went on without points: the budget doesn't reach")
            meant = (yield from _within(flows.whether(self.expression, boxes, size, talk))) or [None] * len(boxes)
            found = alone
        else:
            meant = list((settled.meant if isinstance(settled, Checked) else None) or [None] * len(boxes))
            pointed = (yield from _within(flows.masks(settled.prompts, size))) or alone
            found = [stable.better(thing, bare) for thing, bare in zip(pointed, alone, strict=True)]
        calibrated = flows.calibration.objects if step == "look" else float
        sure = [None if one is None else calibrated(one) for one in meant]
        objects = [replace(thing, confidence=one) for thing, one in zip(found, sure, strict=True)]
        checks = tuple(() if one is None else (one,) for one in sure)
        return [Attempt(step, wording, self._segmentation(wording, size, objects, talk).to_dict(), checks)]

    def _peek(self, boxes: Sequence[Box], size: Size, talk: Talk) -> Flow[tuple[tuple[Box, ...], list[float]]]:
        """In one round, the boxes that are named, and of each of `boxes` how likely it is what is meant, if that is told."""
        dialect, start = self.flows.dialect, BoxOnly.start(self.expression, size, dialect=self.flows.dialect)
        asked = list(start.pending)
        asked += [one for box in boxes if (one := dialect.ask_whether(start.expression, box, size)) is not None]
        first, *rest = yield from self.flows.ask(asked, talk)
        rows = [reply.label_probabilities for reply in rest]
        likely = _known([None if row is None else row[0][0] for row in rows])
        try:
            return dialect.read_boxes(asked[0], first, size), likely
        except ReplyError as error:
            talk.notes.append(f"went on without a part of the picture: {error.reason}")
            return (), likely

    def _nothing(self, step: str, wording: str, size: Size, talk: Talk) -> Attempt:
        """That there is no such object, as the last reply says."""
        likely = talk.said[-1].reply.log_probability
        none = None if likely is None else self.flows.calibration.none(math.exp(likely))
        return Attempt(step, wording, self._segmentation(wording, size, (), talk).to_dict(), none=none)

    def _segmentation(self, wording: str, size: Size, objects: Sequence[SegmentedObject], talk: Talk) -> Segmentation:
        usage = Usage(self.flows.mllm, self.flows.segmenter, len(talk.said), {}, talk.tokens, talk.rounds)
        return Segmentation(wording, size, tuple(objects), turns(talk.said), usage, tuple(talk.notes))


def _within(flow: Flow[T]) -> Flow[T | None]:
    """None where the budget doesn't reach."""
    try:
        return (yield from flow)
    except OverBudgetError:
        return None


def _known(probabilities: Sequence[float | None]) -> list[float]:
    """Taken as they are: the calibration is for a box that was just named, on the whole picture."""
    return [one for one in probabilities if one is not None]


def _size(picture: Image) -> Size:
    return Size(*picture.size)


def _seen(tried: Sequence[Attempt]) -> list[Box]:
    """All boxes so far, each thing once."""
    boxes: list[Box] = []
    for box in (box for attempt in tried for box in attempt.boxes):
        if all(box_iou(box, known) < _SAME for known in boxes):
            boxes.append(box)
    return boxes


def _with_new(tried: Sequence[Attempt], found: Sequence[Attempt]) -> list[Attempt]:
    """The attempts with those that were found; one that sees what another saw is noted, and counts no more."""
    told = list(tried)
    for attempt in found:
        same = next((n for n, known in enumerate(told) if attempt.boxes and _same(known, attempt)), None)
        told.append(attempt if same is None else Attempt(attempt.step, attempt.expression, note=f"as in attempt {same + 1}"))
    return told


def _same(one: Attempt, other: Attempt) -> bool:
    pairs = zip(one.boxes, other.boxes, strict=False)
    return len(one.boxes) == len(other.boxes) and all(box_iou(a, b) >= _SAME for a, b in pairs)


def _likeliest(tried: Sequence[Attempt]) -> int | None:
    """The attempt with objects that is surest of them."""
    seen = (n for n, attempt in enumerate(tried) if attempt.boxes)
    return max(seen, key=lambda n: tried[n].confidence or 0, default=None)


def _views(boxes: Sequence[Box], size: Size) -> tuple[View, ...]:
    if not boxes:
        return quadrants(size)
    xs1, ys1, xs2, ys2 = zip(*boxes, strict=True)
    view = view_around(Box(min(xs1), min(ys1), max(xs2), max(ys2)), size, _CONTEXT)
    return () if view is None else (view,)


def _seen_closer(thing: SegmentedObject, masks: Sequence[Any], scores: Sequence[float]) -> SegmentedObject:
    if not masks:
        return thing
    mask = np.mean(masks, axis=0) > 0.5
    shared, either = (mask & thing.mask).sum(), (mask | thing.mask).sum()
    if shared < _SAME * either:
        return thing
    return replace(thing, mask=mask, score=float(np.mean(scores)), alternatives=())
