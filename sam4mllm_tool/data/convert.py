"""People's own data written as our JSONL, the format of `embedded/files.py`.

A converter reads one format into `Record`s, an expression about a picture each: COCO instances with a column of expressions
(from_coco), LabelMe (from_labelme), a folder of pictures, masks and texts (from_folder). Here they are checked, counted and
written. What can't be used is dropped and told; what is good is kept; a file appears only once it is whole.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.embedded.files import SCENES_FILE
from sam4mllm_tool.errors import DataError, ExpressionError, ImageError
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.boxes import mask_to_box
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.types import Mask, Size

__all__ = ["IMAGES_FOLDER", "Record", "Written", "checked_size", "read_json", "write_records"]

IMAGES_FOLDER = "images"
"""Beside the lines, for the pictures that are copied."""
EMPTY = "the mask is empty"
OUTSIDE = "the shape reaches outside the picture"


@dataclass(frozen=True, eq=False)
class Record:
    """An expression about a picture.

    masks: (H, W) bool on the upright picture, one an object; none: there is no such object. where: the file and the record
    it came from, for a message.
    """

    image: Path
    expression: str
    masks: tuple[Mask, ...]
    where: str


@dataclass
class Written:
    """What was written where. absent: expressions of which there is no such object."""

    path: Path
    expressions: int = 0
    objects: int = 0
    absent: int = 0
    pictures: set[Path] = field(default_factory=set)

    def summary(self) -> str:
        """In a line for a person."""
        absent = f", {self.absent:,} of them with no such object" if self.absent else ""
        counts = f"{self.expressions:,} expressions{absent}, {self.objects:,} objects, {len(self.pictures):,} pictures"
        return f"wrote {self.path}: {counts}"


def checked_size(path: Path, problems: Problems) -> Size | None:
    """The size of the upright picture, decoded once to see that it is whole; None where it can't be used, which is counted."""
    try:
        return Size(*load_image(path).size)
    except ImageError as error:
        problems.add("dropped", "the picture can't be read" if path.exists() else "the picture is not there", str(error))
        return None


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises DataError naming it where it can't be read, or is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # no JSON, or no text at all
        raise DataError(f"{path} is not JSON: {error}") from error


def write_records(records: Iterable[Record], out: Path, problems: Problems, *, copy: bool = False) -> Written:
    """Writes a line per record; returns what was written.

    out: a file that ends in .jsonl, or the folder in which to write scenes.jsonl. copy: puts the pictures into images/ beside
    it; otherwise the lines name them where they lie, by a path relative to the file.
    Records with an empty expression, or an empty mask among theirs, are dropped and counted in problems. Raises DataError
    where nothing is left to write or the disk does not take it; then no file is left behind.
    """
    whole = out if out.suffix == ".jsonl" else out / SCENES_FILE
    if whole != out and out.exists() and not out.is_dir():
        raise DataError(f"{out} is neither a folder nor a file that ends in .jsonl, which are expected")
    beside = whole.with_name(f".{whole.name}.{os.getpid()}.part")
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        try:
            written = _write(_checked(records, problems), beside, whole, copy)
            if not written.expressions:
                raise DataError(_nothing(problems))
            beside.replace(whole)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{error.filename or whole} can't be written: {error.strerror or error}; nothing was kept") from error
    return written


def _write(records: Iterable[Record], beside: Path, whole: Path, copy: bool) -> Written:
    """Writes the lines of `whole` beside it. Raises OSError."""
    written, pictures = Written(whole), _Pictures(whole.parent, copy)
    # A file name may hold bytes that are no text; they are kept as escapes, which JSON reads back.
    with beside.open("w", encoding="utf-8", errors="backslashreplace") as lines:
        for record in tqdm(records, desc="converting", unit="expression"):
            lines.write(json.dumps(_line(record, pictures.name(record.image)), ensure_ascii=False) + "\n")
            written.expressions += 1
            written.objects += len(record.masks)
            written.absent += not record.masks
            written.pictures.add(record.image)
    return written


def _nothing(problems: Problems) -> str:
    told = f"; {len(problems.first)} were told first: {'; '.join(problems.first[:3])}" if problems else ""
    return f"there is nothing to convert, no file was written{told}"


def _checked(records: Iterable[Record], problems: Problems) -> Iterator[Record]:
    """Those that can be written, with tidy expressions; the objects from left to right."""
    for record in records:
        try:
            expression = validate_expression(record.expression)
        except ExpressionError as error:
            problems.add("dropped", "the expression is empty or too long", f"{record.where}: {error}")
            continue
        if not all(mask.any() for mask in record.masks):  # which does not say that there is no such object
            problems.add("dropped", EMPTY, record.where)
            continue
        yield Record(record.image, expression, tuple(sorted(record.masks, key=mask_to_box)), record.where)


def _line(record: Record, image: str) -> dict[str, Any]:
    objects = [{"box": list(mask_to_box(mask)), "mask": rle.encode(mask)} for mask in record.masks]
    return {"image": image, "expression": record.expression, "kind": "", "objects": objects}


class _Pictures:
    """How the lines name the pictures, and their copies."""

    def __init__(self, folder: Path, copy: bool) -> None:
        self._folder, self._copy = folder, copy
        self._names: dict[Path, str] = {}
        self._taken: set[str] = set()

    def name(self, image: Path) -> str:
        """Relative to the folder, with forward slashes; copies the picture at first sight. Raises OSError."""
        if image not in self._names:
            self._names[image] = self._copied(image) if self._copy else _relative(image, self._folder)
        return self._names[image]

    def _copied(self, image: Path) -> str:
        name, number = image.name, 1
        while name.lower() in self._taken:  # another picture of the same name, from another folder
            number += 1
            name = f"{image.stem}-{number}{image.suffix}"
        self._taken.add(name.lower())
        target = self._folder / IMAGES_FOLDER / name
        if not (target.exists() and target.samefile(image)):
            target.parent.mkdir(exist_ok=True)
            beside = target.with_name(f".{name}.{os.getpid()}.part")
            try:
                shutil.copyfile(image, beside)
                beside.replace(target)
            finally:
                beside.unlink(missing_ok=True)
        return f"{IMAGES_FOLDER}/{name}"


def _relative(image: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(image.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return image.resolve().as_posix()
