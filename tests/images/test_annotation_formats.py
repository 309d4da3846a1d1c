"""Annotations are read back by the readers of other programs: pycocotools, supervision, LabelMe's drawing, rle-pack, Pillow."""

import base64
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import supervision
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sam4mllm_tool.data.from_labelme import read_labelme
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.errors import MissingExtraError
from sam4mllm_tool.geometry.polygons import mask_to_parts, to_pixel_ring
from sam4mllm_tool.images.annotation_formats import label_objects
from sam4mllm_tool.images.output_formats import export_outputs
from sam4mllm_tool.types import Box, Mask, ObjectPrompt, Segmentation, SegmentedObject, Size
from tests.images.masked_images import SIZE, block_mask, filled_ring, image, open_image, ring_mask, segmentation

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools lags behind NumPy
MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


def export_to(folder: Path, *names: str, result: Segmentation | None = None) -> dict[str, bytes]:
    """Write the files beside the image, mug.png."""
    files = export_outputs(image(), result or segmentation(), names, image_name="mug.png")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    image().save(folder / "mug.png")
    return files


def test_objects_are_numbered_as_each_format_does(tmp_path: Path):
    files = export_to(tmp_path, "coco", "label-studio", "cvat", "geojson", "svg")
    coco, (task,), cvat, features = (json.loads(files[name]) for name in list(files)[:4])
    kept = [[each[key] for key in ("id", "image_id", "category_id", "iscrowd")] for each in coco["annotations"]]
    assert kept == [[1, 1, 1, 0], [2, 1, 1, 0]]
    assert coco["images"][0]["id"] == coco["categories"][0]["id"] == 1
    brushes = task["predictions"][0]["result"]
    assert [(each["id"], each["image_rotation"]) for each in brushes] == [("object-1", 0), ("object-2", 0)]
    assert [(each["original_width"], each["original_height"]) for each in brushes] == [SIZE] * 2
    (item,) = cvat["items"]
    assert [[each[key] for key in ("id", "group", "label_id", "z_order")] for each in item["annotations"]] == [
        [0, 0, 0, 0],
        [1, 0, 0, 0],
    ]
    assert item["attr"] == {"frame": 0}
    assert [feature["id"] for feature in features["features"]] == [1, 2]
    assert features["features"][0]["properties"]["box"] == [3, 5, 33, 35]
    assert files["objects.svg"].count(b'<path id="object-1"') == files["objects.svg"].count(b'<path id="object-2"') == 1
    assert b'width="60" height="40" viewBox="0 0 60 40"' in files["objects.svg"]


def test_a_category_is_an_expression(tmp_path: Path):
    both = segmentation()
    first, second = both.objects
    result = replace(both, objects=(first, replace(second, expression="a block"), replace(first, expression="a block")))
    files = export_to(tmp_path, "coco", "cvat", "yolo", result=result)
    coco, cvat = json.loads(files["coco.json"]), json.loads(files["cvat.json"])
    assert [each["category_id"] for each in coco["annotations"]] == [1, 2, 2]
    assert [(each["id"], each["name"]) for each in coco["categories"]] == [(1, "the mug & <co>"), (2, "a block")]
    assert [each["label_id"] for each in cvat["items"][0]["annotations"]] == [0, 1, 1]
    assert files["yolo.yaml"] == b'nc: 2\nnames: ["the mug & <co>", "a block"]\n'
    assert [line[:1] for line in files["mug.txt"].splitlines()] == [b"0", b"0", b"1", b"1", b"1"]
    assert result.to_supervision().class_id.tolist() == [0, 1, 1]


# Polygons


@given(MASKS)
def test_drawing_the_pixel_rings_with_their_outlines_gives_each_part_back(mask: Mask):
    for outer, *holes in mask_to_parts(mask):
        canvas = Image.new("1", mask.shape[::-1])
        draw = ImageDraw.Draw(canvas)
        ring = to_pixel_ring(outer)
        draw.polygon(ring, fill=1, outline=1) if len(ring) > 1 else draw.point(ring, fill=1)
        drawn = np.array(canvas)
        assert not (drawn & ~mask).any() or holes or len(mask_to_parts(mask)) > 1
        assert all(drawn[int(y), int(x)] for x, y in ring)


@given(MASKS)
def test_the_parts_are_simple_and_their_areas_add_up(mask: Mask):
    area = 0.0
    for part in mask_to_parts(mask):
        for number, ring in enumerate(part):
            assert len(set(ring)) == len(ring)
            x, y = np.array(ring).T
            signed = float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2
            assert (signed > 0) == (number == 0)
            area += signed
    assert area == mask.sum()


# COCO


