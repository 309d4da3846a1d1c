"""Users' own formats, written as JSONL and read back."""

import base64
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from sam4mllm_tool.data import Problems, Sample, load_dataset
from sam4mllm_tool.data.convert import ExpressionRecord, write_records
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box
from tests.data.drawn import annotation, filled, full_disk, outline, run_data, write_image, write_json

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own


def converted(out: Path) -> dict[str, Sample]:
    dataset = load_dataset("jsonl", out)
    samples = {sample.expression: sample for sample in dataset}
    assert not dataset.problems, dataset.problems.first
    return samples


# COCO ---------------------------------------------------------------------------------------------------------------


def write_coco(root: Path, annotations: list[Any], name: str = "a.jpg") -> Path:
    write_image(root / "images" / name)
    images = [{"id": 1, "file_name": name, "width": 40, "height": 30}]
    categories = [{"id": 1, "name": "cup"}]
    return write_json(root / "instances.json", {"images": images, "annotations": annotations, "categories": categories})


def test_annotations_of_an_image_with_the_same_text_are_objects_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_coco(
        tmp_path,
        [
            annotation(1, 1, 1, (20, 10, 30, 20), expression="the  cups "),
            annotation(2, 1, 1, (2, 3, 12, 13), expression=["the cups", "the cup on the left"]),
        ],
    )
    assert run_data("convert", "coco", source, "--out", tmp_path / "mine") == 0
    samples = converted(tmp_path / "mine")
    assert list(samples) == ["the cups", "the cup on the left"]
    assert samples["the cups"].boxes == (Box(2, 3, 12, 13), Box(20, 10, 30, 20))
    assert np.array_equal(samples["the cups"].mask(), filled(40, 30, (2, 3, 12, 13), (20, 10, 30, 20)))
    assert samples["the cups"].image_path.resolve() == tmp_path / "images/a.jpg"
    assert "2 expressions, 3 objects, 1 image" in capsys.readouterr().out


def test_coco_masks_are_those_of_pycocotools(tmp_path: Path) -> None:
    parts = [[3.2, 4.7, 30.1, 8.3, 17.5, 25.9], outline(31, 20, 39, 29)]
    drawn = coco.merge(coco.frPyObjects(parts, 30, 40))
    code = {"size": drawn["size"], "counts": drawn["counts"].decode()}
    source = write_coco(
        tmp_path,
        [
            annotation(1, 1, 1, (0, 0, 40, 30), caption="polygons", segmentation=parts),
            annotation(2, 1, 1, (0, 0, 40, 30), caption="runs", segmentation=code),
        ],
    )
    assert run_data("convert", "coco", source, "--out", tmp_path / "mine.jsonl") == 0
    for sample in converted(tmp_path / "mine.jsonl").values():
        assert np.array_equal(sample.mask(), coco.decode(drawn).astype(np.bool_))


