"""Noun phrases for the objects of a scene: each with the objects that it fits, and those that it might be taken to fit."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sam4mllm_tool.embedded.everyday.expression_templates import CATEGORIES
from sam4mllm_tool.embedded.everyday.world import EverydayObject

_MAYBE = {"fruit": ("pumpkin",)}  # what some people would count among them


@dataclass
class NounPhrase:
    """Words without an article.

    Attributes:
        singular: As in "red mug".
        plural: As in "red mugs".
        noun: The object's or the category's name.
        members: Indices of the objects that it fits.
        doubtful: Indices of objects that people might take it to fit: those of which it names the second colour.
    """

    singular: str
    plural: str
    noun: str
    members: list[int] = field(default_factory=list)
    doubtful: list[int] = field(default_factory=list)

    @property
    def is_bare(self) -> bool:
        """Whether it has no adjective."""
        return self.singular == self.noun

    @property
    def is_clear(self) -> bool:
        """Whether nobody could take it for something else."""
        return not self.doubtful


def list_noun_phrases(objects: Sequence[EverydayObject]) -> list[NounPhrase]:
    """List the phrases that fit some of the objects, the shortest first."""
    phrases: dict[str, NounPhrase] = {}
    for i, obj in enumerate(objects):
        recipe = obj.recipe
        nouns = [(recipe.name, recipe.plural)]
        if recipe.category in CATEGORIES:
            nouns.append((recipe.category, CATEGORIES[recipe.category]))
        for singular, plural in nouns:
            adjectives = ["", obj.colour]
            if obj.pattern != "plain" and singular == recipe.name:
                adjectives += [obj.pattern, f"{obj.pattern} {obj.colour}"]
            for adjective in adjectives:
                text = f"{adjective} {singular}".strip()
                phrase = phrases.setdefault(text, NounPhrase(text, f"{adjective} {plural}".strip(), singular))
                phrase.members.append(i)
    for phrase in phrases.values():
        words = set(phrase.singular.removesuffix(phrase.noun).split())
        phrase.doubtful = [
            i
            for i, obj in enumerate(objects)
            if i not in phrase.members
            and (
                (phrase.noun in (obj.noun, obj.recipe.category) and obj.second in words)
                or obj.noun in _MAYBE.get(phrase.noun, ())
            )
        ]
    return sorted(phrases.values(), key=lambda phrase: len(phrase.singular.split()))


def group_by_phrase(objects: Sequence[EverydayObject]) -> dict[str, list[int]]:
    """Return the phrases that nobody could take for something else, each with the indices of the objects that it fits."""
    return {phrase.singular: phrase.members for phrase in list_noun_phrases(objects) if phrase.is_clear}


def name_objects(phrases: Sequence[NounPhrase], count: int) -> dict[int, list[NounPhrase]]:
    """Return, per object, the phrases that fit it alone, the shortest first."""
    names: dict[int, list[NounPhrase]] = {i: [] for i in range(count)}
    for phrase in phrases:
        if len(phrase.members) == 1 and phrase.is_clear:
            names[phrase.members[0]].append(phrase)
    return names
