"""Results outside Python: the files hold what the segmentation holds, and the overlay is legible on any image."""

import colorsys
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.images.draw import OBJECT_COLOURS, OFF_COLOUR, ON_COLOUR
from sam4mllm_tool.images.export import (
    cutout_image,
    make_folder,
    mask_image,
    mask_to_polygons,
    overlay,
    summary,
    write_cutout,
    write_outputs,
)
from sam4mllm_tool.images.object_labels import draw_label
from sam4mllm_tool.types import Box, Mask, ObjectPrompt, PointPrompt, Segmentation, SegmentedObject, Size
from tests.embedded_world import draw_scene
from tests.images.reference_overlays import FOLDER, REFERENCES

GROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "mid-grey": (128, 128, 128)}


def scene(side: int = 256, seed: int = 7, count: int = 2, *, confidence: float | None = 0.9) -> tuple[Any, Segmentation]:
    """A drawn image and the true masks of its first objects, with a 5 x 5 grid of points in each box."""
    drawn = draw_scene(seed, side)
    objects = []
    for index in range(count):
        box, mask = drawn.objects[index].box, drawn.mask(index)
        shares = [(i + 0.5) / 5 for i in range(5)]
        grid = [(box.x1 + box.width * across, box.y1 + box.height * down) for down in shares for across in shares]
        points = tuple(PointPrompt(x, y, 1 if mask[int(y), int(x)] else 0, 0.97) for x, y in grid)
        objects.append(SegmentedObject(mask, ObjectPrompt(box, points), 0.93, confidence))
    return Image.fromarray(drawn.image), Segmentation("the star", Size(side, side), tuple(objects))


def draw_point(label: int, ground: tuple[int, int, int]) -> Any:
    """The middle of the overlay of a single point on a plain image, as an array."""
    prompt = ObjectPrompt(Box(0, 0, 200, 200), (PointPrompt(100.0, 100.0, label),))  # type: ignore[arg-type]
    segmentation = Segmentation("it", Size(200, 200), (SegmentedObject(np.zeros((200, 200), bool), prompt, 0.5),))
    return np.asarray(overlay(Image.new("RGB", (200, 200), ground), segmentation))[90:110, 90:110].astype(int)


def test_a_warning_is_printed_whole():
    _, segmentation = scene()
    warnings = ("these weights know drawn scenes only: " + "words " * 40 + "--segmenter FILE", "w" * 1000, "w" * 1001)
    expected = [f"  warning: {warning}" for warning in (*warnings[:2], "w" * 1000 + "...")]
    assert summary(replace(segmentation, warnings=warnings)).splitlines()[-3:] == expected
    assert "warning" not in summary(replace(segmentation, warnings=warnings), with_warnings=False)


# The mask and its polygons


def test_mask_image_is_255_on_every_object_and_0_elsewhere():
    _, segmentation = scene()
    image = mask_image(segmentation)
    assert (image.mode, image.size) == ("L", (256, 256))
    assert np.array_equal(np.asarray(image), np.where(segmentation.mask, 255, 0))
    assert not np.asarray(mask_image(Segmentation("it", Size(3, 2), ()))).any()


def fill_even_odd(rings: list[list[float]], shape: tuple[int, int]) -> Mask:
    """Fill by the even-odd rule: each vertical side inverts every pixel to its right."""
    mask = np.zeros(shape, bool)
    for ring in rings:
        corners = list(zip(ring[::2], ring[1::2], strict=True))
        for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
            assert (x1 == x2) != (y1 == y2), "sides are horizontal or vertical, and not empty"
            if x1 == x2:
                mask[int(min(y1, y2)) : int(max(y1, y2)), int(x1) :] ^= True
    return mask


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
def test_filling_the_polygons_gives_the_mask_back(mask: Mask):
    assert np.array_equal(fill_even_odd(mask_to_polygons(mask), mask.shape), mask)


def test_filling_the_polygons_of_a_scene_gives_its_masks_back():
    for segmented in scene(count=3)[1].objects:
        assert np.array_equal(fill_even_odd(mask_to_polygons(segmented.mask), segmented.mask.shape), segmented.mask)


