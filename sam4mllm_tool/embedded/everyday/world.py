"""The everyday world: drawn scenes of common objects with exact masks of the objects and of their parts, each from a seed.

A scene is two to ten objects on a plain or cluttered background. Many stand on, lie in, hide behind or cross each other, many
are thin, and many have a part that fills their box, so that a box alone does not say which pixels are meant. Seeds below
`TEST_SEEDS` may be used for training and tuning; seeds from there on are the test split and are never trained on.

Positions are in units of the image's side, so a seed gives the same scene at any resolution.
"""

from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from sam4mllm_tool.drawn_things.recipe import HOLE, ObjectRecipe, load_recipes, name_part
from sam4mllm_tool.drawn_things.rendering import Drawing, FloatImage, Labels, draw_individual
from sam4mllm_tool.embedded import TEST_SEEDS
from sam4mllm_tool.embedded.everyday.arrangement import PLAN_SIDE, LabelMaps, Plan
from sam4mllm_tool.embedded.everyday.backgrounds import draw_background
from sam4mllm_tool.embedded.everyday.groups import plan_scene
from sam4mllm_tool.embedded.everyday.relations import Relations, judge_relations
from sam4mllm_tool.types import Box, Mask

__all__ = ["MIN_SIDE", "TEST_SEEDS", "EverydayObject", "EverydayScene", "ObjectPart", "SceneRegion", "draw_scene"]

MIN_SIDE = 160
"""The smallest image in pixels: on a smaller one, parts would be lost."""

_MIN_PART = 82  # pixels of the coarse raster, half a percent of the image; smaller parts are not referred to


@dataclass(frozen=True)
class EverydayObject:
    """One drawn object.

    Attributes:
        noun: What it is, a key of `load_recipes()`.
        colour: Name of its main colour.
        pattern: "plain", "striped" or "dotted".
        centre: Middle of its visible pixels' box, (x, y) in units of the image's side.
        size: The longer side of its drawing before it is turned, covered or not, in units of the image's side.
        second: Name of the colour that it has besides, None if it has none.
        visible: Share of its pixels that no other object covers.
        box: Around its visible pixels, in pixels.
    """

    noun: str
    colour: str
    pattern: str
    centre: tuple[float, float]
    size: float
    second: str | None
    visible: float
    box: Box

    @property
    def recipe(self) -> ObjectRecipe:
        """How objects of this kind are drawn."""
        return load_recipes()[self.noun]

    @property
    def plural(self) -> str:
        """What several are called."""
        return self.recipe.plural


@dataclass(frozen=True)
class ObjectPart:
    """One part of a drawn object, or a hole in it.

    Attributes:
        name: What it is, one of the recipe's parts.
        owner: Index of the object in the scene's objects.
        number: Its pixels' value in the scene's parts.
        is_hole: Whether it is a hole, whose pixels are not the object's own.
        centre: Middle of its visible pixels' box, (x, y) in units of the image's side.
        box: Around its visible pixels, in pixels.
    """

    name: str
    owner: int
    number: int
    is_hole: bool
    centre: tuple[float, float]
    box: Box


SceneRegion: TypeAlias = EverydayObject | ObjectPart


@dataclass(frozen=True, eq=False)
class EverydayScene:
    """A drawn image with its true masks.

    Attributes:
        seed: What it was drawn from.
        image: (side, side, 3) uint8 RGB.
        instances: (side, side) uint8; 0 is the background, i + 1 the visible pixels of objects[i].
        parts: (side, side) uint8; 0 is the background, else the number of an `ObjectPart`, or of one too small to be listed.
        objects: The objects.
        object_parts: Their parts that are large enough to be referred to.
        clipped: (index of the object, name) of the parts of which an instance is too small to be in object_parts.
        relations: (i, relation, j): objects[i] is on, in, behind or across objects[j], or next to it; True where that is so,
            None where people could disagree; all others are not so.
    """

    seed: int
    image: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint8]
    parts: npt.NDArray[np.uint8]
    objects: tuple[EverydayObject, ...]
    object_parts: tuple[ObjectPart, ...]
    clipped: frozenset[tuple[int, str]]
    relations: Relations

    @cached_property
    def regions(self) -> tuple[SceneRegion, ...]:
        """The objects, then their parts: what expressions refer to."""
        return (*self.objects, *self.object_parts)

    def mask(self, index: int) -> Mask:
        """Return the visible pixels of regions[index], (side, side) bool; objects come first."""
        if index < len(self.objects):
            return np.equal(self.instances, index + 1)
        return np.equal(self.parts, self.object_parts[index - len(self.objects)].number)