def test_pycocotools_reads_the_masks_of_coco_exactly(tmp_path: Path):
    export_to(tmp_path, "coco")
    read = COCO(str(tmp_path / "coco.json"))
    masks = [read.annToMask(annotation).astype(bool) for annotation in read.loadAnns(read.getAnnIds())]
    assert np.array_equal(masks, [ring_mask(), block_mask()])
    assert read.loadCats(read.getCatIds())[0]["name"] == "the mug & <co>"
    assert read.loadImgs(1)[0]["file_name"] == "mug.png"
    assert [annotation["bbox"] for annotation in read.anns.values()] == [
        coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))).tolist() for mask in masks
    ]


def test_pycocotools_reads_the_polygons_of_coco_without_the_holes(tmp_path: Path):
    export_to(tmp_path, "coco-polygons")
    read = COCO(str(tmp_path / "coco-polygons.json"))
    for annotation, expected in zip(read.anns.values(), [filled_ring(), block_mask()], strict=True):
        mask = read.annToMask(annotation).astype(bool)
        assert (mask & expected).sum() / (mask | expected).sum() > 0.97  # pycocotools rounds at the edges


def test_a_mask_without_pixels_has_a_box_without_pixels_in_coco():
    result = segmentation(np.zeros_like(block_mask()))
    (annotation,) = result.to_coco()["annotations"]
    assert (annotation["bbox"], annotation["area"]) == ([0, 0, 0, 0], 0)
    assert result.to_coco(polygons=True)["annotations"][0]["segmentation"] == []


def test_supervision_reads_the_masks_of_coco(tmp_path: Path):
    export_to(tmp_path, "coco")
    read = supervision.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "coco.json"), force_masks=True)
    ((_, _, detections),) = list(read)
    assert np.array_equal(detections.mask, [ring_mask(), block_mask()])


# LabelMe


def test_labelme_gets_each_object_exactly_with_holes_and_parts(tmp_path: Path):
    export_to(tmp_path, "labelme")
    (record,) = read_labelme(tmp_path, Problems())  # draws as LabelMe does
    assert record.expression == "the mug & <co>"
    assert np.array_equal(record.masks, [ring_mask(), block_mask()])


def test_labelme_gets_the_image_and_an_editable_polygon_per_part(tmp_path: Path):
    content = json.loads(export_to(tmp_path, "labelme", result=segmentation(filled_ring()))["mug.json"])
    assert [(shape["shape_type"], shape["group_id"]) for shape in content["shapes"]] == [("polygon", 1)] * 2
    assert np.array_equal(np.asarray(open_image(base64.b64decode(content["imageData"]))), np.asarray(image()))


def test_supervision_reads_the_polygons_of_labelme_exactly(tmp_path: Path):
    export_to(tmp_path, "labelme", result=segmentation(filled_ring(), block_mask()))
    read = supervision.DetectionDataset.from_labelme(str(tmp_path), str(tmp_path))
    ((_, _, detections),) = list(read)
    assert np.array_equal(detections.mask, [filled_ring(), block_mask()])


# YOLO


def test_supervision_reads_the_lines_of_yolo_as_the_parts_with_holes_filled(tmp_path: Path):
    export_to(tmp_path, "yolo")
    read = supervision.DetectionDataset.from_yolo(str(tmp_path), str(tmp_path), str(tmp_path / "yolo.yaml"), force_masks=True)
    ((_, _, detections),) = list(read)
    assert np.array_equal(detections.mask[0] | detections.mask[1], filled_ring())
    assert np.array_equal(detections.mask[2], block_mask())
    assert read.classes == ["the mug & <co>"]


# Label Studio and CVAT


def decode_rle_pack(content: list[int]) -> Any:
    """Decode as https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack describes it."""
    bits = "".join(f"{byte:08b}" for byte in content)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    number, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    assert (word, sizes) == (8, [3, 4, 8, 16]), "as Label Studio writes them itself"
    values: list[int] = []
    while len(values) < number:
        repeated, count = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * count if repeated else [read(word) for _ in range(count)]
    return np.array(values, np.uint8)


def test_label_studio_gets_the_masks_exactly(tmp_path: Path):
    (task,) = json.loads(export_to(tmp_path, "label-studio")["label-studio.json"])
    results = task["predictions"][0]["result"]
    masks = [decode_rle_pack(each["value"]["rle"]).reshape(*SIZE[::-1], 4)[..., 3] > 0 for each in results]
    assert np.array_equal(masks, [ring_mask(), block_mask()])
    assert {each["value"]["brushlabels"][0] for each in results} == {"the mug & <co>"}
    shown = open_image(base64.b64decode(task["data"]["image"].removeprefix("data:image/png;base64,")))
    assert shown.size == SIZE


def test_label_studio_gets_runs_longer_than_its_longest_length():
    mask = np.zeros((200, 400), bool)
    mask[0, 0] = mask[-1, -1] = True
    result = Segmentation("it", Size(400, 200), (SegmentedObject(mask, ObjectPrompt(Box(0, 0, 400, 200)), 0.5),))
    (content,) = export_outputs(Image.new("RGB", (400, 200)), result, ["label-studio"]).values()
    runs = json.loads(content)[0]["predictions"][0]["result"][0]["value"]["rle"]
    assert np.array_equal(decode_rle_pack(runs).reshape(200, 400, 4)[..., 0] > 0, mask)