def mask_from(*rows: str) -> Mask:
    return np.array([[c == "#" for c in row] for row in rows])


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        pytest.param(mask_from("...", "..."), [], id="empty"),
        pytest.param(mask_from("###", "###"), [[0, 0, 3, 0, 3, 2, 0, 2]], id="full, clockwise"),
        pytest.param(mask_from("...", ".#."), [[1, 1, 2, 1, 2, 2, 1, 2]], id="one pixel"),
        pytest.param(mask_from("#.", "##"), [[0, 0, 1, 0, 1, 1, 2, 1, 2, 2, 0, 2]], id="an inner corner"),
        pytest.param(
            mask_from("###", "#.#", "###"),
            [[0, 0, 3, 0, 3, 3, 0, 3], [2, 1, 1, 1, 1, 2, 2, 2]],
            id="a hole, anticlockwise",
        ),
        pytest.param(mask_from("#.", ".#"), [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]], id="touching at a corner"),
    ],
)
def test_polygons_match_those_made_by_hand(mask: Mask, expected: list[list[float]]):
    assert mask_to_polygons(mask) == expected


def test_pycocotools_reads_the_polygons_of_masks_without_holes():
    mask = np.zeros((40, 50), bool)
    mask[5:20, 10:30] = mask[15:35, 25:45] = True
    read = coco.frPyObjects(mask_to_polygons(mask), *mask.shape)
    assert rle.decode(coco.merge(read)).sum() == pytest.approx(mask.sum(), rel=0.02)
    assert coco.iou([rle.encode(mask)], [coco.merge(read)], [0])[0, 0] > 0.97  # pycocotools rounds at the edges


def test_polygons_refuse_a_mask_that_is_not_bool():
    with pytest.raises(ValueError, match=r"\(H, W\) bool"):
        mask_to_polygons(np.zeros((2, 2), np.uint8))  # type: ignore[arg-type]


# The overlay


def test_overlay_copies_the_image_and_changes_only_what_it_marks():
    image, segmentation = scene(count=1)
    before = image.copy()
    drawn = overlay(image, segmentation)
    assert image == before
    assert (drawn.mode, drawn.size) == ("RGB", image.size)
    changed = (np.asarray(drawn) != np.asarray(image)).any(2)
    assert changed[segmentation.mask].mean() > 0.99
    assert changed.mean() < 0.25


@pytest.mark.parametrize("side", [1, 2, 3, 16, 64, 300])
@pytest.mark.parametrize("confidence", [None, 0.0, 1.0], ids=["unknown", "0 %", "100 %"])
def test_overlay_draws_at_each_size(side: int, confidence: float | None):
    prompt = ObjectPrompt(Box(0, 0, side, side), (PointPrompt(0, 0, 1), PointPrompt(side, side, 0), PointPrompt(0, 0, 0)))
    segmented = SegmentedObject(np.ones((side, side), bool), prompt, 0.5, confidence)
    segmentation = Segmentation("it", Size(side, side), (segmented,) * 3)
    assert overlay(Image.new("RGB", (side, side)), segmentation).size == (side, side)


def test_a_box_beyond_the_image_is_drawn_at_its_edge():
    prompt = ObjectPrompt(Box(-50.0, -50.0, 300.0, 300.0), (PointPrompt(-90, 500, 1),))
    segmented = SegmentedObject(np.zeros((200, 200), bool), prompt, 0.5)
    drawn = np.asarray(overlay(Image.new("RGB", (200, 200)), Segmentation("it", Size(200, 200), (segmented,))))
    assert tuple(drawn[198, 100]) in OBJECT_COLOURS


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
def test_points_differ_by_colour_and_by_shape_on_any_ground(ground: tuple[int, int, int]):
    on, off = draw_point(1, ground), draw_point(0, ground)
    assert on[10, 10] == pytest.approx(ON_COLOUR, abs=40)
    assert off[10, 10] == pytest.approx(OFF_COLOUR, abs=40)  # its arms are narrow and smoothed
    for mark in (on, off):
        brightness = mark.sum(2)
        assert brightness.max() > 600, "has a light line"
        assert brightness.min() < 120, "has a dark line"
    differs = np.abs(on - off).sum(2) > 150
    assert differs.sum() > 8
    shapes = [np.abs(mark - np.array(ground)).sum(2) > 60 for mark in (on, off)]
    assert (shapes[0] != shapes[1]).any()


