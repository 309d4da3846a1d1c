"""Plans scenes: groups of objects that stand on, lie in, hide behind or cross each other, and objects by themselves."""

from collections.abc import Callable
from random import Random

import numpy as np

from sam4mllm_tool.drawn_things.recipe import ObjectRecipe, load_recipes
from sam4mllm_tool.embedded.everyday.arrangement import Group, Layer, Plan, PlannedObject, Planner


def plan_scene(rng: Random) -> Plan:
    """Plan a scene of two to ten objects, often with a group in which one object holds, hides or crosses another."""
    planner = Planner(rng)
    while planner.left > 0:
        fit = [(build, weight) for build, least, weight in _GROUPS if least <= planner.left]
        if fit and rng.random() < (0.5 if planner.plan.objects else 0.9):
            build = rng.choices([build for build, _ in fit], [weight for _, weight in fit])[0]
            planner.place(build)
        if planner.left > 0 and not planner.place(_build_single, apart=rng.random() < 0.7):
            planner.count -= 1
    if rng.random() < 0.6:
        planner.plan.shadow = (rng.uniform(-0.02, 0.02), rng.uniform(0.006, 0.022), rng.uniform(0.2, 0.4))
    return planner.plan


def _pool(fits: Callable[[ObjectRecipe], bool] = lambda _: True) -> list[ObjectRecipe]:
    return [recipe for recipe in load_recipes().values() if fits(recipe)]


def _build_single(planner: Planner) -> Group | None:
    recipe = planner.choose_recipe([*_pool(), *_pool(_is_rare), *_pool(_is_rare)])
    if recipe is None:
        return None
    return Group([planner.choose_object(recipe, planner.size * planner.rng.uniform(0.8, 1.25))], [Layer(0)], [])


def _is_rare(recipe: ObjectRecipe) -> bool:
    """Return whether objects of this kind are seldom in groups."""
    return not (recipe.long or recipe.thin or recipe.stands or recipe.inside or recipe.opening)


def _build_on(planner: Planner) -> Group | None:
    """One or two objects on another."""
    rng = planner.rng
    below = planner.choose_recipe(_pool(lambda recipe: bool(recipe.surface)))
    above = below and planner.choose_recipe(_pool(lambda recipe: recipe.stands and recipe != below), [below])
    if below is None or above is None:
        return None
    support = planner.choose_object(below, _clip(planner.size * 1.7, 0.36, 0.6), turn=rng.uniform(-2, 2))
    x1, x2, y = below.surface
    count = 2 if x2 - x1 > 60 and planner.left > 2 and rng.random() < 0.5 else 1
    objects = [support]
    for number in range(count):
        recipe = above if number == 0 else planner.choose_recipe(_pool(lambda r: r.stands and r != below), [below, above])
        if recipe is None:
            continue
        size = support.pose.size * rng.uniform(0.32, 0.46)
        foot = support.locate(x1 + (x2 - x1) * (number + rng.uniform(0.3, 0.7)) / count, y)
        objects.append(_stand(planner.choose_object(recipe, size, turn=rng.uniform(-3, 3)), foot))
    return Group(objects, [Layer(i) for i in range(len(objects))], [(i, "on", 0) for i in range(1, len(objects))])


def _stand(obj: PlannedObject, foot: np.ndarray) -> PlannedObject:
    """Return the object with the middle of its lower edge at `foot`."""
    x1, _, x2, y2 = obj.measure()
    return obj.move(foot[0] - (x1 + x2) / 2, foot[1] - y2)


def _build_in(planner: Planner) -> Group | None:
    """Objects that stick out of another: apples in a basket, a spoon in a mug."""
    rng = planner.rng
    outer = planner.choose_recipe(_pool(lambda recipe: bool(recipe.opening)))
    inner = outer and planner.choose_recipe(_pool(lambda recipe: recipe.name in outer.holds), [outer])
    if outer is None or inner is None:
        return None
    container = planner.choose_object(outer, _clip(planner.size * 1.4, 0.3, 0.55), turn=rng.uniform(-3, 3), min_visible=0.3)
    x1, x2, y = outer.opening
    left, right = container.locate(x1, y), container.locate(x2, y)
    narrow = x2 - x1 < 45
    count = 1 if narrow else min(rng.choice((1, 1, 2, 3)), planner.left - 1)
    size = container.pose.size * (rng.uniform(0.75, 1.0) if narrow else rng.uniform(0.34, 0.44))
    objects = [container]
    for number in range(count):
        turn = rng.uniform(-16, 16) + (180 if inner.name in _HANDLE_UP else 0)
        obj = planner.choose_object(inner, size, turn=turn if narrow else rng.uniform(-10, 10), min_visible=0.3)
        _, top, _, bottom = obj.measure()
        foot = left + (right - left) * (number + rng.uniform(0.4, 0.6)) / count
        objects.append(_stand(obj, foot + np.array((0, (bottom - top) * rng.uniform(0.3, 0.45)))))
    layers = [*(Layer(i) for i in range(len(objects))), Layer(0, front=True)]
    return Group(objects, layers, [(i, "in", 0) for i in range(1, len(objects))])


