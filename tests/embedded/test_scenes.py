"""Drawn scenes: the same from the same seed, exact masks, and expressions that mean what they say.

What an expression means is worked out here again, from its words and the objects' attributes alone.
"""

import re
from collections import Counter
from collections.abc import Iterable
from random import Random

import numpy as np
import pytest

from sam4mllm_tool.embedded.expressions import IMPLICIT, KINDS, Expression, expressions, sample_expressions
from sam4mllm_tool.embedded.scenes import COLOURS, SHAPES, TEST_SEEDS, Scene, SceneObject, draw_scene

SIDE = 96
SCENES = [draw_scene(seed, SIDE) for seed in (*range(100), *range(TEST_SEEDS, TEST_SEEDS + 100))]

# What words mean, by hand ------------------------------------------------------------------------------------------

NOUN = rf"((?:small |large )?(?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join(SHAPES)}|shape))"
MANY = rf"((?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join(SHAPES)}|shape))(?:e?s)"
TOWARDS = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
EXTREMES = {
    "leftmost": "left", "furthest to the left": "left", "rightmost": "right", "furthest to the right": "right",
    "topmost": "top", "highest": "top", "bottommost": "bottom", "lowest": "bottom",
}  # fmt: skip
RELATIONS = {
    "left of": "left", "to the left of": "left", "right of": "right", "to the right of": "right",
    "above": "top", "higher than": "top", "below": "bottom", "under": "bottom",
}  # fmt: skip
RANKS = {"second": 1, "third": 2, "fourth": 3}
CLUES = {
    "without a hole": "circle", "full moon": "circle", "four equal sides": "square", "four corners": "square",
    "three": "triangle", "five points": "star", "night sky": "star", "with a hole": "ring", "finger": "ring",
    "plus sign": "cross", "two bars": "cross", "new moon": "crescent", "banana": "crescent", "love": "heart",
    "valentine": "heart",
}  # fmt: skip


def named(objects: Iterable[SceneObject], noun: str) -> set[int]:
    words = set(noun.split()) - {"shape"}
    return {i for i, thing in enumerate(objects) if words <= {thing.shape, thing.colour, thing.size}}


def towards(thing: SceneObject, side: str) -> float:
    return thing.centre[0] * TOWARDS[side][0] + thing.centre[1] * TOWARDS[side][1]


def meant(objects: tuple[SceneObject, ...], text: str) -> set[int]:
    """The objects that a reader would take the expression to mean."""
    for clue, shape in CLUES.items():
        if clue in text:
            return named(objects, shape)
    if found := re.fullmatch(rf"the {NOUN} ({'|'.join(RELATIONS)}) the {NOUN}", text):
        noun, relation, other = found.groups()
        (anchor,) = named(objects, other)
        side = RELATIONS[relation]
        return {i for i in named(objects, noun) - {anchor} if towards(objects[i], side) > towards(objects[anchor], side)}
    if found := re.fullmatch(rf"the ({'|'.join(RANKS)}) {NOUN} from the ({'|'.join(TOWARDS)})", text):
        rank, noun, side = found.groups()
        return {sorted(named(objects, noun), key=lambda i: -towards(objects[i], side))[RANKS[rank]]}
    found = re.fullmatch(rf"the ({'|'.join(EXTREMES)}) {NOUN}", text)
    if found or (found := re.fullmatch(rf"the {NOUN} ({'|'.join(EXTREMES)})", text)):
        extreme, noun = sorted(found.groups(), key=lambda group: group not in EXTREMES)
        members = named(objects, noun)
        return {max(members, key=lambda i: towards(objects[i], EXTREMES[extreme]))} if members else set()
    if found := re.fullmatch(rf"(?:all|the) {MANY}|every {NOUN}", text):
        return named(objects, found[1] or found[2])
    if found := re.fullmatch(rf"the {NOUN}", text):
        return named(objects, found[1])
    raise AssertionError(f"no reading of {text!r}")


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        pytest.param("the ring", {0}, id="shape"),
        pytest.param("the large red shape", {1}, id="size and colour"),
        pytest.param("the leftmost red shape", {0}, id="extreme"),
        pytest.param("the red shape furthest to the right", {1}, id="extreme said after the noun"),
        pytest.param("the second shape from the top", {0}, id="ordinal"),
        pytest.param("the star under the ring", {2}, id="relation"),
        pytest.param("all red shapes", {0, 1}, id="plural"),
        pytest.param("what you could wear on a finger", {0}, id="implicit"),
        pytest.param("the round shape without a hole", set(), id="absent"),
    ],
)
def test_the_reading_used_below_is_right_by_hand(text: str, targets: set[int]) -> None:
    box = SCENES[0].objects[0].box
    things = (
        SceneObject("ring", "red", "small", (0.2, 0.3), 0.1, box),
        SceneObject("star", "red", "large", (0.6, 0.1), 0.15, box),
        SceneObject("star", "blue", "small", (0.4, 0.9), 0.1, box),
    )
    assert meant(things, text) == targets


# Expressions --------------------------------------------------------------------------------------------------------


def every(kind: str) -> list[tuple[Scene, Expression]]:
    return [(scene, e) for scene in SCENES for e in expressions(scene) if e.kind == kind]


