"""The embedded pair's world: drawn scenes with exact masks, all from a seed.

A scene is two to ten coloured shapes on a textured ground. Some shapes fill their box, some leave most of it empty (rings,
crescents, crosses, stars), some are partly covered, so that a box alone does not say which pixels are meant. Seeds below
`TEST_SEEDS` may be trained and tuned on; seeds from there on are the test split and are never trained on.

Geometry is kept in units of the picture's side, so one seed gives one scene at any resolution.
"""

import math
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sam4mllm_tool.geometry.boxes import mask_to_box
from sam4mllm_tool.types import Box

TEST_SEEDS = 1_000_000
"""First seed of the test split."""

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
"""Radius range of each size, in units of the picture's side."""

_SUPERSAMPLE = 3
_MIN_VISIBLE = 0.65  # a shape covered more than this share leaves the referring expressions guessing

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SceneObject:
    """One drawn shape. centre and radius in units of the side; box in pixels around what is visible."""

    shape: str
    colour: str
    size: str
    centre: tuple[float, float]
    radius: float
    box: Box


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn picture with its truth.

    image: (side, side, 3) uint8 RGB. instances: (side, side) uint8, 0 the ground, i + 1 the visible pixels of objects[i].
    """

    seed: int
    image: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint8]
    objects: tuple[SceneObject, ...]

    def mask(self, index: int) -> BoolArray:
        """The visible pixels of objects[index], (side, side) bool."""
        return np.equal(self.instances, index + 1)


def draw_scene(seed: int, side: int = 256) -> Scene:
    """The scene of this seed, `side` pixels square."""
    rng = Random(seed)
    noise = np.random.default_rng(seed)
    image = _ground(rng, noise, side)
    instances = np.zeros((side, side), np.uint8)
    placed: list[tuple[str, str, str, tuple[float, float], float]] = []
    full_areas: list[int] = []
    wanted = rng.choice((2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10))
    for _ in range(wanted):
        for _attempt in range(25):
            shape, colour = _choose_look(rng, placed)
            size = "small" if rng.random() < 0.35 + 0.05 * wanted else "large"
            radius = rng.uniform(*SIZES[size])
            centre = (rng.uniform(radius, 1 - radius), rng.uniform(radius, 1 - radius))
            if any(math.dist(centre, other[3]) < 0.8 * (radius + other[4]) for other in placed):
                continue
            window, coverage = _rasterise(shape, centre, radius, _rotation(shape, rng), side)
            solid = coverage > 0.5
            hidden = np.bincount(instances[window][solid], minlength=len(placed) + 1)[1:]
            visible = np.bincount(instances.ravel(), minlength=len(placed) + 1)[1:] - hidden
            if any(seen < _MIN_VISIBLE * area for seen, area in zip(visible, full_areas, strict=True)):
                continue
            _paint(image, window, coverage, COLOURS[colour], rng, noise)
            placed.append((shape, colour, size, centre, radius))
            full_areas.append(int(solid.sum()))
            instances[window][solid] = len(placed)
            break
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    objects = tuple(SceneObject(*look, box=mask_to_box(instances == number)) for number, look in enumerate(placed, start=1))
    return Scene(seed, pixels, instances, objects)


# Looks and geometry -------------------------------------------------------------------------------------------------


def _choose_look(rng: Random, placed: list[tuple[str, str, str, tuple[float, float], float]]) -> tuple[str, str]:
    """Shape and colour; shapes and colours repeat often enough that expressions have something to tell apart."""
    shape, colour = rng.choice(SHAPES), rng.choice(sorted(COLOURS))
    if placed and rng.random() < 0.5:
        other = rng.choice(placed)
        if rng.random() < 0.5:
            shape = other[0]
        else:
            colour = other[1]
    return shape, colour


def _rotation(shape: str, rng: Random) -> float:
    return rng.uniform(0, 2 * math.pi) if shape in ("star", "crescent") else rng.uniform(-0.4, 0.4)


def _arc(cx: float, cy: float, radius: float, start: float, end: float, steps: int = 40) -> npt.NDArray[np.float64]:
    angles = np.linspace(start, end, steps)
    return np.stack([cx + radius * np.cos(angles), cy + radius * np.sin(angles)], 1)


def _spokes(radii: tuple[float, ...], first: float = -math.pi / 2) -> npt.NDArray[np.float64]:
    angles = first + 2 * math.pi * np.arange(len(radii)) / len(radii)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def _outline(shape: str) -> npt.NDArray[np.float64]:
    """(N, 2) polygon of the shape with radius 1 around (0, 0), y down."""
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
            corners = [
                (w, -1),
                (w, -w),
                (1, -w),
                (1, w),
                (w, w),
                (w, 1),
                (-w, 1),
                (-w, w),
                (-1, w),
                (-1, -w),
                (-w, -w),
                (-w, -1),
            ]
            return np.array(corners, float)
        case "crescent":  # the unit circle less a circle of 0.8 around (0.5, 0); they meet at x = 0.61
            outer, inner = math.acos(0.61), math.acos(0.11 / 0.8)
            return np.concatenate([_arc(0, 0, 1, outer, 2 * math.pi - outer), _arc(0.5, 0, 0.8, 2 * math.pi - inner, inner)])
        case "heart":
            t = np.linspace(0, 2 * math.pi, 60)
            y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
            return np.stack([16 * np.sin(t) ** 3, y - 2], 1) / 17
    raise ValueError(f"no such shape: {shape!r}; there are {', '.join(SHAPES)}")


def _rasterise(
    shape: str, centre: tuple[float, float], radius: float, rotation: float, side: int
) -> tuple[tuple[slice, slice], npt.NDArray[np.float32]]:
    """The window of the picture that the shape falls in and its coverage there, (h, w) float in [0, 1]."""
    x1, y1 = (max(0, math.floor((c - radius) * side) - 1) for c in centre)
    x2, y2 = (min(side, math.ceil((c + radius) * side) + 1) for c in centre)
    turn = np.array([[math.cos(rotation), math.sin(rotation)], [-math.sin(rotation), math.cos(rotation)]])
    points = (_outline(shape) @ turn * radius + centre) * side - (x1, y1)
    canvas = Image.new("L", ((x2 - x1) * _SUPERSAMPLE, (y2 - y1) * _SUPERSAMPLE), 0)
    draw = ImageDraw.Draw(canvas)
    draw.polygon([tuple(p) for p in points * _SUPERSAMPLE], fill=255)
    if shape == "ring":
        middle = np.array(centre) * side - (x1, y1)
        draw.polygon([tuple(p) for p in (_arc(0, 0, 0.52 * radius * side, 0, 2 * math.pi, 60) + middle) * _SUPERSAMPLE], fill=0)
    coverage = np.asarray(canvas.reduce(_SUPERSAMPLE), np.float32) / np.float32(255)
    return (slice(y1, y2), slice(x1, x2)), coverage


def _paint(
    image: npt.NDArray[np.float32],
    window: tuple[slice, slice],
    coverage: npt.NDArray[np.float32],
    colour: tuple[int, int, int],
    rng: Random,
    noise: np.random.Generator,
) -> None:
    """Blends the colour in, jittered, shaded along a random direction and grained."""
    h, w = coverage.shape
    angle, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0, 14)
    shade = depth * (math.cos(angle) * np.linspace(-1, 1, w)[None] + math.sin(angle) * np.linspace(-1, 1, h)[:, None])
    shade = shade + noise.normal(0, 3, (h, w))
    flat = np.array(colour, np.float32) + [rng.uniform(-12, 12) for _ in range(3)]
    alpha = coverage[..., None]
    image[window] = image[window] * (1 - alpha) + (flat + shade[..., None]) * alpha


def _ground(rng: Random, noise: np.random.Generator, side: int) -> npt.NDArray[np.float32]:
    """(side, side, 3) float32: a dull colour under a gradient, stripes, tiles or clouds, and grain."""
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