@pytest.mark.parametrize("ground", [*GROUNDS.values(), *OBJECT_COLOURS])
def test_a_mask_is_visible_on_any_ground(ground: tuple[int, int, int]):
    mask = np.zeros((200, 200), bool)
    mask[60:140, 60:140] = True
    segmented = SegmentedObject(mask, ObjectPrompt(Box(60, 60, 140, 140)), 0.9)
    drawn = np.asarray(overlay(Image.new("RGB", (200, 200), ground), Segmentation("it", Size(200, 200), (segmented,))), int)
    assert np.abs(drawn[100, 100] - ground).sum() > 60, "the tint"
    assert drawn[100, 60].sum() > 700, "the light line inside"
    assert drawn[100, 57:60].sum(1).min() < 120, "the dark line outside"


def test_each_object_has_its_own_colour():
    mask = np.zeros((300, 300), bool)
    boxes = [Box(20 + 40 * i, 100, 50 + 40 * i, 130) for i in range(len(OBJECT_COLOURS))]
    objects = tuple(SegmentedObject(mask, ObjectPrompt(box), 0.9) for box in boxes)
    drawn = overlay(Image.new("RGB", (300, 300)), Segmentation("all", Size(300, 300), objects))
    assert {drawn.getpixel((int(box.x1) + 15, 130)) for box in boxes} == set(OBJECT_COLOURS)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param(Box(0, 0, 40, 40), id="top left"),
        pytest.param(Box(160, 0, 200, 40), id="top right"),
        pytest.param(Box(0, 160, 40, 200), id="bottom left"),
        pytest.param(Box(160, 160, 200, 200), id="bottom right"),
        pytest.param(Box(0, 0, 200, 200), id="the whole image"),
    ],
)
def test_the_whole_label_is_inside_the_image(box: Box):
    mask = np.zeros((200, 200), bool)
    blank = Image.new("RGB", (200, 200), (128, 128, 128))

    def count_letter_pixels(target: Box) -> int:
        segmented = SegmentedObject(mask, ObjectPrompt(target), 0.9, 0.88)
        drawn = np.asarray(overlay(blank, Segmentation("it", Size(200, 200), (segmented,))))
        return int((drawn.min(2) > 200).sum())

    assert count_letter_pixels(box) == count_letter_pixels(Box(80, 80, 120, 120)) > 20


def test_labels_do_not_overlap():
    mask = np.zeros((300, 300), bool)
    blank = Image.new("RGB", (300, 300), (128, 128, 128))

    def count_letter_pixels(*objects: SegmentedObject) -> int:
        drawn = overlay(blank, Segmentation("it", Size(300, 300), objects))
        return int((np.asarray(drawn).min(2) > 200).sum())

    crowd = [SegmentedObject(mask, ObjectPrompt(Box(100 + i, 100 + i, 200, 200)), 0.9, 0.88) for i in range(3)]
    assert count_letter_pixels(*crowd) > 2.9 * count_letter_pixels(crowd[0])


def paint_ring(box: Box, band: int, size: Size, colour: tuple[int, int, int]) -> tuple[Any, Segmentation]:
    """A ring on a plain image, and its segmentation with a 5 x 5 grid of points."""
    image, mask_drawing = Image.new("RGB", size, (120, 140, 110)), Image.new("L", size)
    pen = ImageDraw.Draw(mask_drawing)
    pen.ellipse((box.x1, box.y1, box.x2 - 1, box.y2 - 1), fill=255)
    pen.ellipse((box.x1 + band, box.y1 + band, box.x2 - 1 - band, box.y2 - 1 - band), fill=0)
    image.paste(colour, (0, 0), mask_drawing)
    mask = np.asarray(mask_drawing) > 0
    shares = [(i + 0.5) / 5 for i in range(5)]
    grid = [(box.x1 + box.width * across, box.y1 + box.height * down) for down in shares for across in shares]
    points = tuple(PointPrompt(x, y, 1 if mask[int(y), int(x)] else 0) for x, y in grid)
    return image, Segmentation("the ring", size, (SegmentedObject(mask, ObjectPrompt(box, points), 0.9),))