@pytest.mark.parametrize("kind", KINDS)
def test_expressions_mean_exactly_their_targets(kind: str) -> None:
    cases = every(kind)
    assert len(cases) > 100
    wrong = [(scene.seed, e.text) for scene, e in cases if meant(scene.objects, e.text) != set(e.targets)]
    assert not wrong


def test_kinds_have_as_many_targets_as_they_say() -> None:
    for kind in KINDS:
        counts = {len(e.targets) for _, e in every(kind)}
        assert counts == {"absent": {0}, "plural": {2, 3, 4}}.get(kind, {1})


def test_positions_are_never_too_close_to_call() -> None:
    """No expression turns on centres nearer to each other than a twentieth of the side."""
    for scene, e in every("position"):
        side = next(EXTREMES[word] for word in EXTREMES if word in e.text)
        noun = re.sub("|".join(EXTREMES), "", e.text).removeprefix("the ").strip()
        rivals = named(scene.objects, noun) - set(e.targets)
        (target,) = e.targets
        assert rivals, f"{e.text!r} singles out the only one there is"
        assert all(towards(scene.objects[target], side) - towards(scene.objects[i], side) > 0.05 for i in rivals)


def test_half_heard_absent_expressions_are_there_too() -> None:
    """Colour and shape both in the picture, on different objects: seeing either is not enough."""
    near = 0
    for scene, e in every("absent"):
        words = set(e.text.split())
        near += bool(words & {o.colour for o in scene.objects}) and bool(words & {o.shape for o in scene.objects})
    assert near > 0.1 * len(every("absent"))


def test_several_objects_are_named_from_left_to_right() -> None:
    for scene, e in every("plural"):
        lefts = [scene.objects[i].centre[0] for i in e.targets]
        assert lefts == sorted(lefts)


def test_every_shape_has_implicit_names() -> None:
    assert set(IMPLICIT) == set(SHAPES)
    for shape, names in IMPLICIT.items():
        assert all(next(CLUES[clue] for clue in CLUES if clue in name) == shape for name in names)


def test_sampled_expressions_are_different_and_balanced() -> None:
    kinds: Counter[str] = Counter()
    for scene in SCENES[:100]:
        chosen = sample_expressions(scene, 7, Random(scene.seed))
        assert chosen == sample_expressions(scene, 7, Random(scene.seed))
        assert len({id(e) for e in chosen}) == len(chosen) <= 7
        kinds.update(e.kind for e in chosen)
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > 0.25 * max(kinds.values())


# Pictures -----------------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_scene() -> None:
    for seed in (3, TEST_SEEDS + 3):
        once, again = draw_scene(seed, SIDE), draw_scene(seed, SIDE)
        assert np.array_equal(once.image, again.image)
        assert np.array_equal(once.instances, again.instances)
        assert once.objects == again.objects
        assert expressions(once) == expressions(again)
    assert draw_scene(3, SIDE).objects != draw_scene(4, SIDE).objects


def test_a_seed_is_one_scene_at_any_resolution() -> None:
    """Apart from the rare one where an object is covered just about as much as is allowed."""
    same = [expressions(draw_scene(seed, 2 * SIDE)) == expressions(SCENES[seed]) for seed in range(40)]
    assert sum(same) >= 38


def test_masks_match_their_boxes_and_no_pixel_belongs_to_two() -> None:
    for scene in SCENES:
        masks = [scene.mask(i) for i in range(len(scene.objects))]
        assert np.sum(masks, axis=0).max() == 1
        for thing, mask in zip(scene.objects, masks, strict=True):
            ys, xs = np.nonzero(mask)
            assert thing.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_pictures_are_rgb_and_show_their_objects_in_their_colours() -> None:
    for scene in SCENES[:50]:
        assert (scene.image.shape, scene.image.dtype) == ((SIDE, SIDE, 3), np.uint8)
        for i, thing in enumerate(scene.objects):
            mean = scene.image[scene.mask(i)].mean(0)
            nearest = min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))
            assert nearest == thing.colour


def test_scenes_hold_two_to_ten_objects_of_every_shape_colour_and_size() -> None:
    counts = Counter(len(scene.objects) for scene in SCENES)
    assert min(counts) == 2
    assert max(counts) == 10
    things = [thing for scene in SCENES for thing in scene.objects]
    assert {t.shape for t in things} == set(SHAPES)
    assert {t.colour for t in things} == set(COLOURS)
    assert {t.size for t in things} == {"small", "large"}


def test_objects_are_at_least_an_eighth_of_the_side() -> None:
    """Of the whole object; what another covers may leave less of it to be seen."""
    assert min(2 * thing.radius for scene in SCENES for thing in scene.objects) >= 0.17
    seen = [max(t.box.x2 - t.box.x1, t.box.y2 - t.box.y1) / SIDE for scene in SCENES for t in scene.objects]
    assert np.mean(np.array(seen) >= 0.12) > 0.99


def test_some_objects_are_partly_covered() -> None:
    covered = 0
    for scene in SCENES:
        for i, thing in enumerate(scene.objects):
            if thing.shape == "circle":
                covered += scene.mask(i).sum() < 0.95 * np.pi * (thing.radius * SIDE) ** 2
    assert covered >= 2
