"""The overlay: a segmentation drawn on its picture so that it can be read on any picture, by any eye, at any size.

Each object gets a tint, an outline and a box in a colour of a palette made for colour-blind readers; points say their answer
by colour and by shape. Nothing relies on contrast with the picture: every light line lies beside a dark one. Widths, marks
and letters grow with the picture. Lengths are in pixels of the picture throughout.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from sam4mllm_tool.types import Box, Image, Mask, PointPrompt, Segmentation, SegmentedObject, Size

Colour: TypeAlias = tuple[int, int, int]
_Mean: TypeAlias = npt.NDArray[np.float64]

OBJECT_COLOURS: tuple[Colour, ...] = (
    (86, 180, 233),  # sky blue
    (230, 159, 0),  # orange
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
    (0, 158, 115),  # bluish green
    (213, 94, 0),  # vermilion
    (0, 114, 178),  # blue
)
"""Okabe and Ito's palette: one colour per object, from the start again after the seventh."""
ON_COLOUR, OFF_COLOUR = OBJECT_COLOURS[4], OBJECT_COLOURS[5]
_DARK: Colour = (18, 18, 22)
_LIGHT: Colour = (255, 255, 255)

_TINT, _RIM = 0.3, 0.85  # shares of the colour, within the mask and along its outline
_MUCH = 0.35  # of a box, for a label to hide
_SUPERSAMPLE = 4
_REACH = 2.4  # of a mark from its middle, in radii


def overlay(image: Image, segmentation: Segmentation) -> Image:
    """The picture with masks, boxes, points and confidences drawn on it, a new RGB image of the same size.

    image: RGB, of the segmentation's size. A filled circle is a point on the object, a cross one off it. A label holds the
    confidence, or the score where the model gave no confidence, after the object's number where there are several.
    Raises ValueError where the sizes differ.
    """
    if image.size != segmentation.size:
        raise ValueError(f"the picture is {image.size}, the segmentation is of one of {tuple(segmentation.size)}")
    scale = math.sqrt(image.width * image.height)
    line = max(1, round(scale / 300))
    pixels = np.array(image.convert("RGB"))
    coloured = choose_colours(pixels, segmentation.objects)
    for found, colour in coloured:
        tint(pixels, found.mask, colour, line)
    canvas = PILImage.fromarray(pixels)
    for found, colour in coloured:
        draw_box(canvas, found.prompt.box, colour, line)
    for found, _ in coloured:
        _draw_points(canvas, found.prompt.points, scale)
    _draw_labels(canvas, coloured, line, letters=max(10, 8 + scale / 55))
    return canvas


def choose_colours(pixels: npt.NDArray[np.uint8], objects: Iterable[SegmentedObject]) -> list[tuple[SegmentedObject, Colour]]:
    """For each object the colour, of those least used so far, that differs most from the object and its surroundings."""
    chosen: list[tuple[SegmentedObject, Colour]] = []
    free: list[Colour] = []
    for found in objects:
        free = free or list(OBJECT_COLOURS)
        window = _window(found.mask, 8)
        inside, view = found.mask[window], pixels[window]
        own, around = (view[part].mean(0) if part.any() else np.full(3, 127.0) for part in (inside, ~inside))

        def contrast(colour: Colour, own: _Mean = own, around: _Mean = around) -> float:
            return float(min(np.linalg.norm(own - colour), np.linalg.norm(around - colour)))

        free.remove(best := max(free, key=contrast))
        chosen.append((found, best))
    return chosen


def _window(mask: Mask, margin: int) -> tuple[slice, slice]:
    """The rows and columns around the mask and `margin` pixels more; empty for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return slice(0), slice(0)
    return (
        slice(max(0, rows[0] - margin), rows[-1] + 1 + margin),
        slice(max(0, columns[0] - margin), columns[-1] + 1 + margin),
    )


def tint(pixels: npt.NDArray[np.uint8], mask: Mask, colour: Colour, line: int) -> None:
    """Tints the mask; its outline is dark outside, then light, then full of colour. pixels: (H, W, 3), changed in place."""
    window = _window(mask, line)
    inside, view = mask[window], pixels[window]
    for part, ink, share in (
        (inside, colour, _TINT),
        (grow(~inside, 3 * line) & inside, colour, _RIM),
        (grow(~inside, line) & inside, _LIGHT, 1.0),
        (grow(inside, line) & ~inside, _DARK, 1.0),
    ):
        view[part] = np.rint(view[part] * (1 - share) + np.array(ink) * share).astype(np.uint8)


def grow(mask: Mask, steps: int) -> Mask:
    """The mask and what lies within `steps` pixels of it; every second step also goes diagonally, which is nearly round."""
    for step in range(steps):
        tall = mask.copy()
        tall[1:] |= mask[:-1]
        tall[:-1] |= mask[1:]
        sideways = tall if step % 2 else mask
        wide = tall.copy()
        wide[:, 1:] |= sideways[:, :-1]
        wide[:, :-1] |= sideways[:, 1:]
        mask = wide
    return mask


def _frame(box: Box, size: Size, line: int) -> Box:
    """What a box's drawing covers: two lines more on every side, moved inwards where the picture ends."""
    return Box(
        max(0, math.floor(box.x1) - 2 * line),
        max(0, math.floor(box.y1) - 2 * line),
        min(size.width, math.ceil(box.x2) + 2 * line),
        min(size.height, math.ceil(box.y2) + 2 * line),
    )