def draw_scene(seed: int, side: int = 256) -> EverydayScene:
    """Draw the scene of a seed, `side` pixels square.

    Raises:
        ValueError: The side is below `MIN_SIDE`.
    """
    if side < MIN_SIDE:
        raise ValueError(f"a scene of everyday things is at least {MIN_SIDE} pixels square, not {side}")
    plan = plan_scene(Random(f"everyday-{seed}"))
    image = draw_background(Random(f"background-{seed}"), np.random.default_rng(seed), side)
    maps = LabelMaps(plan, side)
    for number, front in plan.layers:
        obj = plan.objects[number]
        drawing = draw_individual(obj.individual, obj.pose, obj.style, side, front=front)
        if plan.shadow[2] and not front:
            _cast_shadow(image, drawing, plan.shadow)
        image[drawing.window] = image[drawing.window] * (1 - drawing.coverage[..., None]) + drawing.colour
        maps.paint(number, drawing.window, drawing.parts, drawing.holes)
    objects, parts, clipped, relations = _describe(plan, maps)
    pixels = image.clip(0, 255).astype(np.uint8)
    return EverydayScene(seed, pixels, maps.instances, maps.parts, objects, parts, clipped, relations)


def _cast_shadow(image: FloatImage, drawing: Drawing, shadow: tuple[float, float, float]) -> None:
    """Darken the image around where the object will be drawn, shifted and blurred."""
    side = len(image)
    dx, dy, blur = round(shadow[0] * side), round(shadow[1] * side), max(1, side // 100)
    rows, columns = drawing.window
    room = 2 * blur + max(abs(dx), abs(dy))
    y1, x1 = max(0, rows.start - room), max(0, columns.start - room)
    y2, x2 = min(side, rows.stop + room), min(side, columns.stop + room)
    canvas = Image.new("L", (x2 - x1, y2 - y1))
    solid = Image.fromarray((drawing.coverage * 255).astype(np.uint8))
    canvas.paste(solid, (columns.start - x1 + dx, rows.start - y1 + dy))
    dark = np.asarray(canvas.filter(ImageFilter.BoxBlur(blur)), np.float32) * np.float32(shadow[2] / 255)
    image[y1:y2, x1:x2] *= 1 - dark[..., None]


_Description: TypeAlias = tuple[tuple[EverydayObject, ...], tuple[ObjectPart, ...], frozenset[tuple[int, str]], Relations]


def _describe(plan: Plan, maps: LabelMaps) -> _Description:
    """Describe the objects and parts by what the coarse raster shows, with boxes from the image's own pixels."""
    coarse, side = plan.rasterize(), len(maps.instances)
    measured, boxes = _find_boxes(coarse.instances, PLAN_SIDE, 1), _find_boxes(maps.instances, side, side)
    visible = np.bincount(coarse.instances.ravel(), minlength=len(plan.objects) + 1)[1:].tolist()
    stamps = zip(plan.layers, plan.stamps, strict=True)
    full = {layer.number: int((parts > 0).sum()) for layer, (_, parts, _) in stamps if not layer.front}
    objects = []
    for i, obj in enumerate(plan.objects):
        box, style = measured[i + 1], obj.style
        second = style.second if style.pattern != "plain" or obj.recipe.has_second else None
        objects.append(
            EverydayObject(
                noun=obj.recipe.name,
                colour=style.colour,
                pattern=style.pattern,
                centre=box.center,
                size=obj.pose.size,
                second=second,
                visible=min(1.0, visible[i] / full[i]),
                box=boxes[i + 1],
            )
        )
    relations = judge_relations(plan, np.array([measured[i + 1] for i in range(len(objects))]))
    return tuple(objects), *_describe_parts(plan, maps, coarse), relations


def _describe_parts(
    plan: Plan, maps: LabelMaps, coarse: LabelMaps
) -> tuple[tuple[ObjectPart, ...], frozenset[tuple[int, str]]]:
    """Return the parts that are large enough, and the owners and names of those that are visible but too small."""
    object_parts, clipped, side = [], set(), len(maps.parts)
    measured, boxes = _find_boxes(coarse.parts, PLAN_SIDE, 1), _find_boxes(maps.parts, side, side)
    counts = np.bincount(coarse.parts.ravel(), minlength=coarse.first[-1] + 1)
    for i, obj in enumerate(plan.objects):
        holes = {piece.label for piece in obj.individual.pieces if piece.colour == HOLE}
        for number, label in enumerate(coarse.labels[i], start=coarse.first[i] + 1):
            if counts[number] >= _MIN_PART and number in boxes:
                middle = measured[number].center
                object_parts.append(ObjectPart(name_part(label), i, number, label in holes, middle, boxes[number]))
            elif counts[number]:
                clipped.add((i, name_part(label)))
    return tuple(object_parts), frozenset(clipped)


def _find_boxes(labels: Labels, side: int, unit: int) -> dict[int, Box]:
    """Return the box around the pixels of each number but 0, in units of which the image's side has `unit`."""
    from scipy import ndimage  # type: ignore[import-untyped]

    slices_by_number = enumerate(ndimage.find_objects(labels), start=1)
    scale = unit / side
    return {
        number: Box(columns.start * scale, rows.start * scale, columns.stop * scale, rows.stop * scale)
        for number, (rows, columns) in ((number, slices) for number, slices in slices_by_number if slices is not None)
    }
