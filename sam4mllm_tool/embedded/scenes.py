"""The embedded pair's world: drawn scenes with exact masks, each from a seed.

A scene is two to ten coloured shapes on a textured background. Some shapes fill their box, some leave most of it empty (rings,
crescents, crosses, stars), and some are partly covered, so that a box alone does not say which pixels are meant. Seeds below
`TEST_SEEDS` may be used for training and tuning; seeds from there on are the test split and are never trained on.

Geometry is in units of the image's side, so a seed gives the same scene at any resolution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sam4mllm_tool.embedded import TEST_SEEDS
from sam4mllm_tool.geometry.boxes import mask_to_box
from sam4mllm_tool.types import Box, Mask

__all__ = ["COLOURS", "SHAPES", "SIZES", "TEST_SEEDS", "Scene", "SceneObject", "draw_scene"]

COLOURS = {
    "red": (215, 40, 40),
    "green": (45, 165, 65),
    "blue": (50, 75, 220),
    "yellow": (238, 215, 60),
    "purple": (150, 60, 185),
    "orange": (242, 140, 35),
    "cyan": (70, 205, 215),
    "white": (243, 243, 243),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "crescent", "heart")
SIZES = {"small": (0.085, 0.105), "large": (0.14, 0.18)}
"""Range of the radius of each size, in units of the image's side."""

_SUPERSAMPLING = 3
_MIN_VISIBLE = 0.65  # if less of a shape were visible, its expressions could not be resolved
_COUNTS = (2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10)
_ATTEMPTS = 25  # to place one shape
_FloatImage = npt.NDArray[np.float32]
_Window = tuple[slice, slice]


@dataclass(frozen=True)
class SceneObject:
    """One drawn shape.

    Attributes:
        shape: One of `SHAPES`.
        colour: One of `COLOURS`.
        size: One of `SIZES`.
        centre: (x, y) in units of the image's side.
        radius: In units of the image's side.
        box: Around the visible pixels, in pixels.
    """

    shape: str
    colour: str
    size: str
    centre: tuple[float, float]
    radius: float
    box: Box

    @property
    def noun(self) -> str:
        """What it is called: its shape."""
        return self.shape

    @property
    def plural(self) -> str:
        """What several are called."""
        return "crosses" if self.shape == "cross" else f"{self.shape}s"


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn image with its true masks.

    Attributes:
        seed: What it was drawn from.
        image: (side, side, 3) uint8 RGB.
        instances: (side, side) uint8; 0 is the background, i + 1 the visible pixels of objects[i].
        objects: The shapes, in drawing order.
    """

    seed: int
    image: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint8]
    objects: tuple[SceneObject, ...]

    @property
    def regions(self) -> tuple[SceneObject, ...]:
        """What expressions refer to: the objects."""
        return self.objects

    def mask(self, index: int) -> Mask:
        """Return the visible pixels of objects[index], (side, side) bool."""
        return np.equal(self.instances, index + 1)


class _Placement(NamedTuple):
    """A shape before it is drawn, with the fields of `SceneObject`."""

    shape: str
    colour: str
    size: str
    centre: tuple[float, float]
    radius: float


def draw_scene(seed: int, side: int = 256) -> Scene:
    """Draw the scene of a seed, `side` pixels square."""
    rng, noise = Random(seed), np.random.default_rng(seed)
    image = _draw_background(rng, noise, side)
    instances = np.zeros((side, side), np.uint8)
    placed: list[_Placement] = []
    areas: list[int] = []
    count = rng.choice(_COUNTS)
    for _ in range(count):
        for _attempt in range(_ATTEMPTS):
            new = _choose_placement(rng, placed, small_share=0.35 + 0.05 * count)
            if any(math.dist(new.centre, other.centre) < 0.8 * (new.radius + other.radius) for other in placed):
                continue
            window, coverage = _rasterize(new, _choose_rotation(new.shape, rng), side)
            solid = coverage > 0.5
            if _hides_too_much(instances, window, solid, areas):
                continue
            _paint(image, window, coverage, COLOURS[new.colour], rng, noise)
            placed.append(new)
            areas.append(int(solid.sum()))
            instances[window][solid] = len(placed)
            break
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    objects = tuple(SceneObject(*shape, box=mask_to_box(instances == number)) for number, shape in enumerate(placed, start=1))
    return Scene(seed, pixels, instances, objects)


# Placement ----------------------------------------------------------------------------------------------------------


def _choose_placement(rng: Random, placed: Sequence[_Placement], small_share: float) -> _Placement:
    shape, colour = _choose_shape_and_colour(rng, placed)
    size = "small" if rng.random() < small_share else "large"
    radius = rng.uniform(*SIZES[size])
    centre = (rng.uniform(radius, 1 - radius), rng.uniform(radius, 1 - radius))
    return _Placement(shape, colour, size, centre, radius)


def _choose_shape_and_colour(rng: Random, placed: Sequence[_Placement]) -> tuple[str, str]:
    """Choose at random, but often repeat another object's shape or colour, so that expressions have to tell them apart."""
    shape, colour = rng.choice(SHAPES), rng.choice(sorted(COLOURS))
    if placed and rng.random() < 0.5:
        other = rng.choice(placed)
        if rng.random() < 0.5:
            shape = other.shape
        else:
            colour = other.colour
    return shape, colour


