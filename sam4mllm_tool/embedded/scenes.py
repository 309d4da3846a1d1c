"""The embedded pair's world: drawn scenes with exact masks and referring expressions, all from a seed.

A scene is two to ten coloured shapes on a textured ground. Some shapes fill their box, some leave most of it empty (rings,
crescents, crosses, stars), some are partly covered, so that a box alone does not say which pixels are meant. Seeds below
`TEST_SEEDS` may be trained and tuned on; seeds from there on are the test split and are never trained on.

Geometry is kept in units of the picture's side, so one seed gives one scene at any resolution.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sam4mllm_tool.types import Box

TEST_SEEDS = 1_000_000
"""First seed of the test split."""

Kind = Literal["attribute", "position", "relation", "ordinal", "plural", "implicit", "absent"]
KINDS: tuple[Kind, ...] = ("attribute", "position", "relation", "ordinal", "plural", "implicit", "absent")
SINGLE_OBJECT_KINDS: tuple[Kind, ...] = ("attribute", "position", "relation", "ordinal", "implicit")

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

IMPLICIT = {
    "circle": ("the round shape without a hole", "the shape like a full moon"),
    "square": ("the shape with four equal sides", "the shape with four corners"),
    "triangle": ("the shape with three corners", "the shape with three sides"),
    "star": ("the shape with five points", "the shape you see in the night sky on a flag"),
    "ring": ("the shape with a hole in it", "what you could wear on a finger"),
    "cross": ("the shape like a plus sign", "the shape made of two bars"),
    "crescent": ("the shape like a new moon", "the shape like a banana"),
    "heart": ("the shape that stands for love", "what you could draw on a valentine card"),
}
PLURALS = {shape: "crosses" if shape == "cross" else shape + "s" for shape in SHAPES}

_SUPERSAMPLE = 3
_MIN_VISIBLE = 0.65  # a shape covered more than this share leaves the referring expressions guessing
_MARGIN = 0.05  # two centres nearer than this along an axis are not compared along it

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


@dataclass(frozen=True)
class Expression:
    """A referring expression, its kind, and the indices of the objects it means, from left to right."""

    text: str
    kind: Kind
    targets: tuple[int, ...]


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
    objects = tuple(SceneObject(*look, box=mask_box(instances == number)) for number, look in enumerate(placed, start=1))
    return Scene(seed, pixels, instances, objects)


def mask_box(mask: BoolArray) -> Box:
    """The tightest box around a non-empty (H, W) mask; x2 and y2 are one past the last pixel, as in COCO."""
    ys, xs = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return Box(float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1))


def expressions(scene: Scene) -> list[Expression]:
    """Every expression that is unambiguous in this scene, shuffled by its seed, absent ones included.

    There are far more of some kinds than of others: `sample_expressions` draws a balanced handful.
    """
    rng = Random(f"expressions-{scene.seed}")
    found = [
        *_attributes(scene.objects),
        *_implicits(scene.objects, rng),
        *_positions(scene.objects),
        *_ordinals(scene.objects),
        *_relations(scene.objects),
        *_plurals(scene.objects),
        *_absents(scene.objects, rng),
    ]
    rng.shuffle(found)
    return found


def sample_expressions(scene: Scene, count: int, rng: Random) -> list[Expression]:
    """Up to `count` different expressions, kinds drawn evenly among those the scene has."""
    by_kind: dict[Kind, list[Expression]] = {}
    for expression in expressions(scene):
        by_kind.setdefault(expression.kind, []).append(expression)
    chosen: list[Expression] = []
    while by_kind and len(chosen) < count:
        kind = rng.choice(sorted(by_kind))
        chosen.append(by_kind[kind].pop(rng.randrange(len(by_kind[kind]))))
        if not by_kind[kind]:
            del by_kind[kind]
    return chosen


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


# Expressions --------------------------------------------------------------------------------------------------------

_Objects = tuple[SceneObject, ...]
_ORDINALS = ("first", "second", "third", "fourth")
_EXTREMES = {
    "left": ("the leftmost {}", "the {} furthest to the left"),
    "right": ("the rightmost {}", "the {} furthest to the right"),
    "top": ("the topmost {}", "the highest {}"),
    "bottom": ("the bottommost {}", "the lowest {}"),
}
_RELATIONS = {
    "left": ("the {} left of the {}", "the {} to the left of the {}"),
    "right": ("the {} right of the {}", "the {} to the right of the {}"),
    "top": ("the {} above the {}", "the {} higher than the {}"),
    "bottom": ("the {} below the {}", "the {} under the {}"),
}


def _reach(thing: SceneObject, side: str) -> float:
    """How far towards `side` the centre lies; larger is further."""
    x, y = thing.centre
    return {"left": -x, "right": x, "top": -y, "bottom": y}[side]


def _nouns(thing: SceneObject) -> tuple[str, str, str]:
    return (thing.shape, f"{thing.colour} {thing.shape}", f"{thing.colour} shape")


def _groups(objects: _Objects) -> dict[str, list[int]]:
    """Noun -> the objects it names."""
    groups: dict[str, list[int]] = {}
    for index, thing in enumerate(objects):
        for noun in _nouns(thing):
            groups.setdefault(noun, []).append(index)
    return groups


def _attributes(objects: _Objects) -> Iterator[Expression]:
    sized: dict[str, list[int]] = {}
    for noun, members in _groups(objects).items():
        sized.setdefault(noun, []).extend(members)
        for index in members:
            sized.setdefault(f"{objects[index].size} {noun}", []).append(index)
    for noun, members in sized.items():
        if len(members) == 1:
            yield Expression(f"the {noun}", "attribute", tuple(members))


def _implicits(objects: _Objects, rng: Random) -> Iterator[Expression]:
    for noun, members in _groups(objects).items():
        if noun in IMPLICIT and len(members) == 1:
            yield Expression(rng.choice(IMPLICIT[noun]), "implicit", tuple(members))


def _ranked(objects: _Objects, members: list[int], side: str) -> list[int] | None:
    """members from the furthest towards `side` on, or None where two are too close to call."""
    order = sorted(members, key=lambda i: -_reach(objects[i], side))
    gaps = (_reach(objects[a], side) - _reach(objects[b], side) for a, b in pairwise(order))
    return order if all(gap > _MARGIN for gap in gaps) else None


def _positions(objects: _Objects) -> Iterator[Expression]:
    for noun, members in _groups(objects).items():
        for side, templates in _EXTREMES.items():
            if 2 <= len(members) <= 5 and (order := _ranked(objects, members, side)):
                for template in templates:
                    yield Expression(template.format(noun), "position", (order[0],))


def _ordinals(objects: _Objects) -> Iterator[Expression]:
    for noun, members in _groups(objects).items():
        for side in _EXTREMES:
            if 2 <= len(members) <= 5 and (order := _ranked(objects, members, side)):
                for place, index in list(zip(_ORDINALS, order, strict=False))[1:]:
                    yield Expression(f"the {place} {noun} from the {side}", "ordinal", (index,))


def _relations(objects: _Objects) -> Iterator[Expression]:
    groups = _groups(objects)
    for anchor_index, anchor in enumerate(objects):
        name = f"{anchor.colour} {anchor.shape}"
        if len(groups[name]) > 1:
            continue
        for noun, members in groups.items():
            others = [i for i in members if i != anchor_index]
            for side, templates in _RELATIONS.items():
                lead = {i: _reach(objects[i], side) - _reach(anchor, side) for i in others}
                hits = [i for i in others if lead[i] > 0]
                clear = all(abs(d) > _MARGIN for d in lead.values())
                if len(others) > 1 and len(hits) == 1 and clear:
                    for template in templates:
                        yield Expression(template.format(noun, name), "relation", (hits[0],))


def _plurals(objects: _Objects) -> Iterator[Expression]:
    for noun, members in _groups(objects).items():
        if 2 <= len(members) <= 4:
            *first, last = noun.split()
            many = " ".join([*first, PLURALS.get(last, "shapes")])
            targets = tuple(sorted(members, key=lambda i: objects[i].centre[0]))
            for template in (f"all {many}", f"the {many}", f"every {noun}"):
                yield Expression(template, "plural", targets)


def _absents(objects: _Objects, rng: Random) -> Iterator[Expression]:
    """Nothing in the scene fits these; half of the colour-and-shape ones have the colour and the shape on two objects."""
    groups = _groups(objects)
    shapes, colours = [o.shape for o in objects], [o.colour for o in objects]
    for _ in range(8):
        near = rng.random() < 0.5
        shape = rng.choice(shapes if near else list(SHAPES))
        colour = rng.choice(colours if near else sorted(COLOURS))
        size = rng.choice(("", "", "small ", "large "))
        noun = rng.choice((f"{colour} {shape}", f"{colour} {shape}", shape, f"{colour} shape"))
        if noun not in groups:
            yield Expression(f"the {size}{noun}", "absent", ())
    for shape in rng.sample(SHAPES, 2):
        if shape not in shapes:
            yield Expression(rng.choice(IMPLICIT[shape]), "absent", ())
            yield Expression(rng.choice(_EXTREMES[rng.choice(sorted(_EXTREMES))]).format(shape), "absent", ())
