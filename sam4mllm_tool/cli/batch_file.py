"""What `sam4mllm segment` is to segment: pairs of an image and an expression, from its arguments or from a file.

A file has one pair per line, as JSON or CSV. A line that can't be used doesn't stop the others: it is a fault with its place.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sam4mllm_tool.cli.image_arguments import image_name, is_path
from sam4mllm_tool.errors import ExpressionError, Sam4MllmError, quote_text
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.text import parse_json

__all__ = ["BatchFault", "BatchItem", "pair_images", "read_batch"]

_MAX_NAME = 80
"""Characters of a result's name, which is a folder's."""


@dataclass(frozen=True)
class BatchItem:
    """One expression about one image.

    Attributes:
        image: The image as the user named it.
        source: The image as `open_image` takes it.
        expression: What to segment.
        name: Name of its result; unique, and usable as a folder's name.
        place: Where it stands, as in "line 3"; "" for the command's arguments.
    """

    image: str
    source: str
    expression: str
    name: str = ""
    place: str = ""

    def describe(self) -> str:
        """Return what to call the item in a message."""
        pair = f"{quote_text(self.expression)} in {quote_text(self.image)}"
        return f"{self.place}, {pair}" if self.place else pair


@dataclass(frozen=True)
class BatchFault:
    """A line that can't be used: its place, and why."""

    place: str
    reason: str


def pair_images(images: Iterable[str], expressions: Sequence[str]) -> list[BatchItem]:
    """Return every expression about every image. Raises ExpressionError."""
    valid = [validate_expression(expression) for expression in expressions]
    return _name_items([BatchItem(image, image, expression) for image in images for expression in valid])


def read_batch(path: Path) -> tuple[list[BatchItem], list[BatchFault]]:
    """Read the pairs of a file: CSV where its name ends in .csv, JSON lines otherwise.

    A line has `image`, `expression` and, if it likes, `name`. Relative paths of images start at the file's folder.

    Raises:
        Sam4MllmError: The file can't be read, or holds no line.
    """
    items: list[BatchItem] = []
    faults: list[BatchFault] = []
    places: dict[str, str] = {}
    for place, row in _read_rows(path):
        try:
            item = _read_item(row, path.parent, place)
            if item.name in places:
                raise ValueError(f"the name {quote_text(item.name)} is that of {places[item.name]}")
        except ValueError as error:
            faults.append(BatchFault(place, str(error)))
            continue
        places |= {item.name: place} if item.name else {}
        items.append(item)
    if not items and not faults:
        raise Sam4MllmError(f"the batch {quote_text(str(path))} is empty: expected lines with image and expression")
    return _name_items(items), faults


def _read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the place and the content of each line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Sam4MllmError(f"the batch {quote_text(str(path))} is not text in UTF-8") from error
    except OSError as error:
        reason = "it is a folder" if path.is_dir() else error.strerror or error
        raise Sam4MllmError(f"the batch {quote_text(str(path))} can't be read: {reason}") from error
    if path.suffix.lower() == ".csv":
        yield from _read_csv(path, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"line {number}", parse_json(line)
            except ValueError:
                yield f"line {number}", None


def _read_csv(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = [str(name).strip() for name in reader.fieldnames or ()]
        if columns and not {"image", "expression"} <= set(columns):
            raise Sam4MllmError(
                f"the first line of {quote_text(str(path))} must name the columns image, expression and, if you like, name; "
                f"it has {quote_text(', '.join(columns))}"
            )
        reader.fieldnames = columns
        for row in reader:
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise Sam4MllmError(f"the batch {quote_text(str(path))}, line {reader.line_num}, is not CSV: {error}") from error


def _read_item(row: Any, folder: Path, place: str) -> BatchItem:
    """Return the item of a line. Raises ValueError, whose message says what is wrong with it."""
    if not isinstance(row, Mapping):
        raise ValueError('expected JSON such as {"image": "photo.jpg", "expression": "the red mug"}')
    for key in ("image", "expression"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ValueError(f"it has no {key}")
    name = row.get("name") or ""
    if not isinstance(name, str) or name.strip(" .") != name or len(name) > _MAX_NAME or re.search(r"[/\\\x00-\x1f]", name):
        raise ValueError(
            f"the name {quote_text(str(name))} can't be a folder's: at most {_MAX_NAME} characters, without / and \\"
        )
    image = str(row["image"])
    source = str(folder / image.strip()) if is_path(image) else image
    try:
        return BatchItem(image, source, validate_expression(row["expression"]), name, place)
    except ExpressionError as error:
        raise ValueError(str(error)) from error


def _name_items(items: Sequence[BatchItem]) -> list[BatchItem]:
    """Give the items without a name one of their image and expression."""
    taken = {item.name for item in items}
    named = []
    for item in items:
        name = item.name
        if not name:
            stem = Path(image_name(item.image)).stem or "image"
            words = re.sub(r"[^\w]+", "-", f"{stem} {item.expression}".lower()).strip("-")[: _MAX_NAME - 8].strip("-")
            numbered = (words, *(f"{words}-{number}" for number in range(2, len(items) + 2)))
            name = next(candidate for candidate in numbered if candidate not in taken)
            taken.add(name)
        named.append(replace(item, name=name))
    return named
