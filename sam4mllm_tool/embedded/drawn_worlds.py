"""The drawn worlds by name: how to draw a scene and what can be said about it, the same for each."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.embedded import EMBEDDED_WORLD, WorldName, everyday, expressions, scenes
from sam4mllm_tool.embedded.everyday.expression_templates import load_phrases
from sam4mllm_tool.embedded.everyday.noun_phrases import group_by_phrase
from sam4mllm_tool.embedded.everyday.recipe import COLOURS, load_recipes
from sam4mllm_tool.types import Box, Mask

__all__ = ["DRAWN_WORLDS", "DrawnExpression", "DrawnObject", "DrawnRegion", "DrawnScene", "DrawnWorld", "get_embedded_world"]


class DrawnRegion(Protocol):
    """What an expression refers to."""

    @property
    def box(self) -> Box:
        """Around its visible pixels."""


class DrawnObject(DrawnRegion, Protocol):
    """A whole object. "The COLOUR NOUN" refers to it, and to all others of its colour and noun."""

    @property
    def noun(self) -> str:
        """What it is called."""

    @property
    def plural(self) -> str:
        """What several are called."""

    @property
    def colour(self) -> str:
        """The word for its colour."""


class DrawnScene(Protocol):
    """A scene of any world."""

    @property
    def seed(self) -> int:
        """What it was drawn from."""

    @property
    def image(self) -> npt.NDArray[np.uint8]:
        """(side, side, 3) RGB."""

    @property
    def objects(self) -> Sequence[DrawnObject]:
        """The whole objects, which are the first of the regions."""

    @property
    def regions(self) -> Sequence[DrawnRegion]:
        """What expressions refer to."""

    def mask(self, index: int, /) -> Mask:
        """Return the visible pixels of regions[index], (side, side) bool."""


class DrawnExpression(Protocol):
    """An expression about a scene of any world."""

    @property
    def text(self) -> str:
        """The expression."""

    @property
    def kind(self) -> Any:
        """How it refers."""

    @property
    def targets(self) -> tuple[int, ...]:
        """Indices of the scene's regions from left to right; none if the expression fits nothing."""


class _DrawScene(Protocol):
    def __call__(self, seed: int, side: int = 256) -> DrawnScene: ...


@dataclass(frozen=True)
class DrawnWorld:
    """A world.

    Attributes:
        draw_scene: Draws the scene of a seed, so many pixels square.
        list_expressions: Lists expressions about a scene, shuffled.
        sample_expressions: Draws so many expressions about a scene, kinds evenly.
        group_objects: Returns noun phrases that fit some of a scene's objects, each with the indices of those that it fits.
        list_nouns: Lists what objects can be called.
        list_implicit: Lists the expressions that don't name what they refer to.
        colours: The words for colours.
    """

    draw_scene: _DrawScene
    list_expressions: Callable[[Any], Sequence[DrawnExpression]]
    sample_expressions: Callable[[Any, int, Random], Sequence[DrawnExpression]]
    group_objects: Callable[[Any], Mapping[str, Sequence[int]]]
    list_nouns: Callable[[], Collection[str]]
    list_implicit: Callable[[], Collection[str]]
    colours: tuple[str, ...]


DRAWN_WORLDS: dict[WorldName, DrawnWorld] = {
    "shapes": DrawnWorld(
        draw_scene=scenes.draw_scene,
        list_expressions=expressions.list_expressions,
        sample_expressions=expressions.sample_expressions,
        group_objects=lambda scene: expressions.group_by_noun(scene.objects),
        list_nouns=lambda: scenes.SHAPES,
        list_implicit=lambda: {text for texts in expressions.IMPLICIT.values() for text in texts},
        colours=tuple(scenes.COLOURS),
    ),
    "everyday": DrawnWorld(
        draw_scene=everyday.draw_scene,
        list_expressions=everyday.list_expressions,
        sample_expressions=everyday.sample_expressions,
        group_objects=lambda scene: group_by_phrase(scene.objects),
        list_nouns=lambda: tuple(load_recipes()),
        list_implicit=lambda: {text for texts in load_phrases().values() for text in texts},
        colours=tuple(COLOURS),
    ),
}


def get_embedded_world() -> DrawnWorld:
    """Return the world that the weights in the package were trained on."""
    return DRAWN_WORLDS[EMBEDDED_WORLD]
