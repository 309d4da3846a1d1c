"""PartImageNet in both published layouts, in miniature."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam4mllm_tool.data import Sample, load_dataset
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box
from tests.data.drawn import annotation, filled, write_image, write_json

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

NAME = "n02083346_123.JPEG"
PARTS = [
    {"id": 0, "name": "Quadruped Head", "supercategory": "Quadruped"},
    {"id": 2, "name": "Quadruped Foot", "supercategory": "Quadruped"},
    {"id": 27, "name": "Car Side Mirror", "supercategory": "Car"},
    {"id": 26, "name": "Car Tier", "supercategory": "Car"},
]
"""As in train.json."""


def content(annotations: list[dict[str, Any]], categories: list[dict[str, Any]] = PARTS) -> dict[str, Any]:
    image = {"id": 3, "file_name": NAME, "width": 40, "height": 30}
    return {"images": [image], "annotations": annotations, "categories": categories}


def write_partimagenet(root: Path, annotations: list[dict[str, Any]]) -> Path:
    write_json(root / "annotations/train/train.json", content(annotations))
    write_image(root / "images/train" / NAME)
    return root


def samples(root: Path, split: str = "train") -> dict[str, Sample]:
    return {sample.expression: sample for sample in load_dataset("partimagenet", root, split)}


def test_parts_are_named_with_their_wholes(tmp_path: Path) -> None:
    boxes = [(2, 3, 12, 13), (20, 15, 30, 25), (14, 15, 20, 25), (1, 1, 11, 11), (20, 1, 30, 11)]
    categories = [0, 2, 2, 27, 26]
    annotations = [annotation(n, 3, category, box) for n, (category, box) in enumerate(zip(categories, boxes, strict=True))]
    read = samples(write_partimagenet(tmp_path, annotations))
    assert list(read) == [
        "the head of the quadruped",
        "the foot of the quadruped",
        "the side mirror of the car",
        "the tire of the car",  # spelt Tier in the file
    ]
    feet = read["the foot of the quadruped"]
    assert feet.boxes == (Box(14, 15, 20, 25), Box(20, 15, 30, 25))
    assert np.array_equal(feet.mask(), filled(40, 30, (14, 15, 30, 25)))
    assert (feet.image_id, feet.kind) == ("partimagenet:n02083346_123", "part")


def test_the_first_release_has_a_folder_per_imagenet_class(tmp_path: Path) -> None:
    write_json(tmp_path / "train.json", content([annotation(1, 3, 0, (2, 3, 12, 13))]))
    path = write_image(tmp_path / "train/n02083346" / NAME)
    assert samples(tmp_path)["the head of the quadruped"].image_path == path


def test_whole_objects_are_a_separate_split(tmp_path: Path) -> None:
    whole = [{"id": 0, "name": "Quadruped", "supercategory": "Quadruped"}]
    write_json(tmp_path / "annotations/train_whole/train.json", content([annotation(1, 3, 0, (2, 3, 12, 13))], whole))
    write_image(tmp_path / "images/train" / NAME)
    assert [(sample.expression, sample.kind) for sample in samples(tmp_path, "train_whole").values()] == [
        ("the quadruped", "thing")
    ]


def test_a_polygon_of_two_points_covers_nothing(tmp_path: Path) -> None:
    """The published file has some."""
    ok = annotation(1, 3, 0, (2, 3, 12, 13))
    ok["segmentation"].append([5, 5, 6, 6])
    dataset = load_dataset("partimagenet", write_partimagenet(tmp_path, [ok]))
    assert [sample.mask().sum() for sample in dataset] == [100]
    assert not dataset.problems


def test_a_wrong_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations do not exist.*train\.json"):
        load_dataset("partimagenet", tmp_path)
    write_json(tmp_path / "train.json", content([]))
    with pytest.raises(DataError, match="images"):
        load_dataset("partimagenet", tmp_path)
