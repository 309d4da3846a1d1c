"""Ways to find an object that the first answer was not: another one that fits the words, and what lies under a click.

Another one is asked for in the dialect's own words (`Dialect.ask_other`). Where it has none, or names none, what was rejected
is painted over in the colour of its surroundings and the first question is asked again about that picture, which any model can
answer; the masks are made on the picture itself.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.geometry.boxes import mask_iou, mask_to_box
from sam4mllm_tool.pipeline.adaptive import segment_boxes
from sam4mllm_tool.pipeline.methods import Method
from sam4mllm_tool.pipeline.requests import Flow, Flows, Transcript, on_crop
from sam4mllm_tool.protocol import PQPP, BoxOnly
from sam4mllm_tool.types import Box, Image, Mask, MaskCandidate, ObjectPrompt, Point, PointPrompt, Reply, SegmentedObject, Size

__all__ = ["another", "asker", "at_click", "deepest", "distances", "erase", "from_boxes", "holds", "in_the_middle", "offers"]

SAME = 0.5
"""IoU from which two boxes, or two masks, are of one object."""
OTHER_SIZE = 0.03
"""By how much, in units of its area, a mask has to differ to count as bigger or smaller."""
ALIKE = 0.9
"""IoU from which a mask is no other one to choose."""
_REACH = (1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 3 / 8)
"""Half sides of the boxes that are tried around a click, in units of the picture's shorter side."""
_ROUNDS = 2
"""How often such a box is drawn anew around its own mask."""
_MIDDLE = 0.5
"""How deep in a mask its middle begins, in units of the greatest depth."""
_CELLS = 128
"""Cells a side on which depth is looked at, at most."""


def asker(method: Method) -> Callable[[Flows, str, Sequence[Box], Size, Transcript], Flow[list[SegmentedObject]]]:
    """How objects in boxes that are known are asked about and masked, as the method does it."""
    return segment_boxes if method == "adaptive" else from_boxes


def from_boxes(
    flows: Flows, expression: str, boxes: Sequence[Box], size: Size, talk: Transcript
) -> Flow[list[SegmentedObject]]:
    """The objects in boxes that are known: the second round of the dialogue, as if the model had just named them, and masks."""
    if not boxes:
        return []
    start = PQPP.start(expression, size, dialect=flows.dialect, sampler=flows.sampler, thresholds=flows.thresholds)
    told = start.answer([Reply(flows.dialect.tell_boxes(boxes, size))])
    dialogue = yield from flows.settle(told, talk)
    return (yield from flows.masks(dialogue.prompts, size))


def another(
    flows: Flows, size: Size, expressions: Sequence[str], rejected: Sequence[ObjectPrompt], talk: Transcript
) -> Flow[tuple[Box, ...]]:
    """Boxes of what an expression means besides what was rejected; none if nothing is found.

    expressions: the first is asked for in every way before the next one is.
    """
    gone = [prompt.box for prompt in rejected]
    masks = yield from flows.masks(rejected, size)
    gone += [mask_to_box(thing.mask) for thing in masks if thing.mask.any()]
    without = _Erased(tuple(thing.mask for thing in masks))
    for expression in expressions:
        told = yield from flows.others(expression, [prompt.box for prompt in rejected], size, talk)
        if fresh := _fresh(told or (), gone):
            return fresh
        asked = yield from on_crop(without, _boxes(flows, expression, size, talk))
        if fresh := _fresh(asked, gone):
            return fresh
    return ()


def _boxes(flows: Flows, expression: str, size: Size, talk: Transcript) -> Flow[tuple[Box, ...]]:
    """Those of the first round. A reply that can't be read names none: there are other ways left."""
    try:
        asked = yield from flows.settle(BoxOnly.start(expression, size, dialect=flows.dialect), talk)
    except ReplyError as error:
        talk.notes.append(f"went on without another box: {error.reason}")
        return ()
    return tuple(prompt.box for prompt in asked.prompts)


def _fresh(boxes: Sequence[Box], gone: Sequence[Box]) -> tuple[Box, ...]:
    return tuple(box for box in boxes if all(box.iou(other) < SAME for other in gone))


@dataclass(frozen=True, eq=False)
class _Erased:
    """A picture with masks painted over."""

    masks: tuple[Mask, ...]

    @property
    def words(self) -> str:
        return "the picture with what was rejected painted over"

    def picture(self, image: Image) -> Image:
        return erase(image, self.masks)


def erase(picture: Image, masks: Sequence[Mask]) -> Image:
    """A copy of the picture with the masks, a little grown, painted over in the median colour around each.

    masks: (H, W) bool each, on the picture.
    """
    pixels = np.array(picture)
    wide = max(2, round(min(picture.size) / 64))
    everything = np.logical_or.reduce([np.zeros(pixels.shape[:2], np.bool_), *masks])
    for mask in masks:
        if not mask.any():
            continue
        window = _window(mask, 3 * wide)
        inner = _grown(mask[window], wide)
        around = _grown(inner, 2 * wide) & ~inner & ~everything[window]
        part = pixels[window]
        part[inner] = np.median(part[around if around.any() else ~inner], axis=0) if not inner.all() else 127
    return PILImage.fromarray(pixels)


