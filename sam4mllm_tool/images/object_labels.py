"""Labels of segmented objects: the expression in letters that any image leaves legible, where they cover the least.

A label tells what was asked for and how sure the model is that the object is meant. Segment Anything's score and the agreement
are about masks, so that a label doesn't show them.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from sam4mllm_tool.types import Box, Image, SegmentedObject, Size

__all__ = ["Colour", "draw_label", "draw_labels", "frame_box"]

Colour: TypeAlias = tuple[int, int, int]
_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_DARK: Colour = (18, 18, 22)
_LIGHT: Colour = (255, 255, 255)
_MAX_COVERED = 0.35
"""What a label may cover of the boxes, as a sum of shares of their areas; where it would cover more, it is left out."""
_MAX_WIDTH = 0.6
"""Width of an expression in a label, as a share of the image's."""


def draw_labels(
    canvas: Image, coloured: Sequence[tuple[SegmentedObject, Colour]], expressions: Sequence[str], line: int, nothing: str
) -> None:
    """Draw a label at each object's box, the longest that fits; leave it out where even a number covers too much.

    Args:
        canvas: Where to draw, RGB.
        coloured: Objects with their colours.
        expressions: The expression of each object.
        line: Width of the boxes' lines, in pixels.
        nothing: The label of a result without objects.
    """
    size = Size(*canvas.size)
    font = ImageFont.load_default(max(10, 8 + math.sqrt(size.width * size.height) / 55))
    frames = [frame_box(segmented.prompt.box, size, line) for segmented, _ in coloured]
    occupied: list[Box] = []
    for number, (frame, (segmented, colour), expression) in enumerate(zip(frames, coloured, expressions, strict=True), start=1):
        name = _shorten(expression, font, size.width * _MAX_WIDTH)
        for text in _list_texts(number if len(coloured) > 1 else None, name, segmented.confidence):
            label = draw_label(text, colour, font)
            places = [place for place in _label_places(frame, Size(*label.size), size) if not _covered(place, occupied)]
            best = min(places, key=lambda place: _covered(place, frames), default=None)
            if best is not None and _covered(best, frames) < _MAX_COVERED:
                occupied.append(best)
                canvas.paste(label, (int(best.x1), int(best.y1)))
                break
    if not coloured:
        label = draw_label(nothing, _LIGHT, font)
        canvas.paste(label, (0, max(0, size.height - label.height)))


def _list_texts(number: int | None, name: str, confidence: float | None) -> list[str]:
    """List what a label may say, the longest first."""
    sure = [] if confidence is None else [f"{confidence:.0%} sure"]
    texts = (
        [", ".join([name, *sure]), name] if number is None else [f"{number}: {', '.join([name, *sure])}", f"{number}: {name}"]
    )
    return list(dict.fromkeys([*texts, *([] if number is None else [str(number)])]))


def _shorten(expression: str, font: _Font, width: float) -> str:
    """Put an expression on one line of printable characters, cut to a width in pixels."""
    text = " ".join("".join(c if c.isprintable() else " " for c in expression[:200]).split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."


def frame_box(box: Box, size: Size, line: int) -> Box:
    """Return what a drawn box covers: two line widths more on every side, clipped to the image."""
    left, top = math.floor(box.x1) - 2 * line, math.floor(box.y1) - 2 * line
    right, bottom = math.ceil(box.x2) + 2 * line, math.ceil(box.y2) + 2 * line
    return Box(max(0, left), max(0, top), min(size.width, right), min(size.height, bottom))


def draw_label(text: str, colour: Colour, font: _Font) -> Image:
    """Return a label: light letters on a dark ground, after a bar of the colour."""
    left, top, right, bottom = font.getbbox(text)
    pad = max(2, round((bottom - top) * 0.4))
    label = PILImage.new("RGB", (math.ceil(right - left) + 3 * pad, math.ceil(bottom - top) + 2 * pad), _DARK)
    draw = ImageDraw.Draw(label)
    draw.rectangle((0, 0, pad - 1, label.height), fill=colour)
    draw.text((2 * pad - left, pad - top), text, fill=_LIGHT, font=font)
    return label


def _label_places(frame: Box, label: Size, size: Size) -> list[Box]:
    """List the places for a label at a frame and inside the image, the best first; none where the image is too small."""
    if label.width > size.width or label.height > size.height:
        return []
    lefts = (frame.x1, frame.x2 - label.width, frame.x2, frame.x1 - label.width)
    tops = (frame.y1 - label.height, frame.y2, frame.y1, frame.y2 - label.height)
    return [
        Box(left, top, left + label.width, top + label.height)
        for left in (min(max(0, left), size.width - label.width) for left in lefts)
        for top in (min(max(0, top), size.height - label.height) for top in tops)
    ]


def _covered(place: Box, boxes: Iterable[Box]) -> float:
    """Sum over the boxes the share of each that a label at `place` would cover."""
    return sum(
        max(0.0, min(place.x2, box.x2) - max(place.x1, box.x1))
        * max(0.0, min(place.y2, box.y2) - max(place.y1, box.y1))
        / max(1.0, box.width * box.height)
        for box in boxes
    )