def _choose_rotation(shape: str, rng: Random) -> float:
    """Choose an angle in radians."""
    return rng.uniform(0, 2 * math.pi) if shape in ("star", "crescent") else rng.uniform(-0.4, 0.4)


def _hides_too_much(instances: npt.NDArray[np.uint8], window: _Window, solid: Mask, areas: Sequence[int]) -> bool:
    """Return whether drawing the pixels `solid` of `window` would leave too little of an earlier shape visible."""
    hidden = np.bincount(instances[window][solid], minlength=len(areas) + 1)[1:]
    visible = np.bincount(instances.ravel(), minlength=len(areas) + 1)[1:] - hidden
    return any(left < _MIN_VISIBLE * area for left, area in zip(visible, areas, strict=True))


# Drawing ------------------------------------------------------------------------------------------------------------


def _arc(cx: float, cy: float, radius: float, start: float, end: float, steps: int = 40) -> npt.NDArray[np.float64]:
    angles = np.linspace(start, end, steps)
    return np.stack([cx + radius * np.cos(angles), cy + radius * np.sin(angles)], 1)


def _spokes(radii: tuple[float, ...], first: float = -math.pi / 2) -> npt.NDArray[np.float64]:
    angles = first + 2 * math.pi * np.arange(len(radii)) / len(radii)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def _outline(shape: str) -> npt.NDArray[np.float64]:
    """Return the shape with radius 1 around (0, 0), y down, as an (n, 2) polygon."""
    match shape:
        case "circle" | "ring":
            return _arc(0, 0, 1, 0, 2 * math.pi, 60)
        case "square":
            return _spokes((1.0,) * 4, math.pi / 4)
        case "triangle":
            return _spokes((1.0,) * 3)
        case "star":
            return _spokes((1.0, 0.45) * 5)
        case "cross":
            w = 0.32
            quarter = [(w, -1.0), (w, -w), (1.0, -w)]
            return np.array(
                [*quarter, *((-y, x) for x, y in quarter), *((-x, -y) for x, y in quarter), *((y, -x) for x, y in quarter)]
            )
        case "crescent":  # the unit circle minus a circle of radius 0.8 around (0.5, 0); they meet at x = 0.61
            outer, inner = math.acos(0.61), math.acos(0.11 / 0.8)
            return np.concatenate([_arc(0, 0, 1, outer, 2 * math.pi - outer), _arc(0.5, 0, 0.8, 2 * math.pi - inner, inner)])
        case "heart":
            t = np.linspace(0, 2 * math.pi, 60)
            y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
            return np.stack([16 * np.sin(t) ** 3, y - 2], 1) / 17
    raise ValueError(f"no such shape: {shape!r}; there are {', '.join(SHAPES)}")