def test_cvat_gets_the_masks_exactly(tmp_path: Path):
    content = json.loads(export_to(tmp_path, "cvat")["cvat.json"])
    (item,) = content["items"]
    masks = [coco_mask.decode(annotation["rle"]).astype(bool) for annotation in item["annotations"]]
    assert np.array_equal(masks, [ring_mask(), block_mask()])
    assert (item["id"], item["image"]) == ("mug", {"path": "mug.png", "size": [40, 60]})
    assert content["categories"]["label"]["labels"][0]["name"] == "the mug & <co>"
    # Datumaro's reader takes these without asking: of a label its parent, of a mask its counts as text, which it encodes.
    assert all(label["parent"] == "" for label in content["categories"]["label"]["labels"])
    assert all(annotation["type"] == "mask" and annotation["rle"]["counts"].isascii() for annotation in item["annotations"])
    assert {annotation["label_id"] for annotation in item["annotations"]} <= set(
        range(len(content["categories"]["label"]["labels"]))
    )


# GeoJSON and SVG


def draw_rings(rings: list[list[tuple[float, float]]]) -> Mask:
    """Fill the outer ring and clear the holes, at four times the size, so that outlines stay off the centers of pixels."""
    canvas = Image.new("1", (SIZE.width * 4, SIZE.height * 4))
    for number, ring in enumerate(rings):
        ImageDraw.Draw(canvas).polygon([(x * 4, y * 4) for x, y in ring], fill=int(number == 0))
    return np.array(canvas)[2::4, 2::4]


def test_filling_the_geojson_polygons_gives_the_masks_back(tmp_path: Path):
    content = json.loads(export_to(tmp_path, "geojson")["objects.geojson"])
    for feature, mask in zip(content["features"], [ring_mask(), block_mask()], strict=True):
        polygons = feature["geometry"]["coordinates"]
        assert all(ring[0] == ring[-1] for rings in polygons for ring in rings)
        drawn = [draw_rings([[(x, y) for x, y in ring] for ring in rings]) for rings in polygons]
        assert np.array_equal(np.logical_or.reduce(drawn), mask)
    assert content["features"][0]["properties"]["expression"] == "the mug & <co>"


def test_filling_the_svg_paths_gives_the_masks_back_and_the_title_is_the_expression(tmp_path: Path):
    root = ElementTree.fromstring(export_to(tmp_path, "svg")["objects.svg"])
    name = "{http://www.w3.org/2000/svg}"
    for path, mask in zip(root.iter(f"{name}path"), [ring_mask(), block_mask()], strict=True):
        rings = [ring.removesuffix("Z").split("L") for ring in path.attrib["d"].split("M")[1:]]
        corners = [[tuple(map(float, corner.split())) for corner in ring] for ring in rings]
        drawn = np.zeros_like(mask)
        for ring in corners:
            drawn ^= draw_rings([ring])  # type: ignore[list-item]
        assert np.array_equal(drawn, mask)
        assert path.findtext(f"{name}title") == "the mug & <co>"


# Arrays


def test_numpy_loads_the_masks_without_pickle(tmp_path: Path):
    export_to(tmp_path, "numpy")
    with np.load(tmp_path / "result.npz", allow_pickle=False) as arrays_read:
        assert np.array_equal(arrays_read["masks"], [ring_mask(), block_mask()])
        assert arrays_read["labels"].tolist() == ["the mug & <co>"] * 2


def test_supervision_gets_masks_boxes_and_names():
    detections = segmentation().to_supervision()
    assert np.array_equal(detections.mask, [ring_mask(), block_mask()])
    assert detections.xyxy[1].tolist() == [38, 2, 55, 10]
    assert detections.data["class_name"].tolist() == ["the mug & <co>"] * 2
    assert len(Segmentation("it", SIZE, ()).to_supervision()) == 0
    annotated = supervision.MaskAnnotator().annotate(np.asarray(image())[..., ::-1].copy(), detections)
    assert annotated.shape == (40, 60, 3)


def test_without_supervision_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"sam4mllm-tool\[supervision\]"):
        segmentation().to_supervision()


@pytest.mark.parametrize(
    ("text", "label"), [("a\nb\x1b[31m", "a b [31m"), ("\udcff", "object"), ("", "object"), ("Größe: 'x'", "Größe: 'x'")]
)
def test_labels_are_text_on_one_line(text: str, label: str):
    result = segmentation(block_mask(), expression=text)
    assert label_objects(result) == [label]
    files = export_outputs(image(), result, ["yolo", "svg", "coco", "geojson", "label-studio", "cvat", "labelme", "numpy"])
    assert all(files.values())
    assert io.BytesIO(files["objects.svg"]).getvalue().decode("utf-8").count("<title>") == 1
