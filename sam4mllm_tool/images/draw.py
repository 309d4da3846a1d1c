"""Draw a segmentation over its image, legibly on any image, at any size and for colour-blind readers.

Each object gets an outline and a box in one colour of a colour-blind-safe palette and a tint that changes its lightness but not
its hue, since the expression may name its colour; a point's label shows in its colour and its shape. Nothing relies on contrast
with the image, as each light line has a dark one beside it. Line widths and letters scale with the image; outlines and markers
of a small or thin object are smaller still, so that the object stays visible. All lengths are in pixels of the image.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage
from PIL import ImageDraw

from sam4mllm_tool.geometry.morphology import dilate_mask
from sam4mllm_tool.images.object_labels import Colour, draw_labels, frame_box
from sam4mllm_tool.types import Box, Image, Mask, ObjectPrompt, PointPrompt, Segmentation, SegmentedObject, Size

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

_TINT_OPACITY, _OUTLINE_OPACITY = 0.25, 0.85
_LUMA = np.array((0.299, 0.587, 0.114))  # weights of red, green and blue in lightness (ITU-R BT.601)
_SUPERSAMPLING = 4
_MARKER_EXTENT = 2.4  # from a marker's center to its outer edge, in radii
_MARKER_REACH = 1.6  # from a marker's center to the end of its dark line, in radii
_MAX_MARKED = 0.1  # of an object's mask that the markers on it may cover
_MAX_ENLARGED_RATIO = 4  # the long side of an enlarged overlay, in units of the side that it is enlarged to


def overlay(
    image: Image,
    segmentation: Segmentation,
    *,
    points: bool = True,
    min_side: int = 0,
    expressions: Sequence[str] | None = None,
    labels: bool = True,
) -> Image:
    """Draw masks, boxes, points and labels on a copy of the image.

    A filled circle is a point on the object, a cross a point off it. A label names the expression, after the object's number
    where there are several objects, and says how sure the model is where the confidence is known.

    Args:
        image: RGB, of the segmentation's size. It is not changed.
        segmentation: What to draw.
        points: Whether to draw the points.
        min_side: Length in pixels that the shorter side should have: a smaller image is enlarged by a whole factor.
        expressions: The expression of each object; by default the segmentation's for all of them.
        labels: Whether to draw the labels.

    Returns:
        A new RGB image, of the same size unless it is enlarged.

    Raises:
        ValueError: Image and segmentation differ in size, or there are not as many expressions as objects.
    """
    if image.size != segmentation.size:
        raise ValueError(f"the image is {image.size}, the segmentation is for an image of {tuple(segmentation.size)}")
    names = [segmentation.expression] * len(segmentation.objects) if expressions is None else expressions
    if len(names) != len(segmentation.objects):
        raise ValueError(f"expected {len(segmentation.objects)} expressions, one per object, got {len(names)}")
    factor = _choose_factor(segmentation.size, min_side)
    image = image.convert("RGB").resize((image.width * factor, image.height * factor), PILImage.Resampling.BICUBIC)
    objects = [_enlarge_object(segmented, factor) for segmented in segmentation.objects]
    scale = math.sqrt(image.width * image.height)
    line = max(1, round(scale / 300))
    pixels = np.array(image)
    coloured = choose_colours(pixels, objects)
    for segmented, colour in coloured:
        tint_mask(pixels, segmented.mask, colour, line)
    canvas = PILImage.fromarray(pixels)
    for segmented, colour in coloured:
        draw_box(canvas, segmented.prompt.box, colour, line)
    for segmented in objects if points else ():
        _draw_points(canvas, segmented, scale)
    nothing = "not sure enough" if segmentation.abstained else "no such object"
    if labels:
        draw_labels(canvas, coloured, names, line, nothing)
    return canvas


def _choose_factor(size: Size, min_side: int) -> int:
    """Return the whole factor by which an image is enlarged; 1 where its shorter side is long enough."""
    largest = _MAX_ENLARGED_RATIO * min_side // max(size)
    return max(1, min(math.ceil(min_side / min(size)), largest))


def _enlarge_object(segmented: SegmentedObject, factor: int) -> SegmentedObject:
    if factor == 1:
        return segmented
    prompt = segmented.prompt
    points = tuple(replace(point, x=point.x * factor, y=point.y * factor) for point in prompt.points)
    enlarged = ObjectPrompt(Box(*(value * factor for value in prompt.box)), points)
    return replace(segmented, mask=segmented.mask.repeat(factor, 0).repeat(factor, 1), prompt=enlarged, alternatives=())


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

    The tint makes the pixels lighter, or darker where they are light, and keeps their hue.

    Args:
        pixels: (H, W, 3) uint8, changed in place.
        mask: (H, W) bool.
        colour: The object's.
        line: Greatest width of the outline's lines, in pixels; thin masks get thinner lines.
    """
    window = _window(mask, line)
    inside, view = mask[window], pixels[window]
    if not inside.any():
        return
    width = _measure_width(inside)
    line = min(line, max(1, round(width / 10)))
    rim = min(3 * line, max(line, round(width / 6)))
    ground = _LIGHT if view[inside].mean(0) @ _LUMA < 150 else _DARK
    for part, ink, opacity in (
        (inside, ground, _TINT_OPACITY),
        (dilate_mask(~inside, rim) & inside, colour, _OUTLINE_OPACITY),
        (dilate_mask(~inside, line) & inside, _LIGHT, 1.0),
        (dilate_mask(inside, line) & ~inside, _DARK, 1.0),
    ):
        view[part] = np.rint(view[part] * (1 - opacity) + np.array(ink) * opacity).astype(np.uint8)


def _measure_width(mask: Mask) -> float:
    """Return how thick a non-empty mask is, in pixels: the width of a band, about the radius of a disc."""
    padded = np.pad(mask, 1)
    edge = padded & dilate_mask(~padded, 1)
    return 2 * float(padded.sum()) / float(edge.sum())


def draw_box(canvas: Image, box: Box, colour: Colour, line: int) -> None:
    """Draw the box on the canvas as a coloured rectangle inside a dark one, with lines of at most `line` pixels."""
    line = min(line, max(1, round(min(box.width, box.height) / 16)))
    x1, y1, x2, y2 = frame_box(box, Size(*canvas.size), line)
    draw = ImageDraw.Draw(canvas)
    for inset, ink in ((0, _DARK), (line, colour)):
        if x1 + inset < x2 - inset and y1 + inset < y2 - inset:  # Pillow refuses swapped corners
            corners = (x1 + inset, y1 + inset, x2 - inset - 1, y2 - inset - 1)
            draw.rectangle(corners, outline=ink, width=line)


def _draw_points(canvas: Image, segmented: SegmentedObject, scale: float) -> None:
    points = segmented.prompt.points
    spacing = min((math.dist((p.x, p.y), (q.x, q.y)) for i, p in enumerate(points) for q in points[:i]), default=math.inf)
    limits = [max(2.4, scale / 120), spacing * 0.22]  # so that crowded points stay apart
    if (area := int(segmented.mask.sum())) and (on_count := sum(point.label for point in points)):
        limits.append(math.sqrt(_MAX_MARKED * area / (on_count * math.pi)) / _MARKER_REACH)
    for point in points:
        _draw_point(canvas, point, max(0.8, min(limits)))


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