def _rasterize(placement: _Placement, rotation: float, side: int) -> tuple[_Window, _FloatImage]:
    """Return the window of the image that the shape falls in, and its coverage there, (h, w) in [0, 1]."""
    shape, (x, y), radius = placement.shape, placement.centre, placement.radius
    x1, y1 = (max(0, math.floor((c - radius) * side) - 1) for c in (x, y))
    x2, y2 = (min(side, math.ceil((c + radius) * side) + 1) for c in (x, y))
    turn = np.array([[math.cos(rotation), math.sin(rotation)], [-math.sin(rotation), math.cos(rotation)]])
    points = (_outline(shape) @ turn * radius + (x, y)) * side - (x1, y1)
    canvas = Image.new("L", ((x2 - x1) * _SUPERSAMPLING, (y2 - y1) * _SUPERSAMPLING), 0)
    draw = ImageDraw.Draw(canvas)
    draw.polygon([tuple(p) for p in points * _SUPERSAMPLING], fill=255)
    if shape == "ring":
        middle = np.array((x, y)) * side - (x1, y1)
        hole = _arc(0, 0, 0.52 * radius * side, 0, 2 * math.pi, 60) + middle
        draw.polygon([tuple(p) for p in hole * _SUPERSAMPLING], fill=0)
    coverage = np.asarray(canvas.reduce(_SUPERSAMPLING), np.float32) / np.float32(255)
    return (slice(y1, y2), slice(x1, x2)), coverage


def _paint(
    image: _FloatImage,
    window: _Window,
    coverage: _FloatImage,
    colour: tuple[int, int, int],
    rng: Random,
    noise: np.random.Generator,
) -> None:
    """Blend the colour into the image, jittered, shaded along a random direction and with grain."""
    h, w = coverage.shape
    angle, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0, 14)
    shade = depth * (math.cos(angle) * np.linspace(-1, 1, w)[None] + math.sin(angle) * np.linspace(-1, 1, h)[:, None])
    shade = shade + noise.normal(0, 3, (h, w))
    flat = np.array(colour, np.float32) + [rng.uniform(-12, 12) for _ in range(3)]
    alpha = coverage[..., None]
    image[window] = image[window] * (1 - alpha) + (flat + shade[..., None]) * alpha


def _draw_background(rng: Random, noise: np.random.Generator, side: int) -> _FloatImage:
    """Draw a dull colour with a gradient, stripes, tiles or clouds, and grain, (side, side, 3)."""
    tint = rng.uniform(70, 150) + np.array([rng.uniform(-18, 18) for _ in range(3)])
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = axis[None, :], axis[:, None]
    angle, contrast = rng.uniform(0, math.pi), rng.uniform(8, 22)
    along = math.cos(angle) * x + math.sin(angle) * y
    match rng.choice(("gradient", "stripes", "tiles", "clouds")):
        case "gradient":
            pattern = 2 * along - 1
        case "stripes":
            pattern = np.sin(2 * math.pi * along * rng.uniform(4, 14))
        case "tiles":
            count = rng.randint(4, 12)
            pattern = ((np.floor(x * count) + np.floor(y * count)) % 2) * 2 - 1
        case _:
            coarse = noise.normal(0, 127, (rng.randint(4, 10),) * 2).clip(-255, 255)
            clouds = Image.fromarray(coarse.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
            pattern = np.asarray(clouds) / 180
    grain = noise.normal(0, 4, (side, side)).astype(np.float32)
    texture = (contrast * pattern + grain)[..., None]
    return (tint + texture).astype(np.float32)
