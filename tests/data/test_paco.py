"""PACO-LVIS as it is published, in miniature."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from sam4mllm_tool.data import Sample, load_dataset
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.types import Box, Size
from tests.data.drawn import annotation, filled, outline, write_image, write_json

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

CATEGORIES = [
    {"id": 1, "name": "mug", "supercategory": "OBJECT"},
    {"id": 2, "name": "trash_can", "supercategory": "OBJECT"},
    {"id": 3, "name": "bow_(weapon)", "supercategory": "OBJECT"},
    {"id": 11, "name": "mug:handle", "supercategory": "PART"},
]
"""As in paco_lvis_v1_*.json."""


def write_paco(root: Path, annotations: list[dict[str, Any]], **image: Any) -> Path:
    """Write a root with one image of 40 x 30 pixels."""
    record = {"id": 391895, "file_name": "train2017/000000391895.jpg", "width": 40, "height": 30, **image}
    write_image(root / "images/train2017/000000391895.jpg")
    content = {"images": [record], "annotations": annotations, "categories": CATEGORIES, "attributes": []}
    write_json(root / "paco/annotations/paco_lvis_v1_train.json", content)
    return root


def paco_annotation(number: int, category: int, box: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    return annotation(number, 391895, category, box, **{"obj_ann_id": number, **more})


def samples(root: Path, **options: Any) -> dict[str, Sample]:
    return {sample.expression: sample for sample in load_dataset("paco", root, **options)}


def test_all_objects_of_a_class_belong_to_one_expression(tmp_path: Path) -> None:
    root = write_paco(
        tmp_path,
        [paco_annotation(5, 1, (20, 10, 30, 20)), paco_annotation(6, 1, (2, 3, 12, 13)), paco_annotation(7, 2, (0, 0, 20, 20))],
    )
    read = samples(root)
    assert list(read) == ["the mug", "the trash can"]
    mugs = read["the mug"]
    assert mugs.boxes == (Box(2, 3, 12, 13), Box(20, 10, 30, 20))  # from left to right
    assert np.array_equal(mugs.mask(), filled(40, 30, (2, 3, 12, 13), (20, 10, 30, 20)))
    assert mugs.size == Size(40, 30)
    assert (mugs.image_id, mugs.kind, mugs.split, mugs.source) == ("coco:391895", "thing", "train", "paco")
    assert mugs.image_path == root / "images/train2017/000000391895.jpg"
    assert len({sample.id for sample in read.values()}) == 2


def test_a_part_is_named_with_its_whole(tmp_path: Path) -> None:
    root = write_paco(tmp_path, [paco_annotation(5, 1, (2, 3, 22, 23)), paco_annotation(8, 11, (2, 3, 10, 10), obj_ann_id=5)])
    read = samples(root)
    assert list(read) == ["the mug", "the handle of the mug"]
    assert read["the handle of the mug"].kind == "part"
    assert read["the handle of the mug"].mask().sum() == 8 * 7


def test_comments_in_class_names_are_removed(tmp_path: Path) -> None:
    assert list(samples(write_paco(tmp_path, [paco_annotation(5, 3, (2, 3, 22, 23))]))) == ["the bow"]


def test_masks_equal_pycocotools_for_polygons_and_both_kinds_of_rle(tmp_path: Path) -> None:
    parts = [[3.2, 4.7, 30.1, 8.3, 17.5, 25.9], outline(31, 20, 39, 29)]
    drawn = coco.merge(coco.frPyObjects(parts, 30, 40))
    mask = coco.decode(drawn).astype(np.bool_)
    x, y, width, height = coco.toBbox(drawn).tolist()
    edges = np.flatnonzero(np.diff(mask.ravel("F"), prepend=False, append=False)).tolist()
    runs = np.diff([0, *edges, mask.size]).tolist()
    codes = [parts, {"size": [30, 40], "counts": drawn["counts"].decode()}, {"size": [30, 40], "counts": runs}]
    for number, segmentation in enumerate(codes):
        record = paco_annotation(5, 1, (0, 0, 9, 9), segmentation=segmentation, bbox=[x, y, width, height])
        assert np.array_equal(samples(write_paco(tmp_path / str(number), [record]))["the mug"].mask(), mask), number


@pytest.mark.parametrize(
    ("annotations", "image", "what"),
    [
        pytest.param([paco_annotation(n, 1, (n, 2, n + 9, 12)) for n in range(6)], {}, "too many", id="six of a class"),
        pytest.param(
            [paco_annotation(1, 1, (2, 2, 22, 22)), paco_annotation(2, 1, (25, 2, 29, 7))],
            {},
            "too small",
            id="one of two is small",
        ),
        pytest.param(
            [paco_annotation(1, 1, (2, 2, 22, 22))], {"not_exhaustive_category_ids": [1]}, "not all", id="there may be more"
        ),
    ],
)
def test_classes_left_out_by_choice_are_counted_but_not_listed(
    tmp_path: Path, annotations: list[dict[str, Any]], image: dict[str, Any], what: str
) -> None:
    dataset = load_dataset("paco", write_paco(tmp_path, [*annotations, paco_annotation(90, 2, (0, 0, 20, 20))], **image))
    assert [sample.expression for sample in dataset] == ["the trash can"]
    ((fate, counted),) = dataset.problems.counts
    assert fate == "dropped"
    assert what in counted
    assert dataset.problems.first == []


def test_the_limits_of_the_choice_are_options(tmp_path: Path) -> None:
    root = write_paco(tmp_path, [paco_annotation(n, 1, (n, 2, n + 3, 5)) for n in range(6)])
    assert len(samples(root, max_instances=6, min_area=0)["the mug"].boxes) == 6
    with pytest.raises(DataError, match="max_instances"):
        load_dataset("paco", root, max_instances=0)


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        pytest.param(paco_annotation(1, 1, (2, 2, 22, 22), segmentation=[]), "the mask is empty", id="no polygon"),
        pytest.param(paco_annotation(1, 1, (50, 50, 70, 70)), "the mask is empty", id="outside the image"),
        pytest.param(
            paco_annotation(
                1, 1, (2, 2, 22, 22), segmentation={"size": [40, 30], "counts": rle.encode(filled(30, 40))["counts"]}
            ),
            "size differs",
            id="an RLE of another size",
        ),
        pytest.param(paco_annotation(1, 1, (2, 2, 22, 22), iscrowd=1), "crowd", id="a crowd"),
        pytest.param({"id": 1, "image_id": 7, "category_id": 1}, "does not exist", id="of a missing image"),
        pytest.param(paco_annotation(1, 77, (2, 2, 22, 22)), "category does not exist", id="of a missing category"),
        pytest.param({"id": 1}, "malformed", id="half a record"),
        pytest.param("mug", "malformed", id="no record"),
    ],
)
def test_an_invalid_annotation_drops_its_class_and_is_reported(tmp_path: Path, bad: Any, what: str) -> None:
    dataset = load_dataset("paco", write_paco(tmp_path, [bad, paco_annotation(90, 2, (0, 0, 20, 20))]))
    for _ in range(2):  # each iteration counts anew
        assert [sample.expression for sample in dataset] == ["the trash can"]
        assert dataset.problems.counts.total() == 1
        (example,) = dataset.problems.first
        assert what in example
        assert "paco_lvis_v1_train.json" in example
        assert "1" in example or "mug" in example


def test_a_box_that_disagrees_with_its_mask_is_corrected(tmp_path: Path) -> None:
    dataset = load_dataset("paco", write_paco(tmp_path, [paco_annotation(1, 1, (2, 2, 22, 22), bbox=[0, 0, 40, 30])]))
    (sample,) = dataset
    assert sample.boxes == (Box(2, 2, 22, 22),)
    assert [fate for fate, _ in dataset.problems.counts] == ["corrected"]


def test_missing_images_and_images_of_another_size_are_reported(tmp_path: Path) -> None:
    root = write_paco(tmp_path, [paco_annotation(1, 1, (2, 2, 22, 22))])
    dataset = load_dataset("paco", root)
    write_image(root / "images/train2017/000000391895.jpg", 20, 30)
    with pytest.raises(DataError, match="size differs"):
        list(dataset)
    (root / "images/train2017/000000391895.jpg").unlink()
    with pytest.raises(DataError, match=r"000000391895\.jpg.*does not exist"):
        list(dataset)


def test_a_wrong_root_and_a_damaged_json_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        load_dataset("paco", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"paco_lvis_v1_val\.json"):
        load_dataset("paco", write_paco(tmp_path, []), "val")
    path = tmp_path / "paco/annotations/paco_lvis_v1_train.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match=r"paco_lvis_v1_train\.json"):
        list(load_dataset("paco", tmp_path))
    path.write_text('{"images": []}')
    with pytest.raises(DataError, match="COCO's form"):
        list(load_dataset("paco", tmp_path))


def test_annotations_may_precede_the_images_in_the_file(tmp_path: Path) -> None:
    root = write_paco(tmp_path, [paco_annotation(5, 1, (20, 10, 30, 20))])
    path = root / "paco/annotations/paco_lvis_v1_train.json"
    content = json.loads(path.read_text())
    write_json(path, dict(reversed(content.items())))
    assert list(samples(root)) == ["the mug"]


def test_units_are_images(tmp_path: Path) -> None:
    dataset = load_dataset("paco", write_paco(tmp_path, [paco_annotation(5, 1, (20, 10, 30, 20))]))
    assert dataset.units() == 1  # type: ignore[attr-defined]
