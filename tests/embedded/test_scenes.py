"""Drawn scenes: reproducible from their seed, with exact masks and expressions that mean their targets.

What an expression means is derived here independently, from its words and the objects' attributes.
"""

import re
from collections import Counter
from collections.abc import Iterable
from random import Random

import numpy as np
import pytest

from sam4mllm_tool.embedded.expressions import IMPLICIT, KINDS, Expression, list_expressions, sample_expressions
from sam4mllm_tool.embedded.scenes import COLOURS, SHAPES, TEST_SEEDS, Scene, SceneObject, draw_scene

SIDE = 96
SCENES = [draw_scene(seed, SIDE) for seed in (*range(50), *range(TEST_SEEDS, TEST_SEEDS + 50))]
EXPRESSIONS = [list_expressions(scene) for scene in SCENES]

# What expressions mean, by hand ------------------------------------------------------------------------------------------

NOUN = rf"((?:small |large )?(?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join(SHAPES)}|shape))"
MANY = rf"((?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join(SHAPES)}|shape))(?:e?s)"
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
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


def find_named(objects: Iterable[SceneObject], noun: str) -> set[int]:
    words = set(noun.split()) - {"shape"}
    return {i for i, o in enumerate(objects) if words <= {o.shape, o.colour, o.size}}


def extent(shape: SceneObject, side: str) -> float:
    return shape.centre[0] * DIRECTIONS[side][0] + shape.centre[1] * DIRECTIONS[side][1]


def find_meant(objects: tuple[SceneObject, ...], text: str) -> set[int]:
    """Return the objects that a reader would take the expression to mean."""
    for clue, shape in CLUES.items():
        if clue in text:
            return find_named(objects, shape)
    if match := re.fullmatch(rf"the {NOUN} ({'|'.join(RELATIONS)}) the {NOUN}", text):
        noun, relation, other = match.groups()
        (anchor,) = find_named(objects, other)
        side = RELATIONS[relation]
        return {i for i in find_named(objects, noun) - {anchor} if extent(objects[i], side) > extent(objects[anchor], side)}
    if match := re.fullmatch(rf"the ({'|'.join(RANKS)}) {NOUN} from the ({'|'.join(DIRECTIONS)})", text):
        rank, noun, side = match.groups()
        return {sorted(find_named(objects, noun), key=lambda i: -extent(objects[i], side))[RANKS[rank]]}
    match = re.fullmatch(rf"the ({'|'.join(EXTREMES)}) {NOUN}", text)
    if match or (match := re.fullmatch(rf"the {NOUN} ({'|'.join(EXTREMES)})", text)):
        extreme, noun = sorted(match.groups(), key=lambda group: group not in EXTREMES)
        members = find_named(objects, noun)
        return {max(members, key=lambda i: extent(objects[i], EXTREMES[extreme]))} if members else set()
    if match := re.fullmatch(rf"(?:all|the) {MANY}|every {NOUN}", text):
        return find_named(objects, match[1] or match[2])
    if match := re.fullmatch(rf"the {NOUN}", text):
        return find_named(objects, match[1])
    raise AssertionError(f"{text!r} has no known form")


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        pytest.param("the ring", {0}, id="shape"),
        pytest.param("the large red shape", {1}, id="size and colour"),
        pytest.param("the leftmost red shape", {0}, id="extreme"),
        pytest.param("the red shape furthest to the right", {1}, id="extreme after the noun"),
        pytest.param("the second shape from the top", {0}, id="ordinal"),
        pytest.param("the star under the ring", {2}, id="relation"),
        pytest.param("all red shapes", {0, 1}, id="plural"),
        pytest.param("what you could wear on a finger", {0}, id="implicit"),
        pytest.param("the round shape without a hole", set(), id="absent"),
    ],
)
def test_the_independent_reading_agrees_with_hand_written_cases(text: str, targets: set[int]) -> None:
    box = SCENES[0].objects[0].box
    shapes = (
        SceneObject("ring", "red", "small", (0.2, 0.3), 0.1, box),
        SceneObject("star", "red", "large", (0.6, 0.1), 0.15, box),
        SceneObject("star", "blue", "small", (0.4, 0.9), 0.1, box),
    )
    assert find_meant(shapes, text) == targets


# Expressions --------------------------------------------------------------------------------------------------------


def list_cases(kind: str) -> list[tuple[Scene, Expression]]:
    return [(scene, e) for scene, expressions in zip(SCENES, EXPRESSIONS, strict=True) for e in expressions if e.kind == kind]


@pytest.mark.parametrize("kind", KINDS)
def test_expressions_mean_exactly_their_targets(kind: str) -> None:
    cases = list_cases(kind)
    assert len(cases) > 100
    wrong = [(scene.seed, e.text) for scene, e in cases if find_meant(scene.objects, e.text) != set(e.targets)]
    assert not wrong