def test_the_column_and_the_folder_of_images_are_options(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "here", [annotation(1, 1, 1, (2, 3, 12, 13), phrase="a", caption="b")])
    (tmp_path / "here/images").rename(tmp_path / "there")
    words = ("convert", "coco", source, "--out", tmp_path / "mine", "--column", "phrase", "--images", tmp_path / "there")
    assert run_data(*words) == 0
    assert list(converted(tmp_path / "mine")) == ["a"]


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        pytest.param(annotation(1, 1, 1, (50, 50, 70, 70), caption="bad"), "the mask is empty", id="outside the image"),
        pytest.param(annotation(1, 1, 1, (2, 3, 12, 13), caption="bad", iscrowd=1), "crowd", id="a crowd"),
        pytest.param(annotation(1, 1, 1, (2, 3, 12, 13)), "no expression or caption", id="without a text"),
        pytest.param(annotation(1, 9, 1, (2, 3, 12, 13), caption="bad"), "not in the file", id="of a missing image"),
        pytest.param(annotation(1, 1, 1, (2, 3, 12, 13), caption="x" * 5000), "too long", id="a long text"),
        pytest.param(
            annotation(1, 1, 1, (2, 3, 12, 13), caption="bad", segmentation={"size": [40, 30], "counts": "0"}),
            "size differs",
            id="an RLE of another size",
        ),
        pytest.param({"id": 1, "caption": "bad"}, "malformed", id="half a record"),
        pytest.param("bad", "malformed", id="no record"),
    ],
)
def test_an_invalid_annotation_is_reported_and_the_others_are_kept(
    tmp_path: Path, bad: Any, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_coco(tmp_path, [bad, annotation(2, 1, 1, (2, 3, 12, 13), caption="good")])
    assert run_data("convert", "coco", source, "--out", tmp_path / "mine") == 1
    assert list(converted(tmp_path / "mine")) == ["good"]
    errors = capsys.readouterr().err
    assert what in errors
    assert "instances.json" in errors


def test_an_expression_is_dropped_when_one_of_its_objects_is_invalid(tmp_path: Path) -> None:
    """With the other object alone, a correct answer to 'the cups' would be scored as wrong."""
    bad, good = annotation(1, 1, 1, (50, 50, 70, 70)), annotation(2, 1, 1, (2, 3, 12, 13))
    source = write_coco(tmp_path, [{**bad, "caption": "the cups"}, {**good, "caption": ["the cups", "the cup"]}])
    assert run_data("convert", "coco", source, "--out", tmp_path / "mine") == 1
    assert list(converted(tmp_path / "mine")) == ["the cup"]


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        pytest.param(lambda root: (root / "images/a.jpg").unlink(), "does not exist", id="a missing image"),
        pytest.param(lambda root: (root / "images/a.jpg").write_bytes(b"GIF89a"), "can't be read", id="a damaged image"),
        pytest.param(lambda root: write_image(root / "images/a.jpg", 30, 40), "size differs", id="an image of another size"),
        pytest.param(lambda root: (root / "instances.json").write_text('{"images": ['), "instances.json", id="half a json"),
        pytest.param(lambda root: (root / "instances.json").write_text("{}"), "no annotations", id="another json"),
        pytest.param(lambda root: (root / "instances.json").unlink(), "instances.json", id="no json"),
    ],
)
def test_without_a_valid_record_no_file_is_written(tmp_path: Path, spoil: Callable[[Path], Any], what: str) -> None:
    source = write_coco(tmp_path, [annotation(2, 1, 1, (2, 3, 12, 13), caption="good")])
    spoil(tmp_path)
    with pytest.raises(DataError, match=what):
        run_data("convert", "coco", source, "--out", tmp_path / "mine")
    assert not list(tmp_path.glob("mine/*"))


# LabelMe ------------------------------------------------------------------------------------------------------------


def shape(label: str, points: list[list[float]], kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}, **more}


def write_labelme(folder: Path, shapes: list[Any], name: str = "a", **more: Any) -> Path:
    write_image(folder / f"{name}.jpg")
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None}
    write_json(folder / f"{name}.json", {**content, "imageHeight": 30, "imageWidth": 40, **more})
    return folder


def png(mask: np.ndarray) -> str:
    written = BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def test_labelme_shapes_cover_the_pixels_that_labelme_draws(tmp_path: Path) -> None:
    cropped = filled(5, 4, (1, 0, 5, 3))
    shapes = [
        shape("polygon", [[2, 3], [11, 3], [11, 12], [2, 12]]),
        shape("rectangle", [[11, 12], [2, 3]], "rectangle"),
        shape("circle", [[20, 15], [20, 20]], "circle"),
        shape("mask", [[30, 20], [34, 23]], "mask", mask=png(cropped)),
    ]
    assert run_data("convert", "labelme", write_labelme(tmp_path, shapes), "--out", tmp_path / "mine") == 0
    samples = converted(tmp_path / "mine")
    square = filled(40, 30, (2, 3, 12, 13))  # the outline counts too
    assert np.array_equal(samples["polygon"].mask(), square)
    assert np.array_equal(samples["rectangle"].mask(), square)
    assert np.array_equal(samples["mask"].mask()[20:24, 30:35], cropped)
    assert samples["mask"].mask().sum() == cropped.sum()
    circle = samples["circle"]
    assert circle.boxes == (Box(15, 10, 26, 21),)
    assert abs(circle.mask().sum() - np.pi * 5.5**2) < 8


