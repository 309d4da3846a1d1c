"""Scenes of the world that the embedded pair knows, for the tests.

What refers to an object, to several or to none is found by the scene's true objects, whatever a model makes of it.
"""

from collections.abc import Iterator
from itertools import count

from PIL import Image as PILImage

from sam4mllm_tool.embedded import TEST_SEEDS
from sam4mllm_tool.embedded.everyday import (
    ABSENT_KINDS,
    EverydayExpression,
    EverydayObject,
    EverydayScene,
    draw_scene,
    list_expressions,
    sample_expressions,
)

__all__ = [
    "ABSENT",
    "TEST_SEEDS",
    "EverydayObject",
    "EverydayScene",
    "draw_image",
    "draw_scene",
    "iter_cases",
    "list_expressions",
    "name_object",
    "sample_expressions",
]

ABSENT = ABSENT_KINDS[0]
"""The kind of expressions that fit nothing in a scene, most clearly so."""


def draw_image(seed: int, side: int = 256) -> PILImage.Image:
    """Return the image of the scene of a seed."""
    return PILImage.fromarray(draw_scene(seed, side).image)


def name_object(drawn: EverydayObject) -> str:
    """Return an expression that fits the object, and others of its colour and noun."""
    return f"the {drawn.colour} {drawn.noun}"


def iter_cases(kind: str, first: int = TEST_SEEDS, side: int = 256) -> Iterator[tuple[EverydayScene, EverydayExpression]]:
    """Yield the scenes from seed `first` on that have an expression of this kind, each with one."""
    for scene in (draw_scene(seed, side) for seed in count(first)):
        for expression in list_expressions(scene):
            if expression.kind == kind:
                yield scene, expression
                break
