"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO, in files like the published ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as cocomask
from pycocotools.coco import COCO

from sam4mllm_tool.data import load_dataset
from sam4mllm_tool.data.published import published_count
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box
from tests.data.layouts import (
    HEIGHT,
    SQUARE,
    SQUARE_XYWH,
    TALL,
    WIDTH,
    annotation,
    coco_name,
    rectangle,
    reference,
    write_family,
    write_pickle,
)

BLOB = rectangle(4, 3, 9, 20) | rectangle(20, 1, 33, 7)
RLE = {"size": [HEIGHT, WIDTH], "counts": cocomask.encode(np.asfortranarray(BLOB.astype(np.uint8)))["counts"].decode()}
TALL_XYWH = [30.0, 2.0, 6.0, 20.0]
EVERYTHING = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}

ANNOTATIONS = [
    annotation(101, 581857, [SQUARE], SQUARE_XYWH),
    annotation(102, 581857, [SQUARE, TALL], [5.0, 2.0, 31.0, 20.0]),
    annotation(103, 42, RLE, [4.0, 1.0, 29.0, 19.0]),
    annotation(104, 42, [TALL], TALL_XYWH),
]
REFERENCES = [
    reference(1, 101, 581857, "train", "the lady with the blue shirt", "  lady   in blue "),
    reference(2, 103, 42, "val", "blob"),
    reference(3, 102, 581857, "train", "both of them"),
    reference(4, 104, 42, "testA", "tall one"),
]


def problem_lines(problems: Any) -> list[str]:
    return sorted(f"{count} {fate}: {what}" for (fate, what), count in problems.counts.items())


@pytest.mark.parametrize("python2", [True, False], ids=["pickled by Python 2", "pickled by Python 3"])
def test_each_sentence_is_a_sample_in_the_order_of_the_images(tmp_path: Path, python2: bool) -> None:
    dataset = load_dataset("refcoco", write_family(tmp_path, REFERENCES, ANNOTATIONS, python2=python2))
    samples = list(dataset)
    assert [(sample.id, sample.expression) for sample in samples] == [
        ("refcoco-1-10", "the lady with the blue shirt"),
        ("refcoco-1-11", "lady in blue"),
        ("refcoco-3-30", "both of them"),
    ]
    first = samples[0]
    assert (first.split, first.source, first.image_id) == ("train", "refcoco", "coco:581857")
    assert first.image_path == tmp_path / "images" / "train2014" / coco_name(581857)
    assert first.size == (WIDTH, HEIGHT)
    assert first.boxes == (Box(5, 5, 15, 15),)
    assert np.array_equal(first.mask(), rectangle(5, 5, 15, 15))
    assert np.array_equal(samples[2].mask(), rectangle(5, 5, 15, 15) | rectangle(30, 2, 36, 22))
    assert samples[2].boxes == (Box(5, 2, 36, 22),)
    assert not first.ignore().any()
    assert not dataset.problems


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_masks_equal_those_of_pycocotools_own_reader(tmp_path: Path) -> None:
    root = write_family(tmp_path, REFERENCES, ANNOTATIONS)
    coco = COCO(str(root / "refcoco" / "instances.json"))
    count = 0
    for split in ("train", "val", "testA"):
        for sample in load_dataset("refcoco", root, split):
            ann_id = next(ref["ann_id"] for ref in REFERENCES if sample.id.split("-")[1] == str(ref["ref_id"]))
            assert np.array_equal(sample.mask(), coco.annToMask(coco.anns[ann_id]).astype(bool))
            count += 1
    assert count == 5


def test_a_reader_can_be_iterated_again_and_restarts_its_counts(tmp_path: Path) -> None:
    crowd = annotation(101, 581857, [SQUARE], SQUARE_XYWH, iscrowd=1)
    dataset = load_dataset("refcoco", write_family(tmp_path, REFERENCES, [crowd, *ANNOTATIONS[1:]]))
    first, second = [sample.id for sample in dataset], [sample.id for sample in dataset]
    assert first == second == ["refcoco-3-30"]
    assert problem_lines(dataset.problems) == ["2 dropped: the annotation is of a crowd"]


