"""The drawn worlds by name: how to draw a scene and what can be said about it, the same for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.embedded import everyday, expressions, scenes
from sam4mllm_tool.types import Box, Mask

WorldName = Literal["shapes", "everyday"]


class DrawnRegion(Protocol):
    """What an expression refers to."""

    @property
    def box(self) -> Box:
        """Around its visible pixels."""


class DrawnScene(Protocol):
    """A scene of any world."""

    @property
    def seed(self) -> int:
        """What it was drawn from."""

    @property
    def image(self) -> npt.NDArray[np.uint8]:
        """(side, side, 3) RGB."""

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


@dataclass(frozen=True)
class DrawnWorld:
    """A world.

    Attributes:
        draw_scene: Draws the scene of a seed, so many pixels square.
        sample_expressions: Draws so many expressions about a scene, kinds evenly.
    """

    draw_scene: Callable[[int, int], DrawnScene]
    sample_expressions: Callable[[Any, int, Random], Sequence[DrawnExpression]]


DRAWN_WORLDS: dict[WorldName, DrawnWorld] = {
    "shapes": DrawnWorld(scenes.draw_scene, expressions.sample_expressions),
    "everyday": DrawnWorld(everyday.draw_scene, everyday.sample_expressions),
}
