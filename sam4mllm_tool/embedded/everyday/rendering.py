"""Draws individuals of everyday things: coloured, patterned, shaded and outlined, with the exact pixels of their parts.

A canvas is three times as fine as the image. Its alpha channel holds the number of the part, so that one filled polygon sets colour
and part alike; the pixel of a mask is the part at the pixel's middle.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw

from sam4mllm_tool.embedded.everyday.primitives import Polygon
from sam4mllm_tool.embedded.everyday.recipe import COLOURS, HOLE, MATERIALS, Piece, Rgb

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


def list_labels(pieces: Sequence[Piece]) -> list[str]:
    """List the labels of the parts in drawing order; a drawing's numbers count along this list."""
    return list(dict.fromkeys(piece.label for piece in pieces))


def place_pieces(pieces: Sequence[Piece], pose: Pose) -> list[Polygon]:
    """Return the polygons in units of the image's side."""
    matrix, offset = compute_placement(pieces, pose)
    return [piece.polygon @ matrix + offset for piece in pieces]


def compute_placement(pieces: Sequence[Piece], pose: Pose) -> tuple[Polygon, Polygon]:
    """Return the (2, 2) matrix and the offset that take the recipe's units to those of the image's side: p @ matrix + offset."""
    corners = np.concatenate([piece.polygon for piece in pieces])
    low, high = corners.min(0), corners.max(0)
    stretch = np.array([pose.stretch, 1.0])
    scale = pose.size / float(((high - low) * stretch).max())
    angle = math.radians(pose.turn)
    turn = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    flip = np.diag([-pose.stretch if pose.mirrored else pose.stretch, 1.0])
    matrix = flip @ turn * scale
    return matrix, np.array(pose.centre) - (low + high) / 2 @ matrix


def draw_labels(pieces: Sequence[Piece], pose: Pose, side: int, *, front: bool = False) -> tuple[Window, Labels, Labels]:
    """Draw only the numbers of the parts, without outlines and not finer than the image.

    Args:
        pieces: The individual.
        pose: Where it lies.
        side: Of the image, in pixels.
        front: Draw what comes over the things in it, instead of the rest.

    Returns:
        The window of the image and, in it, parts and holes as in `Drawing`.
    """
    polygons = place_pieces(pieces, pose)
    window = _find_window(polygons, side)
    canvas = Image.new("L", (window[1].stop - window[1].start, window[0].stop - window[0].start))
    draw, corner = ImageDraw.Draw(canvas), (window[1].start, window[0].start)
    numbers = {label: number for number, label in enumerate(list_labels(pieces), start=1)}
    for piece, polygon in zip(pieces, polygons, strict=True):
        if piece.front == front:
            number = numbers[piece.label] + (_FIRST_HOLE if piece.colour == HOLE else 0)
            draw.polygon((polygon * side - corner).ravel().tolist(), fill=number)
    return window, *_split_holes(np.asarray(canvas))


def _split_holes(labels: Labels) -> tuple[Labels, Labels]:
    """Return the numbers of parts and of holes."""
    parts = np.where(labels < _FIRST_HOLE, labels, np.uint8(0))
    return parts, np.where(labels > _FIRST_HOLE, labels - np.uint8(_FIRST_HOLE), np.uint8(0))


def draw_individual(pieces: Sequence[Piece], pose: Pose, style: Style, side: int, *, front: bool = False) -> Drawing:
    """Draw an individual, or only its front, into its window of an image of `side` pixels."""
    polygons = place_pieces(pieces, pose)
    window = _find_window(polygons, side)
    shape = (window[0].stop - window[0].start, window[1].stop - window[1].start)
    canvas = Image.new("RGBA", (shape[1] * _FINE, shape[0] * _FINE))
    draw = ImageDraw.Draw(canvas)
    numbers = {label: number for number, label in enumerate(list_labels(pieces), start=1)}
    palette = _Palette(style)
    offset, width = np.array((window[1].start, window[0].start)) * _FINE, max(1, round(style.outline * side / 256 * _FINE))
    for piece, polygon in zip(pieces, polygons, strict=True):
        if piece.front != front:
            continue
        corners = (polygon * side * _FINE - offset).ravel().tolist()
        if piece.colour == HOLE:
            draw.polygon(corners, fill=(0, 0, 0, _FIRST_HOLE + numbers[piece.label]))
            continue
        fill = (*palette.mix(piece.colour), numbers[piece.label])
        draw.polygon(corners, fill=fill)
        if piece.patterned and style.pattern != "plain":
            _draw_pattern(canvas, corners, (*palette.mix("second"), numbers[piece.label]), style, pose.size * side * _FINE)
        if piece.outlined and style.outline:
            edge = tuple(int(0.55 * value) for value in fill[:3])
            half = len(corners) // 2
            for loop in (corners[:half], corners[half:]) if piece.ring else (corners,):
                draw.line([*loop, *loop[:4]], fill=(*edge, numbers[piece.label]), width=width)
    return _reduce(canvas, window, style)


def _find_window(polygons: Sequence[Polygon], side: int) -> Window:
    corners = np.concatenate(polygons) * side
    (x1, y1), (x2, y2) = np.floor(corners.min(0)).astype(int) - 2, np.ceil(corners.max(0)).astype(int) + 2
    columns, rows = (np.clip((first, last), 0, side).tolist() for first, last in ((x1, x2), (y1, y2)))
    return slice(rows[0], max(rows[1], rows[0] + 1)), slice(columns[0], max(columns[1], columns[0] + 1))


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
    labels = canvas.getchannel("A")
    solid = labels.point([0] + [255] * (_FIRST_HOLE - 1) + [0] * (256 - _FIRST_HOLE))
    colour = np.asarray(canvas.convert("RGB").reduce(_FINE), np.float32)
    coverage = np.asarray(solid.reduce(_FINE), np.float32) / np.float32(255)
    middles = np.asarray(labels)[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE]
    h, w = middles.shape
    right, down = np.linspace(-1, 1, w, dtype=np.float32)[None], np.linspace(-1, 1, h, dtype=np.float32)[:, None]
    shaded = colour + (style.shade[0] * right + style.shade[1] * down)[..., None] * coverage[..., None]
    return Drawing(window, shaded.astype(np.float32), coverage, *_split_holes(middles))
