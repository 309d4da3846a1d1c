"""Drawn images with objects at known places, for measuring how a model answers.

The shapes and colours are ones that any multimodal model knows, and that the embedded pair was trained on. No two objects of
all scenes have the same name, so that a name says which object of which scene is meant. Sizes are far from 1000 and halfway
between multiples of 28 and of 32, so that pixels of the image and pixels after a model's resizing differ by some percent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from sam4mllm_tool.geometry.boxes import mask_to_box
from sam4mllm_tool.geometry.morphology import erosion_depth
from sam4mllm_tool.types import Box, Image, Label, Mask, Point, Size

__all__ = ["ProbeObject", "ProbeScene", "draw_probe_scene", "draw_probe_scenes"]

_SIZES = (Size(658, 434), Size(462, 686), Size(686, 462), Size(434, 658))
_OBJECTS = (
    ("red circle", "blue square", "yellow star"),
    ("green triangle", "white circle", "purple cross"),
    ("orange star", "red square", "blue triangle"),
    ("yellow cross", "green circle", "white star"),
)
_ABSENT = ("the green cross", "the purple triangle", "the white cross", "the green star")
"""For each scene a name of which no part fits an object (the first and third), or each part another object."""
_COLOURS = {
    "red": (215, 40, 40),
    "green": (45, 165, 65),
    "blue": (50, 75, 220),
    "yellow": (238, 215, 60),
    "purple": (150, 60, 185),
    "orange": (242, 140, 35),
    "white": (243, 243, 243),
}
_BACKGROUND = (112, 116, 120)
_RADII = (0.15, 0.19)
"""Of the shorter side."""
_SUPERSAMPLING = 3
_LEAST_DEPTH = 5
"""Least depth of a point, in pixels along rows and columns."""
_Outline = Sequence[tuple[float, float]]


@dataclass(frozen=True, eq=False)
class ProbeObject:
    """A drawn object.

    Args:
        expression: What it is called, as in "the red circle".
        mask: (H, W) bool.
        box: Around the mask, in pixels.
        points: Points inside the box, in pixels, with their labels: as far from the object's edge as there are.
    """

    expression: str
    mask: Mask
    box: Box
    points: tuple[tuple[Point, Label], ...]


@dataclass(frozen=True, eq=False)
class ProbeScene:
    """A drawn image, its objects, and an expression that fits none of them."""

    image: Image
    objects: tuple[ProbeObject, ...]
    absent: str

    @property
    def size(self) -> Size:
        """Of the image, in pixels."""
        return Size(*self.image.size)


@cache
def draw_probe_scenes() -> tuple[ProbeScene, ...]:
    """Return the scenes: always the same ones, drawn once."""
    return tuple(
        draw_probe_scene(size, names, absent, seed)
        for seed, (size, names, absent) in enumerate(zip(_SIZES, _OBJECTS, _ABSENT, strict=True))
    )


def draw_probe_scene(size: Size, names: Sequence[str], absent: str, seed: int) -> ProbeScene:
    """Draw objects on a grey image, none of which touch.

    Args:
        size: Of the image, in pixels.
        names: Colour and shape of each object, such as "red circle": circle, square, triangle, star or cross.
        absent: An expression that fits none of them.
        seed: Decides the places.
    """
    random = Random(seed)
    image = PILImage.new("RGB", size, _BACKGROUND)
    objects = []
    for name, (centre, radius) in zip(names, _place(size, len(names), random), strict=True):
        colour, shape = name.split()
        coverage = _rasterize(shape, centre, radius, size)
        image.paste(_COLOURS[colour], mask=coverage)
        mask: Mask = np.asarray(coverage) > 127
        objects.append(ProbeObject(f"the {name}", mask, mask_to_box(mask), tuple(_choose_points(mask))))
    return ProbeScene(image, tuple(objects), absent)


def _place(size: Size, count: int, random: Random) -> list[tuple[Point, float]]:
    """Choose centres and radii, in pixels, so that no two objects come close."""
    placed: list[tuple[Point, float]] = []
    while len(placed) < count:
        radius = random.uniform(*_RADII) * min(size)
        centre = Point(*(random.uniform(1.1 * radius, side - 1.1 * radius) for side in size))
        if all(math.dist(centre, other) > 1.15 * (radius + other_radius) for other, other_radius in placed):
            placed.append((centre, radius))
    return placed


def _rasterize(shape: str, centre: Point, radius: float, size: Size) -> Image:
    """Return how much of each pixel the shape covers, as an image of mode L."""
    canvas = PILImage.new("L", (size.width * _SUPERSAMPLING, size.height * _SUPERSAMPLING))
    outline = [((centre.x + radius * x) * _SUPERSAMPLING, (centre.y + radius * y) * _SUPERSAMPLING) for x, y in _outline(shape)]
    ImageDraw.Draw(canvas).polygon(outline, fill=255)
    return canvas.reduce(_SUPERSAMPLING)


def _outline(shape: str) -> _Outline:
    """Return the corners of a shape of radius 1 around (0, 0), y down."""
    match shape:
        case "circle":
            return _spokes([1.0] * 60)
        case "square":
            return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
        case "triangle":
            return _spokes([1.0] * 3)
        case "star":
            return _spokes([1.0, 0.45] * 5)
        case _:  # a cross
            quarter = [(0.32, -1.0), (0.32, -0.32), (1.0, -0.32)]
            turned = [(-y, x) for x, y in quarter]
            return [*quarter, *turned, *((-x, -y) for x, y in quarter), *((-x, -y) for x, y in turned)]


def _spokes(radii: Sequence[float]) -> _Outline:
    angles = [2 * math.pi * number / len(radii) - math.pi / 2 for number in range(len(radii))]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in zip(radii, angles, strict=True)]


def _choose_points(mask: Mask) -> list[tuple[Point, Label]]:
    """Return the point deepest inside the object and, unless the object fills its box, the one deepest outside it."""
    box = mask_to_box(mask)
    window = mask[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)]
    points: list[tuple[Point, Label]] = []
    sides: tuple[tuple[Mask, Label], ...] = ((window, 1), (~window, 0))
    for part, label in sides:
        # The edge of the window counts as an edge: points there are as close to what lies beyond the box.
        depth = erosion_depth(part)
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        if depth[y, x] >= _LEAST_DEPTH:
            points.append((Point(box.x1 + float(x) + 0.5, box.y1 + float(y) + 0.5), label))
    return points
