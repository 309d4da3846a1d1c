"""Recipes of everyday things: reads `things.toml` and turns a recipe into the coloured polygons of one individual.

A recipe draws in a square of 100 x 100 units, y down, one primitive per line, the later ones over the earlier ones:

    PART [sym | row N DX DY | spin N X Y | maybe] PRIMITIVE NUMBERS COLOUR [flat] [pat]

`let NAME A..B` draws a number that the lines after it may use as NAME, NAME+5 or NAME-5; A..B may stand in a line too.
`sym` adds the mirror image at x = 50, `row` and `spin` repeat the primitive, `maybe` leaves it out in four of ten individuals.
A digit after the name of a part starts an instance of it (wheel1, wheel2), which repetitions count up. COLOUR is `main` (the
one by which the object is called), `dark` or `light` (shades of it), `second` (any other), a name of `MATERIALS`, or `hole`,
which cuts a hole that is a part of its own. `flat` leaves the outline out, `pat` takes the object's stripes or dots.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from itertools import accumulate
from random import Random
from typing import Any, NamedTuple

import numpy as np

from sam4mllm_tool.drawn_things.primitives import PRIMITIVES, Polygon, build_polygon

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (208, 38, 38),
    "green": (58, 158, 62),
    "blue": (44, 92, 212),
    "yellow": (245, 208, 50),
    "purple": (140, 66, 176),
    "orange": (240, 132, 32),
    "pink": (246, 148, 186),
    "brown": (130, 84, 46),
    "white": (244, 244, 240),
    "black": (44, 44, 50),
}
MATERIALS: dict[str, Rgb] = {
    "wood": (176, 124, 72),
    "bark": (112, 78, 50),
    "leaf": (70, 150, 62),
    "steel": (178, 186, 196),
    "iron": (92, 98, 108),
    "glass": (196, 226, 238),
    "sky": (142, 200, 236),
    "gold": (222, 178, 62),
    "cream": (250, 238, 208),
    "dough": (222, 170, 104),
    "crust": (192, 128, 60),
    "cheese": (252, 214, 98),
    "tomato": (206, 62, 44),
    "paper": (248, 246, 236),
    "ink": (36, 36, 42),
    "grey": (128, 130, 136),
    "rubber": (54, 54, 60),
    "flame": (255, 176, 44),
    "blush": (240, 150, 160),
    "soil": (186, 96, 58),
    "white": (250, 250, 248),
    "red": (208, 38, 38),
    "yellow": (252, 226, 110),
}
HOLE = "hole"


@dataclass(frozen=True, eq=False)
class ObjectRecipe:
    """How an everyday thing is drawn and what may be done with it.

    Attributes:
        name: The noun.
        plural: Its plural.
        lines: The drawing, see the module.
        colours: Names of `COLOURS` that its main colour is drawn from.
        category: "animal", "fruit", "vehicle" or "".
        turn: It is rotated by up to so many degrees either way.
        stretch: Its width is multiplied by a factor drawn from this range.
        long: Whether it may cross another long object in an X.
        thin: Whether objects behind it can be made out.
        stands: Whether it can stand on something.
        front: What of it is drawn again over objects in it.
        surface: (x1, x2, y): where objects can stand on it; empty if nowhere.
        opening: (x1, x2, y): where objects stick out of it.
        holds: Nouns of what may stick out of it.
        inside: (x1, y1, x2, y2): where objects show in it.
        pair: Two parts that are easily taken for each other or for the whole.
        similar: Nouns of objects that its descriptions might fit too.
    """

    name: str
    plural: str
    lines: tuple[str, ...]
    colours: tuple[str, ...] = tuple(COLOURS)
    category: str = ""
    turn: float = 8
    stretch: tuple[float, float] = (0.86, 1.16)
    long: bool = False
    thin: bool = False
    stands: bool = False
    front: tuple[str, ...] = ()
    surface: tuple[float, ...] = ()
    opening: tuple[float, ...] = ()
    holds: tuple[str, ...] = ()
    inside: tuple[float, ...] = ()
    pair: tuple[str, ...] = ()
    similar: tuple[str, ...] = ()

    @cached_property
    def takes_pattern(self) -> bool:
        """Whether it can be striped or dotted."""
        return any("pat" in line.split() for line in self.lines)

    @cached_property
    def has_second(self) -> bool:
        """Whether some of it has a second colour even if it is plain."""
        return any("second" in line.split() for line in self.lines)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The names of its parts, holes included, in drawing order."""
        labels = (line.split()[0] for line in self.lines if not line.startswith("let "))
        return tuple(dict.fromkeys(name_part(label) for label in labels))


class Piece(NamedTuple):
    """A coloured polygon of an individual.

    Attributes:
        label: The part with the number of its instance.
        polygon: In the recipe's units.
        colour: See the module.
        outlined: Whether its edge is drawn.
        patterned: Whether it takes the object's pattern.
        ring: Whether the polygon's first half is its outer edge and the second its inner one.
        front: Whether it is drawn over objects in this one, else not at all.
    """

    label: str
    polygon: Polygon
    colour: str
    outlined: bool
    patterned: bool
    ring: bool = False
    front: bool = False


def name_part(label: str) -> str:
    """Return the name of the part that a label numbers."""
    return label.rstrip("0123456789").replace("_", " ")


@cache
def load_recipes() -> dict[str, ObjectRecipe]:
    """Read all recipes, by noun."""
    text = (files("sam4mllm_tool.drawn_things") / "things.toml").read_text(encoding="utf-8")
    return {name: _read_recipe(name, table) for name, table in tomllib.loads(text).items()}


