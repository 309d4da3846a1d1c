"""Expressions that fit nothing in a scene: easy ones, of objects that aren't there, and hard ones, which nearly fit."""

from collections.abc import Iterator

from sam4mllm_tool.drawn_things.recipe import COLOURS, ObjectRecipe, load_recipes
from sam4mllm_tool.embedded.everyday import expression_templates as wording
from sam4mllm_tool.embedded.everyday.expression_templates import CATEGORIES, HELD_OUT, load_phrases
from sam4mllm_tool.embedded.everyday.referring import MARGIN, Description, EverydayExpression, measure_extent

_TELLING_PARTS = {
    "wheel": (),
    "wing": (),
    "sail": (),
    "petals": (),
    "spout": (),
    "roof": ("bus",),
    "chimney": (),
    "beak": (),
    "ears": (),
    "saddle": (),
    "mast": (),
    "straw": (),
    "flame": (),
    "laces": (),
    "sleeve": (),
    "rungs": (),
    "prongs": (),
    "eraser": (),
    "cherry": (),
    "cone": (),
    "handle": ("key", "bicycle", "bottle"),
    "lid": ("bottle", "basket"),
    "door": ("boat", "plane"),
    "tail": ("snail", "car"),
    "fin": ("plane",),
    "shell": (),
    "collar": ("cat", "bottle"),
    "buttons": ("lamp", "clock"),
}
"""Parts that an object clearly has or hasn't -> objects that might be said to have one although their recipe names none."""


def absent_expressions(description: Description) -> Iterator[EverydayExpression]:
    """Yield some expressions of either kind."""
    for text in _easy_texts(description):
        yield EverydayExpression(text, "absent_easy", ())
    for text in _hard_texts(description):
        yield EverydayExpression(text, "absent_hard", ())


def _easy_texts(description: Description) -> Iterator[str]:
    rng, objects = description.rng, description.scene.objects
    nouns, parts = {obj.noun for obj in objects}, {part for obj in objects for part in obj.recipe.parts}
    missing = [
        recipe
        for recipe in load_recipes().values()
        if recipe.name not in nouns | parts
        and nouns.isdisjoint(recipe.similar)
        and not any(recipe.name in obj.recipe.similar for obj in objects)
    ]
    for recipe in rng.sample(missing, 4):
        yield wording.BARE.format(recipe.name)
        yield wording.BARE.format(f"{rng.choice(recipe.colours)} {recipe.name}")
        yield rng.choice(load_phrases()[recipe.name][:-HELD_OUT])
        yield rng.choice((*wording.PLURALS, wording.BOTH[0])).format(recipe.plural)
        if len(recipe.parts) > 1:
            yield wording.PART.format(rng.choice(recipe.parts), recipe.name)
        if name := description.name(rng.randrange(len(objects))):
            yield rng.choice(wording.RELATIONS["next to"]).format(recipe.name, name)
    for category in CATEGORIES:
        if all(obj.recipe.category != category for obj in objects) and "pumpkin" not in nouns:
            yield wording.BARE.format(category)


def _hard_texts(description: Description) -> Iterator[str]:
    yield from _wrong_colours(description)
    yield from _missing_parts(description)
    yield from _reversed_relations(description)
    yield from _reversed_directions(description)
    yield from _places_too_far(description)


def _wrong_colours(description: Description) -> Iterator[str]:
    """Yield objects that are there with a colour or a pattern that none of them has."""
    objects = description.scene.objects
    around = {obj.colour for obj in objects}
    for noun in sorted({obj.noun for obj in objects}):
        same = [obj for obj in objects if obj.noun == noun]
        recipe, taken = load_recipes()[noun], {colour for obj in same for colour in (obj.colour, obj.second)}
        free = [colour for colour in (recipe.colours if len(recipe.colours) > 1 else COLOURS) if colour not in taken]
        near = [colour for colour in free if colour in around]
        for colour in description.rng.sample(near or free, min(2, len(near or free))):
            yield wording.BARE.format(f"{colour} {noun}")
        for pattern in ("striped", "dotted"):
            if recipe.takes_pattern and all(obj.pattern != pattern for obj in same):
                yield wording.BARE.format(f"{pattern} {noun}")


def _missing_parts(description: Description) -> Iterator[str]:
    """Yield parts that other objects have, preferably objects of the scene, of objects that have none."""
    objects = description.scene.objects
    present = {part for obj in objects for part in obj.recipe.parts}
    for i, obj in enumerate(objects):
        missing = [part for part in _TELLING_PARTS if _lacks_part(obj.recipe, part)]
        near = [part for part in missing if part in present]
        name = description.name(i)
        if name and missing:
            part = description.rng.choice(near or missing)
            yield wording.PART.format(part if description.rng.random() < 0.5 else wording.pluralize_part(part), name)


def _lacks_part(recipe: ObjectRecipe, part: str) -> bool:
    return part not in recipe.parts and recipe.name not in _TELLING_PARTS[part]


def _reversed_relations(description: Description) -> Iterator[str]:
    """Yield true relations with their objects exchanged."""
    for (i, relation, j), holds in description.scene.relations.items():
        names = description.name(i), description.name(j)
        if holds and relation in ("on", "in", "behind") and names[0] and names[1]:
            yield description.rng.choice(wording.RELATIONS[relation]).format(names[1], names[0])


def _reversed_directions(description: Description) -> Iterator[str]:
    """Yield objects left of what they are right of, and the like."""
    objects, rng = description.scene.objects, description.rng
    for _ in range(6 if len(objects) >= 2 else 0):
        i, j = rng.sample(range(len(objects)), 2)
        side, names = rng.choice(sorted(wording.DIRECTIONS)), (description.name(i), description.name(j))
        lead = measure_extent(objects[i].centre, side) - measure_extent(objects[j].centre, side)
        if lead < -MARGIN and names[0] and names[1]:
            yield rng.choice(wording.DIRECTIONS[side]).format(names[0], names[1])


def _places_too_far(description: Description) -> Iterator[str]:
    """Yield the third of two."""
    for phrase in description.phrases:
        count = len(phrase.members)
        if phrase.is_clear and 2 <= count <= 4:
            side = description.rng.choice(sorted(wording.EXTREMES))
            yield wording.ORDINAL.format(wording.ORDINALS[count], phrase.singular, side)
