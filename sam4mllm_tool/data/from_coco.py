"""COCO's instances with a column of expressions read into records.

An annotation says what it is in a field of its own, a text or a list of texts:

    {"id": 7, "image_id": 3, "segmentation": [[...]], "bbox": [...], "category_id": 1, "expression": "the cup on the left"}

Annotations of one picture with the same text are the objects of one expression.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.annotations import RegionError
from sam4mllm_tool.data.convert import Record, checked_size
from sam4mllm_tool.data.instances import Annotation, read_annotation
from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.data.reader import one_line
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Mask, Size

__all__ = ["COLUMNS", "read_coco"]

COLUMNS = ("expression", "caption", "text", "sentence")
"""Where the expression is looked for if no column is named: the first that an annotation has."""


@dataclass(frozen=True)
class _Picture:
    file_name: str
    size: Size
    said: dict[str, list[Annotation]] = field(default_factory=dict)


def read_coco(source: Path, problems: Problems, *, column: str = "", images: Path | None = None) -> Iterator[Record]:
    """A record per picture and expression, in the order of the pictures in the file.

    column: the annotation's field that holds the expression. images: the folder of the pictures; otherwise they are looked
    for beside the file, in images/ beside it, and so in the folder above. The json is streamed; outlines are held, masks not.
    An expression is dropped and counted, as a whole, where one of its objects can't be used (a crowd, an empty or malformed
    mask) or its picture can't be; so are annotations without an expression. Raises DataError where there are no annotations.
    """
    pictures = _read(source, column, problems)
    folders = (
        [images] if images else [above / place for above in (source.parent, source.parent.parent) for place in ("", "images")]
    )
    for picture in pictures.values():
        if not picture.said:
            continue
        path = next(
            (found for folder in folders if (found := folder / picture.file_name).is_file()), folders[0] / picture.file_name
        )
        size = checked_size(path, problems)
        if size is None:
            continue
        if size != picture.size:
            told = f"{path}, {size.width} x {size.height}, {source} says {picture.size.width} x {picture.size.height}"
            problems.add("dropped", "the picture is of another size than annotated", told)
            continue
        for expression, annotations in picture.said.items():
            where = f"{source}, {expression!r:.60}"
            try:
                yield Record(path, expression, tuple(_mask(annotation, size) for annotation in annotations), where)
            except RegionError as error:
                problems.add("dropped", error.what, f"{where} ({error.detail})")


def _read(source: Path, column: str, problems: Problems) -> Mapping[int, _Picture]:
    """The pictures with what is said of them. The annotations may come before the pictures."""
    pictures: dict[int, _Picture] = {}
    annotations = list[tuple[int, list[str], Annotation]]()
    for number, (key, record) in enumerate(stream_arrays(source)):
        try:
            if key == "images":
                size = Size(int(record["width"]), int(record["height"]))
                pictures[record["id"]] = _Picture(str(record["file_name"]), size)
            elif key == "annotations":
                annotation, said = read_annotation(record), _expressions(record, column)
                annotations.append((annotation.image_id, said, annotation))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            where = f"{source}, record {number}, of '{key}' ({type(error).__name__}: {error})"
            problems.add("dropped", "the record is malformed", where)
    if not annotations and not problems:
        raise DataError(f"{source} has no annotations: expected COCO's form, with 'images' and 'annotations'")
    for image_id, said, annotation in annotations:
        where = f"{source}, annotation {annotation.id}"
        if not said:
            problems.add("dropped", f"the annotation has no {column or ' or '.join(COLUMNS)}", where)
        elif image_id not in pictures:
            problems.add("dropped", "the annotation is of an image that the file doesn't have", where)
        else:
            for expression in said:
                pictures[image_id].said.setdefault(expression, []).append(annotation)
    return pictures


def _expressions(record: Mapping[str, Any], column: str) -> list[str]:
    told: Any = next((record[name] for name in ([column] if column else COLUMNS) if record.get(name)), [])
    texts = told if isinstance(told, list) else [told]
    return list(dict.fromkeys(text for text in map(one_line, texts) if text))


def _mask(annotation: Annotation, size: Size) -> Mask:
    """Raises RegionError where the annotation can't be used."""
    _, region = annotation.placed(size, Problems(), "")
    return region.mask(size)
