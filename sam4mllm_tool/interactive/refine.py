"""One refinement of a result, by an instruction in words, by clicks, or by both: the result before goes in, the next comes out.

Nothing is changed in place: where a refinement can't be made it says why (`RefineError`) and the result before stands.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from sam4mllm_tool.geometry.boxes import format_box, mask_iou
from sam4mllm_tool.interactive.alternatives import ALIKE, OTHER_SIZE, SAME, another, asker, offers
from sam4mllm_tool.interactive.clicks import check_clicks, click_on
from sam4mllm_tool.interactive.instructions import Instruction, read_instruction
from sam4mllm_tool.interactive.references import combine, many_of, plural
from sam4mllm_tool.interactive.state import Found, RefineError
from sam4mllm_tool.pipeline.methods import Method, Methods
from sam4mllm_tool.pipeline.requests import Flow, Flows, Transcript
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, Segmentation, SegmentedObject

__all__ = ["Refined", "refine"]

_INSIDE = 0.5
"""Share of a mask that has to lie in an object for it to be a part of that object."""
_LEFT = 0.1
"""Share of a mask that has to remain for its object to remain."""
_LARGER = 1.25
"""How much a box is made larger, or smaller, where no candidate mask is."""


@dataclass(frozen=True, eq=False)
class Refined:
    """found: the result now. understood: how each instruction and click was taken, in words. talk: what was asked for it."""

    found: Found
    understood: tuple[str, ...]
    talk: Transcript

    def segmentation(self, flows: Flows) -> Segmentation:
        """As a first answer is told; its turns and usage are those of this refinement."""
        return flows.told(self.found.expression, self.found.size, self.found.objects, self.talk)


def refine(
    flows: Methods,
    found: Found,
    talk: Transcript,
    *,
    instruction: str | None = None,
    clicks: Sequence[PointPrompt] = (),
    forget_clicks: bool = False,
    method: Method = "pqpp",
) -> Flow[Refined]:
    """The result after an instruction, then after clicks; a flow about the picture that the result is about.

    talk: what is asked for it is said there, and whoever drives the flow counts seconds there. forget_clicks: earlier clicks no
    longer count. method: how what a new description means is found. Raises RefineError,
    ExpressionError, ReplyError, BackendError.
    """
    if instruction is None and not clicks:
        raise RefineError("nothing to refine by: give an instruction, such as 'the other one', or clicks, or both")
    earlier = () if forget_clicks else found.clicks
    check_clicks(clicks, earlier, found.size)
    work = _Work(flows, method, add=False, talk=talk)
    found, understood = replace(found, clicks=earlier), list[str]()
    if instruction is not None:
        read = read_instruction(instruction)
        found = replace(found, instructions=(*found.instructions, instruction))
        work.add = bool(clicks) and read.action in ("also", "also_other")
        if not work.add:
            found, words = yield from _ACTIONS[read.action](work, found, read)
            understood.append(words)
    if clicks:
        found, told = yield from click_on(flows, found, clicks, work.talk, method, add=work.add)
        understood += told
    return Refined(found, tuple(understood), work.talk)


@dataclass
class _Work:
    """What the actions share. add: whether clicks add objects."""

    flows: Methods
    method: Method
    add: bool
    talk: Transcript

    def find(self, expression: str, found: Found) -> Flow[tuple[SegmentedObject, ...]]:
        """The objects that the expression means."""
        told = yield from self.flows.segment(expression, found.size, self.method, self.talk)
        return told.objects

    def others(self, found: Found, rejected: Sequence[ObjectPrompt]) -> Flow[tuple[Box, ...]]:
        expressions = list(dict.fromkeys((found.expression, many_of(found.expression))))
        return (yield from another(self.flows, found.size, expressions, rejected, self.talk))

    def objects(self, boxes: Sequence[Box], found: Found) -> Flow[list[SegmentedObject]]:
        """Those in boxes that are known."""
        return (yield from asker(self.method)(self.flows, found.expression, boxes, found.size, self.talk))


_Next: TypeAlias = Flow[tuple[Found, str]]


def _other(work: _Work, found: Found, _read: Instruction) -> _Next:
    """The one that was not meant is left out, another one that fits the words is looked for."""
    left = found.rejecting(found.objects)
    boxes = yield from work.others(left, left.rejected)
    if not boxes:
        raise RefineError(
            f"no other {_quoted(found.expression)} can be found; the result stays. Left out so far: {_boxes(left.rejected)}. "
            "Describe the object in other words, or click on it"
        )
    several = plural(found.expression)
    if len(boxes) > 1 and not several:
        boxes = yield from _likeliest_first(work, found, boxes)
    objects = yield from work.objects(boxes if several else boxes[:1], found)
    words = f"another {_quoted(found.expression)} than {_boxes(left.rejected)}"
    if len(boxes) > 1 and not several:
        words += f"; it could also be {_listed(boxes[1:])}: ask for the other one again"
    return replace(left, objects=tuple(objects), clicks=()), words


def _likeliest_first(work: _Work, found: Found, boxes: tuple[Box, ...]) -> Flow[tuple[Box, ...]]:
    sure = yield from work.flows.whether(found.expression, boxes, found.size, work.talk)
    order = sorted(range(len(boxes)), key=lambda index: -(sure[index] or 0.0))
    return tuple(boxes[index] for index in order)


def _also_other(work: _Work, found: Found, _read: Instruction) -> _Next:
    """All that the words fit, what was found staying."""
    boxes = yield from work.others(found, [*found.rejected, *(thing.prompt for thing in found.objects)])
    if not boxes:
        raise RefineError(f"no further {_quoted(found.expression)} can be found; the result stays. Describe it, or click on it")
    objects = yield from work.objects(boxes, found)
    return _with(found, objects, found.expression), f"the other {_quoted(found.expression)} as well"


def _also(work: _Work, found: Found, read: Instruction) -> _Next:
    expression, objects = yield from _described(work, found, read.what)
    fresh = [thing for thing in objects if all(mask_iou(thing.mask, other.mask) < SAME for other in found.objects)]
    if not fresh:
        raise RefineError(
            f"{_quoted(expression)} is what the result holds already; it stays. Describe the one to add, or click on it"
        )
    return _with(found, fresh, f"{found.expression} and {expression}"), f"{_quoted(expression)} as well"


def _with(found: Found, objects: Sequence[SegmentedObject], expression: str) -> Found:
    return replace(found, objects=(*found.objects, *objects), expression=expression)


def _without(work: _Work, found: Found, read: Instruction) -> _Next:
    """Objects, or parts of them, are taken out."""
    if not found.objects:
        raise RefineError("there is nothing to take out of: the result holds no object")
    expression = combine(read.what, found.expression)
    tried = dict.fromkeys((expression, read.what, f"{read.what} of {found.expression}"))
    for text in tried:
        objects = yield from work.find(text, found)
        named = text in (expression, read.what)  # with "of" in it, a whole object is an answer about the wrong thing
        if named and len(found.objects) > 1 and (meant := _among(found.objects, objects)):
            return found.rejecting(meant), f"without {_quoted(text)}"
        parts = [thing for thing in objects if any(_is_part(thing, whole) for whole in found.objects)]
        if parts:
            return _less(found, parts), f"without {_quoted(text)}"
    if len(found.objects) == 1 and _among(found.objects, objects := (yield from work.find(expression, found))):
        return (yield from _other(work, found, read))
    raise RefineError(
        f"no {_quoted(read.what)} can be found in the result, which stays: click on what is not meant, with label 0"
    )


def _among(things: Sequence[SegmentedObject], objects: Sequence[SegmentedObject]) -> list[SegmentedObject]:
    return [thing for thing in things if any(mask_iou(thing.mask, other.mask) >= SAME for other in objects)]


def _is_part(part: SegmentedObject, whole: SegmentedObject) -> bool:
    """Whether it lies in the object and leaves something of it."""
    area = int(part.mask.sum())
    shared = int((part.mask & whole.mask).sum())
    return area > 0 and shared >= _INSIDE * area and shared <= (1 - _LEFT) * int(whole.mask.sum())


def _less(found: Found, parts: Sequence[SegmentedObject]) -> Found:
    cut = found.objects
    for part in parts:
        cut = tuple(replace(thing, mask=thing.mask & ~part.mask, alternatives=()) for thing in cut)
    return replace(found, objects=tuple(thing for thing in cut if thing.mask.any()))


def _sized(work: _Work, found: Found, read: Instruction) -> _Next:
    """The next bigger or smaller mask that the segmenter proposes for the same prompts, or else for larger or smaller boxes."""
    if not found.objects:
        raise RefineError(f"there is nothing to make {read.action}: the result holds no object. Describe what to segment")
    sign = 1 if read.action == "bigger" else -1
    drawn = yield from work.flows.masks([thing.prompt for thing in found.objects], found.size)
    moved = [_resized(thing.prompt, _LARGER**sign, found) for thing in found.objects]
    redrawn = yield from work.flows.masks(moved, found.size)
    changed = [_next(thing, [one, two], sign) for thing, one, two in zip(found.objects, drawn, redrawn, strict=True)]
    if not any(changed):
        raise RefineError(f"the segmenter has no {read.action} mask for that; the result stays. Click on what is wrong with it")
    objects = tuple(new or old for new, old in zip(changed, found.objects, strict=True))
    return replace(found, objects=objects), f"a {read.action} mask of the same object"


def _next(thing: SegmentedObject, drawn: Sequence[SegmentedObject], sign: int) -> SegmentedObject | None:
    """The nearest in size that is bigger, or smaller, the candidates of the very prompt first."""
    area = int(thing.mask.sum())
    for one in drawn:
        masks = [(one.mask, one.score), *((other.mask, other.score) for other in offers(one))]
        masks = [drawn for drawn in masks if mask_iou(drawn[0], thing.mask) < ALIKE]
        steps = [(sign * (int(mask.sum()) - area), index) for index, (mask, _) in enumerate(masks) if mask.any()]
        further = [step for step in steps if step[0] > OTHER_SIZE * area]
        if further:
            mask, score = masks[min(further)[1]]
            return replace(thing, mask=mask, score=score, prompt=one.prompt, alternatives=())
    return None


def _resized(prompt: ObjectPrompt, times: float, found: Found) -> ObjectPrompt:
    box = prompt.box
    dx, dy = (times - 1) / 2 * (box.x2 - box.x1), (times - 1) / 2 * (box.y2 - box.y1)
    x1, y1 = max(0.0, box.x1 - dx), max(0.0, box.y1 - dy)
    x2, y2 = min(float(found.size.width), box.x2 + dx), min(float(found.size.height), box.y2 + dy)
    return ObjectPrompt(Box(x1, y1, x2, y2))


def _back(work: _Work, found: Found, _read: Instruction) -> _Next:
    if not found.rejected:
        raise RefineError("nothing was left out yet that could come back; an earlier result can be refined by its own handle")
    prompt = found.rejected[-1]
    objects = yield from work.flows.masks([prompt], found.size)
    left = replace(found, rejected=found.rejected[:-1]).rejecting(found.objects)
    return replace(left, objects=tuple(objects), clicks=()), f"the one before, {_boxes([prompt])}"


def _describe(work: _Work, found: Found, read: Instruction) -> _Next:
    """What no other row of the table takes: a description, put together with the one before."""
    expression, objects = yield from _described(work, found, read.what)
    left = found.rejecting([thing for thing in found.objects if not _among([thing], objects)])
    words = f"a new description, {_quoted(expression)}"
    if len(objects) == len(found.objects) == len(_among(found.objects, objects)):
        words += ", which is what was found before"
    return replace(left, objects=objects, expression=expression, clicks=()), words


def _described(work: _Work, found: Found, what: str) -> Flow[tuple[str, tuple[SegmentedObject, ...]]]:
    """What is meant by words that take up the old ones: put together with them, or else as they stand."""
    expressions = tuple(dict.fromkeys((combine(what, found.expression), what)))
    for expression in expressions:
        objects = yield from work.find(expression, found)
        if objects:
            return expression, objects
    tried = " nor ".join(map(_quoted, expressions))
    raise RefineError(
        f"there is no {tried} in the picture, as the model sees it; the result stays. Say it in other words, or click"
    )


_ACTIONS: dict[str, Callable[[_Work, Found, Instruction], _Next]] = {
    "other": _other,
    "also": _also,
    "also_other": _also_other,
    "without": _without,
    "bigger": _sized,
    "smaller": _sized,
    "back": _back,
    "describe": _describe,
}


def _quoted(text: str) -> str:
    return f"'{text}'" if len(text) <= 80 else f"'{text[:80]}...'"


def _boxes(prompts: Sequence[ObjectPrompt]) -> str:
    return _listed([prompt.box for prompt in prompts]) if prompts else "nothing"


def _listed(boxes: Sequence[Box]) -> str:
    return ", ".join(f"the one at {format_box(box)}" for box in boxes[:10])
