"""LabelMe's annotations read into records: a folder with a json per picture, drawn as LabelMe itself draws them.

Source of the format: labelme/utils/shape.py and label_file.py of wkentaro/labelme. Polygons, circles and rectangles cover
their outline too; a mask is a PNG, cropped to the two corners in `points`, the second of them included.
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

from sam4mllm_tool.data.convert import OUTSIDE, Record, checked_size, read_json
from sam4mllm_tool.data.reader import one_line
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Mask, Size

_AREAS = ("polygon", "rectangle", "circle", "mask")
_FAR = 1e6  # pixels; no picture reaches so far, and Pillow's integers overflow beyond
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_labelme(source: Path, problems: Problems, *, column: str = "") -> Iterator[Record]:
    """A record per expression of each json in the folder and its subfolders, by name.

    column: label or description, where the expression is written; by default the description, the label where that is
    empty. Shapes of one picture with the same expression are its objects; those that share a group id are one object.
    Dropped and counted are files that can't be used, and expressions with a shape that can't: without an area (points,
    lines), or of an impossible form.
    Raises DataError where the folder holds no json.
    """
    if column not in ("", "label", "description"):
        raise DataError(f"LabelMe keeps expressions in 'label' or 'description', not in {column!r}")
    files = sorted(source.rglob("*.json")) if source.is_dir() else []
    if not files:
        raise DataError(f"{source} holds no json: expected the folder that LabelMe wrote its annotations to")
    for path in files:
        try:
            yield from _records(path, problems, column)
        except DataError as error:
            problems.add("dropped", "the file is not LabelMe's", str(error))


def _records(path: Path, problems: Problems, column: str) -> Iterator[Record]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DataError(f"{path} has no list of shapes")
    image = _picture(path, content)
    size = checked_size(image, problems)
    if size is None:
        return
    annotated = Size(content.get("imageWidth") or size.width, content.get("imageHeight") or size.height)
    if annotated != size:
        raise DataError(f"{path} was annotated on {_pixels(annotated)}, {image} has {_pixels(size)}")
    for expression, masks in _objects(content["shapes"], column, size, problems, path).items():
        yield Record(image, expression, masks, f"{path}, {expression!r:.60}")


def _objects(shapes: list[Any], column: str, size: Size, problems: Problems, path: Path) -> dict[str, tuple[Mask, ...]]:
    """The masks of each expression, all of whose shapes can be used."""
    objects: dict[str, dict[object, Mask]] = {}
    broken = set[str]()
    for number, shape in enumerate(shapes):
        where, expression = f"{path}, shape {number}", ""
        try:
            expression = _expression(shape, column)
            mask = _mask(shape, size)
        except ValueError as error:
            problems.add("dropped", "the shape can't be used, nor its expression without it", f"{where}: {error}")
            broken.add(expression)
            continue
        if _reaches_out(shape, size):
            problems.add("mended", OUTSIDE, where)
        group = shape.get("group_id")
        same = objects.setdefault(expression, {})
        key = ("alone", number) if group is None else ("group", str(group))
        same[key] = same[key] | mask if key in same else mask
    return {expression: tuple(masks.values()) for expression, masks in objects.items() if expression not in broken}


def _pixels(size: Size) -> str:
    return f"{size.width} x {size.height} pixels"


def _picture(path: Path, content: dict[str, Any]) -> Path:
    """Where `imagePath` leads; else the picture of the json's own name. It may have been written on Windows."""
    named = content.get("imagePath")
    told = path.parent / PureWindowsPath(named).as_posix() if isinstance(named, str) and named else path.with_suffix(".jpg")
    candidates = (told, path.parent / told.name, *(path.with_suffix(suffix) for suffix in _SUFFIXES))
    return next((candidate for candidate in candidates if candidate.is_file()), told)


def _expression(shape: Any, column: str) -> str:
    if not isinstance(shape, dict):
        raise ValueError(f"expected an object with label and points, got {shape!r:.60}")
    texts = [shape.get(name) for name in ([column] if column else ["description", "label"])]
    expression = next((line for line in map(one_line, texts) if line), "")
    if not expression:
        raise ValueError(f"it has no {column or 'description or label'}")
    return expression


def _mask(shape: dict[str, Any], size: Size) -> Mask:
    """(H, W) bool. Raises ValueError saying what is wrong with the shape."""
    kind = shape.get("shape_type") or "polygon"
    if kind not in _AREAS:
        raise ValueError(f"a {kind} has no area; there are {', '.join(_AREAS)}")
    points = _points(shape)
    if len(points) < 3 if kind == "polygon" else len(points) != 2:
        raise ValueError(f"a {kind} of {len(points)} points")
    if kind == "mask":
        return _pasted(_png(shape.get("mask")), points, size)
    canvas = PILImage.new("1", (size.width, size.height))
    draw = ImageDraw.Draw(canvas)
    if kind == "polygon":
        draw.polygon(points, fill=1, outline=1)
    elif kind == "rectangle":
        (x1, y1), (x2, y2) = points
        draw.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), fill=1, outline=1)
    else:
        centre, rim = points
        x, y, radius = *centre, math.dist(centre, rim)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
    return np.array(canvas, np.bool_)


def _points(shape: dict[str, Any]) -> list[tuple[float, float]]:
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError("its points are not a list of [x, y]") from error
    if not all(abs(value) <= _FAR for point in points for value in point):  # not-a-number is not either
        raise ValueError("its points are not in any picture")
    return points


def _png(text: Any) -> Mask:
    try:
        with PILImage.open(BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as picture:
            return np.array(picture.convert("L")) > 0
    except (TypeError, binascii.Error, OSError, PILImage.DecompressionBombError) as error:
        raise ValueError(f"its mask is not a PNG in base64: {error}") from error


def _pasted(cropped: Mask, points: list[tuple[float, float]], size: Size) -> Mask:
    """A mask of the whole picture, from what is within the two corners; the second one is included."""
    (x1, y1), (x2, y2) = ((int(x), int(y)) for x, y in points)
    drawn, told = Size(cropped.shape[1], cropped.shape[0]), Size(x2 - x1 + 1, y2 - y1 + 1)
    if drawn != told:
        raise ValueError(f"its mask has {_pixels(drawn)}, its corners tell of {_pixels(told)}")
    mask = np.zeros((size.height, size.width), np.bool_)
    left, top = max(0, x1), max(0, y1)
    seen = cropped[top - y1 : max(0, size.height - y1), left - x1 : max(0, size.width - x1)]
    mask[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
    return mask


def _reaches_out(shape: dict[str, Any], size: Size) -> bool:
    """By more than the pixel that a hand is off at the picture's edge."""
    points = _points(shape)
    if shape.get("shape_type") == "circle":
        (x, y), radius = points[0], math.dist(*points)
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    return any(not (-1 <= x <= size.width + 1 and -1 <= y <= size.height + 1) for x, y in points)
