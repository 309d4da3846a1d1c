"""What a scene holds and where, before it is drawn.

Everything is decided on a coarse raster of its own, so that a seed gives the same scene at any resolution.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from random import Random
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.drawn_things.recipe import COLOURS, Individual, ObjectRecipe, build_individual
from sam4mllm_tool.drawn_things.rendering import (
    PATTERNS,
    Labels,
    Pose,
    Style,
    Window,
    compute_placement,
    draw_labels,
    place_polygons,
)

PLAN_SIDE = 128
"""Side of the coarse raster in pixels."""

Stamp = tuple[Window, Labels, Labels]
Relation = Literal["on", "in", "behind", "across"]

_COUNTS = (2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10)
_BUILDS, _PLACES = 6, 8  # how many groups are tried, and how many places for each
_MIN_VISIBLE = 0.72  # of an object that is not placed to be covered
_MARGIN = 0.03  # of the image that objects keep free


@dataclass(frozen=True)
class PlannedObject:
    """An object with all that is needed to draw it.

    Attributes:
        recipe: What it is.
        individual: Its proportions.
        pose: Where it lies.
        style: How it is painted.
        min_visible: The least share of its pixels that others may leave visible.
    """

    recipe: ObjectRecipe
    individual: Individual
    pose: Pose
    style: Style
    min_visible: float = _MIN_VISIBLE

    def measure(self) -> npt.NDArray[np.float64]:
        """Return the box of its drawing, x1, y1, x2, y2 in units of the image's side."""
        corners = place_polygons(self.individual, self.pose)
        return np.concatenate([corners.min(0), corners.max(0)])

    def locate(self, x: float, y: float) -> npt.NDArray[np.float64]:
        """Return where a point of the recipe lies, in units of the image's side."""
        matrix, offset = compute_placement(self.individual, self.pose)
        return np.asarray(np.array((x, y)) @ matrix + offset)

    def move(self, x: float, y: float) -> "PlannedObject":
        """Return it shifted."""
        cx, cy = self.pose.centre
        return replace(self, pose=replace(self.pose, centre=(cx + x, cy + y)))


class Layer(NamedTuple):
    """A step of drawing: object number `number`, or its front again."""

    number: int
    front: bool = False


class Group(NamedTuple):
    """Objects that are placed together.

    Attributes:
        objects: The objects.
        layers: In order of drawing, numbers within the group.
        relations: (i, relation, j): object i of the group is on, in ... object j.
    """

    objects: list[PlannedObject]
    layers: list[Layer]
    relations: list[tuple[int, Relation, int]]


@dataclass
class Plan:
    """What a scene holds.

    Attributes:
        objects: In order of placement.
        layers: In order of drawing.
        stamps: Per layer, the window, parts and holes that it draws on the coarse raster.
        relations: (i, relation, j): object i was placed on, in ... object j.
        shadow: (right, down, darkness) of the shadows, the first two in units of the image's side.
    """

    objects: list[PlannedObject] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    stamps: list[Stamp] = field(default_factory=list)
    relations: list[tuple[int, Relation, int]] = field(default_factory=list)
    shadow: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def rasterize(self) -> "LabelMaps":
        """Draw the numbers of objects and parts coarsely."""
        maps = LabelMaps(self, PLAN_SIDE)
        for layer, stamp in zip(self.layers, self.stamps, strict=True):
            maps.paint(layer.number, *stamp)
        return maps


class LabelMaps:
    """Which object and which part each pixel shows.

    Attributes:
        instances: (side, side) uint8; 0 is the background, i + 1 is objects[i].
        parts: (side, side) uint8; the numbers of the parts, counted over all objects from 1, 0 for none.
        labels: Per object, its parts' labels in the order of their numbers.
        first: Per object, the number before that of its first part.
    """

    def __init__(self, plan: Plan, side: int) -> None:
        self.instances, self.parts = np.zeros((2, side, side), np.uint8)
        self.labels = [obj.individual.labels for obj in plan.objects]
        self.first = [0, *accumulate(len(labels) for labels in self.labels)]

    def paint(self, index: int, window: Window, parts: Labels, holes: Labels) -> None:
        """Draw objects[index] over what is there; a hole shows only where nothing is seen through it."""
        solid = parts > 0
        self.instances[window][solid] = index + 1
        self.parts[window][solid] = parts[solid] + np.uint8(self.first[index])
        if holes.any():
            empty = (holes > 0) & (self.instances[window] == 0)
            self.parts[window][empty] = holes[empty] + np.uint8(self.first[index])