def test_a_ring_of_45_pixels_stays_visible_under_outline_and_markers_in_a_large_image():
    image, segmentation = paint_ring(Box(800, 600, 845, 645), 9, Size(1600, 1200), (215, 40, 40))
    drawn = np.asarray(overlay(image, segmentation))[segmentation.mask].astype(int)
    assert ((drawn[:, 0] - drawn[:, 1:].max(1)) > 60).mean() > 0.4, "red enough to be the ring"


@pytest.mark.parametrize(
    "colour",
    [
        pytest.param((215, 40, 40), id="red"),
        pytest.param((50, 75, 220), id="blue"),
        pytest.param((238, 215, 60), id="yellow"),
        pytest.param((60, 20, 80), id="dark purple"),
    ],
)
def test_the_tint_keeps_the_hue_of_the_object(colour: tuple[int, int, int]):
    image, segmentation = paint_ring(Box(20, 20, 180, 180), 50, Size(200, 200), colour)
    middle = tuple(np.asarray(overlay(image, segmentation, points=False))[100, 45] / 255)  # in the band, off the outline
    hue, expected = (colorsys.rgb_to_hsv(*values)[0] for values in (middle, tuple(value / 255 for value in colour)))
    assert abs(hue - expected) < 0.02
    assert middle != tuple(value / 255 for value in colour)


def test_labels_can_be_left_out():
    image, segmentation = scene(count=1)
    plain = np.asarray(overlay(image, segmentation, labels=False))
    differs = (plain != np.asarray(overlay(image, segmentation))).any(2)
    letters = np.asarray(overlay(image, segmentation))[differs]
    assert (letters.min(1) > 200).sum() > 50
    assert not (plain[differs].min(1) > 200).any()


def test_points_can_be_hidden():
    image, segmentation = scene(count=1)
    bare = replace(segmentation, objects=tuple(replace(o, prompt=ObjectPrompt(o.prompt.box)) for o in segmentation.objects))
    hidden, shown = (np.asarray(overlay(image, segmentation, points=points)) for points in (False, True))
    assert np.array_equal(hidden, np.asarray(overlay(image, bare)))
    assert not np.array_equal(hidden, shown)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param((128, 128), (512, 512), id="small"),
        pytest.param((300, 400), (600, 800), id="by a whole factor"),
        pytest.param((600, 700), (600, 700), id="large enough"),
        pytest.param((10, 2000), (10, 2000), id="a strip would get too long"),
        pytest.param((1, 1), (512, 512), id="one pixel"),
    ],
)
def test_a_small_image_is_enlarged_in_the_overlay_and_only_there(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
):
    mask = np.ones(size[::-1], bool)
    segmented = SegmentedObject(mask, ObjectPrompt(Box(0, 0, *size), (PointPrompt(0.5, 0.5, 1),)), 0.5)
    write_outputs(tmp_path, Image.new("RGB", size), Segmentation("it", Size(*size), (segmented,)))
    sizes = []
    for name in ("overlay.png", "mask.png"):
        with Image.open(tmp_path / name) as written:
            sizes.append(written.size)
    assert sizes == [expected, size]


def test_an_enlarged_overlay_shows_mask_box_and_points_at_the_same_places():
    image, segmentation = scene(128, count=1)
    size = Size(512, 512)
    (segmented,) = segmentation.objects
    points = tuple(replace(p, x=4 * p.x, y=4 * p.y) for p in segmented.prompt.points)
    prompt = ObjectPrompt(Box(*(4 * value for value in segmented.prompt.box)), points)
    large = replace(segmented, mask=np.kron(segmented.mask, np.ones((4, 4), bool)), prompt=prompt)
    expected = overlay(image.resize(size, Image.Resampling.BICUBIC), replace(segmentation, size=size, objects=(large,)))
    assert overlay(image, segmentation, min_side=512) == expected


LABEL_TEXTS = {
    "one object": (["the star"], None, "the star"),
    "with a confidence": (["the star"], 0.93, "the star, 93% sure"),
    "several objects": (["the star", "the ring"], 0.5, "2: the ring, 50% sure"),
}


