"""ReasonSeg's masks equal LISA's pixel by pixel, and every file is read or reported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam4mllm_tool.data import load_dataset
from sam4mllm_tool.data.published import published_count
from sam4mllm_tool.data.rasterize import fill_outline
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box, Size
from tests.data.layouts import HEIGHT, WIDTH, rectangle, write_image, write_json

OUTER = [[4, 4], [23, 4], [23, 19], [4, 19]]  # its outline is drawn as well: pixels 4..23 and 4..19
INNER = [[8.9, 8.2], [13.7, 8.2], [13.7, 12.9], [8.9, 12.9]]  # truncated to 8..13 and 8..12
CORE = [[10, 10], [11, 10], [11, 11], [10, 11]]


def shape(label: str, points: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}}


def write_sample(root: Path, stem: str, shapes: list[Any], *texts: str, encoding: str = "utf-8", sentence: bool = True) -> None:
    folder = root / "ReasonSeg" / "val"
    annotation = {"text": list(texts), "is_sentence": sentence, "shapes": shapes}
    write_json(folder / f"{stem}.json", annotation, encoding)
    write_image(folder / f"{stem}.jpg")


def test_smaller_shapes_are_drawn_over_larger_ones_whatever_their_order(tmp_path: Path) -> None:
    shapes = [shape("target", CORE), shape("Ignore area", INNER), shape("target", OUTER), shape("flag", [[0, 0], [39, 29]])]
    write_sample(tmp_path, "001", shapes, "what would you drink from?")
    (sample,) = load_dataset("reasonseg", tmp_path, "val")
    outer, inner, core = rectangle(4, 4, 24, 20), rectangle(8, 8, 14, 13), rectangle(10, 10, 12, 12)
    assert np.array_equal(sample.mask(), (outer & ~inner) | core)
    assert np.array_equal(sample.ignore(), inner & ~core)
    assert sample.boxes == (Box(4, 4, 24, 20),)
    assert (sample.id, sample.image_id, sample.kind) == ("reasonseg-val-001-0", "reasonseg:001", "sentence")
    assert sample.size == (WIDTH, HEIGHT)


def test_all_targets_of_an_image_are_one_object_with_one_box(tmp_path: Path) -> None:
    write_sample(tmp_path, "001", [shape("target", CORE), shape("target", [[30, 2], [35, 2], [35, 5], [30, 5]])], "it")
    (sample,) = load_dataset("reasonseg", tmp_path, "val")
    assert sample.boxes == (Box(10, 2, 36, 12),)
    assert [int(mask.sum()) for mask in sample.masks()] == [4 + 24]
    assert not sample.ignore().any()


def test_an_image_with_ignored_pixels_only_has_no_object(tmp_path: Path) -> None:
    write_sample(tmp_path, "001", [shape("ignore", OUTER)], "it")
    (sample,) = load_dataset("reasonseg", tmp_path, "val")
    assert sample.boxes == ()
    assert not sample.mask().any()
    assert int(sample.ignore().sum()) == 20 * 16


def test_every_text_is_a_sample_or_only_the_first(tmp_path: Path) -> None:
    write_sample(tmp_path, "001", [shape("target", OUTER)], "the cup", "a cup to  drink from", sentence=False)
    assert [(sample.expression, sample.kind) for sample in load_dataset("reasonseg", tmp_path, "val")] == [
        ("the cup", "phrase"),
        ("a cup to drink from", "phrase"),
    ]
    assert [sample.expression for sample in load_dataset("reasonseg", tmp_path, "val", text="first")] == ["the cup"]
    with pytest.raises(DataError, match="'all' or 'first'"):
        load_dataset("reasonseg", tmp_path, "val", text="last")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_a_file_is_utf_8_or_else_cp1252(tmp_path: Path, encoding: str) -> None:
    write_sample(tmp_path, "001", [shape("target", OUTER)], "the dog\u2019s caf\xe9", encoding=encoding)
    (sample,) = load_dataset("reasonseg", tmp_path, "val")
    assert sample.expression == "the dog\u2019s caf\xe9"


def test_samples_of_the_train_split_have_explanations(tmp_path: Path) -> None:
    write_sample(tmp_path, "001", [shape("target", OUTER)], "a drink?")
    write_sample(tmp_path, "002", [shape("target", OUTER)], "a seat?")
    (tmp_path / "ReasonSeg" / "val").rename(tmp_path / "ReasonSeg" / "train")
    answers = [{"image": "001.jpg", "query": "a drink?", "outputs": "The cup holds it."}]
    write_json(tmp_path / "ReasonSeg" / "explanatory" / "train.json", answers)
    assert [sample.explanation for sample in load_dataset("reasonseg", tmp_path)] == ["The cup holds it.", ""]
    write_json(tmp_path / "ReasonSeg" / "explanatory" / "train.json", [{"image": "001.jpg"}])
    with pytest.raises(DataError, match=r"explanatory.train\.json.*outputs"):
        list(load_dataset("reasonseg", tmp_path))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        pytest.param(b"", "the json can't be read", id="an empty file"),
        pytest.param(b'{"text": ["a"], "shapes"', "the json can't be read", id="half a file"),
        pytest.param(b"[]", "the json is not an object", id="a list"),
        pytest.param(b'{"text": ["\x81"], "shapes": []}', "the json is neither UTF-8 nor cp1252", id="another encoding"),
        pytest.param(b'{"text": [], "shapes": []}', "the json has no text", id="no text"),
        pytest.param(b'{"text": ["a"]}', "a shape is malformed", id="no shapes"),
        pytest.param(b'{"text": ["a"], "shapes": [{"label": "target"}]}', "a shape is malformed", id="no points"),
        pytest.param(
            b'{"text": ["a"], "shapes": [{"label": "t", "points": [[1]]}]}', "a shape is malformed", id="half a point"
        ),
        pytest.param(
            b'{"text": ["a"], "shapes": [{"label": "t", "points": [[1, NaN]]}]}', "a shape is malformed", id="not a number"
        ),
        pytest.param(
            b'{"text": ["a"], "shapes": [{"label": "t", "points": [[1, 1e9]]}]}', "a polygon has a corner", id="far away"
        ),
        pytest.param(b'{"text": [" "], "shapes": []}', "the expression is empty or not a text", id="an empty text"),
    ],
)
def test_a_damaged_file_is_reported_and_the_others_are_kept(tmp_path: Path, content: bytes, what: str) -> None:
    write_sample(tmp_path, "001", [shape("target", OUTER)], "it")
    write_sample(tmp_path, "002", [shape("target", OUTER)], "it")
    (tmp_path / "ReasonSeg" / "val" / "001.json").write_bytes(content)
    dataset = load_dataset("reasonseg", tmp_path, "val")
    assert [sample.image_id for sample in dataset] == ["reasonseg:002"]
    ((fate, fault), count) = next(iter(dataset.problems.counts.items()))
    assert (fate, count, fault[: len(what)]) == ("dropped", 1, what)
    assert "001.json" in dataset.problems.first[0]


def test_a_missing_or_damaged_image_drops_its_samples(tmp_path: Path) -> None:
    for stem in ("001", "002", "003"):
        write_sample(tmp_path, stem, [shape("target", OUTER)], "it")
    (tmp_path / "ReasonSeg" / "val" / "001.jpg").unlink()
    (tmp_path / "ReasonSeg" / "val" / "002.jpg").write_bytes(b"not an image")
    dataset = load_dataset("reasonseg", tmp_path, "val")
    assert [sample.image_id for sample in dataset] == ["reasonseg:003"]
    assert sorted(what for _, what in dataset.problems.counts) == ["the image can't be read", "the image does not exist"]
    assert "001.jpg" in dataset.problems.first[0]


def test_a_missing_split_is_an_error_that_lists_the_splits(tmp_path: Path) -> None:
    write_sample(tmp_path, "001", [shape("target", OUTER)], "it")
    with pytest.raises(DataError, match=r"test holds no \*\.json; .*ReasonSeg has val"):
        load_dataset("reasonseg", tmp_path, "test")


def test_the_root_may_be_the_datasets_own_folder_and_units_are_images(tmp_path: Path) -> None:
    write_sample(tmp_path, "001", [shape("target", OUTER)], "one", "two")
    dataset = load_dataset("reasonseg", tmp_path / "ReasonSeg", "val")
    assert (dataset.units(), len(list(dataset))) == (1, 2)
    assert published_count(dataset).count == 200


BY_OPENCV = [
    (
        [(2, 1), (9, 4), (4, 8)],
        "............ ..##........ ..####...... ...#####.... ...#######.. ...######... ...#####.... ....##...... ....#.......",
    ),
    (
        [(1, 1), (8, 1), (1, 7), (8, 7)],
        "............ .########... ..######.... ...####..... ....##...... ...####..... ..######.... .########... ............",
    ),
    ([(5, 3)], "............ ............ ............ .....#......" + 5 * " ............"),
    (
        [(1, 8), (9, 2)],
        "............ ............ .........#.. ........#... ......##.... .....#...... ....#....... ..##........ .#..........",
    ),
    (
        [(-3, 2), (5, 2), (5, 6), (-3, 6)],
        "............ ............ ######...... ######...... ######...... ######...... ######...... ............ ............",
    ),
]
"""Drawn by OpenCV 5's polylines and fillPoly, in 12 x 9 pixels."""


@pytest.mark.parametrize(
    ("corners", "rows"),
    BY_OPENCV,
    ids=["a triangle", "self-crossing, by the even-odd rule", "one corner", "two corners", "exceeding the image"],
)
def test_polygons_are_filled_as_opencv_fills_them(corners: list[tuple[int, int]], rows: str) -> None:
    filled = fill_outline(corners, Size(12, 9))
    assert [("".join(".#"[pixel] for pixel in row)) for row in filled.astype(int)] == rows.split()


def test_files_without_an_ending_newline_or_with_more_keys_are_read(tmp_path: Path) -> None:
    write_sample(tmp_path, "001", [shape("target", OUTER)], "it")
    path = tmp_path / "ReasonSeg" / "val" / "001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "imagePath": "x.jpg", "version": "4.5"}) + "\n\n")
    assert len(list(load_dataset("reasonseg", tmp_path, "val"))) == 1
