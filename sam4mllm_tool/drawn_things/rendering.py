"""Draws individuals of everyday things: coloured, patterned, shaded and outlined, with the exact pixels of their parts.

A canvas is three times as fine as the image. Its alpha channel holds the number of the part, so that one filled polygon sets
colour and part alike; the pixel of a mask is the part at the pixel's middle.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw

from sam4mllm_tool.drawn_things.primitives import Polygon
from sam4mllm_tool.drawn_things.recipe import COLOURS, HOLE, MATERIALS, Individual, Piece, Rgb

PATTERNS = ("plain", "striped", "dotted")

_FINE = 3
_FIRST_HOLE = 200  # numbers of parts from here on are holes
FloatImage = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Window = tuple[slice, slice]


@dataclass(frozen=True)
class Pose:
    """Where an individual lies.

    Attributes:
        centre: Of its drawing, (x, y) in units of the image's side.
        size: The longer side of its drawing before it is turned, in units of the image's side.
        turn: Degrees, clockwise.
        stretch: Factor of its width.
        mirrored: Whether left and right are exchanged.
    """

    centre: tuple[float, float]
    size: float
    turn: float = 0.0
    stretch: float = 1.0
    mirrored: bool = False


@dataclass(frozen=True)
class Style:
    """How an individual is painted.

    Attributes:
        colour: Name of its main colour.
        second: Name of its second colour, also that of its pattern.
        pattern: One of `PATTERNS`.
        outline: Width of its edges in 256ths of the image's side; 0 for none.
        tint: Added to all its colours, RGB.
        shade: (right, down): brightness added across it.
        pattern_turn: Direction of its stripes in degrees.
        pattern_step: Distance of stripes or dots as a share of its size.
    """

    colour: str
    second: str
    pattern: str = "plain"
    outline: float = 1.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shade: tuple[float, float] = (0.0, 0.0)
    pattern_turn: float = 45.0
    pattern_step: float = 0.16


class Drawing(NamedTuple):
    """An individual's pixels in a window of the image.

    Attributes:
        window: Rows and columns of the image.
        colour: (h, w, 3) in [0, 255], multiplied by the coverage.
        coverage: (h, w) in [0, 1].
        parts: (h, w) uint8; 0 where it isn't, i + 1 on labels[i].
        holes: (h, w) uint8; the same for its holes, which are not its pixels.
    """

    window: Window
    colour: FloatImage
    coverage: FloatImage
    parts: Labels
    holes: Labels


def place_polygons(individual: Individual, pose: Pose) -> Polygon:
    """Return the corners of all polygons in units of the image's side, as `Individual.corners`."""
    matrix, offset = compute_placement(individual, pose)
    return individual.corners @ matrix + offset


def compute_placement(individual: Individual, pose: Pose) -> tuple[Polygon, Polygon]:
    """Return the (2, 2) matrix and the offset that take the recipe's units to the image's side: p @ matrix + offset."""
    width, height = (individual.high - individual.low).tolist()
    scale = pose.size / max(width * pose.stretch, height)
    across = -scale * pose.stretch if pose.mirrored else scale * pose.stretch
    angle = math.radians(pose.turn)
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = np.array([(across * cosine, across * sine), (-scale * sine, scale * cosine)])
    return matrix, np.array(pose.centre) - (individual.low + individual.high) / 2 @ matrix


def draw_labels(individual: Individual, pose: Pose, side: int, *, front: bool = False) -> tuple[Window, Labels, Labels]:
    """Draw only the numbers of the parts, without outlines and not finer than the image.

    Args:
        individual: What is drawn.
        pose: Where it lies.
        side: Of the image, in pixels.
        front: Draw what comes over the objects in it, instead of the rest.

    Returns:
        The window of the image and, in it, parts and holes as in `Drawing`.
    """
    corners = place_polygons(individual, pose) * side
    window = _find_window(corners, side)
    canvas = Image.new("L", (window[1].stop - window[1].start, window[0].stop - window[0].start))
    draw = ImageDraw.Draw(canvas)
    for piece, number, polygon in _list_polygons(individual, corners - (window[1].start, window[0].start), front=front):
        draw.polygon(polygon, fill=number + (_FIRST_HOLE if piece.colour == HOLE else 0))
    return window, *_split_holes(np.asarray(canvas))


def _list_polygons(individual: Individual, corners: Polygon, *, front: bool) -> Iterator[tuple[Piece, int, list[float]]]:
    """Yield the pieces with the numbers of their parts and their corners, x1, y1, x2, y2 ..."""
    numbers = {label: number for number, label in enumerate(individual.labels, start=1)}
    flat, start = corners.ravel().tolist(), 0
    for piece, end in zip(individual.pieces, individual.ends, strict=True):
        if piece.front == front:
            yield piece, numbers[piece.label], flat[2 * start : 2 * end]
        start = end


def _split_holes(labels: Labels) -> tuple[Labels, Labels]:
    """Return the numbers of parts and of holes."""
    parts = np.where(labels < _FIRST_HOLE, labels, np.uint8(0))
    return parts, np.where(labels > _FIRST_HOLE, labels - np.uint8(_FIRST_HOLE), np.uint8(0))


