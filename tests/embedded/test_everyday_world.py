"""Scenes of everyday things: reproducible from their seed, with exact masks of objects and parts."""

from collections import Counter
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool.data.jsonl import JsonLines
from sam4mllm_tool.drawn_things.primitives import PRIMITIVES, build_polygon
from sam4mllm_tool.drawn_things.recipe import ObjectRecipe, build_individual, load_recipes
from sam4mllm_tool.drawn_things.rendering import Pose, Style, draw_individual
from sam4mllm_tool.embedded.everyday import TEST_SEEDS, EverydayScene, draw_scene, list_expressions
from sam4mllm_tool.embedded.everyday.gallery import draw_objects_sheet, draw_scenes_sheet
from sam4mllm_tool.embedded.everyday.groups import plan_scene
from sam4mllm_tool.embedded.scene_files import write_scenes

SIDE = 192


@cache
def scenes() -> tuple[EverydayScene, ...]:
    return tuple(draw_scene(seed, SIDE) for seed in (*range(20), *range(TEST_SEEDS, TEST_SEEDS + 20)))


def test_the_same_seed_draws_the_same_scene() -> None:
    for seed in (3, TEST_SEEDS + 3):
        first, second = draw_scene(seed, SIDE), draw_scene(seed, SIDE)
        assert np.array_equal(first.image, second.image)
        assert np.array_equal(first.instances, second.instances)
        assert np.array_equal(first.parts, second.parts)
        assert list_expressions(first) == list_expressions(second)
    assert draw_scene(3, SIDE).objects != draw_scene(4, SIDE).objects


def test_a_seed_is_one_scene_at_any_resolution() -> None:
    for seed in range(3):
        small, large = draw_scene(seed, 256), draw_scene(seed, 512)
        assert list_expressions(small) == list_expressions(large)
        coarse = large.instances[1::2, 1::2]
        assert (coarse == small.instances).mean() > 0.98


def test_images_are_rgb_and_too_small_ones_are_refused() -> None:
    assert (scenes()[0].image.shape, scenes()[0].image.dtype) == ((SIDE, SIDE, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 160 pixels square, not 96"):
        draw_scene(0, 96)


def test_masks_do_not_overlap_and_match_their_boxes() -> None:
    for scene in scenes():
        count = len(scene.objects)
        objects = [scene.mask(i) for i in range(count)]
        parts = [scene.mask(count + i) for i in range(len(scene.object_parts))]
        assert np.sum(objects, axis=0).max() == 1
        assert np.sum(parts, axis=0).max() <= 1
        for region, mask in zip(scene.regions, [*objects, *parts], strict=True):
            ys, xs = np.nonzero(mask)
            assert region.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_parts_lie_in_their_whole_and_cover_it_and_holes_lie_in_its_box_and_show_no_object() -> None:
    for scene in scenes():
        assert (scene.parts[scene.instances > 0] > 0).all()
        for index, part in enumerate(scene.object_parts, start=len(scene.objects)):
            mask = scene.mask(index)
            if part.is_hole:
                assert not (scene.instances[mask] > 0).any()
                x1, y1, x2, y2 = part.box
                whole = scene.objects[part.owner].box
                assert whole.x1 <= x1 and whole.y1 <= y1 and whole.x2 >= x2 and whole.y2 >= y2  # noqa: PT018
            else:
                assert (scene.instances[mask] == part.owner + 1).all()


def test_a_hole_is_a_part_but_not_of_its_pixels() -> None:
    donut = build_individual(load_recipes()["donut"], Random(0))
    drawing = draw_individual(donut, Pose((0.5, 0.5), 0.9), Style("pink", "white"), SIDE)
    assert (drawing.holes > 0).mean() > 0.04
    assert not drawing.parts[drawing.holes > 0].any()
    assert drawing.coverage[drawing.holes > 0].max() < 0.6


def test_enough_of_every_object_is_visible() -> None:
    for scene in scenes():
        assert all(item.visible > 0.15 for item in scene.objects)
        assert all(scene.mask(i).mean() > 0.0015 for i in range(len(scene.objects)))


def test_relations_agree_with_the_boxes() -> None:
    seen: Counter[str] = Counter()
    for scene in scenes():
        for (i, relation, j), holds in scene.relations.items():
            if not holds:
                continue
            seen[relation] += 1
            first, second = scene.objects[i], scene.objects[j]
            overlap_x = min(first.box.x2, second.box.x2) - max(first.box.x1, second.box.x1)
            overlap_y = min(first.box.y2, second.box.y2) - max(first.box.y1, second.box.y1)
            if relation == "on":
                assert overlap_x > 0
                assert first.centre[1] < second.centre[1]
            elif relation == "next to":
                assert overlap_y > 0
                assert -0.1 * SIDE < -overlap_x < 0.1 * SIDE
            else:
                assert min(overlap_x, overlap_y) > 0
            if relation == "across":
                assert first.box.iou(second.box) > 0.3
    assert set(seen) == {"on", "in", "behind", "next to", "across"}


def test_scenes_hold_two_to_ten_objects_and_over_time_all_there_are() -> None:
    plans = [plan_scene(Random(seed)) for seed in range(150)]
    counts = Counter(len(plan.objects) for plan in plans)
    assert min(counts) >= 1
    assert max(counts) == 10
    assert {item.recipe.name for plan in plans for item in plan.objects} == set(load_recipes())


@pytest.mark.parametrize("noun", load_recipes())
def test_every_part_of_a_recipe_can_be_seen(noun: str) -> None:
    recipe = load_recipes()[noun]
    visible = set()
    for seed in range(4):
        individual = build_individual(recipe, Random(seed))
        style = Style(recipe.colours[0], "yellow", "striped")
        drawing = draw_individual(individual, Pose((0.5, 0.5), 0.9), style, 128)
        numbers = np.union1d(drawing.parts, drawing.holes)
        visible |= {individual.labels[number - 1].rstrip("0123456789") for number in numbers.tolist() if number}
    assert visible == set(recipe.parts)
    assert set(recipe.pair) <= set(recipe.parts)
    assert {*recipe.similar, *recipe.holds} <= set(load_recipes())


def test_there_are_fifty_objects_or_more_and_most_have_parts() -> None:
    assert len(load_recipes()) >= 50
    assert sum(len(recipe.parts) > 1 for recipe in load_recipes().values()) > 0.9 * len(load_recipes())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        pytest.param("body disc 1 2 3 4 main", "can't be drawn", id="primitive"),
        pytest.param("body ell 1 2 3 main", "ell can't be drawn from 3 numbers", id="number missing"),
        pytest.param("body ell 1 2 3 4 mauve", "can't be drawn", id="colour"),
        pytest.param("body often 3 ell 1 2 3 4 main", "no repetition 'often'", id="repetition"),
    ],
)
def test_a_faulty_recipe_is_named(line: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"vase: .*{problem}"):
        build_individual(ObjectRecipe("vase", "vases", (line,)), Random(0))


