"""How a picture is looked at, and looked at again: the steps of the agent `reasoning`, without LangChain.

A step is a flow (flows.py) that ends with the attempts so far. Boxes come from the MLLM's words, from a part of the picture or
from the question for another; each is then asked about in one round on the whole picture: few points where an answer can be
relied on (point_selection.py), and whether it is what the expression means. Whatever the budget doesn't allow is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from sam4mllm_tool.errors import OverBudgetError, ReplyError
from sam4mllm_tool.geometry.boxes import distinct_boxes
from sam4mllm_tool.geometry.crops import Crop, crop_around, quadrants
from sam4mllm_tool.images.draw import overlay
from sam4mllm_tool.pipeline import point_selection
from sam4mllm_tool.pipeline.requests import Flow, Flows, Transcript, on_crop, yes_probability
from sam4mllm_tool.protocol import PQPP, BoxOnly, Placed, Verified
from sam4mllm_tool.reasoning.attempts import Attempt, Looking, stand
from sam4mllm_tool.types import Box, Image, ObjectPrompt, Reply, Segmentation, Size

__all__ = ["Looker"]

T = TypeVar("T")

_CONTEXT = 0.3
"""Of the part that is looked into once more, how much a doubtful box takes."""
_SAME = 0.5
"""IoU from which on two boxes are one, or two masks of one thing."""


@dataclass(frozen=True)
class Looker:
    """The steps about one expression and a picture of `size`. Each takes the attempts so far, and gives them with its own."""

    flows: Flows
    expression: str
    size: Size
    settings: Looking

    def look(self, tried: Sequence[Attempt]) -> Flow[list[Attempt]]:
        """The dialogue as it is, straight through, and whether its boxes are what is meant."""
        found = yield from self._attempt("look", self.expression)
        return [*tried, *found]

    def reword(self, tried: Sequence[Attempt], wordings: Sequence[str]) -> Flow[list[Attempt]]:
        """The dialogue in other words, until the answer is sure; what is found is held against the expression itself."""
        told = list(tried)
        for wording in wordings[: self.settings.wordings]:
            found = yield from self._attempt("rephrase", wording)
            told = _with_new(told, found)
            if stand(told).surely(self.settings):
                break
        return told

    def other(self, tried: Sequence[Attempt]) -> Flow[list[Attempt]]:
        """What the MLLM names when all that was seen so far is left out."""
        talk = Transcript()
        named = yield from _within(self.flows.others(self.expression, _seen(tried), self.size, talk))
        if named is None:
            return list(tried)
        if not named:
            return [*tried, self._nothing("other", self.expression, talk)]
        found = yield from self._checked("other", self.expression, named, talk)
        return _with_new(tried, found)

    def zoom(self, tried: Sequence[Attempt]) -> Flow[list[Attempt]]:
        """What is seen in a part: around the likeliest box, asked once more whether it is meant, or, where none was named, in
        each quarter. Nothing is nearer to be seen around a box that takes much of the picture."""
        talk, named, told = Transcript(), list[Box](), list(tried)
        number = _likeliest(tried)
        known = () if number is None else tried[number].boxes
        for view in _views(known, self.size):
            inside = [view.prompt_in(ObjectPrompt(box)).box for box in known]
            boxes, sure = (yield from _within(on_crop(view, self._peek(inside, talk)))) or ((), [])
            if number is not None and len(sure) == len(known):
                told[number] = told[number].checked(sure)
            named += distinct_boxes(map(view.box_out, boxes), (*named, *_seen(tried)), _SAME)
        if not named:
            return told
        found = yield from self._checked("zoom", self.expression, named, talk)
        return _with_new(told, found)

    def verify(self, tried: Sequence[Attempt]) -> Flow[list[Attempt]]:
        """The MLLM is shown its own answer, drawn on the picture, and asked once more whether that is what was meant."""
        number = _likeliest(tried)
        if number is None:
            return list(tried)
        attempt = tried[number]
        drawn = _Drawn(Segmentation.from_dict(attempt.result or {}))
        asked = self.flows.whether(self.expression, attempt.boxes, self.size, Transcript())
        likely = _known((yield from _within(on_crop(drawn, asked))) or ())
        doubted = attempt.checked(likely) if len(likely) == len(attempt.boxes) else attempt
        return [doubted if n == number else one for n, one in enumerate(tried)]

    # What they are made of ---------------------------------------------------------------------------------------------

    def _attempt(self, step: str, wording: str) -> Flow[list[Attempt]]:
        """The dialogue in these words; nothing where the budget doesn't reach to a first reply and its masks."""
        talk = Transcript()
        try:
            asked = yield from self.flows.settle(BoxOnly.start(wording, self.size, dialect=self.flows.dialect), talk)
        except OverBudgetError:
            return []
        except ReplyError as error:
            return [Attempt(step, wording, note=error.reason)]
        if not asked.prompts:
            return [self._nothing(step, wording, talk)]
        return (yield from self._checked(step, wording, [prompt.box for prompt in asked.prompts], talk))

    def _checked(self, step: str, wording: str, boxes: Sequence[Box], talk: Transcript) -> Flow[list[Attempt]]:
        """The objects in boxes, with their points and how likely they are what is meant, as far as the budget reaches.

        Whatever words led to the boxes, it is the expression itself that they are asked about. The calibration is for boxes
        that the MLLM names at first sight; those that it names when pressed are less often right.
        """
        flows, dialect, size = self.flows, self.flows.dialect, self.size
        alone = yield from _within(flows.masks([ObjectPrompt(box) for box in boxes], size))
        if alone is None:
            return []
        places = Placed(
            tuple(
                (dialect.snap_box(box, size), point_selection.select_points(thing))
                for box, thing in zip(boxes, alone, strict=True)
            )
        )
        start = PQPP.start(self.expression, size, dialect=dialect, sampler=places, thresholds=flows.thresholds)
        checked = Verified(start.answer([Reply(dialect.tell_boxes(boxes, size))]))
        settled = yield from _within(flows.settle(checked, talk))
        if settled is None:
            talk.notes.append("went on without points: the budget doesn't reach")
            meant = (yield from _within(flows.whether(self.expression, boxes, size, talk))) or [None] * len(boxes)
            found = alone
        else:
            meant = list((settled.meant if isinstance(settled, Verified) else None) or [None] * len(boxes))
            pointed = (yield from _within(flows.masks(settled.prompts, size))) or alone
            found = [point_selection.pick_better(thing, bare) for thing, bare in zip(pointed, alone, strict=True)]
        calibrated = flows.calibration.objects if step == "look" else float
        sure = [None if one is None else calibrated(one) for one in meant]
        objects = [replace(thing, confidence=one) for thing, one in zip(found, sure, strict=True)]
        checks = tuple(() if one is None else (one,) for one in sure)
        return [Attempt(step, wording, flows.told(wording, size, objects, talk).to_dict(), checks)]

    def _peek(self, boxes: Sequence[Box], talk: Transcript) -> Flow[tuple[tuple[Box, ...], list[float]]]:
        """In one round, the boxes that are named, and of each of `boxes` how likely it is what is meant, if that is told."""
        dialect, size = self.flows.dialect, self.size
        start = BoxOnly.start(self.expression, size, dialect=dialect)
        asked = list(start.pending)
        asked += [one for box in boxes if (one := dialect.ask_whether(start.expression, box, size)) is not None]
        first, *rest = yield from self.flows.ask(asked, talk)
        likely = _known(list(map(yes_probability, rest)))
        try:
            return dialect.read_boxes(asked[0], first, size), likely
        except ReplyError as error:
            talk.notes.append(f"went on without a part of the picture: {error.reason}")
            return (), likely

    def _nothing(self, step: str, wording: str, talk: Transcript) -> Attempt:
        """That there is no such object, as the last reply says."""
        none = self.flows.sure_of_none(talk.said[-1].reply)
        return Attempt(step, wording, self.flows.told(wording, self.size, (), talk).to_dict(), none=none)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A picture with a result drawn on it."""

    result: Segmentation

    @property
    def words(self) -> str:
        return "the picture with the answer drawn on it"

    def picture(self, image: Image) -> Image:
        return overlay(image, self.result)


def _within(flow: Flow[T]) -> Flow[T | None]:
    """None where the budget doesn't reach."""
    try:
        return (yield from flow)
    except OverBudgetError:
        return None