def draw_individual(individual: Individual, pose: Pose, style: Style, side: int, *, front: bool = False) -> Drawing:
    """Draw an individual, or only its front, into its window of an image of `side` pixels."""
    corners = place_polygons(individual, pose) * side
    window = _find_window(corners, side)
    shape = (window[0].stop - window[0].start, window[1].stop - window[1].start)
    canvas = Image.new("RGBA", (shape[1] * _FINE, shape[0] * _FINE))
    draw, palette = ImageDraw.Draw(canvas), _Palette(style)
    fine = (corners - (window[1].start, window[0].start)) * _FINE
    width = max(1, round(style.outline * side / 256 * _FINE))
    for piece, number, polygon in _list_polygons(individual, fine, front=front):
        if piece.colour == HOLE:
            draw.polygon(polygon, fill=(0, 0, 0, _FIRST_HOLE + number))
            continue
        fill = (*palette.mix(piece.colour), number)
        draw.polygon(polygon, fill=fill)
        if piece.patterned and style.pattern != "plain":
            _draw_pattern(canvas, polygon, (*palette.mix("second"), number), style, pose.size * side * _FINE)
        if piece.outlined and style.outline:
            edge, half = tuple(int(0.55 * value) for value in fill[:3]), len(polygon) // 2
            for loop in (polygon[:half], polygon[half:]) if piece.ring else (polygon,):
                draw.line([*loop, *loop[:4]], fill=(*edge, number), width=width)
    return _reduce(canvas, window, style)


def _find_window(corners: Polygon, side: int) -> Window:
    """Return the part of the image that the corners, in pixels, fall in."""
    (x1, y1), (x2, y2) = corners.min(0), corners.max(0)
    columns, rows = ((_clip(low - 2, side - 1), _clip(high + 3, side)) for low, high in ((x1, x2), (y1, y2)))
    return slice(rows[0], max(rows[1], rows[0] + 1)), slice(columns[0], max(columns[1], columns[0] + 1))


def _clip(value: float, most: int) -> int:
    return min(most, max(0, math.floor(value)))


class _Palette:
    """The colours of an individual."""

    def __init__(self, style: Style) -> None:
        self._tint = np.array(style.tint)
        main, second = np.array(COLOURS[style.colour], float), np.array(COLOURS[style.second], float)
        bright = 0.3 if main.mean() < 70 else 0.22
        self._named = {
            "main": main,
            "dark": main * 0.72,
            "light": main + (255 - main) * bright if main.mean() < 225 else main * 0.88,
            "second": second,
        }

    def mix(self, colour: str) -> Rgb:
        """Return the RGB value of a recipe's colour."""
        named: Mapping[str, npt.NDArray[np.float64]] = self._named
        value = named[colour] if colour in named else np.array(MATERIALS[colour], float)
        red, green, blue = np.clip(value + self._tint, 0, 255).astype(int).tolist()
        return red, green, blue


def _draw_pattern(
    canvas: Image.Image, corners: list[float], fill: tuple[int, int, int, int], style: Style, extent: float
) -> None:
    """Draw stripes or dots over the polygon, which spans up to `extent` fine pixels."""
    xs, ys = corners[::2], corners[1::2]
    middle = np.array(((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2))
    reach = math.hypot(max(xs) - min(xs), max(ys) - min(ys)) / 2
    step = max(6.0, style.pattern_step * extent)
    angle = math.radians(style.pattern_turn)
    along, across = np.array((math.cos(angle), math.sin(angle))), np.array((-math.sin(angle), math.cos(angle)))
    inside, pattern = Image.new("L", canvas.size), Image.new("L", canvas.size)
    ImageDraw.Draw(inside).polygon(corners, fill=255)
    draw = ImageDraw.Draw(pattern)
    count = math.ceil(reach / step)
    for row in range(-count, count + 1):
        base = middle + across * row * step
        if style.pattern == "striped":
            ends = [base - along * reach, base + along * reach]
            draw.line(np.concatenate(ends).tolist(), fill=255, width=round(step * 0.45))
            continue
        for column in range(-count, count + 1):
            x, y = base + along * (column + row % 2 / 2) * step
            radius = step * 0.26
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    canvas.paste(fill, mask=ImageChops.darker(inside, pattern))


def _reduce(canvas: Image.Image, window: Window, style: Style) -> Drawing:
    labels = np.asarray(canvas.getchannel("A"))
    solid = Image.fromarray(((labels > 0) & (labels < _FIRST_HOLE)).view(np.uint8) * np.uint8(255))
    colour = np.asarray(canvas.convert("RGB").reduce(_FINE), np.float32)
    coverage = np.asarray(solid.reduce(_FINE), np.float32) / np.float32(255)
    middles = labels[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE]
    h, w = middles.shape
    right, down = np.linspace(-1, 1, w, dtype=np.float32)[None], np.linspace(-1, 1, h, dtype=np.float32)[:, None]
    shade = np.float32(style.shade[0]) * right + np.float32(style.shade[1]) * down
    return Drawing(window, colour + (shade * coverage)[..., None], coverage, *_split_holes(middles))
