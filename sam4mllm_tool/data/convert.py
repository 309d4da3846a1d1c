"""Write users' own data in the project's JSONL format, which `jsonl.py` describes.

A converter reads one format into `ExpressionRecord`s: COCO instances with a column of expressions (from_coco), LabelMe
(from_labelme), or a folder of images, masks and texts (from_folder). This module validates, counts and writes them. Records
that can't be used are dropped and reported, the others are kept; the file appears only once it is complete.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sam4mllm_tool.atomic_io import atomic_path, file_sha256, require_new_file
from sam4mllm_tool.data.jsonl import JSONL_FILE
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.errors import DataError, ExpressionError, ImageError, count_noun
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.boxes import mask_to_box
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.types import Mask, Size

__all__ = ["ConversionSummary", "ExpressionRecord", "measure_image", "write_records"]

_IMAGES_FOLDER = "images"
"""Beside the JSONL file, for images that are copied."""


@dataclass(frozen=True, eq=False)
class ExpressionRecord:
    """An expression about an image.

    Attributes:
        image: The image's file.
        expression: The referring expression.
        masks: One (H, W) bool mask per object, on the upright image; none where there is no such object.
        where: The file and the record that it was read from, for messages.
    """

    image: Path
    expression: str
    masks: tuple[Mask, ...]
    where: str


@dataclass
class ConversionSummary:
    """The file that was written, and its counts. `absent` counts the expressions without an object."""

    path: Path
    expressions: int = 0
    objects: int = 0
    absent: int = 0
    images: set[Path] = field(default_factory=set)

    def add(self, record: ExpressionRecord) -> None:
        """Count a record."""
        self.expressions += 1
        self.objects += len(record.masks)
        self.absent += not record.masks
        self.images.add(record.image)

    def summary(self) -> str:
        """Return one line for people."""
        absent = f" ({self.absent:,} with no such object)" if self.absent else ""
        counts = [(self.expressions, "expression"), (self.objects, "object"), (len(self.images), "image")]
        first, *others = (count_noun(count, noun) for count, noun in counts)
        return f"wrote {self.path}: {', '.join([first + absent, *others])}"


def measure_image(path: Path, problems: Problems) -> Size | None:
    """Decode the image to check it and return its upright size; None where it can't be used, which is counted."""
    try:
        return Size(*load_image(path).size)
    except ImageError as error:
        problems.add("dropped", "the image can't be read" if path.exists() else "the image does not exist", str(error))
        return None


def write_records(
    records: Iterable[ExpressionRecord], out: Path, problems: Problems, *, copy: bool = False, overwrite: bool = False
) -> ConversionSummary:
    """Write one line per record. Records with an empty expression or an empty mask are dropped and counted.

    Args:
        records: What to write.
        out: A file that ends in .jsonl, or the folder in which to write scenes.jsonl.
        problems: Gets the records that are dropped.
        copy: Copy the images to images/ beside the file, where no other file is replaced. By default, the lines refer to them
            by a path relative to the file.
        overwrite: Replace a JSONL file that exists.

    Raises:
        DataError: There is no record to write, the file exists, or writing fails; no file is left behind.
    """
    path = out if out.suffix == ".jsonl" else out / JSONL_FILE
    if path != out and out.exists() and not out.is_dir():
        raise DataError(f"{out} is neither a folder nor a file that ends in .jsonl")
    require_new_file(path, overwrite=overwrite)
    summary, namer = ConversionSummary(path), _ImageNamer(path.parent, copy)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Bytes of a file name that are not UTF-8 are kept as escapes, which JSON reads back.
        with atomic_path(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as lines:
            for record in tqdm(_validate(records, problems), desc="converting", unit="expression", disable=None):
                lines.write(json.dumps(_line(record, namer.name(record.image)), ensure_ascii=False) + "\n")
                summary.add(record)
            if not summary.expressions:
                raise DataError("; ".join(["no record can be converted, no file was written", *problems.first[:3]]))
    except OSError as error:
        raise DataError(f"{error.filename or path} can't be written: {error.strerror or error}; nothing was kept") from error
    return summary


def _validate(records: Iterable[ExpressionRecord], problems: Problems) -> Iterator[ExpressionRecord]:
    """Yield the valid records with normalized expressions and their objects from left to right."""
    for record in records:
        try:
            expression = validate_expression(record.expression)
        except ExpressionError as error:
            problems.add("dropped", "the expression is empty or too long", f"{record.where}: {error}")
            continue
        if not all(mask.any() for mask in record.masks):  # which doesn't mean that there is no such object
            problems.add("dropped", "the mask is empty", record.where)
            continue
        yield replace(record, expression=expression, masks=tuple(sorted(record.masks, key=mask_to_box)))


def _line(record: ExpressionRecord, image: str) -> dict[str, Any]:
    objects = [{"box": list(mask_to_box(mask)), "mask": rle.encode(mask)} for mask in record.masks]
    return {"image": image, "expression": record.expression, "kind": "", "objects": objects}


class _ImageNamer:
    """Gives the images the names by which lines refer to them, and copies them if wanted."""

    def __init__(self, folder: Path, copy: bool) -> None:
        self._folder, self._copy = folder, copy
        self._names: dict[Path, str] = {}
        self._taken: set[str] = set()

    def name(self, image: Path) -> str:
        """Return the name relative to the folder, with forward slashes. Raises OSError where copying fails."""
        if image not in self._names:
            self._names[image] = self._copy_image(image) if self._copy else _relative_path(image, self._folder)
        return self._names[image]

    def _copy_image(self, image: Path) -> str:
        name, number = image.name, 1
        while name.lower() in self._taken or self._is_other(image, name):  # an image of the same name from another folder
            number += 1
            name = f"{image.stem}-{number}{image.suffix}"
        self._taken.add(name.lower())
        target = self._folder / _IMAGES_FOLDER / name
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            with atomic_path(target) as part:
                shutil.copyfile(image, part)
        return f"{_IMAGES_FOLDER}/{name}"

    def _is_other(self, image: Path, name: str) -> bool:
        """Whether the folder has another image of this name, which must not be replaced."""
        target = self._folder / _IMAGES_FOLDER / name
        return target.exists() and not target.samefile(image) and file_sha256(target) != file_sha256(image)


def _relative_path(image: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(image.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return image.resolve().as_posix()
