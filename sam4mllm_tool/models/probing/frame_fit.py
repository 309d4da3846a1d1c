"""Fit coordinate frames to numbers that a model wrote about boxes whose places are known.

What a number means is never guessed from its value: every candidate frame reads all answers, and the IoU with the true boxes
decides. Frames that read the same boxes, such as 0..999 and 0..1000, need no decision.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal, TypeAlias

from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.protocol.native_codec import Resizing, ResizingRule
from sam4mllm_tool.protocol.padded_codec import margins, pad_size
from sam4mllm_tool.types import Box, Size

__all__ = ["WHOLE_IMAGE", "BoxAnswer", "CandidateFrame", "FrameChoice", "FrameFit", "choose_frame", "list_frames"]

Order: TypeAlias = Literal["xy", "yx"]
FourNumbers: TypeAlias = tuple[float, float, float, float]

_SAME_READING_IOU = 0.97
"""Mean IoU of the boxes that two frames read, from which they count as the same frame."""
_LEAST_IOU = 0.3
"""Mean IoU with the true boxes below which a model can't be said to ground at all."""
_LEAST_LEAD = 0.02
_LEAST_LEAD_IN_ERRORS = 2.0
"""The lead over the next frame must be this many standard errors of the answers' differences."""
_ORDERS: tuple[Order, ...] = ("xy", "yx")
WHOLE_IMAGE = (1, 1, 10**9)
"""A "resizing" that changes nothing: pixels of the processed image then are those of the image itself."""


@dataclass(frozen=True)
class CandidateFrame:
    """What the numbers of a box may count.

    Args:
        name: In words, as in "0..1000, x first".
        order: Whether x or y comes first.
        end: The number at the image's far edge; None for pixels.
        offset: What is added to a number before it is read: 0.5 where a number names a step.
        resizing: For pixels: how the image is resized before they are counted.
        decimals: That the numbers need.
        padded: Whether the numbers count the square that the model sees the image in the middle of.
    """

    name: str
    order: Order
    end: float | None = None
    offset: float = 0.0
    resizing: ResizingRule | None = None
    decimals: int = 0
    padded: bool = False

    def read_box(self, numbers: FourNumbers, size: Size) -> Box:
        """Return the box that four numbers stand for in this frame, in pixels of an image of `size`; it may be anywhere."""
        counted = pad_size(size) if self.padded else size
        left, top = margins(size) if self.padded else (0, 0)
        x_unit, y_unit = (side / end for side, end in zip(counted, self._find_ends(counted), strict=True))
        values = [number + self.offset for number in numbers]
        x1, y1, x2, y2 = values if self.order == "xy" else (values[1], values[0], values[3], values[2])
        return Box(x1 * x_unit - left, y1 * y_unit - top, x2 * x_unit - left, y2 * y_unit - top)

    def adapt_dialect(self, dialect: Dialect, box_text: str) -> Dialect:
        """Return the dialect with the same words that reads and writes boxes in this frame, in any native format."""
        return replace(
            dialect,
            name=f"{dialect.name} ({self.name})",
            frame="lines" if self.end else "processed",
            scale=int(self.end or dialect.scale),
            decimals=self.decimals,
            digits=0,
            replies="points" if "<point" in box_text else "native",
            box_text=_write_in_order(box_text, self.order),
            point_text=_write_in_order(dialect.point_text, self.order),
            resizing=WHOLE_IMAGE if self.resizing == WHOLE_IMAGE else None,  # loading sets any other
            padded=self.padded,
        )

    def _find_ends(self, size: Size) -> tuple[float, float]:
        """Return the numbers at the right and at the lower edge."""
        if self.end is not None:
            return self.end, self.end
        return Resizing(*self.resizing or WHOLE_IMAGE).apply(size)


@dataclass(frozen=True)
class BoxAnswer:
    """What a model answered about one object.

    Args:
        numbers: The four numbers of the first box of the answer; None without one.
        box: Where the object is, in pixels.
        size: Of the image, in pixels.
    """

    numbers: FourNumbers | None
    box: Box
    size: Size


@dataclass(frozen=True)
class FrameFit:
    """How well a frame fits: the IoU of each answer, read in it, with the true box."""

    frame: CandidateFrame
    ious: tuple[float, ...]

    @property
    def iou(self) -> float:
        """The mean IoU over all answers; one without a box counts 0."""
        return fmean(self.ious) if self.ious else 0.0


@dataclass(frozen=True)
class FrameChoice:
    """Which frame fits best, and how far the next one is behind.

    Args:
        fits: Of all frames, best first.
        next: The best of those that read other boxes than the first; None where all read the same.
        reason: Why the first frame can't be relied on; empty if it can.
    """

    fits: tuple[FrameFit, ...]
    next: FrameFit | None
    reason: str

    @property
    def best(self) -> FrameFit:
        """The best fit."""
        return self.fits[0]