def test_shapes_with_one_text_share_a_line_and_shapes_of_one_group_are_one_object(tmp_path: Path) -> None:
    square = [[2.0, 3.0], [6.0, 3.0], [6.0, 7.0], [2.0, 7.0]]
    far, further = ([[x + shift, y] for x, y in square] for shift in (15, 30))
    shapes = [
        shape("cup", square, group_id=1),
        shape("cup", far, group_id=1),
        shape("cup", further),
        shape("cup", further, description="the last cup"),
    ]
    assert run_data("convert", "labelme", write_labelme(tmp_path, shapes), "--out", tmp_path / "mine") == 0
    samples = converted(tmp_path / "mine")
    assert {name: len(sample.boxes) for name, sample in samples.items()} == {"cup": 2, "the last cup": 1}
    assert samples["cup"].boxes[0] == Box(2, 3, 22, 8)
    words = ("convert", "labelme", tmp_path, "--out", tmp_path / "other", "--column", "label")
    assert run_data(*words) == 0
    assert {name: len(sample.boxes) for name, sample in converted(tmp_path / "other").items()} == {"cup": 3}


def test_an_image_named_on_windows_or_moved_beside_its_json_is_found(tmp_path: Path) -> None:
    square = [[2.0, 3.0], [6.0, 3.0], [6.0, 7.0]]
    write_labelme(tmp_path / "in", [shape("cup", square)], imagePath="..\\pictures\\a.jpg")
    assert run_data("convert", "labelme", tmp_path / "in", "--out", tmp_path / "mine") == 0
    assert converted(tmp_path / "mine")["cup"].image_path.resolve() == tmp_path / "in/a.jpg"