def _window(mask: Mask, margin: int) -> tuple[slice, slice]:
    x1, y1, x2, y2 = (int(v) for v in mask_to_box(mask))
    return slice(max(0, y1 - margin), y2 + margin), slice(max(0, x1 - margin), x2 + margin)


def _grown(mask: Mask, steps: int) -> Mask:
    for _ in range(steps):
        wide = np.pad(mask, 1)
        mask = wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    return mask


def at_click(flows: Flows, click: PointPrompt, size: Size) -> Flow[SegmentedObject | None]:
    """The object that the click lies on, whatever its label; None where the segmenter finds none.

    Boxes of several sizes around the click are prompted with it and drawn anew around what comes out; the object is the one
    that settles: whose mask takes in the click and fills the very box it was prompted with.
    """
    point = PointPrompt(click.x, click.y, 1)
    prompts = [ObjectPrompt(box, (point,)) for box in _around(click, size)]
    things = yield from flows.masks(prompts, size)
    for _ in range(_ROUNDS):
        again = [ObjectPrompt(mask_to_box(thing.mask), (point,)) for thing in things if holds(thing.mask, click)]
        things = yield from flows.masks(list(dict.fromkeys(again)), size)
    held = [thing for thing in things if holds(thing.mask, click)]
    return max(held, key=_settled, default=None)


def _around(click: PointPrompt, size: Size) -> Iterator[Box]:
    for reach in (share * min(size) for share in _REACH):
        x1, y1, x2, y2 = click.x - reach, click.y - reach, click.x + reach, click.y + reach
        yield Box(max(0.0, x1), max(0.0, y1), min(float(size.width), x2), min(float(size.height), y2))


def _settled(thing: SegmentedObject) -> float:
    """The segmenter's score, and how far the mask fills the box it was prompted with; of two alike, the smaller is what a click
    alone can mean."""
    return thing.score + mask_to_box(thing.mask).iou(thing.prompt.box) - float(np.sqrt(thing.mask.mean()))


def holds(mask: Mask, click: PointPrompt) -> bool:
    """Whether the pixel under the click is in the mask; one on the far edge belongs to the last pixel."""
    height, width = mask.shape
    return bool(mask[min(int(click.y), height - 1), min(int(click.x), width - 1)])


def distances(click: PointPrompt, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """(H, W): how far the middle of each pixel is from the click, in pixels."""
    down, across = np.arange(shape[0])[:, None] + 0.5 - click.y, np.arange(shape[1])[None] + 0.5 - click.x
    off: npt.NDArray[np.float64] = np.hypot(down, across)
    return off


def in_the_middle(mask: Mask, click: PointPrompt) -> bool:
    """Whether a click in the mask is at least half as far from its edge as a place in it can be.

    Who means a whole object clicks in the middle of it; who means what sticks out clicks near the edge.
    """
    window = _window(mask, 1)
    part = np.pad(mask[window], 1)
    step = max(1, max(part.shape) // _CELLS)
    depth, left = 0, part[::step, ::step]
    while left.any():
        depth, left = depth + 1, _shrunk(left)
    off = distances(PointPrompt(click.x - window[1].start + 1, click.y - window[0].start + 1, 1), part.shape)
    return bool(off[~part].min() >= _MIDDLE * step * depth)


def deepest(thing: SegmentedObject) -> Point:
    """The place in the mask that is furthest from its edge, in pixels; the middle of the box where the mask is empty."""
    box = thing.prompt.box
    if not thing.mask.any():
        return Point((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2)
    window = _window(thing.mask, 1)
    part = np.pad(thing.mask[window], 1)
    step = max(1, max(part.shape) // _CELLS)
    last = left = part[::step, ::step]
    if not left.any():  # thinner than a step
        last, step = part, 1
    while left.any():
        last, left = left, _shrunk(left)
    ys, xs = np.nonzero(last)
    middle = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
    return Point(float(xs[middle] * step + window[1].start - 0.5), float(ys[middle] * step + window[0].start - 0.5))


def _shrunk(mask: Mask) -> Mask:
    return ~_grown(~np.pad(mask, 1), 1)[1:-1, 1:-1]


def offers(thing: SegmentedObject) -> list[MaskCandidate]:
    """The candidates not chosen that are bigger or smaller than the mask and differ from one another, smallest first."""
    kept: list[MaskCandidate] = []
    area = int(thing.mask.sum())
    for candidate in thing.alternatives:
        others = (thing.mask, *(other.mask for other in kept))
        other_size = abs(int(candidate.mask.sum()) - area) > OTHER_SIZE * area
        if candidate.mask.any() and other_size and all(mask_iou(candidate.mask, mask) < ALIKE for mask in others):
            kept.append(candidate)
    return sorted(kept, key=lambda candidate: int(candidate.mask.sum()))