def draw_box(canvas: Image, box: Box, colour: Colour, line: int) -> None:
    """A coloured rectangle with a dark one around it."""
    x1, y1, x2, y2 = _frame(box, Size(*canvas.size), line)
    draw = ImageDraw.Draw(canvas)
    for inset, ink in ((0, _DARK), (line, colour)):
        if x1 + inset < x2 - inset and y1 + inset < y2 - inset:
            corners = (x1 + inset, y1 + inset, x2 - inset - 1, y2 - inset - 1)
            draw.rectangle(corners, outline=ink, width=line)


def _draw_points(canvas: Image, points: Sequence[PointPrompt], scale: float) -> None:
    spacing = min((math.dist((p.x, p.y), (q.x, q.y)) for i, p in enumerate(points) for q in points[:i]), default=math.inf)
    radius = max(0.8, min(max(2.4, scale / 120), spacing * 0.22))  # a crowd of points stays apart
    for point in points:
        _draw_point(canvas, point, radius)


def _draw_point(canvas: Image, point: PointPrompt, radius: float) -> None:
    left, top = math.floor(point.x - _REACH * radius), math.floor(point.y - _REACH * radius)
    side = math.ceil(2 * _REACH * radius) + 1
    patch = PILImage.new("RGBA", (side * _SUPERSAMPLE, side * _SUPERSAMPLE))
    draw = ImageDraw.Draw(patch)
    x, y, r = ((value * _SUPERSAMPLE) for value in (point.x - left, point.y - top, radius))
    light = 0.35 * r if radius >= 2 else 0  # in a crowd there is room for a dark line alone, then for none
    dark = light + max(0.9 * _SUPERSAMPLE, 0.35 * r) if radius >= 1.2 else 0
    for rim, ink in ((dark, _DARK), (light, _LIGHT), (0, ON_COLOUR if point.label else OFF_COLOUR)):
        if point.label:
            draw.circle((x, y), r + rim, fill=ink)
        else:
            _draw_cross(draw, x, y, r, max(_SUPERSAMPLE, 0.75 * r) + 2 * rim, ink)
    patch = patch.resize((side, side), PILImage.Resampling.BOX)
    canvas.paste(patch, (left, top), patch)


def _draw_cross(draw: ImageDraw.ImageDraw, x: float, y: float, arm: float, width: float, ink: Colour) -> None:
    for dx, dy in ((arm, arm), (arm, -arm)):
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=ink, width=round(width))
        for end in ((x - dx, y - dy), (x + dx, y + dy)):
            draw.circle(end, width / 2, fill=ink)


def _draw_labels(canvas: Image, coloured: Sequence[tuple[SegmentedObject, Colour]], line: int, letters: float) -> None:
    """A label at each box, where it hides the least; left out where that is much. letters: the font's size."""
    font, size = ImageFont.load_default(letters), Size(*canvas.size)
    frames = [_frame(found.prompt.box, size, line) for found, _ in coloured]
    taken: list[Box] = []
    for number, (frame, (found, colour)) in enumerate(zip(frames, coloured, strict=True), start=1):
        text = f"{found.confidence:.0%}" if found.confidence is not None else f"score {found.score:.2f}"
        label = draw_label(f"{number}: {text}" if len(coloured) > 1 and size.width > 100 else text, colour, font)
        spots = [spot for spot in _spots(frame, Size(*label.size), size) if not _hidden(spot, taken)]
        if spots and _hidden(best := min(spots, key=lambda spot: _hidden(spot, frames)), frames) < _MUCH:
            taken.append(best)
            canvas.paste(label, (int(best.x1), int(best.y1)))
    if not coloured:
        label = draw_label("no such object", _LIGHT, font)
        canvas.paste(label, (0, max(0, size.height - label.height)))


def draw_label(text: str, colour: Colour, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image:
    """Light letters on a dark ground after a bar of the colour."""
    left, top, right, bottom = font.getbbox(text)
    pad = max(2, round((bottom - top) * 0.4))
    label = PILImage.new("RGB", (math.ceil(right - left) + 3 * pad, math.ceil(bottom - top) + 2 * pad), _DARK)
    draw = ImageDraw.Draw(label)
    draw.rectangle((0, 0, pad - 1, label.height), fill=colour)
    draw.text((2 * pad - left, pad - top), text, fill=_LIGHT, font=font)
    return label


def _spots(frame: Box, label: Size, size: Size) -> list[Box]:
    """Places for a label at a frame and inside the picture, the best first; none where the picture is too small for it."""
    if label.width > size.width or label.height > size.height:
        return []
    lefts = (frame.x1, frame.x2 - label.width, frame.x2, frame.x1 - label.width)
    tops = (frame.y1 - label.height, frame.y2, frame.y1, frame.y2 - label.height)
    return [
        Box(left, top, left + label.width, top + label.height)
        for left in (min(max(0, left), size.width - label.width) for left in lefts)
        for top in (min(max(0, top), size.height - label.height) for top in tops)
    ]


def _hidden(spot: Box, boxes: Iterable[Box]) -> float:
    """What a label there would hide of the boxes, summed, each as a share of its area."""
    return sum(
        max(0.0, min(spot.x2, box.x2) - max(spot.x1, box.x1))
        * max(0.0, min(spot.y2, box.y2) - max(spot.y1, box.y1))
        / max(1.0, (box.x2 - box.x1) * (box.y2 - box.y1))
        for box in boxes
    )