def _known(probabilities: Sequence[float | None]) -> list[float]:
    """Taken as they are: the calibration is for a box that was just named, on the whole picture."""
    return [one for one in probabilities if one is not None]


def _seen(tried: Sequence[Attempt]) -> list[Box]:
    """All boxes so far, each thing once."""
    return distinct_boxes((box for attempt in tried for box in attempt.boxes), (), _SAME)


def _with_new(tried: Sequence[Attempt], found: Sequence[Attempt]) -> list[Attempt]:
    """The attempts with those that were found; one that sees what another saw is noted, and counts no more."""
    told = list(tried)
    for attempt in found:
        same = next((n for n, known in enumerate(told) if attempt.boxes and _same(known, attempt)), None)
        told.append(attempt if same is None else Attempt(attempt.step, attempt.expression, note=f"as in attempt {same + 1}"))
    return told


def _same(one: Attempt, other: Attempt) -> bool:
    pairs = zip(one.boxes, other.boxes, strict=False)
    return len(one.boxes) == len(other.boxes) and all(a.iou(b) >= _SAME for a, b in pairs)


def _likeliest(tried: Sequence[Attempt]) -> int | None:
    """The attempt with objects that is surest of them."""
    on_crop = (n for n, attempt in enumerate(tried) if attempt.boxes)
    return max(on_crop, key=lambda n: tried[n].confidence or 0, default=None)


def _views(boxes: Sequence[Box], size: Size) -> tuple[Crop, ...]:
    if not boxes:
        return quadrants(size)
    xs1, ys1, xs2, ys2 = zip(*boxes, strict=True)
    view = crop_around(Box(min(xs1), min(ys1), max(xs2), max(ys2)), size, _CONTEXT)
    return () if view is None else (view,)
