"""ADE20K as released in 2021, in miniature: the fields and their irregularities are those of ADE_train_00016869.json."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from sam4mllm_tool.data import Sample, load_dataset
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box, Size
from tests.data.drawn import filled, write_image

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

STEM = "ADE_train_00016869"
CAR = "car, auto, automobile, machine, motorcar"


def scene_object(number: int, name: str, box: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {
        "id": number,
        "name": name,
        "name_ndx": 401,
        "hypernym": [],
        "raw_name": "box",
        "attributes": [],
        "depth_ordering_rank": 1 + number,
        "occluded": "no",
        "crop": "0",
        "parts": {"hasparts": [], "ispartof": [], "part_level": 0},
        "instance_mask": f"{STEM}/instance_{number:03d}_{STEM}.png",
        "polygon": {"x": [x1, x2, x2, x1], "y": [y1, y1, y2, y2], "click_date": []},
        "saved_date": "18-Dec-2005 06:56:48",
        **more,
    }


def scene_part(number: int, name: str, box: tuple[int, int, int, int], of: object) -> dict[str, Any]:
    return scene_object(number, name, box, parts={"ispartof": of, "hasparts": [], "part_level": 1})


def write_scene(root: Path, objects: object, bitmaps: dict[int, np.ndarray] | None = None, stem: str = STEM) -> Path:
    """Add a scene of 40 x 30 pixels to a root, which is returned."""
    folder = root / "ADE20K_2021_17_01/images/ADE/training/urban/street"
    write_image(folder / f"{stem}.jpg")
    annotation = {"filename": f"{stem}.jpg", "imsize": [30, 40, 3], "scene": ["urban", "street"], "object": objects}
    (folder / f"{stem}.json").write_text(json.dumps({"annotation": annotation}))
    (folder / stem).mkdir(exist_ok=True)
    for number, bitmap in (bitmaps or {}).items():
        Image.fromarray(bitmap.astype(np.uint8) * 255).save(folder / stem / f"instance_{number:03d}_{stem}.png")
    return root


def scene(root: Path, stem: str = STEM) -> Path:
    return root / f"ADE20K_2021_17_01/images/ADE/training/urban/street/{stem}.json"


def samples(root: Path, **options: Any) -> dict[str, Sample]:
    return {sample.expression: sample for sample in load_dataset("ade20k", root, **options)}


def test_objects_are_named_by_their_first_synonym_and_parts_with_their_whole(tmp_path: Path) -> None:
    objects = [
        scene_object(0, CAR, (20, 10, 30, 20)),
        scene_object(4, CAR, (2, 3, 12, 13)),
        scene_part(5, "wheel", (21, 14, 27, 20), of=0),
        scene_part(6, "wheel", (3, 8, 9, 13), of=[4]),
        scene_object(7, "-", (0, 20, 39, 29)),
    ]
    read = samples(write_scene(tmp_path, objects))
    assert list(read) == ["the car", "the wheel of the car", "the box"]
    car = read["the car"]
    expected = coco.decode(
        coco.merge(coco.frPyObjects([[2, 3, 12, 3, 12, 13, 2, 13], [20, 10, 30, 10, 30, 20, 20, 20]], 30, 40))
    )
    assert np.array_equal(car.mask(), expected.astype(np.bool_))
    assert np.array_equal(car.mask(), filled(40, 30, (2, 3, 12, 13), (20, 10, 30, 20)))
    assert (car.image_id, car.size, car.kind) == (f"ade20k:{STEM}", Size(40, 30), "thing")
    assert len(read["the wheel of the car"].boxes) == 2
    assert car.image_path.name == f"{STEM}.jpg"


def test_a_bitmap_takes_precedence_over_the_polygon(tmp_path: Path) -> None:
    bitmap = filled(40, 30, (3, 3, 11, 13))
    read = samples(write_scene(tmp_path, [scene_object(4, CAR, (2, 3, 12, 13))], {4: bitmap}))
    assert np.array_equal(read["the car"].mask(), bitmap)
    read = samples(write_scene(tmp_path, [scene_object(4, CAR, (2, 3, 12, 13))], {4: filled(40, 30, (20, 3, 40, 13))}))
    assert read["the car"].boxes == (Box(20, 3, 40, 13),)  # the polygon has another box


def test_a_single_object_without_a_list_is_read(tmp_path: Path) -> None:
    """MATLAB writes such JSON."""
    assert list(samples(write_scene(tmp_path, scene_object(0, CAR, (2, 3, 12, 13))))) == ["the car"]


def test_scenes_in_latin_1_are_read(tmp_path: Path) -> None:
    root = write_scene(tmp_path, [scene_object(0, "cafe", (2, 3, 12, 13))])
    scene(root).write_bytes(scene(root).read_text().replace("cafe", "café").encode("latin-1"))
    assert list(samples(root)) == ["the café"]


def test_classes_with_many_or_small_objects_are_left_out_by_choice(tmp_path: Path) -> None:
    objects = [scene_object(n, "person, soul", (n, 0, n + 10, 10)) for n in range(6)]
    objects += [
        scene_object(7, "cup", (2, 3, 6, 8)),
        scene_object(8, "cup", (12, 3, 32, 18)),
        scene_object(9, CAR, (12, 3, 32, 18)),
    ]
    dataset = load_dataset("ade20k", write_scene(tmp_path, objects))
    assert [sample.expression for sample in dataset] == ["the car"]
    assert (dataset.problems.counts.total(), dataset.problems.first) == (2, [])
    assert list(samples(tmp_path, max_instances=9, min_area=0)) == ["the person", "the cup", "the car"]
    with pytest.raises(DataError, match=r"by choice.*min_area"):
        samples(tmp_path, min_area=0.9)


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        pytest.param(scene_object(1, "cup", (2, 3, 32, 18), polygon={"x": [1, 2], "y": [1, 2]}), "no area", id="two points"),
        pytest.param(scene_object(1, "cup", (2, 3, 32, 18), polygon={"x": [1, 2, 3], "y": [1, 2]}), "malformed", id="uneven"),
        pytest.param(scene_object(1, "cup", (2, 3, 32, 18), polygon=None), "no area", id="no polygon"),
        pytest.param(scene_object(1, "cup", (50, 50, 70, 70)), "empty", id="outside the image"),
        pytest.param(
            scene_part(1, "leg", (2, 3, 32, 18), of=77),
            "part of an unnamed object",
            id="a part of an object that does not exist",
        ),
        pytest.param(scene_object(1, "-", (2, 3, 32, 18), raw_name=""), "no name", id="without a name"),
        pytest.param({"id": 1}, "malformed", id="half a record"),
        pytest.param(7, "malformed", id="no record"),
    ],
)
def test_an_invalid_object_drops_its_class_and_is_reported(tmp_path: Path, bad: Any, what: str) -> None:
    dataset = load_dataset("ade20k", write_scene(tmp_path, [scene_object(0, CAR, (12, 3, 32, 18)), bad]))
    assert [sample.expression for sample in dataset] == ["the car"]
    (example,) = dataset.problems.first
    assert what in example
    assert f"{STEM}.json, object 1" in example


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        pytest.param(lambda path: path.write_text("{"), "malformed", id="half a json"),
        pytest.param(lambda path: path.write_text("[]"), "malformed", id="another json"),
        pytest.param(lambda path: path.with_suffix(".jpg").unlink(), "does not exist", id="a missing image"),
        pytest.param(lambda path: path.with_suffix(".jpg").write_bytes(b"x"), "can't be read", id="a damaged image"),
        pytest.param(lambda path: write_image(path.with_suffix(".jpg"), 41, 30), "size differs", id="an image of another size"),
        pytest.param(
            lambda path: (path.with_suffix("") / f"instance_000_{path.stem}.png").write_bytes(b"x"),
            "bitmap",
            id="a damaged bitmap",
        ),
        pytest.param(
            lambda path: write_image(path.with_suffix("") / f"instance_000_{path.stem}.png", 9, 9),
            "bitmap",
            id="a bitmap of another size",
        ),
    ],
)
def test_an_invalid_scene_is_reported_and_the_others_are_read(tmp_path: Path, spoil: Any, what: str) -> None:
    write_scene(tmp_path, [scene_object(0, CAR, (12, 3, 32, 18))])
    write_scene(tmp_path, [scene_object(3, "cup", (12, 3, 32, 18))], stem="ADE_train_00016900")
    spoil(scene(tmp_path))
    dataset = load_dataset("ade20k", tmp_path)
    assert [sample.expression for sample in dataset] == ["the cup"]
    (example,) = dataset.problems.first
    assert what in example
    assert STEM in example


def test_a_wrong_root_an_empty_folder_and_a_wrong_split_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="searched"):
        load_dataset("ade20k", tmp_path)
    with pytest.raises(DataError, match="train and val"):
        load_dataset("ade20k", tmp_path, "test")
    (tmp_path / "training").mkdir()
    with pytest.raises(DataError, match="no sample"):
        list(load_dataset("ade20k", tmp_path))


def test_folders_of_bitmaps_are_not_searched(tmp_path: Path) -> None:
    root = write_scene(tmp_path, [scene_object(0, CAR, (12, 3, 32, 18))])
    (scene(root).with_suffix("") / "stray.json").write_text("{}")
    dataset = load_dataset("ade20k", root)
    assert len(list(dataset)) == 1
    assert not dataset.problems
    assert dataset.units() == 1  # type: ignore[attr-defined]
