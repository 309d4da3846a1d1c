"""Referring expressions about a drawn scene: all that are unambiguous in it, and some that fit none of its objects."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Literal

from sam4mllm_tool.embedded.kind_sampling import sample_kinds_evenly
from sam4mllm_tool.embedded.scenes import COLOURS, SHAPES, Scene, SceneObject

Kind = Literal["attribute", "position", "relation", "ordinal", "plural", "implicit", "absent"]
KINDS: tuple[Kind, ...] = ("attribute", "position", "relation", "ordinal", "plural", "implicit", "absent")
SINGLE_OBJECT_KINDS: tuple[Kind, ...] = ("attribute", "position", "relation", "ordinal", "implicit")

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

_MARGIN = 0.05  # centres closer than this along an axis are not compared along it


@dataclass(frozen=True)
class Expression:
    """A referring expression about a scene.

    Attributes:
        text: The expression.
        kind: How it refers to its objects.
        targets: Indices of the objects it refers to, from left to right.
    """

    text: str
    kind: Kind
    targets: tuple[int, ...]


def list_expressions(scene: Scene) -> list[Expression]:
    """List every expression that is unambiguous in the scene, those that fit no object included, shuffled by the scene's seed.

    There are far more of some kinds than of others: `sample_expressions` draws a balanced handful.
    """
    rng = Random(f"expressions-{scene.seed}")
    expressions = [
        *_attribute_expressions(scene.objects),
        *_implicit_expressions(scene.objects, rng),
        *_position_expressions(scene.objects),
        *_ordinal_expressions(scene.objects),
        *_relation_expressions(scene.objects),
        *_plural_expressions(scene.objects),
        *_absent_expressions(scene.objects, rng),
    ]
    rng.shuffle(expressions)
    return expressions


def sample_expressions(scene: Scene, count: int, rng: Random, twice: tuple[Kind, ...] = ()) -> list[Expression]:
    """Draw different expressions, kinds evenly among those that the scene has.

    Args:
        scene: What they are about.
        count: Most expressions.
        rng: Source of randomness.
        twice: Kinds that are drawn twice as often.
    """
    return sample_kinds_evenly(list_expressions(scene), count, rng, twice)


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


def _extent(shape: SceneObject, side: str) -> float:
    """Return how far towards `side` the centre lies; larger is further."""
    x, y = shape.centre
    return {"left": -x, "right": x, "top": -y, "bottom": y}[side]


def group_by_noun(objects: _Objects) -> dict[str, list[int]]:
    """Return the nouns for the objects, each with the indices of the objects it fits."""
    groups: dict[str, list[int]] = {}
    for index, shape in enumerate(objects):
        for noun in (shape.shape, f"{shape.colour} {shape.shape}", f"{shape.colour} shape"):
            groups.setdefault(noun, []).append(index)
    return groups


def _attribute_expressions(objects: _Objects) -> Iterator[Expression]:
    sized: dict[str, list[int]] = {}
    for noun, members in group_by_noun(objects).items():
        sized.setdefault(noun, []).extend(members)
        for index in members:
            sized.setdefault(f"{objects[index].size} {noun}", []).append(index)
    for noun, members in sized.items():
        if len(members) == 1:
            yield Expression(f"the {noun}", "attribute", tuple(members))


def _implicit_expressions(objects: _Objects, rng: Random) -> Iterator[Expression]:
    for noun, members in group_by_noun(objects).items():
        if noun in IMPLICIT and len(members) == 1:
            yield Expression(rng.choice(IMPLICIT[noun]), "implicit", tuple(members))


def _rank(objects: _Objects, members: list[int], side: str) -> list[int] | None:
    """Order the members, the furthest towards `side` first; None if two are too close to call."""
    order = sorted(members, key=lambda i: -_extent(objects[i], side))
    gaps = (_extent(objects[a], side) - _extent(objects[b], side) for a, b in pairwise(order))
    return order if all(gap > _MARGIN for gap in gaps) else None


def _position_expressions(objects: _Objects) -> Iterator[Expression]:
    for noun, members in group_by_noun(objects).items():
        for side, templates in _EXTREMES.items():
            if 2 <= len(members) <= 5 and (order := _rank(objects, members, side)):
                for template in templates:
                    yield Expression(template.format(noun), "position", (order[0],))


def _ordinal_expressions(objects: _Objects) -> Iterator[Expression]:
    for noun, members in group_by_noun(objects).items():
        for side in _EXTREMES:
            if 2 <= len(members) <= 5 and (order := _rank(objects, members, side)):
                for place, index in list(zip(_ORDINALS, order, strict=False))[1:]:
                    yield Expression(f"the {place} {noun} from the {side}", "ordinal", (index,))


def _relation_expressions(objects: _Objects) -> Iterator[Expression]:
    groups = group_by_noun(objects)
    for anchor_index, anchor in enumerate(objects):
        name = f"{anchor.colour} {anchor.shape}"
        if len(groups[name]) > 1:
            continue
        for noun, members in groups.items():
            others = [i for i in members if i != anchor_index]
            for side, templates in _RELATIONS.items():
                lead = {i: _extent(objects[i], side) - _extent(anchor, side) for i in others}
                matches = [i for i in others if lead[i] > 0]
                clear = all(abs(distance) > _MARGIN for distance in lead.values())
                if len(others) > 1 and len(matches) == 1 and clear:
                    for template in templates:
                        yield Expression(template.format(noun, name), "relation", (matches[0],))


def _plural_expressions(objects: _Objects) -> Iterator[Expression]:
    for noun, members in group_by_noun(objects).items():
        if 2 <= len(members) <= 4:
            *first, last = noun.split()
            many = " ".join([*first, PLURALS.get(last, "shapes")])
            targets = tuple(sorted(members, key=lambda i: objects[i].centre[0]))
            for template in (f"all {many}", f"the {many}", f"every {noun}"):
                yield Expression(template, "plural", targets)


def _absent_expressions(objects: _Objects, rng: Random) -> Iterator[Expression]:
    """Yield expressions that fit no object, many with a colour and a shape that are in the scene on different objects."""
    groups = group_by_noun(objects)
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