def test_every_kind_has_its_number_of_targets() -> None:
    for kind in KINDS:
        counts = {len(e.targets) for _, e in list_cases(kind)}
        assert counts == {"absent": {0}, "plural": {2, 3, 4}}.get(kind, {1})


def test_positions_are_never_too_close_to_call() -> None:
    """No expression depends on centres that are closer than a twentieth of the side."""
    for scene, e in list_cases("position"):
        side = next(EXTREMES[word] for word in EXTREMES if word in e.text)
        noun = re.sub("|".join(EXTREMES), "", e.text).removeprefix("the ").strip()
        rivals = find_named(scene.objects, noun) - set(e.targets)
        (target,) = e.targets
        assert rivals, f"{e.text!r} fits only one object without its extreme"
        assert all(extent(scene.objects[target], side) - extent(scene.objects[i], side) > 0.05 for i in rivals)


def test_some_absent_expressions_have_their_colour_and_shape_on_different_objects() -> None:
    """Recognizing the colour or the shape alone is not enough to refuse them."""
    near = 0
    for scene, e in list_cases("absent"):
        words = set(e.text.split())
        near += bool(words & {o.colour for o in scene.objects}) and bool(words & {o.shape for o in scene.objects})
    assert near > 0.1 * len(list_cases("absent"))


def test_targets_are_ordered_from_left_to_right() -> None:
    for scene, e in list_cases("plural"):
        lefts = [scene.objects[i].centre[0] for i in e.targets]
        assert lefts == sorted(lefts)


def test_every_shape_has_implicit_names() -> None:
    assert set(IMPLICIT) == set(SHAPES)
    for shape, names in IMPLICIT.items():
        assert all(next(CLUES[clue] for clue in CLUES if clue in name) == shape for name in names)


def test_sampled_expressions_are_different_and_balanced() -> None:
    kinds: Counter[str] = Counter()
    for scene in SCENES[:50]:
        chosen = sample_expressions(scene, 7, Random(scene.seed))
        assert chosen == sample_expressions(scene, 7, Random(scene.seed))
        assert len({id(e) for e in chosen}) == len(chosen) <= 7
        kinds.update(e.kind for e in chosen)
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > 0.25 * max(kinds.values())


# Images -------------------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_scene() -> None:
    for seed in (3, TEST_SEEDS + 3):
        first, second = draw_scene(seed, SIDE), draw_scene(seed, SIDE)
        assert np.array_equal(first.image, second.image)
        assert np.array_equal(first.instances, second.instances)
        assert first.objects == second.objects
        assert list_expressions(first) == list_expressions(second)
    assert draw_scene(3, SIDE).objects != draw_scene(4, SIDE).objects


def test_a_seed_is_one_scene_at_any_resolution() -> None:
    """Rare exceptions are scenes in which an object is covered almost exactly as much as is allowed."""
    same = [list_expressions(draw_scene(seed, 2 * SIDE)) == EXPRESSIONS[seed] for seed in range(40)]
    assert sum(same) >= 38


def test_masks_match_their_boxes_and_do_not_overlap() -> None:
    for scene in SCENES:
        masks = [scene.mask(i) for i in range(len(scene.objects))]
        assert np.sum(masks, axis=0).max() == 1
        for shape, mask in zip(scene.objects, masks, strict=True):
            ys, xs = np.nonzero(mask)
            assert shape.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_images_are_rgb_and_show_objects_in_their_colours() -> None:
    for scene in SCENES[:50]:
        assert (scene.image.shape, scene.image.dtype) == ((SIDE, SIDE, 3), np.uint8)
        for i, shape in enumerate(scene.objects):
            mean = scene.image[scene.mask(i)].mean(0)
            nearest = min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))
            assert nearest == shape.colour


def test_scenes_hold_two_to_ten_objects_of_every_shape_colour_and_size() -> None:
    counts = Counter(len(scene.objects) for scene in SCENES)
    assert min(counts) == 2
    assert max(counts) == 10
    objects = [o for scene in SCENES for o in scene.objects]
    assert {o.shape for o in objects} == set(SHAPES)
    assert {o.colour for o in objects} == set(COLOURS)
    assert {o.size for o in objects} == {"small", "large"}


def test_objects_are_at_least_an_eighth_of_the_side() -> None:
    """That is the size of the whole object; less may be visible if another covers it."""
    objects = [o for scene in SCENES for o in scene.objects]
    assert min(2 * o.radius for o in objects) >= 0.17
    visible = [max(o.box.width, o.box.height) / SIDE for o in objects]
    assert np.mean(np.array(visible) >= 0.12) > 0.99


def test_some_objects_are_partly_covered() -> None:
    covered = 0
    for scene in SCENES:
        for i, shape in enumerate(scene.objects):
            if shape.shape == "circle":
                covered += scene.mask(i).sum() < 0.95 * np.pi * (shape.radius * SIDE) ** 2
    assert covered >= 2
