"""Draw a segmentation over its image, legibly on any image, at any size and for colour-blind readers.

Each object gets a tint, an outline and a box in one colour of a colour-blind-safe palette; a point's label shows in its colour
and its shape. Nothing relies on contrast with the image, as each light line has a dark one beside it. Line widths, markers and
letters scale with the image. All lengths are in pixels of the image.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from sam4mllm_tool.geometry.morphology import dilate_mask
from sam4mllm_tool.types import Box, Image, Mask, PointPrompt, Segmentation, SegmentedObject, Size

Colour: TypeAlias = tuple[int, int, int]
_MeanColour: TypeAlias = npt.NDArray[np.float64]

OBJECT_COLOURS: tuple[Colour, ...] = (
    (86, 180, 233),  # sky blue
    (230, 159, 0),  # orange
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
    (0, 158, 115),  # bluish green
    (213, 94, 0),  # vermilion
    (0, 114, 178),  # blue
)
"""Okabe and Ito's palette: one colour per object, starting again after the seventh."""
ON_COLOUR, OFF_COLOUR = OBJECT_COLOURS[4], OBJECT_COLOURS[5]
_DARK: Colour = (18, 18, 22)
_LIGHT: Colour = (255, 255, 255)

_TINT_OPACITY, _OUTLINE_OPACITY = 0.3, 0.85
_MAX_COVERED = 0.35  # of the boxes that a label covers, as a share of their areas; above that it is left out
_SUPERSAMPLING = 4
_MARKER_EXTENT = 2.4  # from a marker's center to its outer edge, in radii


def overlay(image: Image, segmentation: Segmentation) -> Image:
    """Draw masks, boxes, points and confidences on a copy of the image.

    A filled circle is a point on the object, a cross a point off it. A label shows the confidence, or the score where the
    model gave no confidence, after the object's number where there are several objects.

    Args:
        image: RGB, of the segmentation's size. It is not changed.
        segmentation: What to draw.

    Returns:
        A new RGB image of the same size.

    Raises:
        ValueError: Image and segmentation differ in size.
    """
    if image.size != segmentation.size:
        raise ValueError(f"the image is {image.size}, the segmentation is for an image of {tuple(segmentation.size)}")
    scale = math.sqrt(image.width * image.height)
    line = max(1, round(scale / 300))
    pixels = np.array(image.convert("RGB"))
    coloured = choose_colours(pixels, segmentation.objects)
    for segmented, colour in coloured:
        tint_mask(pixels, segmented.mask, colour, line)
    canvas = PILImage.fromarray(pixels)
    for segmented, colour in coloured:
        draw_box(canvas, segmented.prompt.box, colour, line)
    for segmented, _ in coloured:
        _draw_points(canvas, segmented.prompt.points, scale)
    _draw_labels(canvas, coloured, line, font_size=max(10, 8 + scale / 55))
    return canvas


def choose_colours(pixels: npt.NDArray[np.uint8], objects: Iterable[SegmentedObject]) -> list[tuple[SegmentedObject, Colour]]:
    """Choose for each object the least used colour that differs most from the object and its surroundings.

    Args:
        pixels: (H, W, 3) uint8, the image.
        objects: Objects on that image.

    Returns:
        Each object with its colour, in order.
    """
    chosen: list[tuple[SegmentedObject, Colour]] = []
    unused: list[Colour] = []
    for segmented in objects:
        unused = unused or list(OBJECT_COLOURS)
        window = _window(segmented.mask, 8)
        inside, view = segmented.mask[window], pixels[window]
        own, around = (view[part].mean(0) if part.any() else np.full(3, 127.0) for part in (inside, ~inside))

        def contrast(colour: Colour, own: _MeanColour = own, around: _MeanColour = around) -> float:
            return float(min(np.linalg.norm(own - colour), np.linalg.norm(around - colour)))

        best = max(unused, key=contrast)
        unused.remove(best)
        chosen.append((segmented, best))
    return chosen