_HANDLE_UP = ("spoon", "fork", "knife")


def _build_inside(planner: Planner) -> Group | None:
    """An object within a hoop, a window or a picture frame."""
    rng = planner.rng
    outer = planner.choose_recipe(_pool(lambda recipe: bool(recipe.inside)))
    inner = outer and planner.choose_recipe(_pool(lambda recipe: recipe.stands or recipe.long), [outer])
    if outer is None or inner is None:
        return None
    container = planner.choose_object(outer, _clip(planner.size * 1.5, 0.3, 0.6), min_visible=0.3)
    x1, y1, x2, y2 = outer.inside
    corners = np.array([container.locate(x, y) for x in (x1, x2) for y in (y1, y2)])
    room = (corners.max(0) - corners.min(0)).min()
    obj = planner.choose_object(inner, room * rng.uniform(0.65, 0.9), min_visible=0.6)
    box = obj.measure()
    middle = corners.mean(0) - (box[:2] + box[2:]) / 2
    layers = [Layer(0), Layer(1), *([Layer(0, front=True)] if outer.front else [])]
    return Group([container, obj.move(*middle)], layers, [(1, "in", 0)])


def _build_behind(planner: Planner) -> Group | None:
    """An object partly behind another, often behind a thin one."""
    rng = planner.rng
    thin = rng.random() < 0.65
    near = planner.choose_recipe(_pool(lambda recipe: recipe.thin == thin))
    far = near and planner.choose_recipe(_pool(lambda recipe: recipe != near), [near])
    if near is None or far is None:
        return None
    front = planner.choose_object(near, _clip(planner.size * 1.4, 0.28, 0.6))
    back = planner.choose_object(far, front.pose.size * rng.uniform(0.65, 1.0), min_visible=0.45)
    reach = 0.15 if thin else rng.uniform(0.4, 0.6)
    side = rng.choice((-1, 1)) * reach * front.pose.size
    return Group([back.move(side, rng.uniform(-0.1, 0.1) * front.pose.size), front], [Layer(0), Layer(1)], [])


def _build_across(planner: Planner) -> Group | None:
    """Two long objects in an X."""
    rng = planner.rng
    first = planner.choose_recipe(_pool(lambda recipe: recipe.long))
    second = first and planner.choose_recipe(_pool(lambda recipe: recipe.long), [first])
    if first is None or second is None:
        return None
    size, tilt = _clip(planner.size * 1.5, 0.3, 0.6), rng.uniform(38, 52)
    turns = (tilt + rng.choice((0, 180)), -tilt + rng.choice((0, 180)))
    objects = []
    for recipe, turn in zip((first, second), turns, strict=True):
        obj = planner.choose_object(recipe, size, turn=turn, min_visible=0.5)
        x1, y1, x2, y2 = obj.measure()
        objects.append(obj.move(0.5 - (x1 + x2) / 2, 0.5 - (y1 + y2) / 2))
    return Group(objects, [Layer(0), Layer(1)], [(1, "across", 0)])


def _build_row(planner: Planner) -> Group | None:
    """Two to four objects beside each other, mostly of one kind."""
    rng = planner.rng
    recipe = planner.choose_recipe(_pool())
    if recipe is None:
        return None
    count = rng.randint(2, min(4, planner.left))
    other = planner.choose_recipe(_pool(), [recipe]) if count == 2 and rng.random() < 0.6 else None
    size, right, foot = planner.size * rng.uniform(0.75, 1.0), 0.0, 0.5
    objects: list[PlannedObject] = []
    for number in range(count):
        obj = planner.choose_object(other if other and number else recipe, size * rng.uniform(0.85, 1.15))
        x1, _, x2, y2 = obj.measure()
        objects.append(obj.move(right - x1, foot - y2 + rng.uniform(-0.02, 0.02)))
        right += x2 - x1 + rng.uniform(0.015, 0.05)
    return Group(objects, [Layer(i) for i in range(count)], [])


def _clip(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))


_GROUPS: tuple[tuple[Callable[[Planner], Group | None], int, float], ...] = (
    (_build_on, 2, 2.2),
    (_build_in, 2, 1.2),
    (_build_inside, 2, 1.0),
    (_build_behind, 2, 1.6),
    (_build_across, 2, 1.2),
    (_build_row, 2, 1.4),
)
"""Builder, least number of objects, weight."""
