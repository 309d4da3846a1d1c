"""Expressions that refer to parts of objects: the handle of a mug, the wheels of a bus, a frame without its picture."""

from collections.abc import Iterator

from sam4mllm_tool.embedded.everyday import expression_templates as wording
from sam4mllm_tool.embedded.everyday.referring import MARGIN, Description, EverydayExpression


def list_part_groups(description: Description) -> dict[tuple[int, str], tuple[int, ...]]:
    """Return, per object and part's name, the regions of its instances from left to right, if all are large enough."""
    scene, groups = description.scene, dict[tuple[int, str], tuple[int, ...]]()
    for index, part in enumerate(scene.object_parts, start=len(scene.objects)):
        key = part.owner, part.name
        if key not in scene.clipped:
            groups[key] = description.sort_by_x((*groups.get(key, ()), index))
    return {key: regions for key, regions in groups.items() if len(scene.objects[key[0]].recipe.parts) > 1}


def part_expressions(description: Description) -> Iterator[EverydayExpression]:
    """Yield the parts of objects that can be named, one, all or the left or right one of two."""
    groups = list_part_groups(description)
    for (owner, part), regions in groups.items():
        if name := description.name(owner):
            yield from _parts_of(description, part, regions, name)
        if _count_parts(description, part) == len(regions):
            text = wording.name_parts(part, len(regions))
            yield EverydayExpression(wording.BARE.format(text), "part", regions)


def _count_parts(description: Description, part: str) -> int:
    """Count the parts of the scene, of whichever objects, that are called so."""
    names = [*(known.name for known in description.scene.object_parts), *(name for _, name in description.scene.clipped)]
    return sum(wording.pluralize_part(name) == wording.pluralize_part(part) for name in names)


def _parts_of(description: Description, part: str, regions: tuple[int, ...], name: str) -> Iterator[EverydayExpression]:
    first = description.scene.regions[regions[0]]
    template = wording.HOLE if getattr(first, "is_hole", False) else wording.PART
    text = wording.name_parts(part, len(regions))
    yield EverydayExpression(template.format(text, name), "part", regions)
    if len(regions) == 2:
        left, right = (description.scene.regions[i].centre[0] for i in regions)
        if right - left > MARGIN:
            for side, index in zip(("left", "right"), regions, strict=True):
                yield EverydayExpression(wording.SIDED.format(side, part, name), "part", (index,))


def part_whole_expressions(description: Description) -> Iterator[EverydayExpression]:
    """Yield wholes and parts that are easily taken for each other, said so that they aren't."""
    groups = list_part_groups(description)
    for owner, obj in enumerate(description.scene.objects):
        name = description.name(owner)
        if name is None:
            continue
        parts = {part: regions for (index, part), regions in groups.items() if index == owner}
        pair = [part for part in obj.recipe.pair if part in parts]
        if len(pair) == 2:
            for part, other in (pair, pair[::-1]):
                if len(parts[part]) == 1:
                    yield from _one_of_pair(description, (part, other), parts[part], name)
        elif len(obj.recipe.parts) == 2 and len(parts) == 2:
            pair = sorted(parts)
        for part in pair:
            text = wording.name_parts(part, len(parts[part]))
            yield EverydayExpression(wording.WITH.format(name, text), "part_whole", (owner,))
        if len(pair) == 2:
            yield EverydayExpression(description.rng.choice(wording.WHOLE).format(name), "part_whole", (owner,))
        if set(obj.recipe.parts) == set(parts) and len(parts) == 2:
            for part, other in (pair, pair[::-1]):
                text = wording.name_parts(other, len(parts[other]))
                yield EverydayExpression(wording.REST.format(name, text), "part_whole", parts[part])


def _one_of_pair(
    description: Description, pair: tuple[str, str], regions: tuple[int, ...], name: str
) -> Iterator[EverydayExpression]:
    part, other = pair
    yield EverydayExpression(description.rng.choice(wording.ONLY_PART).format(part, name), "part_whole", regions)
    yield EverydayExpression(wording.PART_WITHOUT.format(part, name, other), "part_whole", regions)
    if _count_parts(description, part) == 1:
        yield EverydayExpression(wording.WITHOUT.format(part, other), "part_whole", regions)