def _read_recipe(name: str, table: dict[str, Any]) -> ObjectRecipe:
    fields: dict[str, Any] = {"plural": name + "s"}
    for key, value in table.items():
        if key in ("draw", "front"):
            fields["lines" if key == "draw" else "front"] = tuple(value.strip().splitlines())
        elif key in ("colours", "similar", "pair", "holds"):
            fields[key] = tuple(re.split(r",\s*", value))
        else:
            fields[key] = tuple(value) if isinstance(value, list) else value
    return ObjectRecipe(name=name, **fields)


# Drawing an individual ----------------------------------------------------------------------------------------------


class Individual:
    """The polygons of one object, from back to front.

    Attributes:
        pieces: The polygons with their parts and colours.
        labels: The labels of the parts in drawing order; the numbers of parts count along this list from 1.
        corners: (n, 2) of all polygons, in the recipe's units.
        ends: Per piece, where its corners end in `corners`.
        low: (2,) least coordinates.
        high: (2,) greatest coordinates.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = tuple(pieces)
        self.labels = list(dict.fromkeys(piece.label for piece in pieces))
        self.corners = np.concatenate([piece.polygon for piece in pieces])
        self.ends = tuple(accumulate(len(piece.polygon) for piece in pieces))
        self.low, self.high = self.corners.min(0), self.corners.max(0)


def build_individual(recipe: ObjectRecipe, rng: Random) -> Individual:
    """Draw the proportions of an individual."""
    pieces: list[Piece] = []
    values: dict[str, float] = {}
    for step in _compile_recipe(recipe):
        if isinstance(step, _Variable):
            values[step.name] = _evaluate(step.value, values, rng)
        elif not step.optional or rng.random() < 0.6:
            pieces += step.fixed or _build_pieces(step, values, rng)
    return Individual(pieces)


class _Variable(NamedTuple):
    name: str
    value: str


class _Step(NamedTuple):
    """A line of a drawing; `fixed` are its pieces if they are the same for every individual."""

    template: Piece
    primitive: str
    numbers: tuple[str, ...]
    repetition: tuple[str, ...]
    optional: bool
    fixed: tuple[Piece, ...] = ()


@cache
def _compile_recipe(recipe: ObjectRecipe) -> tuple[_Step | _Variable, ...]:
    steps: list[_Step | _Variable] = []
    for number, line in enumerate((*recipe.lines, *recipe.front)):
        words = line.split()
        try:
            steps.append(
                _Variable(words[1], words[2]) if words[0] == "let" else _compile_line(words, front=number >= len(recipe.lines))
            )
        except (ValueError, IndexError, KeyError, StopIteration) as error:
            raise ValueError(f"{recipe.name}: {line!r} can't be drawn: {error}") from error
    return tuple(steps)


_COLOUR_WORDS = {"main", "dark", "light", "second", HOLE, *MATERIALS}


def _compile_line(words: Sequence[str], *, front: bool) -> _Step:
    start = next(i for i, word in enumerate(words) if word in PRIMITIVES)
    end = next(i for i, word in enumerate(words) if i > start and word in _COLOUR_WORDS)
    flags, repetition, numbers = words[end + 1 :], tuple(words[1:start]), tuple(words[start + 1 : end])
    template = Piece(
        words[0], np.empty((0, 2)), words[end], "flat" not in flags, "pat" in flags, ring=words[start] == "ring", front=front
    )
    optional = repetition == ("maybe",)
    step = _Step(template, words[start], numbers, () if optional else repetition, optional)
    varies = any(re.search(r"[a-z]|\.\.", word) for word in (*numbers, *repetition[1:]))
    return step if varies else step._replace(fixed=tuple(_build_pieces(step, {}, Random(0))))


def _build_pieces(step: _Step, values: dict[str, float], rng: Random) -> Iterator[Piece]:
    shape = build_polygon(step.primitive, [_evaluate(word, values, rng) for word in step.numbers])
    name = step.template.label.rstrip("0123456789")
    first = int(step.template.label[len(name) :] or 0)
    for number, repeated in enumerate(_repeat(shape, step.repetition, values, rng), start=first):
        yield step.template._replace(label=f"{name}{number}" if first else name, polygon=repeated)


def _repeat(shape: Polygon, words: Sequence[str], values: dict[str, float], rng: Random) -> list[Polygon]:
    if not words:
        return [shape]
    numbers = [_evaluate(word, values, rng) for word in words[1:]]
    match words[0]:
        case "sym":
            return [shape, shape * np.array((-1, 1)) + np.array((100, 0))]
        case "row":
            return [shape + i * np.array(numbers[1:]) for i in range(round(numbers[0]))]
        case "spin":
            centre, count = np.array(numbers[1:]), round(numbers[0])
            return [(shape - centre) @ _rotation(360 * i / count) + centre for i in range(count)]
    raise ValueError(f"no repetition {words[0]!r}")


def _rotation(degrees: float) -> Polygon:
    angle = np.radians(degrees)
    return np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])


def _evaluate(word: str, values: dict[str, float], rng: Random) -> float:
    """Evaluate 12, 10..20, name, name+5 or name-5."""
    if ".." in word:
        low, high = word.split("..")
        return rng.uniform(float(low), float(high))
    if match := re.fullmatch(r"([a-z]+)([+-][\d.]+)?", word):
        return values[match[1]] + float(match[2] or 0)
    return float(word)
