"""Results as annotations of other programs: COCO, LabelMe, YOLO, Label Studio, CVAT, GeoJSON, SVG.

Masks go exactly where the format can carry them: run lengths, PNGs, polygons with holes. YOLO's polygons have no holes, so
those are filled there, and a part of an object is a line of its own.
"""

import base64
import json
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image as PILImage

from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.polygons import Ring, mask_to_parts, mask_to_polygons, to_pixel_ring
from sam4mllm_tool.types import Image, Mask, Segmentation, SegmentedObject

__all__ = ["label_objects", "to_coco", "to_cvat", "to_geojson", "to_label_studio", "to_labelme", "to_svg", "to_yolo"]

_LABELME_VERSION = "5.5.0"
"""The version of LabelMe whose files these are."""
_RUN_BITS = (3, 4, 8, 16)
"""Bits of the lengths in Label Studio's run lengths; each run takes the shortest that holds it."""


def label_objects(segmentation: Segmentation) -> list[str]:
    """Return a label per object: the expression that it was found by, on one line and without control characters."""
    texts = [segmented.expression or segmentation.expression for segmented in segmentation.objects]
    lines = [" ".join("".join(c if c.isprintable() else " " for c in text).split()) for text in texts]
    return [line or "object" for line in lines]


def to_coco(segmentation: Segmentation, *, image_name: str = "image.png", polygons: bool = False) -> dict[str, Any]:
    """Return a COCO dataset of one image; each expression is a category.

    Args:
        segmentation: The result.
        image_name: Name of the image's file.
        polygons: Whether to write polygons, which have no holes, in place of run lengths, which are exact.
    """
    labels = label_objects(segmentation)
    categories = list(dict.fromkeys(labels))
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": categories.index(label) + 1,
            "segmentation": _outer_polygons(segmented.mask) if polygons else rle.encode(segmented.mask),
            "area": int(segmented.mask.sum()),
            "bbox": _mask_box_xywh(segmented.mask),
            "iscrowd": 0,
            "score": segmented.score,
            "confidence": segmented.confidence,
        }
        for number, (segmented, label) in enumerate(zip(segmentation.objects, labels, strict=True), start=1)
    ]
    size = segmentation.size
    return {
        "images": [{"id": 1, "file_name": image_name, "width": size.width, "height": size.height}],
        "annotations": annotations,
        "categories": [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(categories, start=1)],
    }


def to_labelme(segmentation: Segmentation, image: Image, *, image_name: str = "image.png") -> dict[str, Any]:
    """Return what LabelMe keeps beside an image, the image included.

    An object without holes is a polygon, or a group of them where it has several parts; one with holes is a mask, since
    LabelMe's polygons have none.

    Args:
        segmentation: The result.
        image: RGB, of the segmentation's size.
        image_name: Name of the image's file.
    """
    labels = label_objects(segmentation)
    shapes: list[dict[str, Any]] = []
    for number, (segmented, label) in enumerate(zip(segmentation.objects, labels, strict=True), start=1):
        parts = mask_to_parts(segmented.mask)
        group = {"label": label, "description": "", "group_id": number, "flags": {}}
        if any(len(part) > 1 for part in parts):
            shapes.append({**group, **_labelme_mask(segmented.mask)})
            continue
        for outer, *_ in parts:
            points = [list(corner) for corner in to_pixel_ring(outer)]
            shapes.append({**group, "shape_type": "polygon", "points": points, "mask": None})
    return {
        "version": _LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image_name,
        "imageData": _encode_base64_png(image.convert("RGB")),
        "imageHeight": segmentation.size.height,
        "imageWidth": segmentation.size.width,
    }


def to_yolo(segmentation: Segmentation) -> tuple[str, str]:
    """Return the lines of a YOLO segmentation label file, and the YAML file that names the classes.

    A connected part of an object is a line: class, then x and y of its outline in shares of width and height. Holes are filled.
    """
    labels = label_objects(segmentation)
    names = list(dict.fromkeys(labels))
    width, height = segmentation.size
    lines = []
    for segmented, label in zip(segmentation.objects, labels, strict=True):
        for outer, *_ in mask_to_parts(segmented.mask):
            shares = (f"{x / width:.8g} {y / height:.8g}" for x, y in to_pixel_ring(outer))
            lines.append(" ".join((str(names.index(label)), *shares)) + "\n")
    return "".join(lines), f"nc: {len(names)}\nnames: {json.dumps(names, ensure_ascii=False)}\n"


def to_label_studio(segmentation: Segmentation, image: Image) -> list[dict[str, Any]]:
    """Return a task for Label Studio's import, with the image in it and the masks as a prediction of its brush.

    The project's labelling interface needs `<Image name="image" value="$image"/>` and `<BrushLabels name="label"
    toName="image">` with the expressions as labels.
    """
    width, height = segmentation.size
    results = [
        {
            "id": f"object-{number}",
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": segmented.score,
            "value": {"format": "rle", "rle": _label_studio_runs(segmented.mask), "brushlabels": [label]},
        }
        for number, (segmented, label) in enumerate(
            zip(segmentation.objects, label_objects(segmentation), strict=True), start=1
        )
    ]
    data = {"image": f"data:image/png;base64,{_encode_base64_png(image.convert('RGB'))}", "text": segmentation.expression}
    return [{"data": data, "predictions": [{"model_version": "sam4mllm", "result": results}]}]


