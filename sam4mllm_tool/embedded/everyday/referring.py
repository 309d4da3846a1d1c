"""Referring expressions about a scene of everyday things: those that are unambiguous in it, and some that fit nothing in it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from sam4mllm_tool.embedded.everyday import expression_templates as wording
from sam4mllm_tool.embedded.everyday.expression_templates import HELD_OUT, EverydayKind, load_phrases
from sam4mllm_tool.embedded.everyday.noun_phrases import NounPhrase, list_noun_phrases, name_objects
from sam4mllm_tool.embedded.everyday.world import EverydayObject, EverydayScene

MARGIN = 0.05
"""Centres closer than this along an axis, in units of the image's side, are not compared along it."""
_BIGGER = 1.3  # factor between two sizes that are compared


@dataclass(frozen=True)
class EverydayExpression:
    """A referring expression about a scene.

    Attributes:
        text: The expression.
        kind: How it refers.
        targets: Indices of the scene's regions that it refers to, from left to right; none for absent kinds.
    """

    text: str
    kind: EverydayKind
    targets: tuple[int, ...]


class Description:
    """A scene with what its objects can be called.

    Attributes:
        scene: The scene.
        rng: Source of randomness, the same for every scene of this seed.
        phrases: All noun phrases that fit something.
        names: Per object, the phrases that fit it alone, the shortest first.
    """

    def __init__(self, scene: EverydayScene) -> None:
        self.scene, self.rng = scene, Random(f"expressions-{scene.seed}")
        self.phrases = list_noun_phrases(scene.objects)
        self.names = name_objects(self.phrases, len(scene.objects))

    def name(self, index: int) -> str | None:
        """Return a short phrase that fits objects[index] alone, None if there is none."""
        shortest = self.names[index]
        if not shortest:
            return None
        return self.rng.choice(shortest[:2]).singular

    def is_related(self, i: int, relation: str, j: int) -> bool | None:
        """Return whether objects[i] is on, in ... objects[j]; None if people could disagree."""
        return self.scene.relations.get((i, relation, j), False)

    def sort_by_x(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Return indices of regions from left to right."""
        return tuple(sorted(indices, key=lambda i: self.scene.regions[i].centre[0]))

    def rank(self, members: Sequence[int], side: str) -> list[int] | None:
        """Order the members, the furthest towards `side` first; None if two are too close to call."""
        regions = self.scene.regions
        order = sorted(members, key=lambda i: -measure_extent(regions[i].centre, side))
        gaps = (measure_extent(regions[a].centre, side) - measure_extent(regions[b].centre, side) for a, b in pairwise(order))
        return order if all(gap > MARGIN for gap in gaps) else None


def measure_extent(centre: tuple[float, float], side: str) -> float:
    """Return how far towards `side` a centre lies; larger is further."""
    x, y = centre
    return {"left": -x, "right": x, "top": -y, "bottom": y}[side]


# Objects by what they are --------------------------------------------------------------------------------------------


def attribute_expressions(description: Description) -> Iterator[EverydayExpression]:
    """Yield objects by noun, colour, pattern and relative size."""
    objects = description.scene.objects
    for phrase in description.phrases:
        if len(phrase.members) == 1 and phrase.is_clear:
            yield EverydayExpression(wording.BARE.format(phrase.singular), "attribute", tuple(phrase.members))
        if len(phrase.members) < 2 or not phrase.is_clear:
            continue
        order = sorted(phrase.members, key=lambda i: objects[i].size)
        if objects[order[-1]].size > _BIGGER * objects[order[-2]].size:
            yield EverydayExpression(wording.SIZES["biggest"].format(phrase.singular), "attribute", (order[-1],))
        if objects[order[1]].size > _BIGGER * objects[order[0]].size:
            yield EverydayExpression(wording.SIZES["smallest"].format(phrase.singular), "attribute", (order[0],))


def implicit_expressions(description: Description) -> Iterator[EverydayExpression]:
    """Yield objects by what they are for, where no similar object is there; held-out phrasings too, as a kind of their own."""
    nouns = [obj.noun for obj in description.scene.objects]
    for i, obj in enumerate(description.scene.objects):
        if nouns.count(obj.noun) == 1 and not any(is_similar(obj, other) for other in description.scene.objects):
            phrases = load_phrases()[obj.noun]
            known, held_out = phrases[:-HELD_OUT], phrases[-HELD_OUT:]
            for phrase in description.rng.sample(known, 2):
                yield EverydayExpression(phrase, "implicit", (i,))
            yield EverydayExpression(description.rng.choice(held_out), "implicit_held_out", (i,))


def is_similar(obj: EverydayObject, other: EverydayObject) -> bool:
    """Return whether a description of one might fit the other."""
    return obj.noun in other.recipe.similar or other.noun in obj.recipe.similar


def plural_expressions(description: Description) -> Iterator[EverydayExpression]:
    """Yield all objects that a phrase fits, with and without their number, and all objects of a colour."""
    for phrase in description.phrases:
        count = len(phrase.members)
        if not 2 <= count <= 5 or not phrase.is_clear:
            continue
        targets = description.sort_by_x(phrase.members)
        texts = [template.format(phrase.plural) for template in wording.PLURALS]
        for text in (*texts, wording.EVERY.format(phrase.singular)):
            yield EverydayExpression(text, "plural", targets)
        for template in wording.COUNTS if count > 2 else (*wording.COUNTS[:1], *wording.BOTH):
            text = (
                template.format(wording.NUMBERS[count], phrase.plural)
                if "{} {}" in template
                else template.format(phrase.plural)
            )
            yield EverydayExpression(text, "count", targets)
    objects = description.scene.objects
    for colour in sorted({obj.colour for obj in objects}):
        members = [i for i, obj in enumerate(objects) if obj.colour == colour]
        if 2 <= len(members) <= 5 and all(obj.second != colour for obj in objects):
            yield EverydayExpression(wording.ALL_OF_COLOUR.format(colour), "plural", description.sort_by_x(members))


def negation_expressions(description: Description) -> Iterator[EverydayExpression]:
    """Yield the one of several objects of a kind that has not a colour, or is not in a relation, that the others have."""
    objects = description.scene.objects
    for phrase in description.phrases:
        if not phrase.is_bare or not 2 <= len(phrase.members) <= 5 or not phrase.is_clear:
            continue
        for colour in sorted({objects[i].colour for i in phrase.members}):
            others = [i for i in phrase.members if objects[i].colour != colour]
            if len(others) == 1 and all(objects[i].second != colour for i in others):
                for template in wording.NOT_COLOUR:
                    yield EverydayExpression(template.format(phrase.singular, colour), "negation", tuple(others))
        yield from _unrelated_expressions(description, phrase)


def _unrelated_expressions(description: Description, phrase: NounPhrase) -> Iterator[EverydayExpression]:
    for anchor in range(len(description.scene.objects)):
        for relation in ("on", "in", "behind", "next to"):
            judged = {i: description.is_related(i, relation, anchor) for i in phrase.members if i != anchor}
            others = [i for i, related in judged.items() if related is False]
            clear = len(others) == 1 and len(judged) > 1 and anchor not in phrase.members and None not in judged.values()
            if clear and (name := description.name(anchor)):
                text = wording.NOT_RELATED.format(phrase.singular, relation, name)
                yield EverydayExpression(text, "negation", tuple(others))


# Objects by where they are -------------------------------------------------------------------------------------------


def position_expressions(description: Description) -> Iterator[EverydayExpression]:
    """Yield the first, second ... of several objects that a phrase fits, from a side."""
    for phrase in description.phrases:
        if not 2 <= len(phrase.members) <= 5 or not phrase.is_clear:
            continue
        for side, templates in wording.EXTREMES.items():
            if order := description.rank(phrase.members, side):
                for template in templates:
                    yield EverydayExpression(template.format(phrase.singular), "position", (order[0],))
                for place, index in list(zip(wording.ORDINALS, order, strict=False))[1:]:
                    text = wording.ORDINAL.format(place, phrase.singular, side)
                    yield EverydayExpression(text, "ordinal", (index,))


def direction_expressions(description: Description) -> Iterator[EverydayExpression]:
    """Yield the one of several objects that lies left, right, above or below of an object."""
    objects = description.scene.objects
    for anchor, obj in enumerate(objects):
        name = description.name(anchor)
        if name is None:
            continue
        for phrase in description.phrases:
            others = [i for i in phrase.members if i != anchor]
            if len(others) < 2 or not phrase.is_clear:
                continue
            for side, templates in wording.DIRECTIONS.items():
                lead = {i: measure_extent(objects[i].centre, side) - measure_extent(obj.centre, side) for i in others}
                matches = [i for i in others if lead[i] > 0]
                if len(matches) == 1 and all(abs(distance) > MARGIN for distance in lead.values()):
                    text = description.rng.choice(templates).format(phrase.singular, name)
                    yield EverydayExpression(text, "relation", (matches[0],))


def relation_expressions(description: Description) -> Iterator[EverydayExpression]:
    """Yield the objects on, in, behind or across an object, and the object that they are on, in or behind."""
    for relation, templates in wording.RELATIONS.items():
        for anchor in range(len(description.scene.objects)):
            if relation != "next to":
                yield from _related_expressions(description, relation, anchor, templates, converse=False)
            if relation in wording.CONVERSES:
                yield from _related_expressions(description, relation, anchor, wording.CONVERSES[relation], converse=True)


def neighbour_expressions(description: Description) -> Iterator[EverydayExpression]:
    """Yield the objects next to an object."""
    for anchor in range(len(description.scene.objects)):
        yield from _related_expressions(description, "next to", anchor, wording.RELATIONS["next to"], converse=False)


def _related_expressions(
    description: Description, relation: str, anchor: int, templates: Sequence[str], *, converse: bool
) -> Iterator[EverydayExpression]:
    """Yield what is related to an object that can be named; with `converse`, what that object is related to."""
    name = description.name(anchor)
    if name is None:
        return
    alone = {phrase.noun for phrase in description.phrases if phrase.is_bare and len(phrase.members) == 1}
    for phrase in description.phrases:
        if not phrase.is_bare and phrase.noun in alone:  # the adjective would be one clue too many
            continue
        others = [i for i in {*phrase.members, *phrase.doubtful} if i != anchor]
        judged = {i: description.is_related(*((anchor, relation, i) if converse else (i, relation, anchor))) for i in others}
        matches = [i for i in others if judged[i]]
        if not matches or None in judged.values() or any(i in phrase.doubtful for i in matches):
            continue
        if len(matches) == 1:
            goes_around = converse and relation == "in" and bool(description.scene.objects[matches[0]].recipe.inside)
            template = description.rng.choice((*templates, wording.AROUND) if goes_around else templates)
            yield EverydayExpression(template.format(phrase.singular, name), "relation", (matches[0],))
        elif not converse:
            yield EverydayExpression(templates[0].format(phrase.plural, name), "plural", description.sort_by_x(matches))
