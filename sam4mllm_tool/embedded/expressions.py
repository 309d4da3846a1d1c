"""What can be said about a drawn scene: referring expressions of every kind that are unambiguous in it, and absent ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Literal

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

_MARGIN = 0.05  # two centres nearer than this along an axis are not compared along it


@dataclass(frozen=True)
class Expression:
    """A referring expression, its kind, and the indices of the objects it means, from left to right."""

    text: str
    kind: Kind
    targets: tuple[int, ...]


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


def sample_expressions(scene: Scene, count: int, rng: Random, twice: tuple[Kind, ...] = ()) -> list[Expression]:
    """Up to `count` different expressions, kinds drawn evenly among those the scene has; those in `twice`, twice as often."""
    by_kind: dict[Kind, list[Expression]] = {}
    for expression in expressions(scene):
        by_kind.setdefault(expression.kind, []).append(expression)
    chosen: list[Expression] = []
    while by_kind and len(chosen) < count:
        kind = rng.choice(sorted([*by_kind, *(kind for kind in twice if kind in by_kind)]))
        chosen.append(by_kind[kind].pop(rng.randrange(len(by_kind[kind]))))
        if not by_kind[kind]:
            del by_kind[kind]
    return chosen


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


def noun_groups(objects: _Objects) -> dict[str, list[int]]:
    """Noun -> the objects it names."""
    groups: dict[str, list[int]] = {}
    for index, thing in enumerate(objects):
        for noun in _nouns(thing):
            groups.setdefault(noun, []).append(index)
    return groups


def _attributes(objects: _Objects) -> Iterator[Expression]:
    sized: dict[str, list[int]] = {}
    for noun, members in noun_groups(objects).items():
        sized.setdefault(noun, []).extend(members)
        for index in members:
            sized.setdefault(f"{objects[index].size} {noun}", []).append(index)
    for noun, members in sized.items():
        if len(members) == 1:
            yield Expression(f"the {noun}", "attribute", tuple(members))


def _implicits(objects: _Objects, rng: Random) -> Iterator[Expression]:
    for noun, members in noun_groups(objects).items():
        if noun in IMPLICIT and len(members) == 1:
            yield Expression(rng.choice(IMPLICIT[noun]), "implicit", tuple(members))


def _ranked(objects: _Objects, members: list[int], side: str) -> list[int] | None:
    """members from the furthest towards `side` on, or None where two are too close to call."""
    order = sorted(members, key=lambda i: -_reach(objects[i], side))
    gaps = (_reach(objects[a], side) - _reach(objects[b], side) for a, b in pairwise(order))
    return order if all(gap > _MARGIN for gap in gaps) else None


def _positions(objects: _Objects) -> Iterator[Expression]:
    for noun, members in noun_groups(objects).items():
        for side, templates in _EXTREMES.items():
            if 2 <= len(members) <= 5 and (order := _ranked(objects, members, side)):
                for template in templates:
                    yield Expression(template.format(noun), "position", (order[0],))


def _ordinals(objects: _Objects) -> Iterator[Expression]:
    for noun, members in noun_groups(objects).items():
        for side in _EXTREMES:
            if 2 <= len(members) <= 5 and (order := _ranked(objects, members, side)):
                for place, index in list(zip(_ORDINALS, order, strict=False))[1:]:
                    yield Expression(f"the {place} {noun} from the {side}", "ordinal", (index,))


def _relations(objects: _Objects) -> Iterator[Expression]:
    groups = noun_groups(objects)
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
    for noun, members in noun_groups(objects).items():
        if 2 <= len(members) <= 4:
            *first, last = noun.split()
            many = " ".join([*first, PLURALS.get(last, "shapes")])
            targets = tuple(sorted(members, key=lambda i: objects[i].centre[0]))
            for template in (f"all {many}", f"the {many}", f"every {noun}"):
                yield Expression(template, "plural", targets)


def _absents(objects: _Objects, rng: Random) -> Iterator[Expression]:
    """Nothing in the scene fits these; half of the colour-and-shape ones have the colour and the shape on two objects."""
    groups = noun_groups(objects)
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
