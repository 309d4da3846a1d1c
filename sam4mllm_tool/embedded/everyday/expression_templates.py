"""The words of the everyday world: the templates of all expressions, plurals, and the closed vocabulary."""

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from sam4mllm_tool.drawn_things.recipe import COLOURS, load_recipes
from sam4mllm_tool.protocol.references import pluralize_noun

EverydayKind = Literal[
    "attribute",
    "position",
    "relation",
    "ordinal",
    "plural",
    "count",
    "part",
    "part_whole",
    "negation",
    "implicit",
    "implicit_held_out",
    "absent_easy",
    "absent_hard",
]
KINDS: tuple[EverydayKind, ...] = get_args(EverydayKind)
SINGLE_OBJECT_KINDS: tuple[EverydayKind, ...] = (
    "attribute",
    "position",
    "relation",
    "ordinal",
    "negation",
    "implicit",
    "implicit_held_out",
)
"""Kinds whose expressions refer to one object."""
ABSENT_KINDS: tuple[EverydayKind, ...] = ("absent_easy", "absent_hard")
"""Kinds whose expressions refer to nothing in the scene."""

CATEGORIES = {"animal": "animals", "fruit": "fruits", "vehicle": "vehicles"}
"""Words for several kinds of objects, with their plurals."""

HELD_OUT = 2
"""How many of each object's descriptions, the last ones, are held out from training."""

ORDINALS = ("first", "second", "third", "fourth", "fifth")
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
EXTREMES = {
    "left": ("the leftmost {}", "the {} furthest to the left"),
    "right": ("the rightmost {}", "the {} furthest to the right"),
    "top": ("the topmost {}", "the highest {}"),
    "bottom": ("the bottommost {}", "the lowest {}"),
}
DIRECTIONS = {
    "left": ("the {} left of the {}", "the {} to the left of the {}"),
    "right": ("the {} right of the {}", "the {} to the right of the {}"),
    "top": ("the {} above the {}", "the {} higher than the {}"),
    "bottom": ("the {} below the {}", "the {} lower than the {}"),
}
RELATIONS = {
    "on": ("the {} on the {}", "the {} on top of the {}", "the {} that stands on the {}"),
    "in": ("the {} in the {}", "the {} inside the {}"),
    "behind": ("the {} behind the {}", "the {} partly hidden by the {}"),
    "next to": ("the {} next to the {}", "the {} beside the {}"),
    "across": ("the {} across the {}", "the {} crossing the {}"),
}
CONVERSES = {
    "on": ("the {} under the {}", "the {} with the {} on it"),
    "in": ("the {} with the {} in it",),
    "behind": ("the {} in front of the {}",),
}
"""The same relations said of the other object."""
AROUND = "the {} around the {}"
"""The converse of "in" for objects that go all around."""
ORDINAL = "the {} {} from the {}"
PLURALS = ("all {}", "the {}", "all the {}")
EVERY = "every {}"
ALL_OF_COLOUR = "all {} objects"
COUNTS = ("the {} {}", "all {} {}")
BOTH = ("both {}", "both of the {}")
SIZES = {"biggest": "the biggest {}", "smallest": "the smallest {}"}
NOT_COLOUR = ("the {} that is not {}", "the {} that isn't {}")
NOT_RELATED = "the {} that is not {} the {}"
PART = "the {} of the {}"
HOLE = "the {} in the {}"
SIDED = "the {} {} of the {}"
BARE = "the {}"
ONLY_PART = ("only the {} of the {}", "just the {} of the {}")
WITHOUT = "the {} without the {}"
PART_WITHOUT = "the {} of the {} without the {}"
REST = "the {} without its {}"
WHOLE = ("the whole {}", "the {} as a whole")
WITH = "the {} with its {}"


def pluralize_part(name: str) -> str:
    """Return a part's plural; that of petals is petals."""
    return name if name.endswith("s") and name != "lens" else pluralize_noun(name)


def name_parts(name: str, count: int) -> str:
    """Return what `count` parts of this name are called."""
    return name if count == 1 else pluralize_part(name)


@cache
def load_phrases() -> dict[str, tuple[str, ...]]:
    """Read the descriptions of objects that don't name them, by noun; the last `HELD_OUT` are held out from training."""
    text = (files("sam4mllm_tool.embedded.everyday") / "phrases.toml").read_text(encoding="utf-8")
    return {noun: tuple(phrases) for noun, phrases in tomllib.loads(text).items()}


def split_words(text: str) -> list[str]:
    """Split an expression into the words of the vocabulary: runs of letters, and each other sign by itself."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


@cache
def list_vocabulary() -> tuple[str, ...]:
    """List every word that an expression can have, sorted."""
    recipes = load_recipes().values()
    parts = {part for recipe in recipes for part in recipe.parts}
    texts: list[str] = [*COLOURS, *ORDINALS, *NUMBERS.values(), *EXTREMES, *RELATIONS, "striped dotted"]
    texts += [*CATEGORIES, *CATEGORIES.values()]
    texts += [word for recipe in recipes for word in (recipe.name, recipe.plural)]
    texts += [word for part in parts for word in (part, pluralize_part(part))]
    texts += [phrase for phrases in load_phrases().values() for phrase in phrases]
    texts += [*_flatten((*EXTREMES.values(), *DIRECTIONS.values(), *RELATIONS.values(), *CONVERSES.values()))]
    texts += [*PLURALS, *COUNTS, *BOTH, *SIZES.values(), *NOT_COLOUR, *ONLY_PART, *WHOLE]
    texts += [AROUND, ORDINAL, EVERY, ALL_OF_COLOUR, NOT_RELATED, PART, HOLE, SIDED, WITHOUT, PART_WITHOUT, REST, WITH]
    return tuple(sorted({word for text in texts for word in split_words(text.replace("{}", ""))}))


def _flatten(groups: Iterable[Iterable[str]]) -> list[str]:
    return [text for group in groups for text in group]