def test_a_polygon_that_exceeds_the_image_is_clipped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_labelme(tmp_path, [shape("cup", [[-20, -20], [5, -20], [5, 4], [-20, 4]])])
    assert run_data("convert", "labelme", tmp_path, "--out", tmp_path / "mine") == 0
    assert np.array_equal(converted(tmp_path / "mine")["cup"].mask(), filled(40, 30, (0, 0, 6, 5)))
    assert "1 corrected: the shape exceeds the image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        pytest.param(shape("bad", [[1, 2]], "point"), "a point has no area", id="a point"),
        pytest.param(shape("bad", [[1, 2], [3, 4]]), "of 2 points", id="a polygon of two points"),
        pytest.param(shape("bad", [[1, 2], [3, 4], [5, float("nan")]]), "not finite", id="not a number"),
        pytest.param(shape("bad", [[1, 2], [3, 4], [5, 10**400]]), r"not a list of [x, y]", id="a number too large"),
        pytest.param(shape("bad", [[1, 2], [3, 4], [5, 1e9]]), "far outside the image", id="far away"),
        pytest.param(shape("bad", "nonsense"), "not a list of [x, y]", id="no points"),
        pytest.param(shape("bad", [[60, 50], [70, 50], [70, 60]]), "the mask is empty", id="outside the image"),
        pytest.param(shape(" ", [[1, 2], [3, 4], [5, 2]]), "no description or label", id="no text"),
        pytest.param(shape("bad", [[1, 2], [3, 4]], "mask", mask="?"), "base64", id="a mask that is no base64"),
        pytest.param(shape("bad", [[1, 2], [3, 4]], "mask", mask=png(filled(9, 9))), "corners", id="a mask of another size"),
        pytest.param(shape("bad", [[1, 2], [3, 4]], "mask"), "base64", id="no mask"),
        pytest.param("bad", "expected an object", id="no shape"),
    ],
)
def test_an_invalid_shape_is_reported_and_the_others_are_kept(
    tmp_path: Path, bad: Any, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labelme(tmp_path, [bad, shape("good", [[1, 2], [13, 2], [5, 12]])])
    assert run_data("convert", "labelme", tmp_path, "--out", tmp_path / "mine") == 1
    assert list(converted(tmp_path / "mine")) == ["good"]
    errors = capsys.readouterr().err
    assert what in errors
    assert "a.json" in errors


def test_an_invalid_file_is_reported_and_the_others_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [shape("good", [[1, 2], [13, 2], [5, 12]])]
    write_labelme(tmp_path, good)
    (tmp_path / "b.json").write_text('{"shapes": [')
    (tmp_path / "c.json").write_text("[]")
    write_labelme(tmp_path, good, "d", imageWidth=400)
    write_labelme(tmp_path, good, "e")
    (tmp_path / "e.jpg").unlink()
    assert run_data("convert", "labelme", tmp_path, "--out", tmp_path / "mine") == 1
    assert len(converted(tmp_path / "mine")) == 1
    errors = capsys.readouterr().err
    assert [name for name in ("b.json", "c.json", "d.json", "e.jpg") if name not in errors] == []


# A folder of images, masks and texts ---------------------------------------------------------------------------------


def write_triple(folder: Path, drawn: np.ndarray, text: str, name: str = "cup", mode: str | None = None) -> Path:
    write_image(folder / f"{name}.jpg")
    mask = Image.fromarray(drawn.astype(np.uint8))
    (mask.convert(mode) if mode else mask).save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(text, "utf-8")
    return folder


def test_each_line_of_text_is_an_expression_of_the_mask(tmp_path: Path) -> None:
    mask = filled(40, 30, (2, 3, 12, 13), (20, 10, 30, 20))
    write_triple(tmp_path / "in", mask * 255, "the cups\n\n\ufeffdie Tassen ä\n")
    assert run_data("convert", "folder", tmp_path / "in", "--out", tmp_path / "mine") == 0
    samples = converted(tmp_path / "mine")
    assert [len(sample.boxes) for sample in samples.values()] == [1, 1]
    assert all(np.array_equal(sample.mask(), mask) for sample in samples.values())


@pytest.mark.parametrize("mode", [None, "P", "1", "RGB", "RGBA", "LA", "I;16"])
def test_a_mask_in_any_image_mode_is_on_where_it_is_not_black(tmp_path: Path, mode: str | None) -> None:
    mask = filled(40, 30, (2, 3, 12, 13))
    write_triple(tmp_path / "in", mask * 255, "the cup", mode=mode)
    assert run_data("convert", "folder", tmp_path / "in", "--out", tmp_path / "mine") == 0
    assert np.array_equal(converted(tmp_path / "mine")["the cup"].mask(), mask)


def test_mask_values_are_one_object_or_one_object_each(tmp_path: Path) -> None:
    drawn = filled(40, 30, (2, 3, 12, 13)) * 1 + filled(40, 30, (20, 3, 32, 13)) * 200
    write_triple(tmp_path / "in", drawn, "the cups")
    for values, count in (("any", 1), ("each", 2)):
        assert run_data("convert", "folder", tmp_path / "in", "--out", tmp_path / values, "--values", values) == 0
        assert len(converted(tmp_path / values)["the cups"].boxes) == count


def test_a_black_mask_means_that_there_is_no_such_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_triple(tmp_path / "in", filled(40, 30), "the cup")
    assert run_data("convert", "folder", tmp_path / "in", "--out", tmp_path / "mine") == 0
    assert converted(tmp_path / "mine")["the cup"].boxes == ()
    assert "(1 with no such object)" in capsys.readouterr().out


def test_the_mask_of_a_png_has_the_suffix_mask(tmp_path: Path) -> None:
    write_triple(tmp_path / "in", filled(40, 30, (2, 3, 12, 13)), "the cup")
    (tmp_path / "in/cup.png").rename(tmp_path / "in/cup_mask.png")
    (tmp_path / "in/cup.jpg").unlink()
    write_image(tmp_path / "in/cup.png")
    assert run_data("convert", "folder", tmp_path / "in", "--out", tmp_path / "mine") == 0
    assert converted(tmp_path / "mine")["the cup"].mask().sum() == 100


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        pytest.param(lambda folder: (folder / "bad.png").unlink(), "no mask beside it", id="no mask"),
        pytest.param(lambda folder: (folder / "bad.jpg").unlink(), "no mask beside it", id="the mask is taken for the image"),
        pytest.param(lambda folder: (folder / "bad.png").write_bytes(b"x"), "read as a mask", id="a damaged mask"),
        pytest.param(lambda folder: write_image(folder / "bad.jpg", 30, 40), "pixels", id="a mask of another size"),
        pytest.param(lambda folder: (folder / "bad.jpg").write_bytes(b"x"), "can't be read", id="a damaged image"),
        pytest.param(lambda folder: (folder / "bad.txt").write_text(" \n"), "no expression", id="no text"),
        pytest.param(lambda folder: (folder / "bad.txt").write_bytes(b"\xff\xfe\xfa"), "UTF-8", id="a text that is none"),
    ],
)
def test_files_that_do_not_match_are_reported_and_the_others_are_kept(
    tmp_path: Path, spoil: Callable[[Path], Any], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bad", "good"):
        write_triple(tmp_path / "in", filled(40, 30, (2, 3, 12, 13)), name, name)
    spoil(tmp_path / "in")
    assert run_data("convert", "folder", tmp_path / "in", "--out", tmp_path / "mine") == 1
    assert list(converted(tmp_path / "mine")) == ["good"]
    errors = capsys.readouterr().err
    assert what in errors
    assert "bad." in errors


# Writing ------------------------------------------------------------------------------------------------------------


def test_copied_images_of_the_same_name_are_kept_apart(tmp_path: Path) -> None:
    for place, value in (("x", 10), ("y", 20)):
        write_triple(tmp_path / "in" / place, filled(40, 30, (2, 3, 12, 13)), place)
        Image.new("RGB", (40, 30), (value,) * 3).save(tmp_path / f"in/{place}/cup.jpg")
    assert run_data("convert", "folder", tmp_path / "in", "--out", tmp_path / "mine", "--copy") == 0
    (tmp_path / "in").rename(tmp_path / "gone")
    samples = converted(tmp_path / "mine")
    assert {name: np.array(Image.open(sample.image_path))[0, 0, 0] for name, sample in samples.items()} == {"x": 10, "y": 20}
    assert sorted(path.name for path in (tmp_path / "mine").rglob("*.*")) == ["cup-2.jpg", "cup.jpg", "scenes.jsonl"]


def test_paths_are_relative_so_that_everything_can_be_moved(tmp_path: Path) -> None:
    write_triple(tmp_path / "all/in", filled(40, 30, (2, 3, 12, 13)), "the cup")
    assert run_data("convert", "folder", tmp_path / "all/in", "--out", tmp_path / "all/out") == 0
    (tmp_path / "all").rename(tmp_path / "moved")
    assert list(converted(tmp_path / "moved/out")) == ["the cup"]
    line = json.loads((tmp_path / "moved/out/scenes.jsonl").read_text())
    assert line["image"] == "../in/cup.jpg"


def record(tmp_path: Path, **more: Any) -> ExpressionRecord:
    masks = (filled(40, 30, (2, 3, 12, 13)),)
    return ExpressionRecord(
        **{"image": write_image(tmp_path / "a.jpg"), "expression": "it", "masks": masks, "where": "a", **more}
    )


def test_a_full_disk_is_an_error_and_keeps_the_previous_file(tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    write_records([record(tmp_path)], out, Problems())
    before, records = out.read_bytes(), [record(tmp_path)] * 2
    with full_disk(), pytest.raises(DataError, match=r"mine\.jsonl.*File too large"):
        write_records(records, out, Problems(), overwrite=True)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "mine.jsonl"]


def test_an_interrupted_run_keeps_the_previous_file(tmp_path: Path) -> None:
    def interrupted() -> Any:
        yield record(tmp_path)
        raise KeyboardInterrupt

    out = tmp_path / "mine.jsonl"
    write_records([record(tmp_path)], out, Problems())
    with pytest.raises(KeyboardInterrupt):
        write_records(interrupted(), out, Problems(), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "mine.jsonl"]


def test_a_path_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        write_records([record(tmp_path)], tmp_path / "file/mine", Problems())


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["labelme", "IN", "--images", "x"], "--images is not for labelme"),
        (["coco", "IN", "--values", "each"], "--values is not for coco"),
        (["labelme", "IN", "--column", "x"], "'label' or 'description'"),
        (["labelme", "IN"], "holds no json"),
        (["folder", "IN"], "holds no text"),
        (["folder", "NOWHERE"], "holds no text"),
    ],
    ids=" ".join,
)
def test_an_invalid_command_is_an_error(tmp_path: Path, words: list[str], what: str) -> None:
    (tmp_path / "IN").mkdir()
    with pytest.raises(DataError, match=what):
        run_data("convert", words[0], tmp_path / words[1], *words[2:], "--out", tmp_path / "mine")
    assert not (tmp_path / "mine/scenes.jsonl").exists()