@pytest.mark.parametrize(("names", "confidence", "expected"), LABEL_TEXTS.values(), ids=LABEL_TEXTS)
def test_a_label_names_the_expression_and_no_measure_of_the_mask(names: list[str], confidence: float | None, expected: str):
    mask = np.zeros((400, 400), bool)
    objects = tuple(
        SegmentedObject(mask, ObjectPrompt(Box(20, 60 + 120 * i, 80, 120 + 120 * i)), 0.9, confidence, agreement=0.8)
        for i in range(len(names))
    )
    drawn = overlay(Image.new("RGB", (400, 400)), Segmentation("it", Size(400, 400), objects), expressions=names)
    colour = drawn.getpixel((18, 60 + 120 * (len(names) - 1) - 10))
    assert isinstance(colour, tuple)
    label = np.asarray(draw_label(expected, colour, ImageFont.load_default(max(10, 8 + 400 / 55))))  # type: ignore[arg-type]
    pixels = np.asarray(drawn)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, label.shape)[:, :, 0]
    assert (windows == label).all((2, 3, 4)).any()


def test_a_label_that_would_hide_the_objects_is_shortened_to_the_number():
    boxes = (Box(0, 0, 31, 64), Box(33, 0, 64, 64))
    objects = tuple(SegmentedObject(np.zeros((64, 64), bool), ObjectPrompt(box), 0.9) for box in boxes)
    segmentation = Segmentation("it", Size(64, 64), objects)
    first, second = (overlay(Image.new("RGB", (64, 64)), segmentation, expressions=[name] * 2) for name in ("mmmmmm", "wwwwww"))
    assert first == second
    assert (np.asarray(first).min(2) > 200).any(), "the numbers"


@pytest.mark.parametrize("name", REFERENCES)
def test_the_overlay_is_the_one_that_was_looked_at(name: str):
    with Image.open(FOLDER / f"overlay-{name}.png") as image:
        expected = np.asarray(image.convert("RGB"), int)
    drawn = np.asarray(REFERENCES[name](), int)
    assert drawn.shape == expected.shape
    assert (np.abs(drawn - expected).max(2) > 40).sum() < 5, "versions of FreeType smooth letters a little differently"


def test_expressions_must_be_as_many_as_objects():
    image, segmentation = scene()
    with pytest.raises(ValueError, match="expected 2 expressions, one per object, got 1"):
        overlay(image, segmentation, expressions=["the star"])


def test_overlay_labels_a_result_without_objects():
    image = Image.new("RGB", (200, 100), (128, 128, 128))
    drawn = np.asarray(overlay(image, Segmentation("it", Size(200, 100), ())))
    assert (drawn == (128, 128, 128)).all(2)[:70].all()
    assert (drawn.min(2) > 200).sum() > 50


def test_an_image_of_another_size_is_refused(tmp_path: Path):
    _, segmentation = scene()
    small = Image.new("RGB", (64, 32))
    with pytest.raises(ValueError, match=r"\(64, 32\).*\(256, 256\)"):
        overlay(small, segmentation)
    with pytest.raises(ValueError, match=r"\(64, 32\).*\(256, 256\)"):
        write_outputs(tmp_path / "out", small, segmentation)
    assert not (tmp_path / "out").exists()


# The cut-out


def test_a_cutout_keeps_the_objects_pixels_and_nothing_else(tmp_path: Path):
    image, segmentation = scene()
    path = write_cutout(tmp_path / "new", image, segmentation)
    assert path == tmp_path / "new" / "cutout.png"
    with Image.open(path) as cutout:
        assert cutout.mode == "RGBA"
        pixels = np.asarray(cutout)
    mask = segmentation.mask
    assert np.array_equal(pixels[mask][:, :3], np.asarray(image)[mask])
    assert np.array_equal(pixels[..., 3], np.where(mask, 255, 0))
    assert not pixels[~mask].any(), "what is cut away can't be made visible again"
    with pytest.raises(ValueError, match=r"\(64, 32\).*\(256, 256\)"):
        cutout_image(Image.new("RGB", (64, 32)), segmentation)