def to_cvat(segmentation: Segmentation, *, image_name: str = "image.png") -> dict[str, Any]:
    """Return a dataset in the format Datumaro 1.0, whose JSON file CVAT imports; masks are exact.

    The task needs the expressions as labels, and an image of this name.
    """
    labels = label_objects(segmentation)
    names = list(dict.fromkeys(labels))
    annotations = [
        {
            "id": number,
            "type": "mask",
            "attributes": {"score": segmented.score},
            "group": 0,
            "label_id": names.index(label),
            "rle": rle.encode(segmented.mask),
            "z_order": 0,
        }
        for number, (segmented, label) in enumerate(zip(segmentation.objects, labels, strict=True))
    ]
    image = {"path": image_name, "size": [segmentation.size.height, segmentation.size.width]}
    item = {"id": image_name.rpartition(".")[0], "annotations": annotations, "attr": {"frame": 0}, "image": image}
    categories = {"label": {"labels": [{"name": name, "parent": "", "attributes": []} for name in names], "attributes": []}}
    return {"info": {}, "categories": categories, "items": [item]}


def to_geojson(segmentation: Segmentation) -> dict[str, Any]:
    """Return a GeoJSON FeatureCollection in pixel coordinates, y down: a MultiPolygon with its holes per object."""
    features = [
        {
            "type": "Feature",
            "id": number,
            "geometry": {"type": "MultiPolygon", "coordinates": [_close_rings(part) for part in mask_to_parts(each.mask)]},
            "properties": {
                "expression": label,
                "score": each.score,
                "confidence": each.confidence,
                "box": list(each.prompt.box),
            },
        }
        for number, (each, label) in enumerate(zip(segmentation.objects, label_objects(segmentation), strict=True), start=1)
    ]
    return {"type": "FeatureCollection", "features": features}


def to_svg(segmentation: Segmentation) -> str:
    """Return an SVG image of the size of the image with a path per object, whose title is the expression."""
    width, height = segmentation.size
    paths = [
        f'  <path id="object-{number}" fill-rule="evenodd" d="{_svg_path(segmented)}"><title>{escape(label)}</title></path>\n'
        for number, (segmented, label) in enumerate(
            zip(segmentation.objects, label_objects(segmentation), strict=True), start=1
        )
    ]
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
    return f"{opening}{''.join(paths)}</svg>\n"


def _svg_path(segmented: SegmentedObject) -> str:
    outlines = mask_to_polygons(segmented.mask)
    corners = [[f"{x:g} {y:g}" for x, y in zip(outline[::2], outline[1::2], strict=True)] for outline in outlines]
    return "".join(f"M{'L'.join(ring)}Z" for ring in corners)


def _close_rings(rings: Sequence[Ring]) -> list[list[list[float]]]:
    return [[list(corner) for corner in (*ring, ring[0])] for ring in rings]


def _outer_polygons(mask: Mask) -> list[list[float]]:
    return [[value for corner in outer for value in corner] for outer, *_ in mask_to_parts(mask)]


def _mask_box(mask: Mask) -> tuple[int, int, int, int]:
    """Return x1, y1, x2, y2 around a mask, the last ones past it; zeros for an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _mask_box_xywh(mask: Mask) -> list[float]:
    x1, y1, x2, y2 = _mask_box(mask)
    return [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]


def _labelme_mask(mask: Mask) -> dict[str, Any]:
    x1, y1, x2, y2 = _mask_box(mask)
    cropped = PILImage.fromarray(mask[y1:y2, x1:x2].astype(np.uint8) * np.uint8(255))
    corners = [[float(x1), float(y1)], [float(x2 - 1), float(y2 - 1)]]
    return {"shape_type": "mask", "points": corners, "mask": _encode_base64_png(cropped)}


def _encode_base64_png(image: Image) -> str:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _label_studio_runs(mask: Mask) -> list[int]:
    """Return a mask as Label Studio's brush keeps it: the bytes of an RGBA image in the bit-packed run lengths of `rle-pack`.

    A head of 53 bits: the number of values in 32, bits per value less 1 in 5, four lengths of run lengths less 1 in 4 each.
    Then for each run: 1, the number of its length's length in 2 bits, its length less 1, the value.
    """
    values = np.repeat(mask.reshape(-1).astype(np.uint8) * 255, 4)
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] ^ 1))
    lengths = np.diff(starts, append=values.size)
    bits = [f"{values.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in _RUN_BITS)]
    for value, run in zip(values[starts].tolist(), lengths.tolist(), strict=True):
        for first in range(0, run, 1 << _RUN_BITS[-1]):
            length = min(run - first, 1 << _RUN_BITS[-1]) - 1
            index = next(index for index, size in enumerate(_RUN_BITS) if length < 1 << size)
            bits.append(f"1{index:02b}{length:0{_RUN_BITS[index]}b}{value:08b}")
    digits = np.frombuffer("".join(bits).encode("ascii"), np.uint8) - ord("0")
    return np.packbits(digits).tolist()