def list_frames(dialect: Dialect, resizing: ResizingRule | None, *, pads_images: bool = False) -> list[CandidateFrame]:
    """Return the frames that a model asked in this dialect may answer in, the dialect's own first.

    Args:
        dialect: How the model is asked.
        resizing: How the model resizes images, where that is known; pixels of the processed image then are a candidate.
        pads_images: Whether the model sees an image in the middle of a square; frames of the square then are candidates, too.
    """
    by_name: dict[str, CandidateFrame] = {}
    own = _read_order(dialect.box_text)
    for order in (own, *(order for order in _ORDERS if order != own)):
        for frame in (*_own_frame(dialect, order), *_common_frames(order, resizing)):
            by_name.setdefault(frame.name, frame)
    frames = list(by_name.values())
    return [*map(_pad_frame, frames), *frames] if pads_images else frames


def _pad_frame(frame: CandidateFrame) -> CandidateFrame:
    return replace(frame, name=f"{frame.name}, in the padded square", padded=True)


def _own_frame(dialect: Dialect, order: Order) -> Iterator[CandidateFrame]:
    if dialect.frame == "steps":
        yield CandidateFrame(f"0..{dialect.scale - 1}, {order[0]} first", order, dialect.scale, 0.5)
    elif dialect.frame == "lines":
        yield CandidateFrame(f"0..{dialect.scale}, {order[0]} first", order, dialect.scale, decimals=dialect.decimals)
    elif dialect.resizing and dialect.resizing != WHOLE_IMAGE:
        yield CandidateFrame(f"pixels of the processed image, {order[0]} first", order, resizing=dialect.resizing)


def _common_frames(order: Order, resizing: ResizingRule | None) -> Iterator[CandidateFrame]:
    first = f"{order[0]} first"
    yield CandidateFrame(f"0..1000, {first}", order, 1000)
    yield CandidateFrame(f"0..999, {first}", order, 1000, 0.5)
    yield CandidateFrame(f"0..1, {first}", order, 1, decimals=3)
    yield CandidateFrame(f"0..100, {first}", order, 100, decimals=1)
    yield CandidateFrame(f"pixels of the image, {first}", order, resizing=WHOLE_IMAGE)
    if resizing:
        yield CandidateFrame(f"pixels of the processed image, {first}", order, resizing=resizing)


def choose_frame(frames: Sequence[CandidateFrame], answers: Sequence[BoxAnswer]) -> FrameChoice:
    """Return the frame in which the answers are nearest to the true boxes, unless it is not clearly ahead.

    Args:
        frames: In order of preference, which decides between frames that read the same boxes.
        answers: One for each object asked about.
    """
    fits = [FrameFit(frame, tuple(_iou(frame, answer) for answer in answers)) for frame in frames]
    leader = max(fits, key=lambda fit: fit.iou)
    same = [fit for fit in fits if fit is leader or _read_the_same(fit.frame, leader.frame, answers)]
    others = sorted((fit for fit in fits if fit not in same), key=lambda fit: -fit.iou)
    following = others[0] if others else None
    return FrameChoice((*same, *others), following, _find_doubt(same[0], following, answers))


def _find_doubt(best: FrameFit, following: FrameFit | None, answers: Sequence[BoxAnswer]) -> str:
    """Return why the best frame can't be relied on; "" if it can."""
    if not any(answer.numbers for answer in answers):
        return "it answered none of the questions with a box"
    if best.iou < _LEAST_IOU:
        return (
            f"its boxes miss the objects in every frame: mean IoU {best.iou:.2f} in the best, {best.frame.name}; "
            f"expected at least {_LEAST_IOU}"
        )
    if following is None:
        return ""
    leads = [first - second for first, second in zip(best.ious, following.ious, strict=True)]
    error = stdev(leads) / math.sqrt(len(leads)) if len(leads) > 1 else math.inf
    if fmean(leads) >= max(_LEAST_LEAD, _LEAST_LEAD_IN_ERRORS * error):
        return ""
    return (
        f"two frames fit its boxes about equally well: {best.frame.name} (mean IoU {best.iou:.2f}) and "
        f"{following.frame.name} ({following.iou:.2f})"
    )


def _iou(frame: CandidateFrame, answer: BoxAnswer) -> float:
    return 0.0 if answer.numbers is None else frame.read_box(answer.numbers, answer.size).iou(answer.box)


def _read_the_same(frame: CandidateFrame, other: CandidateFrame, answers: Sequence[BoxAnswer]) -> bool:
    """Whether two frames read nearly the same boxes out of the answers."""
    ious = [
        frame.read_box(answer.numbers, answer.size).iou(other.read_box(answer.numbers, answer.size))
        for answer in answers
        if answer.numbers
    ]
    return bool(ious) and fmean(ious) >= _SAME_READING_IOU


def _read_order(template: str) -> Order:
    """Return which axis a template writes first."""
    return "xy" if template.find("{x") < template.find("{y") else "yx"


def _write_in_order(template: str, order: Order) -> str:
    """Return a template with x and y in this order."""
    if _read_order(template) == order:
        return template
    return re.sub(r"\{([xy])", lambda match: "{y" if match[1] == "x" else "{x", template)