def test_iterating_decodes_no_polygon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise AssertionError("a mask was decoded")

    dataset = load_dataset("refcoco", write_family(tmp_path, REFERENCES, ANNOTATIONS))
    monkeypatch.setattr("sam4mllm_tool.geometry.rle.decode", refuse)
    samples = list(dataset)
    assert len(samples) == 3
    with pytest.raises(AssertionError, match="decoded"):
        samples[0].mask()


@pytest.mark.parametrize(
    ("invalid", "problem", "left"),
    [
        pytest.param(
            annotation(101, 581857, EVERYTHING, SQUARE_XYWH, iscrowd=1),
            "2 dropped: the annotation is of a crowd",
            1,
            id="a crowd",
        ),
        pytest.param(annotation(101, 581857, [], SQUARE_XYWH), "2 dropped: the mask is empty", 1, id="no polygon"),
        pytest.param(
            annotation(101, 581857, [[90.0, 90.0, 99.0, 90.0, 99.0, 99.0]], SQUARE_XYWH),
            "2 dropped: the mask is empty",
            1,
            id="a polygon outside the image",
        ),
        pytest.param(
            annotation(101, 581857, {"size": [WIDTH, HEIGHT], "counts": [0, 1200]}, SQUARE_XYWH),
            "2 dropped: the RLE's size differs from the image's",
            1,
            id="an RLE of another size",
        ),
        pytest.param(
            annotation(101, 581857, {"size": [HEIGHT, WIDTH], "counts": [0, 12]}, SQUARE_XYWH),
            "2 dropped: the RLE is malformed",
            1,
            id="an RLE that ends early",
        ),
        pytest.param(
            annotation(101, 42, [SQUARE], SQUARE_XYWH),
            "2 dropped: the annotation belongs to another image",
            1,
            id="another image's annotation",
        ),
        pytest.param(
            annotation(999, 581857, [SQUARE], SQUARE_XYWH),
            "2 dropped: instances.json has no such annotation",
            1,
            id="no such annotation",
        ),
        pytest.param(
            annotation(101, 581857, [SQUARE], [25.0, 5.0, 10.0, 10.0]),
            "1 corrected: the box disagrees with the mask; the mask's box is used",
            3,
            id="a box elsewhere",
        ),
        pytest.param(
            annotation(101, 581857, [SQUARE], [5.0, 5.0, 10.0, 90.0]),
            "1 corrected: the box exceeds the image; the mask's box is used",
            3,
            id="a box outside the image",
        ),
        pytest.param(
            annotation(101, 581857, [SQUARE], [5.0, 5.0, 0.0]),
            "1 corrected: the box is not valid; the mask's box is used",
            3,
            id="no box",
        ),
    ],
)
def test_invalid_annotations_are_dropped_or_corrected_and_counted(
    tmp_path: Path, invalid: dict[str, Any], problem: str, left: int
) -> None:
    dataset = load_dataset("refcoco", write_family(tmp_path, REFERENCES, [invalid, *ANNOTATIONS[1:]]))
    samples = list(dataset)
    assert problem_lines(dataset.problems) == [problem]
    assert len(samples) == left
    assert all(np.array_equal(sample.masks()[0], rectangle(5, 5, 15, 15)) for sample in samples if "-1-" in sample.id)
    assert samples[0].boxes[0] in (Box(5, 5, 15, 15), Box(5, 2, 36, 22))
    assert "refs(unc).p, reference 1" in dataset.problems.first[0] or "annotation 101" in dataset.problems.first[0]


def test_a_missing_image_drops_its_samples_and_is_reported(tmp_path: Path) -> None:
    root = write_family(tmp_path, [*REFERENCES, reference(5, 104, 42, "train", "tall")], ANNOTATIONS)
    (root / "images" / "train2014" / coco_name(42)).unlink()
    dataset = load_dataset("refcoco", root)
    assert len(list(dataset)) == 3
    assert problem_lines(dataset.problems) == ["1 dropped: the image does not exist"]
    assert coco_name(42) in dataset.problems.first[0]