# Files and the summary


def test_outputs_hold_what_the_segmentation_holds(tmp_path: Path):
    image, segmentation = scene()
    folder = tmp_path / "created" / "if needed"
    written = write_outputs(folder, image, segmentation)
    assert sorted(path.name for path in folder.iterdir()) == ["mask.png", "overlay.png", "result.json"]
    assert sorted(written) == sorted(folder.iterdir())
    with Image.open(folder / "mask.png") as mask, Image.open(folder / "overlay.png") as drawn:
        assert mask.mode == "L"
        assert np.array_equal(np.asarray(mask) == 255, segmentation.mask)
        assert np.array_equal(np.asarray(drawn), np.asarray(overlay(image, segmentation, min_side=512)))
    result = json.loads((folder / "result.json").read_text("utf-8"))
    assert result == segmentation.to_dict()
    assert np.array_equal(rle.decode(result["objects"][1]["mask"]), segmentation.objects[1].mask)


def test_outputs_replace_earlier_ones(tmp_path: Path):
    image, segmentation = scene()
    write_outputs(tmp_path, image, Segmentation("the circle", segmentation.size, ()))
    write_outputs(str(tmp_path), image, segmentation)
    assert json.loads((tmp_path / "result.json").read_text("utf-8"))["expression"] == "the star"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("expression", ["der grüne Würfel", "红色的圆", '"\\\n\x1b[31m', "\udcff half a character", "<image>"])
def test_each_expression_survives_result_json(tmp_path: Path, expression: str):
    write_outputs(tmp_path, Image.new("RGB", (4, 4)), Segmentation(expression, Size(4, 4), ()))
    assert json.loads((tmp_path / "result.json").read_text("utf-8"))["expression"] == expression


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path):
    image, segmentation = scene()
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "out" / "overlay.png").mkdir(parents=True)
    (tmp_path / "out" / "overlay.png" / "kept").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "out"):
        with pytest.raises(Sam4MllmError, match="cannot be written to"):
            write_outputs(folder, image, segmentation)
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Sam4MllmError, match=r"cannot be written to the folder .*/file' is a file"):
            make_folder(folder)
    make_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "folder"]
    assert not list(tmp_path.rglob("*.part*"))


def test_summary_describes_each_object():
    _, segmentation = scene()
    first, *lines = summary(segmentation).splitlines()
    assert first == '"the star": 2 objects in the image of 256 x 256 pixels'
    segmented = segmentation.objects[0]
    box = segmented.prompt.box
    assert lines[0] == (
        f"  1: box ({box.x1:.0f}, {box.y1:.0f}) to ({box.x2:.0f}, {box.y2:.0f}), {segmented.mask.sum():,} pixels "
        f"({segmented.mask.mean():.1%}), points {sum(p.label for p in segmented.prompt.points)} on it, "
        f"{25 - sum(p.label for p in segmented.prompt.points)} off it, confidence 90%, score 0.93"
    )
    assert "confidence unknown" in summary(scene(confidence=None)[1])


def test_summary_states_that_there_is_no_such_object_and_lists_the_notes():
    empty = Segmentation("the purple cat", Size(64, 32), (), notes=("asked again",))
    assert summary(empty) == (
        '"the purple cat": there is no such object in the image of 64 x 32 pixels, confidence unknown\n  note: asked again'
    )


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        pytest.param("a\nb\t c", '"a b c"', id="line breaks"),
        pytest.param("\x1b[31mred", '"[31mred"', id="terminal codes"),
        pytest.param("x" * 200, f'"{"x" * 200}"', id="200 characters"),
        pytest.param("x" * 201, f'"{"x" * 200}..."', id="201 characters"),
        pytest.param("\udcff", '""', id="not a character"),
    ],
)
def test_summary_is_safe_to_print(expression: str, shown: str):
    assert summary(Segmentation(expression, Size(4, 4), ())).startswith(shown + ": there is")


def test_summary_names_no_expression_for_an_object_that_a_click_added():
    _, segmentation = scene(count=1)
    clicked = replace(segmentation, objects=(replace(segmentation.objects[0], expression=""),))
    assert '""' not in summary(clicked)