@pytest.mark.parametrize(
    ("shape", "numbers", "area"),
    [
        ("ell", (50, 50, 20, 10), np.pi * 200),
        ("rect", (10, 10, 30, 20), 200),
        ("rect", (10, 10, 30, 20, 5), 200 - (4 - np.pi) * 25),
        ("poly", (0, 0, 10, 0, 0, 10), 50),
        ("blob", (0, 10, 10, 0, 20, 10, 10, 20), 270),
        ("line", (4, 0, 0, 10, 0, 10, 10), 80),
        ("cord", (2, 0, 0, 10, 0, 20, 0), 40 + np.pi),
        ("arc", (2, 50, 50, 10, 10, 0, 180), 20 * np.pi),
        ("ring", (50, 50, 20, 20, 5), np.pi * (400 - 225)),
        ("pie", (50, 50, 10, 10, 0, 90), np.pi * 25),
    ],
)
def test_primitives_have_their_area(shape: str, numbers: tuple[float, ...], area: float) -> None:
    x, y = build_polygon(shape, numbers).T
    assert abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 == pytest.approx(area, rel=0.06)


def test_every_primitive_has_a_case() -> None:
    assert set(PRIMITIVES) == {"ell", "rect", "poly", "blob", "line", "cord", "arc", "ring", "pie"}


def test_scenes_are_written_as_a_dataset(tmp_path: Path) -> None:
    path = write_scenes(tmp_path, 2, 7, side=SIDE, per_scene=4)
    samples = list(JsonLines(path, "all"))
    assert len(samples) == 8
    scene = draw_scene(7, SIDE)
    assert np.array_equal(np.asarray(Image.open(samples[0].image_path)), scene.image)
    texts = {expression.text: expression for expression in list_expressions(scene)}
    for sample in samples[:4]:
        for target, mask in zip(texts[sample.expression].targets, sample.masks(), strict=True):
            assert np.array_equal(mask, scene.mask(target))


def test_contact_sheets_show_objects_and_scenes() -> None:
    sheet = draw_objects_sheet()
    assert sheet.width > 1000
    assert len(sheet.getcolors(sheet.width * sheet.height) or ()) > 1000
    assert draw_scenes_sheet(2, 3).width > 500
