"""Recipes of everyday things: reads `things.toml` and turns a recipe into the coloured polygons of one individual.

A recipe draws in a square of 100 x 100 units, y down, one primitive per line, the later ones over the earlier ones:

    PART [sym | row N DX DY | spin N X Y | maybe] PRIMITIVE NUMBERS COLOUR [flat] [pat]

`let NAME A..B` draws a number that the lines after it may use as NAME, NAME+5 or NAME-5; A..B may stand in a line too. `sym` adds
the mirror image at x = 50, `row` and `spin` repeat the primitive, `maybe` leaves it out in four of ten individuals. A digit after the
name of a part starts an instance of it (wheel1, wheel2), which repetitions count up. COLOUR is `main` (the one by which the thing is
called), `dark` or `light` (shades of it), `second` (any other), a name of `MATERIALS`, or `hole`, which cuts
a hole that is a part of its own. `flat` leaves the outline out, `pat` takes the thing's stripes or dots.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any, NamedTuple

import numpy as np

from sam4mllm_tool.embedded.everyday.primitives import PRIMITIVES, Polygon, build_polygon

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


@dataclass(frozen=True)
class Recipe:
    """How an everyday thing is drawn and what may be done with it.

    Attributes:
        name: The noun.
        plural: Its plural.
        lines: The drawing, see the module.
        colours: Names of `COLOURS` that its main colour is drawn from.
        category: "animal", "fruit", "vehicle", "tool", or "".
        turn: It is rotated by up to so many degrees either way.
        stretch: Its width is multiplied by a factor drawn from this range.
        long: Whether it may cross another long thing in an X.
        thin: Whether things behind it can be made out.
        stands: Whether it can stand on something.
        front: What of it is drawn again over things in it.
        surface: (x1, x2, y): where things can stand on it; empty if nowhere.
        opening: (x1, x2, y): where things stick out of it.
        holds: Nouns of what may stick out of it.
        inside: (x1, y1, x2, y2): where things show in it.
        pair: Two parts that are easily taken for each other or for the whole.
        similar: Nouns of things that its descriptions might fit too.
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

    @property
    def takes_pattern(self) -> bool:
        """Whether it can be striped or dotted."""
        return any("pat" in line.split() for line in self.lines)

    @property
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
        patterned: Whether it takes the thing's pattern.
        ring: Whether the polygon's first half is its outer edge and the second its inner one.
        front: Whether it is drawn over things in this one, else not at all.
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
def load_recipes() -> dict[str, Recipe]:
    """Read all recipes, by noun."""
    text = (files("sam4mllm_tool.embedded.everyday") / "things.toml").read_text(encoding="utf-8")
    return {name: _read_recipe(name, table) for name, table in tomllib.loads(text).items()}


def _read_recipe(name: str, table: dict[str, Any]) -> Recipe:
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items() if key not in ("draw", "front")}
    for key in ("colours", "similar", "pair", "holds"):
        if key in fields:
            fields[key] = tuple(re.split(r",\s*", fields[key]))
    fields.setdefault("plural", name + "s")
    lines, front = (tuple(table.get(key, "").strip().splitlines()) for key in ("draw", "front"))
    return Recipe(name=name, lines=lines, front=front, **fields)


# Drawing an individual ----------------------------------------------------------------------------------------------


def build_pieces(recipe: Recipe, rng: Random) -> list[Piece]:
    """Draw the proportions of an individual and return its polygons, from back to front, the front's flagged as such."""
    pieces: list[Piece] = []
    values: dict[str, float] = {}
    for number, line in enumerate((*recipe.lines, *recipe.front)):
        words = line.split()
        try:
            if words[0] == "let":
                values[words[1]] = _evaluate(words[2], values, rng)
            else:
                drawn = _read_line(words, values, rng)
                pieces += (piece._replace(front=True) for piece in drawn) if number >= len(recipe.lines) else drawn
        except (ValueError, IndexError, KeyError) as error:
            raise ValueError(f"{recipe.name}: {line!r}: {error}") from error
    return pieces


def _read_line(words: Sequence[str], values: dict[str, float], rng: Random) -> Iterator[Piece]:
    start = next(i for i, word in enumerate(words) if word in PRIMITIVES)
    end = next(i for i, word in enumerate(words) if i > start and word in _COLOUR_WORDS)
    flags = words[end + 1 :]
    shape = build_polygon(words[start], [_evaluate(word, values, rng) for word in words[start + 1 : end]])
    shapes = _repeat(shape, words[1:start], values, rng)
    name = words[0].rstrip("0123456789")
    first = int(words[0][len(name) :] or 0)
    for number, repeated in enumerate(shapes):
        label = f"{name}{first + number}" if first else name
        yield Piece(label, repeated, words[end], "flat" not in flags, "pat" in flags, words[start] == "ring")


_COLOUR_WORDS = {"main", "dark", "light", "second", HOLE, *MATERIALS}


def _repeat(shape: Polygon, words: Sequence[str], values: dict[str, float], rng: Random) -> list[Polygon]:
    if not words:
        return [shape]
    numbers = [_evaluate(word, values, rng) for word in words[1:]]
    match words[0]:
        case "sym":
            return [shape, shape * (-1, 1) + (100, 0)]
        case "row":
            return [shape + (i * numbers[1], i * numbers[2]) for i in range(round(numbers[0]))]
        case "spin":
            centre, count = np.array(numbers[1:]), round(numbers[0])
            return [(shape - centre) @ _rotation(360 * i / count) + centre for i in range(count)]
        case "maybe":
            return [shape] if rng.random() < 0.6 else []
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