def _window(mask: Mask, margin: int) -> tuple[slice, slice]:
    """Return the rows and columns of the mask with `margin` pixels around it; empty slices for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return slice(0), slice(0)
    return (
        slice(max(0, rows[0] - margin), rows[-1] + 1 + margin),
        slice(max(0, columns[0] - margin), columns[-1] + 1 + margin),
    )


def tint_mask(pixels: npt.NDArray[np.uint8], mask: Mask, colour: Colour, line: int) -> None:
    """Tint the mask and outline it: from outside to inside dark, light, and strongly in the colour.

    Args:
        pixels: (H, W, 3) uint8, changed in place.
        mask: (H, W) bool.
        colour: The object's.
        line: Width of the outline's lines, in pixels.
    """
    window = _window(mask, line)
    inside, view = mask[window], pixels[window]
    for part, ink, opacity in (
        (inside, colour, _TINT_OPACITY),
        (dilate_mask(~inside, 3 * line) & inside, colour, _OUTLINE_OPACITY),
        (dilate_mask(~inside, line) & inside, _LIGHT, 1.0),
        (dilate_mask(inside, line) & ~inside, _DARK, 1.0),
    ):
        view[part] = np.rint(view[part] * (1 - opacity) + np.array(ink) * opacity).astype(np.uint8)


def _frame_box(box: Box, size: Size, line: int) -> Box:
    """Return what a drawn box covers: two line widths more on every side, clipped to the image."""
    left, top = math.floor(box.x1) - 2 * line, math.floor(box.y1) - 2 * line
    right, bottom = math.ceil(box.x2) + 2 * line, math.ceil(box.y2) + 2 * line
    return Box(max(0, left), max(0, top), min(size.width, right), min(size.height, bottom))


def draw_box(canvas: Image, box: Box, colour: Colour, line: int) -> None:
    """Draw the box on the canvas as a coloured rectangle inside a dark one, with lines of `line` pixels."""
    x1, y1, x2, y2 = _frame_box(box, Size(*canvas.size), line)
    draw = ImageDraw.Draw(canvas)
    for inset, ink in ((0, _DARK), (line, colour)):
        if x1 + inset < x2 - inset and y1 + inset < y2 - inset:  # Pillow refuses swapped corners
            corners = (x1 + inset, y1 + inset, x2 - inset - 1, y2 - inset - 1)
            draw.rectangle(corners, outline=ink, width=line)


def _draw_points(canvas: Image, points: Sequence[PointPrompt], scale: float) -> None:
    spacing = min((math.dist((p.x, p.y), (q.x, q.y)) for i, p in enumerate(points) for q in points[:i]), default=math.inf)
    radius = max(0.8, min(max(2.4, scale / 120), spacing * 0.22))  # so that crowded points stay apart
    for point in points:
        _draw_point(canvas, point, radius)


def _draw_point(canvas: Image, point: PointPrompt, radius: float) -> None:
    left, top = math.floor(point.x - _MARKER_EXTENT * radius), math.floor(point.y - _MARKER_EXTENT * radius)
    side = math.ceil(2 * _MARKER_EXTENT * radius) + 1
    patch = PILImage.new("RGBA", (side * _SUPERSAMPLING, side * _SUPERSAMPLING))
    draw = ImageDraw.Draw(patch)
    x, y, r = ((value * _SUPERSAMPLING) for value in (point.x - left, point.y - top, radius))
    light = 0.35 * r if radius >= 2 else 0  # small markers have room for a dark line only, or for none
    dark = light + max(0.9 * _SUPERSAMPLING, 0.35 * r) if radius >= 1.2 else 0
    for rim, ink in ((dark, _DARK), (light, _LIGHT), (0, ON_COLOUR if point.label else OFF_COLOUR)):
        if point.label:
            draw.circle((x, y), r + rim, fill=ink)
        else:
            _draw_cross(draw, x, y, r, max(_SUPERSAMPLING, 0.75 * r) + 2 * rim, ink)
    patch = patch.resize((side, side), PILImage.Resampling.BOX)
    canvas.paste(patch, (left, top), patch)


def _draw_cross(draw: ImageDraw.ImageDraw, x: float, y: float, arm: float, width: float, ink: Colour) -> None:
    for dx, dy in ((arm, arm), (arm, -arm)):
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=ink, width=round(width))
        for end in ((x - dx, y - dy), (x + dx, y + dy)):
            draw.circle(end, width / 2, fill=ink)


def _draw_labels(canvas: Image, coloured: Sequence[tuple[SegmentedObject, Colour]], line: int, font_size: float) -> None:
    """Draw a label at each box where it covers the least; leave it out where even that is too much."""
    font, size = ImageFont.load_default(font_size), Size(*canvas.size)
    frames = [_frame_box(segmented.prompt.box, size, line) for segmented, _ in coloured]
    occupied: list[Box] = []
    for number, (frame, (segmented, colour)) in enumerate(zip(frames, coloured, strict=True), start=1):
        confidence = segmented.confidence
        text = f"{confidence:.0%}" if confidence is not None else f"score {segmented.score:.2f}"
        label = draw_label(f"{number}: {text}" if len(coloured) > 1 and size.width > 100 else text, colour, font)
        places = [place for place in _label_places(frame, Size(*label.size), size) if not _covered(place, occupied)]
        best = min(places, key=lambda place: _covered(place, frames), default=None)
        if best is not None and _covered(best, frames) < _MAX_COVERED:
            occupied.append(best)
            canvas.paste(label, (int(best.x1), int(best.y1)))
    if not coloured:
        label = draw_label("no such object", _LIGHT, font)
        canvas.paste(label, (0, max(0, size.height - label.height)))


def draw_label(text: str, colour: Colour, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image:
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
