"""Convert LabelMe's annotations: a folder with one json per image, drawn as LabelMe itself draws them.

Source of the format: labelme/utils/shape.py and label_file.py of wkentaro/labelme. Polygons, circles and rectangles include
their outline; a mask is a PNG that covers the rectangle between the two corners in `points`, the second one included.
"""

import base64
import binascii
import math
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from sam4mllm_tool.data.convert import ExpressionRecord, measure_image
from sam4mllm_tool.data.reader import find_image, normalize_expression
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.types import Mask, Size

__all__ = ["read_labelme"]

_SHAPE_TYPES = ("polygon", "rectangle", "circle", "mask")
_MAX_COORDINATE = 1e6  # pixels; Pillow's integers overflow beyond


def read_labelme(source: Path, problems: Problems, *, column: str = "") -> Iterator[ExpressionRecord]:
    """Yield one record per expression of each json in the folder and its subfolders, by name.

    Shapes of an image with the same expression are its objects; those that share a group id are one object. Files that can't be
    used are dropped and counted; so are expressions with a shape that has no area (points, lines) or is malformed.

    Args:
        source: The folder.
        problems: Gets what is dropped or corrected.
        column: "label" or "description", the field that holds the expression. The default is the description, or the label
            where that is empty.

    Raises:
        DataError: The folder holds no json, or the column is unknown.
    """
    if column not in ("", "label", "description"):
        raise DataError(f"LabelMe keeps expressions in 'label' or 'description', got {column!r}")
    files = sorted(source.rglob("*.json")) if source.is_dir() else []
    if not files:
        raise DataError(f"{source} holds no json: expected the folder that LabelMe wrote its annotations to")
    for path in files:
        try:
            yield from _read_records(path, problems, column)
        except DataError as error:
            problems.add("dropped", "the file is not LabelMe's", str(error))


def _read_records(path: Path, problems: Problems, column: str) -> Iterator[ExpressionRecord]:
    content = _load_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DataError(f"{path} has no list of shapes")
    image = _locate_image(path, content)
    size = measure_image(image, problems)
    if size is None:
        return
    annotated = Size(content.get("imageWidth") or size.width, content.get("imageHeight") or size.height)
    if annotated != size:
        raise DataError(f"{path} annotates an image of {_format_size(annotated)}, {image} has {_format_size(size)}")
    for expression, masks in _collect_objects(content["shapes"], column, size, problems, path).items():
        yield ExpressionRecord(image, expression, masks, f"{path}, {expression!r:.60}")


def _load_json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    except ValueError as error:  # not JSON, or not text
        raise DataError(f"{path} is not JSON: {error}") from error


def _collect_objects(shapes: list[Any], column: str, size: Size, problems: Problems, path: Path) -> dict[str, tuple[Mask, ...]]:
    """Return the masks of each expression all of whose shapes can be used."""
    objects: dict[str, dict[object, Mask]] = {}
    incomplete = set[str]()
    for number, shape in enumerate(shapes):
        where, expression = f"{path}, shape {number}", ""
        try:
            expression = _read_expression(shape, column)
            mask = _draw_mask(shape, size)
        except ValueError as error:
            problems.add("dropped", "the shape can't be used, so its expression is dropped", f"{where}: {error}")
            incomplete.add(expression)
            continue
        if _exceeds_image(shape, size):
            problems.add("corrected", "the shape exceeds the image", where)
        group = shape.get("group_id")
        masks = objects.setdefault(expression, {})
        key = ("alone", number) if group is None else ("group", str(group))
        masks[key] = masks[key] | mask if key in masks else mask
    return {expression: tuple(masks.values()) for expression, masks in objects.items() if expression not in incomplete}


def _format_size(size: Size) -> str:
    return f"{size.width} x {size.height} pixels"


def _locate_image(path: Path, content: dict[str, Any]) -> Path:
    """Follow `imagePath`, which may have been written on Windows; else take the image that has the json's name."""
    named = content.get("imagePath")
    given = path.parent / PureWindowsPath(named).as_posix() if isinstance(named, str) and named else path.with_suffix(".jpg")
    existing = next((candidate for candidate in (given, path.parent / given.name) if candidate.is_file()), None)
    return existing or find_image(path.parent, path.stem) or given


def _read_expression(shape: Any, column: str) -> str:
    if not isinstance(shape, dict):
        raise ValueError(f"expected an object with label and points, got {shape!r:.60}")
    texts = [shape.get(name) for name in ([column] if column else ["description", "label"])]
    expression = next((text for text in map(normalize_expression, texts) if text), "")
    if not expression:
        raise ValueError(f"it has no {column or 'description or label'}")
    return expression


def _draw_mask(shape: dict[str, Any], size: Size) -> Mask:
    """Return the (H, W) bool mask. Raises ValueError describing the shape's fault."""
    kind = shape.get("shape_type") or "polygon"
    if kind not in _SHAPE_TYPES:
        raise ValueError(f"a {kind} has no area; expected one of {', '.join(_SHAPE_TYPES)}")
    points = _read_points(shape)
    if len(points) < 3 if kind == "polygon" else len(points) != 2:
        raise ValueError(f"a {kind} of {len(points)} points")
    if kind == "mask":
        return _paste_mask(_decode_png(shape.get("mask")), points, size)
    canvas = PILImage.new("1", (size.width, size.height))
    draw = ImageDraw.Draw(canvas)
    if kind == "polygon":
        draw.polygon(points, fill=1, outline=1)
    elif kind == "rectangle":
        (x1, y1), (x2, y2) = points
        draw.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), fill=1, outline=1)
    else:
        (x, y), radius = points[0], math.dist(*points)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
    return np.array(canvas, np.bool_)


def _read_points(shape: dict[str, Any]) -> list[tuple[float, float]]:
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError("its points are not a list of [x, y]") from error
    if not all(abs(value) <= _MAX_COORDINATE for point in points for value in point):  # false for NaN as well
        raise ValueError("its points are far outside the image, or not finite")
    return points


def _decode_png(text: Any) -> Mask:
    try:
        with PILImage.open(BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as mask:
            return np.array(mask.convert("L")) > 0
    except (TypeError, binascii.Error, OSError, PILImage.DecompressionBombError) as error:
        raise ValueError(f"its mask is not a PNG in base64: {error}") from error


def _paste_mask(cropped: Mask, points: list[tuple[float, float]], size: Size) -> Mask:
    """Extend the mask of the rectangle between two corners, the second one included, to the whole image."""
    (x1, y1), (x2, y2) = ((int(x), int(y)) for x, y in points)
    actual, expected = Size(cropped.shape[1], cropped.shape[0]), Size(x2 - x1 + 1, y2 - y1 + 1)
    if actual != expected:
        raise ValueError(f"its mask has {_format_size(actual)}, its corners span {_format_size(expected)}")
    mask = np.zeros((size.height, size.width), np.bool_)
    left, top = max(0, x1), max(0, y1)
    visible = cropped[top - y1 : max(0, size.height - y1), left - x1 : max(0, size.width - x1)]
    mask[top : top + visible.shape[0], left : left + visible.shape[1]] = visible
    return mask


def _exceeds_image(shape: dict[str, Any], size: Size) -> bool:
    """Whether the shape exceeds the image by more than a pixel, the precision of drawing by hand at the edge."""
    points = _read_points(shape)
    if shape.get("shape_type") == "circle":
        (x, y), radius = points[0], math.dist(*points)
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    return any(not (-1 <= x <= size.width + 1 and -1 <= y <= size.height + 1) for x, y in points)