class Planner:
    """Chooses objects and finds places for them.

    Attributes:
        plan: What has been placed.
        rng: Source of randomness.
        count: How many objects the scene is to hold.
        size: Of a usual object, in units of the image's side.
    """

    def __init__(self, rng: Random) -> None:
        self.plan, self.rng = Plan(), rng
        self.count = rng.choice(_COUNTS)
        self.size = min(0.48, max(0.22, 0.7 / self.count**0.5 * rng.uniform(0.85, 1.15)))
        self._instances = np.zeros((PLAN_SIDE, PLAN_SIDE), np.uint8)
        self._areas: list[int] = []

    @property
    def left(self) -> int:
        """How many objects are still to be placed."""
        return self.count - len(self.plan.objects)

    def choose_recipe(self, pool: Sequence[ObjectRecipe], besides: Sequence[ObjectRecipe] = ()) -> ObjectRecipe | None:
        """Choose a recipe, often one that the scene has already; None if all would be confused with parts of others."""
        present = {*besides, *(obj.recipe for obj in self.plan.objects)}
        names, parts = {recipe.name for recipe in present}, {part for recipe in present for part in recipe.parts}
        fit = [recipe for recipe in pool if recipe.name not in parts and names.isdisjoint(recipe.parts)]
        again = [recipe for recipe in fit if recipe in present]
        return self.rng.choice(again if again and self.rng.random() < 0.55 else fit) if fit else None

    def choose_object(
        self, recipe: ObjectRecipe, size: float, *, turn: float | None = None, min_visible: float = _MIN_VISIBLE
    ) -> PlannedObject:
        """Choose an individual in the middle of the image.

        Args:
            recipe: What it is.
            size: In units of the image's side.
            turn: Degrees; chosen if None.
            min_visible: The least share of its pixels that others may leave visible.
        """
        rng = self.rng
        individual = build_individual(recipe, rng)
        turn = rng.uniform(-recipe.turn, recipe.turn) if turn is None else turn
        pose = Pose((0.5, 0.5), size, turn, rng.uniform(*recipe.stretch), rng.random() < 0.5)
        return PlannedObject(recipe, individual, pose, self._choose_style(recipe), min_visible)

    def _choose_style(self, recipe: ObjectRecipe) -> Style:
        rng = self.rng
        taken = {obj.style.colour for obj in self.plan.objects if obj.recipe == recipe}
        free = [colour for colour in recipe.colours if colour not in taken]
        colour = rng.choice(free if free and rng.random() < 0.85 else recipe.colours)
        second = rng.choice([other for other in COLOURS if _differ(colour, other)])
        pattern = rng.choice(PATTERNS) if recipe.takes_pattern and rng.random() < 0.75 else "plain"
        return Style(
            colour,
            second,
            pattern,
            outline=rng.choice((0.0, 0.8, 1.0, 1.3)),
            tint=(rng.uniform(-9, 9), rng.uniform(-9, 9), rng.uniform(-9, 9)),
            shade=(rng.uniform(-16, 16), rng.uniform(-20, 6)),
            pattern_turn=rng.choice((0, 0, 90, 45, rng.uniform(0, 180))),
            pattern_step=rng.uniform(0.13, 0.2),
        )

    def place(self, build: Callable[["Planner"], Group | None], *, apart: bool = True) -> bool:
        """Build a group and find a place for it where it hides none of what is there too much; return whether there is one.

        Args:
            build: Builds the group, anywhere; None if it can't.
            apart: Keep it off the objects that are there.
        """
        for _ in range(_BUILDS):
            group = build(self)
            if group is None:
                continue
            boxes = np.array([obj.measure() for obj in group.objects])
            low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
            room = np.floor((1 - 2 * _MARGIN - (high - low)) * PLAN_SIDE).astype(int).tolist()
            if min(room) < 0:
                continue
            group = _move_group(group, *(_MARGIN - low))
            stamps = [_draw_stamp(group.objects[number], front) for number, front in group.layers]
            for _ in range(_PLACES):
                x, y = (self.rng.randint(0, most) for most in room)
                if self._add(_move_group(group, x / PLAN_SIDE, y / PLAN_SIDE), [_move_stamp(s, x, y) for s in stamps], apart):
                    return True
        return False

    def _add(self, group: Group, stamps: list[Stamp], apart: bool) -> bool:
        first = len(self.plan.objects)
        if apart and any((self._instances[window][parts > 0] > 0).any() for window, parts, _ in stamps):
            return False
        instances, areas = self._instances.copy(), [*self._areas, *(0 for _ in group.objects)]
        for layer, (window, parts, _) in zip(group.layers, stamps, strict=True):
            solid = parts > 0
            if not layer.front:
                areas[first + layer.number] = int(solid.sum())
            instances[window][solid] = first + layer.number + 1
        visible = np.bincount(instances.ravel(), minlength=len(areas) + 1)[1:]
        shares = (visible / np.maximum(areas, 1)).tolist()
        objects = [*self.plan.objects, *group.objects]
        if any(share < obj.min_visible for share, obj in zip(shares, objects, strict=True)):
            return False
        self.plan.objects = [
            replace(obj, min_visible=min(_MIN_VISIBLE, 0.9 * share)) for share, obj in zip(shares, objects, strict=True)
        ]
        self.plan.layers += [Layer(first + number, front) for number, front in group.layers]
        self.plan.stamps += stamps
        self.plan.relations += [(first + i, relation, first + j) for i, relation, j in group.relations]
        self._instances, self._areas = instances, areas
        return True


def _draw_stamp(obj: PlannedObject, front: bool) -> Stamp:
    return draw_labels(obj.individual, obj.pose, PLAN_SIDE, front=front)


def _move_stamp(stamp: Stamp, x: int, y: int) -> Stamp:
    (rows, columns), parts, holes = stamp
    return (slice(rows.start + y, rows.stop + y), slice(columns.start + x, columns.stop + x)), parts, holes


def _move_group(group: Group, x: float, y: float) -> Group:
    return group._replace(objects=[obj.move(x, y) for obj in group.objects])


def _differ(colour: str, other: str) -> bool:
    return sum(abs(a - b) for a, b in zip(COLOURS[colour], COLOURS[other], strict=True)) > 170