def test_an_empty_sentence_is_dropped_and_counted(tmp_path: Path) -> None:
    root = write_family(tmp_path, [reference(1, 101, 581857, "train", " ", "lady")], ANNOTATIONS)
    dataset = load_dataset("refcoco", root)
    assert [sample.expression for sample in dataset] == ["lady"]
    assert problem_lines(dataset.problems) == ["1 dropped: the expression is empty or not a text"]


def test_a_split_without_a_valid_sample_is_an_error_with_a_reason(tmp_path: Path) -> None:
    root = write_family(tmp_path, [reference(1, 101, 581857, "val", "lady")], [])
    dataset = load_dataset("refcoco", root, "val")
    with pytest.raises(DataError, match=r"no sample of 'refcoco', split 'val', can be used.*no such annotation"):
        list(dataset)


def test_images_and_annotations_may_lie_elsewhere(tmp_path: Path) -> None:
    root = write_family(tmp_path / "a", REFERENCES, ANNOTATIONS)
    (root / "images" / "train2014").rename(tmp_path / "pictures")
    (root / "refcoco" / "instances.json").rename(tmp_path / "all.json")
    dataset = load_dataset("refcoco", root, images=tmp_path / "pictures", annotations=str(tmp_path / "all.json"))
    assert {sample.image_path.parent for sample in dataset} == {tmp_path / "pictures"}


def test_the_root_may_be_the_datasets_own_folder(tmp_path: Path) -> None:
    root = write_family(tmp_path, REFERENCES, ANNOTATIONS)
    assert len(list(load_dataset("refcoco", root / "refcoco"))) == 3


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        pytest.param(
            "refcoco/refs(unc).p", r"has no refs\(unc\)\.p or refs\(google\)\.p, but instances\.json", id="references"
        ),
        pytest.param("refcoco/instances.json", r"instances\.json does not exist.*'annotations'", id="instances"),
        pytest.param("images/train2014", "folder of images does not exist.*train2014.*'images'", id="images"),
    ],
)
def test_a_missing_file_is_an_error_of_the_constructor(tmp_path: Path, missing: str, message: str) -> None:
    root = write_family(tmp_path, REFERENCES, ANNOTATIONS)
    (root / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=message):
        load_dataset("refcoco", root)


def test_a_missing_split_is_an_error_that_lists_the_splits(tmp_path: Path) -> None:
    root = write_family(tmp_path, REFERENCES, ANNOTATIONS)
    with pytest.raises(DataError, match=r"split 'testB', but train \(2\), val \(1\), testA \(1\)"):
        load_dataset("refcoco", root, split="testB")


@pytest.mark.parametrize(
    ("references", "message"),
    [
        pytest.param({"a": 1}, "holds a dict", id="no list"),
        pytest.param([REFERENCES[0], {"ref_id": 5}], r"reference 1: .*KeyError.*ann_id", id="a reference without an object"),
        pytest.param([{**REFERENCES[0], "image_id": "x"}], "reference 0: .*not integers", id="an id that is not a number"),
        pytest.param([{**REFERENCES[0], "sentences": [3]}], "reference 0: .*TypeError", id="a sentence that is not a record"),
    ],
)
def test_a_damaged_reference_is_an_error(tmp_path: Path, references: Any, message: str) -> None:
    root = write_family(tmp_path, REFERENCES, ANNOTATIONS)
    write_pickle(root / "refcoco" / "refs(unc).p", references)
    with pytest.raises(DataError, match=message):
        load_dataset("refcoco", root)


def test_a_damaged_instances_file_is_an_error_of_the_first_iteration(tmp_path: Path) -> None:
    root = write_family(tmp_path, REFERENCES, ANNOTATIONS)
    path = root / "refcoco" / "instances.json"
    path.write_text(path.read_text()[:-200])
    with pytest.raises(DataError, match=r"instances\.json is damaged or not JSON in UTF-8, after record"):
        list(load_dataset("refcoco", root))
    path.write_text(json.dumps({"images": [{"id": 581857, "width": 3}], "annotations": []}))
    with pytest.raises(DataError, match=r"instances\.json, 'images', record .*: KeyError"):
        list(load_dataset("refcoco", root))


