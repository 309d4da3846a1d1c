"""Users' own data, in the format that drawn scenes are written in."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool.data import load_dataset
from sam4mllm_tool.data.jsonl import list_jsonl_splits
from sam4mllm_tool.embedded.scene_files import write_scenes
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.types import Box
from tests.data.layouts import HEIGHT, WIDTH, coco_name, rectangle, write_image

LEFT, RIGHT = rectangle(2, 3, 12, 13), rectangle(20, 5, 36, 25)


def object_of(mask: np.ndarray, box: Any = None) -> dict[str, Any]:
    return {"mask": rle.encode(mask), **({} if box is None else {"box": box})}


def line(**more: Any) -> dict[str, Any]:
    return {"image": "a.png", "expression": "the cup", "objects": [object_of(LEFT)], **more}


def write_lines(folder: Path, *lines: Any, name: str = "scenes.jsonl") -> Path:
    write_image(folder / "a.png")
    (folder / name).write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return folder


def test_drawn_scenes_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = [json.loads(line) for line in write_scenes(tmp_path, 3, 0, side=160).read_text().splitlines()]
    dataset = load_dataset("jsonl", tmp_path)
    samples = list(dataset)
    assert len(samples) == len(written) > 10
    for sample, record in zip(samples, written, strict=True):
        assert (sample.expression, sample.kind) == (record["expression"], record["kind"])
        assert sample.image_path == tmp_path / record["image"]
        assert [list(box) for box in sample.boxes] == [obj["box"] for obj in record["objects"]]
        assert [rle.encode(mask) for mask in sample.masks()] == [obj["mask"] for obj in record["objects"]]
        assert sample.size == (160, 160)
    assert any(not sample.boxes for sample in samples)
    assert not dataset.problems


def test_omitted_fields_get_defaults(tmp_path: Path) -> None:
    dataset = load_dataset("jsonl", write_lines(tmp_path, line(objects=[object_of(RIGHT), {**object_of(LEFT), "box": None}])))
    (sample,) = dataset
    assert not dataset.problems
    assert sample.boxes == (Box(20, 5, 36, 25), Box(2, 3, 12, 13))  # in the line's order
    assert np.array_equal(sample.mask(), LEFT | RIGHT)
    assert (sample.id, sample.image_id, sample.kind, sample.split) == ("jsonl-1", "file:a.png", "", "train")
    assert not sample.ignore().any()


def test_given_fields_are_kept(tmp_path: Path) -> None:
    record = line(id="mine", kind="ordinal", ignore=rle.encode(RIGHT), image_id="coco:7", split="train")
    record["objects"] = [object_of(LEFT, [2, 3, 12, 13.5])]
    (sample,) = load_dataset("jsonl", write_lines(tmp_path, record))
    assert (sample.id, sample.image_id, sample.kind) == ("mine", "coco:7", "ordinal")
    assert sample.boxes == (Box(2, 3, 12, 13.5),)
    assert np.array_equal(sample.ignore(), RIGHT)


def test_an_image_with_a_coco_name_gets_cocos_number(tmp_path: Path) -> None:
    write_image(tmp_path / "sub" / coco_name(42))
    (sample,) = load_dataset("jsonl", write_lines(tmp_path, line(image=f"sub/{coco_name(42)}")))
    assert sample.image_id == "coco:42"


def test_run_lengths_may_be_a_list(tmp_path: Path) -> None:
    everything = {"mask": {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}}
    (sample,) = load_dataset("jsonl", write_lines(tmp_path, line(objects=[everything])))
    assert sample.boxes == (Box(0, 0, WIDTH, HEIGHT),)


def test_the_mask_has_the_size_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated: stored as 30 x 40, shown as 40 x 30
    write_lines(tmp_path, line(image="rotated.jpg"))
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "rotated.jpg", exif=exif)
    (sample,) = load_dataset("jsonl", tmp_path)
    assert sample.size == (WIDTH, HEIGHT)


def test_lines_of_another_split_are_skipped_and_lines_without_a_split_belong_to_train(tmp_path: Path) -> None:
    write_lines(tmp_path, line(expression="a", split="train"), line(expression="b", split="val"), line(expression="c"))
    assert [sample.expression for sample in load_dataset("jsonl", tmp_path)] == ["a", "c"]
    assert [sample.expression for sample in load_dataset("jsonl", tmp_path, "val")] == ["b"]
    assert [sample.expression for sample in load_dataset("jsonl", tmp_path, "all")] == ["a", "b", "c"]
    assert list(list_jsonl_splits(tmp_path)) == ["train", "val"]


@pytest.mark.parametrize(
    ("name", "lines", "split", "message"),
    [
        pytest.param(
            "scenes.jsonl", [{}], "val", "is not divided, so it has no split 'val': name the split 'all'", id="undivided"
        ),
        pytest.param("scenes.jsonl", [{"split": "val"}], "test", "has no split 'test': it has train, val", id="other fields"),
        pytest.param("scenes.jsonl", [{"split": "val"}], "train", "has no split 'train': it has", id="no line left"),
        pytest.param("val.jsonl", [{}], "train", "has no split 'train': all of it is 'val'", id="the file's name"),
    ],
)
def test_a_split_that_no_line_belongs_to_is_refused(
    tmp_path: Path, name: str, lines: list[dict[str, Any]], split: str, message: str
) -> None:
    write_lines(tmp_path, *(line(**more) for more in lines), name=name)
    with pytest.raises(DataError, match=message):
        list(load_dataset("jsonl", tmp_path, split))


def test_the_splits_of_a_folder_are_those_of_its_files_and_fields(tmp_path: Path) -> None:
    write_lines(tmp_path, line())
    assert list(list_jsonl_splits(tmp_path)) == ["all"]
    write_lines(tmp_path, line(), name="train.jsonl")
    write_lines(tmp_path, line(), name="val.jsonl")
    assert list(list_jsonl_splits(tmp_path)) == ["train", "val"]
    assert list(list_jsonl_splits(tmp_path / "val.jsonl")) == ["val"]


def test_the_file_is_found_by_split_by_name_or_as_the_only_one(tmp_path: Path) -> None:
    write_lines(tmp_path / "one", line(expression="mine"), name="mine.jsonl")
    write_lines(tmp_path, line(expression="any"))
    write_lines(tmp_path, line(expression="val"), name="val.jsonl")

    def first(*where: Any, **options: Any) -> str:
        return next(iter(load_dataset("jsonl", *where, **options))).expression

    assert first(tmp_path, "val") == "val"
    assert first(tmp_path, "train") == "any"
    assert first(tmp_path / "one") == "mine"
    assert first(tmp_path, file="one/mine.jsonl") == "mine"
    assert first(str(tmp_path / "val.jsonl"), "val") == "val"


@pytest.mark.parametrize(
    ("invalid", "what", "detail"),
    [
        pytest.param('{"image": "a.png", "expr', "the line is not JSON", "", id="half a line"),
        pytest.param("[1]", "the line is not a JSON object", "", id="a list"),
        pytest.param(line(expression=" "), "the expression is empty or not a text", "", id="no expression"),
        pytest.param(line(expression=3), "the expression is empty or not a text", "", id="a number for an expression"),
        pytest.param(line(image=""), "the line names no image", "", id="no image"),
        pytest.param(line(image="b.png"), "the image does not exist", "b.png", id="a missing image"),
        pytest.param(line(image="scenes.jsonl"), "the image can't be read", "scenes.jsonl", id="not an image"),
        pytest.param(
            line(objects=None), "the line has no list of objects (expected [] for no such object)", "", id="no objects"
        ),
        pytest.param(
            line(objects=[[1, 2, 3, 4]]), "the line has no list of objects (expected [] for no such object)", "", id="a box"
        ),
        pytest.param(line(objects=[{"box": [1, 2, 3, 4]}]), "an object's mask is not an RLE", "None", id="no mask"),
        pytest.param(line(objects=[object_of(LEFT & RIGHT)]), "the mask is empty", "", id="an empty mask"),
        pytest.param(
            line(objects=[object_of(rectangle(1, 1, 5, 5, 30, 40))]),
            "the RLE's size differs from the image's",
            "RLE 30 x 40, image 40 x 30",
            id="an RLE of another size",
        ),
        pytest.param(
            line(objects=[{"mask": {"size": [30, 40], "counts": "zz"}}]), "the RLE is malformed", "", id="a broken RLE"
        ),
        pytest.param(
            line(ignore=rle.encode(rectangle(1, 1, 5, 5, 30, 40))),
            "the RLE's size differs from the image's",
            "",
            id="ignored pixels of another size",
        ),
    ],
)
def test_an_invalid_line_is_dropped_and_reported(tmp_path: Path, invalid: Any, what: str, detail: str) -> None:
    dataset = load_dataset("jsonl", write_lines(tmp_path, line(), invalid, "", line(expression="last")))
    assert [sample.expression for sample in dataset] == ["the cup", "last"]
    assert dict(dataset.problems.counts) == {("dropped", what): 1}
    assert "scenes.jsonl, line 2" in dataset.problems.first[0]
    assert detail in dataset.problems.first[0]


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([20, 3, 30, 13], id="elsewhere"),
        pytest.param([2, 3, 90, 13], id="outside the image"),
        pytest.param([2, 3, 10, 10, 5], id="five numbers"),
        pytest.param([12, 13, 2, 3], id="corners exchanged"),
        pytest.param("box", id="text"),
    ],
)
def test_a_wrong_box_is_replaced_by_the_masks_box_and_counted(tmp_path: Path, box: Any) -> None:
    dataset = load_dataset("jsonl", write_lines(tmp_path, line(objects=[object_of(LEFT, box)])))
    (sample,) = dataset
    assert sample.boxes == (Box(2, 3, 12, 13),)
    assert [(fate, count) for (fate, _), count in dataset.problems.counts.items()] == [("corrected", 1)]


def test_a_split_without_a_valid_line_is_an_error(tmp_path: Path) -> None:
    write_lines(tmp_path, line(split="val"))
    with pytest.raises(DataError, match=r"scenes\.jsonl has no split 'train': it has val"):
        list(load_dataset("jsonl", tmp_path))
    write_lines(tmp_path, line(image="b.png"))
    with pytest.raises(DataError, match=r"no sample .* can be used; .*line 1 .*b\.png.*does not exist"):
        list(load_dataset("jsonl", tmp_path))
    write_lines(tmp_path)
    with pytest.raises(DataError, match="has no lines"):
        list(load_dataset("jsonl", tmp_path))


def test_a_folder_without_the_file_is_an_error_that_lists_its_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither train\.jsonl nor scenes\.jsonl, but no \*\.jsonl"):
        load_dataset("jsonl", tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(tmp_path, line(), name=name)
    with pytest.raises(DataError, match=r"but a\.jsonl, b\.jsonl; set the option 'file'"):
        load_dataset("jsonl", tmp_path)
    with pytest.raises(DataError, match=r"c\.jsonl does not exist"):
        load_dataset("jsonl", tmp_path, file="c.jsonl")


def memory_of_reading(folder: Path, count: int) -> int:
    """Return the peak in bytes of reading that many lines, every tenth of them invalid."""
    with (folder / "scenes.jsonl").open("w") as lines:
        for number in range(count):
            record = line(image="a.png" if number % 10 else "b.png", objects=[] if number % 4 else [object_of(LEFT)])
            lines.write(json.dumps(record) + "\n")
    dataset = load_dataset("jsonl", folder)
    tracemalloc.start()
    assert sum(1 for _ in dataset) == count * 9 // 10
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_number_of_lines(tmp_path: Path, count: int) -> None:
    write_image(tmp_path / "a.png")
    few = memory_of_reading(tmp_path, 400)
    assert memory_of_reading(tmp_path, count) < few + 100_000
