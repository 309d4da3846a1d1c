"""Convert COCO's instances with a field of expressions.

Each annotation has its expression, a text or a list of texts, in a field of its own:

    {"id": 7, "image_id": 3, "segmentation": [[...]], "bbox": [...], "category_id": 1, "expression": "the cup on the left"}

Annotations of one image with the same text are the objects of one expression.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.annotations import RegionError
from sam4mllm_tool.data.convert import ExpressionRecord, measure_image
from sam4mllm_tool.data.instances import CocoAnnotation, read_annotation
from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.data.reader import normalize_expression
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Mask, Size

__all__ = ["read_coco", "read_expressions"]

_DEFAULT_COLUMNS = ("expression", "caption", "text", "sentence")


@dataclass(frozen=True)
class _ImageExpressions:
    """An image's record, and the annotations of each expression about it."""

    file_name: str
    size: Size
    expressions: dict[str, list[CocoAnnotation]] = field(default_factory=dict)


def read_coco(source: Path, problems: Problems, *, column: str = "", images: Path | None = None) -> Iterator[ExpressionRecord]:
    """Yield one record per image and expression, in the order of the images in the file.

    The file is streamed; outlines are kept in memory, masks are not. An expression is dropped as a whole where one of its
    objects can't be used (a crowd, an empty or malformed mask) or its image can't be.

    Args:
        source: The json.
        problems: Gets what is dropped.
        column: The annotations' field that holds the expression. The default is the first of expression, caption, text and
            sentence that an annotation has.
        images: The folder of the images. By default, they are searched beside the file, in images/ beside it, and in the same
            places of the parent folder.

    Raises:
        DataError: There are no annotations.
    """
    parents = (source.parent, source.parent.parent)
    folders = [images] if images else [parent / name for parent in parents for name in ("", "images")]
    for image in _read_images(source, column, problems).values():
        if not image.expressions:
            continue
        paths = [folder / image.file_name for folder in folders]
        path = next((path for path in paths if path.is_file()), paths[0])
        size = measure_image(path, problems)
        if size is None:
            continue
        if size != image.size:
            sizes = f"{size.width} x {size.height}, annotated as {image.size.width} x {image.size.height}"
            problems.add("dropped", "the image's size differs from the annotated size", f"{source}, {path}, {sizes}")
            continue
        for expression, annotations in image.expressions.items():
            where = f"{source}, {expression!r:.60}"
            try:
                masks = tuple(_decode_mask(annotation, size) for annotation in annotations)
            except RegionError as error:
                problems.add("dropped", error.what, where, error.detail)
            else:
                yield ExpressionRecord(path, expression, masks, where)


def _read_images(source: Path, column: str, problems: Problems) -> Mapping[int, _ImageExpressions]:
    """Read the images with their expressions. In the file, annotations may precede the images."""
    images: dict[int, _ImageExpressions] = {}
    annotations = list[tuple[list[str], CocoAnnotation]]()
    for key, record in stream_arrays(source, "images", "annotations"):
        try:
            if key == "images":
                size = Size(int(record["width"]), int(record["height"]))
                images[record["id"]] = _ImageExpressions(str(record["file_name"]), size)
            else:
                annotations.append((read_expressions(record, column), read_annotation(record)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            where = f"{source}, '{key}', record {record!r:.80}"
            problems.add("dropped", "the record is malformed", where, f"{type(error).__name__}: {error}")
    if not annotations and not problems:
        raise DataError(f"{source} has no annotations: expected COCO's form, with 'images' and 'annotations'")
    for expressions, annotation in annotations:
        where = f"{source}, annotation {annotation.id}"
        if not expressions:
            problems.add("dropped", f"the annotation has no {column or ' or '.join(_DEFAULT_COLUMNS)}", where)
        elif annotation.image_id not in images:
            problems.add("dropped", "the annotation's image is not in the file", where)
        else:
            for expression in expressions:
                images[annotation.image_id].expressions.setdefault(expression, []).append(annotation)
    return images


def read_expressions(record: Mapping[str, Any], column: str = "") -> list[str]:
    """Return the expressions of an annotation, each once: those of `column`, by default of the first usual field it has."""
    columns = [column] if column else _DEFAULT_COLUMNS
    value: Any = next((record[name] for name in columns if record.get(name)), [])
    texts = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(text for text in map(normalize_expression, texts) if text))


def _decode_mask(annotation: CocoAnnotation, size: Size) -> Mask:
    """Raises RegionError where the annotation can't be used."""
    _, region = annotation.resolve_object(size, Problems(), "")
    return region.mask(size)