def test_refcocog_prefers_the_umd_division(tmp_path: Path) -> None:
    root = write_family(tmp_path, REFERENCES, ANNOTATIONS, name="refcocog", file="refs(umd).p")
    write_pickle(root / "refcocog" / "refs(google).p", REFERENCES[:1])
    dataset = load_dataset("refcocog", root)
    assert [sample.id for sample in dataset] == ["refcocog-1-10", "refcocog-1-11", "refcocog-3-30"]
    assert published_count(dataset).count == 42226
    google = load_dataset("refcocog", root, split_by="google")
    assert (google.units(), published_count(google)) == (1, None)


def test_units_are_references(tmp_path: Path) -> None:
    dataset = load_dataset("refcoco+", write_family(tmp_path, REFERENCES, ANNOTATIONS, name="refcoco+"))
    assert dataset.units() == 2
    assert published_count(dataset).unit == "references"


GREFERENCES = [
    reference(1, [104, 103], 42, "train", "the blob and the tall one"),
    reference(2, [-1], 42, "train", "the purple cow"),
    reference(3, [104], 42, "train", "tall one"),
    reference(4, [101], 581857, "val", "lady"),
]


def test_grefcoco_has_several_objects_from_left_to_right_or_one_or_none(tmp_path: Path) -> None:
    dataset = load_dataset(
        "grefcoco", write_family(tmp_path, GREFERENCES, ANNOTATIONS, name="grefcoco", file="grefs(unc).json")
    )
    several, none, single = dataset
    assert several.boxes == (Box(4, 1, 33, 20), Box(30, 2, 36, 22))
    assert np.array_equal(several.mask(), BLOB | rectangle(30, 2, 36, 22))
    assert [int(mask.sum()) for mask in several.masks()] == [int(BLOB.sum()), 120]
    assert (none.boxes, none.masks(), none.mask().any()) == ((), (), np.False_)
    assert len(single.boxes) == 1
    assert [sample.kind for sample in (several, none, single)] == ["multi-target", "no-target", "single-target"]
    assert not dataset.problems


def test_a_multi_target_sample_is_dropped_with_any_of_its_objects(tmp_path: Path) -> None:
    """The expression would refer to something else without it."""
    crowd = annotation(103, 42, RLE, [4.0, 1.0, 29.0, 19.0], iscrowd=1)
    annotations = [crowd if record["id"] == 103 else record for record in ANNOTATIONS]
    dataset = load_dataset(
        "grefcoco", write_family(tmp_path, GREFERENCES, annotations, name="grefcoco", file="grefs(unc).json")
    )
    assert [sample.id for sample in dataset] == ["grefcoco-2-20", "grefcoco-3-30"]
    assert problem_lines(dataset.problems) == ["1 dropped: the annotation is of a crowd"]


def test_a_damaged_grefs_file_is_an_error(tmp_path: Path) -> None:
    root = write_family(tmp_path, GREFERENCES, ANNOTATIONS, name="grefcoco", file="grefs(unc).json")
    path = root / "grefcoco" / "grefs(unc).json"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(DataError, match=r"grefs\(unc\)\.json is damaged or not JSON in UTF-8, after record 2"):
        load_dataset("grefcoco", root)


def test_grefcoco_falls_back_to_refcocos_annotations(tmp_path: Path) -> None:
    references = [reference(1, [1], 1, "train", "it")]
    write_family(tmp_path, references, [annotation(1, 1, [SQUARE], SQUARE_XYWH)], name="grefcoco", file="grefs(unc).json")
    (tmp_path / "refcoco").mkdir()
    (tmp_path / "grefcoco" / "instances.json").rename(tmp_path / "refcoco" / "instances.json")
    for root in (tmp_path, tmp_path / "grefcoco"):
        (sample,) = load_dataset("grefcoco", root)
        assert sample.mask().sum() == 100
