"""Drawn images with objects at known places, for measuring how a model answers.

They are everyday things in plain colours, which any multimodal model knows, the embedded one too. No two objects of all scenes
have the same name, so that a name says which object of which scene is meant. Sizes are far from 1000 and halfway
between multiples of 28 and of 32, so that pixels of the image and pixels after a model's resizing differ by some percent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from sam4mllm_tool.drawn_things.recipe import build_individual, load_recipes
from sam4mllm_tool.drawn_things.rendering import Pose, Style, draw_individual
from sam4mllm_tool.geometry.boxes import mask_to_box
from sam4mllm_tool.geometry.morphology import erosion_depth
from sam4mllm_tool.types import Box, Image, Label, Mask, Point, Size

__all__ = ["ProbeObject", "ProbeScene", "draw_probe_scene", "draw_probe_scenes"]

_SIZES = (Size(658, 434), Size(462, 686), Size(686, 462), Size(434, 658))
_OBJECTS = (
    ("red mug", "blue umbrella", "yellow kite"),
    ("green teapot", "white hat", "purple butterfly"),
    ("orange fish", "red chair", "blue shoe"),
    ("yellow bird", "green mug", "white shirt"),
)
_ABSENT = ("the green key", "the purple teapot", "the white cloud", "the green bird")
"""For each scene a name of which no part fits an object (the first and third), or each part another object."""
_BACKGROUND = (206, 212, 208)
_RADII = (0.15, 0.19)
"""Of the shorter side."""
_SHARE = 0.9
"""Of the square that a thing is drawn in, what its longer side takes."""
_LEAST_DEPTH = 5
"""Least depth of a point, in pixels along rows and columns."""


@dataclass(frozen=True, eq=False)
class ProbeObject:
    """A drawn object.

    Args:
        expression: What it is called, as in "the red mug".
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
        names: Colour and noun of each object, such as "red mug": of `everyday.recipe`.
        absent: An expression that fits none of them.
        seed: Decides the places.
    """
    random = Random(seed)
    pixels = np.full((size.height, size.width, 3), _BACKGROUND, np.float32)
    objects = []
    for name, (centre, radius) in zip(names, _place(size, len(names), random), strict=True):
        mask = _draw_thing(pixels, name, centre, radius)
        objects.append(ProbeObject(f"the {name}", mask, mask_to_box(mask), tuple(_choose_points(mask))))
    return ProbeScene(PILImage.fromarray(pixels.clip(0, 255).astype(np.uint8)), tuple(objects), absent)


def _place(size: Size, count: int, random: Random) -> list[tuple[Point, float]]:
    """Choose centres and radii, in pixels, so that no two objects come close."""
    placed: list[tuple[Point, float]] = []
    while len(placed) < count:
        radius = random.uniform(*_RADII) * min(size)
        centre = Point(*(random.uniform(1.1 * radius, side - 1.1 * radius) for side in size))
        if all(math.dist(centre, other) > 1.15 * (radius + other_radius) for other, other_radius in placed):
            placed.append((centre, radius))
    return placed


def _draw_thing(pixels: npt.NDArray[np.float32], name: str, centre: Point, radius: float) -> Mask:
    """Draw a thing of 2 x `radius` onto an image, (H, W, 3) in [0, 255]; return its (H, W) bool mask."""
    colour, noun = name.split()
    individual = build_individual(load_recipes()[noun], Random(noun))
    side = round(2 * radius / _SHARE)
    style = Style(colour, colour, outline=min(pixels.shape[:2]) / side)
    drawing = draw_individual(individual, Pose((0.5, 0.5), _SHARE), style, side)
    rows, columns = (
        slice(round(middle - side / 2) + part.start, round(middle - side / 2) + part.stop)
        for middle, part in zip((centre.y, centre.x), drawing.window, strict=True)
    )
    pixels[rows, columns] = pixels[rows, columns] * (1 - drawing.coverage[..., None]) + drawing.colour
    mask = np.zeros(pixels.shape[:2], np.bool_)
    mask[rows, columns] = drawing.parts > 0
    return mask


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
