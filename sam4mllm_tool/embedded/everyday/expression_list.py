"""All expressions about a scene of everyday things, and a balanced handful of them."""

from collections.abc import Callable, Iterable
from random import Random

from sam4mllm_tool.embedded.everyday.absence import absent_expressions
from sam4mllm_tool.embedded.everyday.expression_templates import EverydayKind
from sam4mllm_tool.embedded.everyday.kind_sampling import sample_kinds_evenly
from sam4mllm_tool.embedded.everyday.referring import (
    Description,
    EverydayExpression,
    attribute_expressions,
    direction_expressions,
    implicit_expressions,
    negation_expressions,
    neighbour_expressions,
    plural_expressions,
    position_expressions,
    relation_expressions,
)
from sam4mllm_tool.embedded.everyday.referring_parts import part_expressions, part_whole_expressions
from sam4mllm_tool.embedded.everyday.world import TEST_SEEDS, EverydayScene

_BUILDERS: tuple[tuple[Callable[[Description], Iterable[EverydayExpression]], int], ...] = (
    (attribute_expressions, 1000),
    (implicit_expressions, 1000),
    (plural_expressions, 1000),
    (negation_expressions, 1000),
    (position_expressions, 1000),
    (direction_expressions, 4),
    (neighbour_expressions, 2),
    (relation_expressions, 1000),
    (part_expressions, 1000),
    (part_whole_expressions, 1000),
    (absent_expressions, 1000),
)
"""Builder and the most that are kept of what it yields: neighbours and directions would drown the other relations."""


def list_expressions(scene: EverydayScene, *, held_out: bool | None = None) -> list[EverydayExpression]:
    """List expressions that are unambiguous in the scene and some that fit nothing in it, shuffled by the scene's seed.

    There are far more of some kinds than of others: `sample_expressions` draws a balanced handful.

    Args:
        scene: What they are about.
        held_out: Whether descriptions that are held out from training are listed; by default only of test-split scenes.
    """
    description = Description(scene)
    expressions: list[EverydayExpression] = []
    for build, most in _BUILDERS:
        built = list(build(description))
        expressions += built if len(built) <= most else description.rng.sample(built, most)
    if not (scene.seed >= TEST_SEEDS if held_out is None else held_out):
        expressions = [expression for expression in expressions if expression.kind != "implicit_held_out"]
    description.rng.shuffle(expressions)
    return expressions


def sample_expressions(
    scene: EverydayScene,
    count: int,
    rng: Random,
    twice: tuple[EverydayKind, ...] = (),
    *,
    held_out: bool | None = None,
) -> list[EverydayExpression]:
    """Draw different expressions, kinds evenly among those that the scene has.

    Args:
        scene: What they are about.
        count: Most expressions.
        rng: Source of randomness.
        twice: Kinds that are drawn twice as often.
        held_out: As for `list_expressions`.
    """
    return sample_kinds_evenly(list_expressions(scene, held_out=held_out), count, rng, twice)
