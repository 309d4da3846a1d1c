"""What a job may be given: JSON lines, COCO, Parquet, WebDataset's tar files, or a folder of images and a list of expressions.

Reading gives the rows in order without opening an image. What can't be used is a row with an error, so that nothing is lost; a
file that can't be opened at all is one such row.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sam4mllm_tool.batch.archive_rows import IMAGE_KINDS, read_parquet, read_tar
from sam4mllm_tool.batch.planned_rows import PlannedRow, plan_expressions
from sam4mllm_tool.batch.storage import Storage, open_storage
from sam4mllm_tool.data.from_coco import read_expressions
from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.errors import DataError, quote_text
from sam4mllm_tool.text import parse_json

__all__ = ["INPUT_FORMATS", "InputFormat", "RowInput"]

InputFormat = Literal["jsonl", "coco", "parquet", "webdataset", "folder"]
INPUT_FORMATS: tuple[InputFormat, ...] = get_args(InputFormat)
_SUFFIXES: dict[InputFormat, tuple[str, ...]] = {
    "parquet": (".parquet", ".pq"),
    "webdataset": (".tar",),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"),
    "coco": (".json",),
}
_IMAGE_SUFFIXES = tuple(f".{kind}" for kind in IMAGE_KINDS)


@dataclass(frozen=True)
class RowInput:
    """The input of a job.

    Attributes:
        url: A file, a folder or a pattern such as `data/*.tar`; a path, or a URL that fsspec knows.
        format: What it holds; None to tell by the names.
        expressions: What to segment in each image of a folder, and in images that other inputs name without an expression.
        images: The folder that relative paths of images start at; by default that of the file which names them.
    """

    url: str
    format: InputFormat | None = None
    expressions: tuple[str, ...] = ()
    images: str | None = None

    def read(self) -> Iterator[PlannedRow]:
        """Yield the rows, not numbered yet.

        Raises:
            DataError: There is no such input, or its format can't be told.
            MissingExtraError: A library is not installed.
        """
        storage = open_storage(self.url)
        files = _list_files(storage, self.format)
        chosen = self.format or _tell_format(storage, files)
        if chosen == "folder":
            return self._read_folder(storage)
        if not files:
            raise DataError(f"{quote_text(self.url)} holds no file of the format {chosen}")
        if self.format is None and self.expressions and _holds_images(storage):
            raise DataError(
                f"{quote_text(self.url)} holds images and {files[0].rpartition('/')[2]}: "
                f"give --input-format folder for the images, or {chosen} for the rows of that file"
            )
        return (row for file in files for row in self._read_file(storage, file, chosen))

    def _read_file(self, storage: Storage, file: str, chosen: InputFormat) -> Iterator[PlannedRow]:
        readers: dict[InputFormat, Callable[[Storage, str], Iterator[PlannedRow]]] = {
            "jsonl": self._read_lines,
            "coco": self._read_coco,
            "parquet": lambda storage, file: read_parquet(storage, file, self._locate(storage, file), self.expressions),
            "webdataset": lambda storage, file: read_tar(storage, file, self.expressions),
        }
        name = file.rpartition("/")[2]
        try:
            yield from readers[chosen](storage, file)
        except DataError as error:
            yield PlannedRow(place=name, error=f"DataError: {error}")

    def _locate(self, storage: Storage, file: str) -> Callable[[str], str]:
        """Return what makes the source of an image that a file names."""
        folder = storage.name_url(file.rpartition("/")[0]) if self.images is None else self.images.rstrip("/")
        return lambda image: image if _is_absolute(image) else f"{folder}/{image}"

    def _read_lines(self, storage: Storage, file: str) -> Iterator[PlannedRow]:
        name, locate = file.rpartition("/")[2], self._locate(storage, file)
        with storage.reading(file, compression="infer") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row, expressions = _read_line(line.removeprefix(b"\xef\xbb\xbf"), number, name, locate)
                    yield from plan_expressions(row, list(self.expressions) if expressions is None else expressions)

    def _read_coco(self, storage: Storage, file: str) -> Iterator[PlannedRow]:
        """Yield a row per image and expression; images without any have the job's."""
        name, locate = file.rpartition("/")[2], self._locate(storage, file)
        images: dict[Any, tuple[str, dict[str, None]]] = {}
        annotations: list[tuple[Any, list[str]]] = []
        with _local_copy(storage, file) as path:
            for key, record in stream_arrays(path, "images", "annotations"):
                if key == "images" and isinstance(record, dict):
                    images[record.get("id")] = str(record.get("file_name", "")), {}
                elif isinstance(record, dict):
                    annotations.append((record.get("image_id"), read_expressions(record)))
        for image_id, texts in annotations:
            if image_id in images:
                images[image_id][1].update(dict.fromkeys(texts))
        for image_id, (image, expressions) in images.items():
            row = PlannedRow(place=f"image {image_id} of {name}", image=image, source=locate(image))
            yield from plan_expressions(row, list(expressions or self.expressions))

    def _read_folder(self, storage: Storage) -> Iterator[PlannedRow]:
        if not self.expressions:
            raise DataError(f"{quote_text(self.url)} is a folder of images: say what to segment in them with --expression")
        if not storage.fs.isdir(storage.path):
            raise DataError(f"{quote_text(self.url)} is not a folder")
        for path in sorted(storage.fs.find(storage.path)):
            if path.lower().endswith(_IMAGE_SUFFIXES):
                image = path[len(storage.path) :].lstrip("/")
                row = PlannedRow(place=image, image=image, source=storage.name_url(path))
                yield from plan_expressions(row, list(self.expressions))


def _list_files(storage: Storage, chosen: InputFormat | None) -> list[str]:
    """Return the files that a path, a pattern or a folder names, by name; of a folder those of the format alone."""
    fs, path = storage.fs, storage.path
    if any(character in path for character in "*?[") and not fs.exists(path):
        files = sorted(map(str, fs.glob(path)))
        if not files:
            raise DataError(f"no file is named like {quote_text(storage.url)}")
        return files
    if fs.isfile(path):
        return [path]
    if not fs.exists(path):
        raise DataError(f"{quote_text(storage.url)} does not exist")
    names = sorted(str(name) for name in fs.ls(path, detail=False))
    for kind, suffixes in _SUFFIXES.items():
        if chosen in (None, kind) and (files := [name for name in names if name.lower().endswith(suffixes)]):
            return files if kind != "coco" or chosen == "coco" else []
    return []


def _holds_images(storage: Storage) -> bool:
    """Whether the storage is a folder that has images in it, not counting folders below."""
    fs, path = storage.fs, storage.path
    return fs.isdir(path) and any(str(name).lower().endswith(_IMAGE_SUFFIXES) for name in fs.ls(path, detail=False))


def _tell_format(storage: Storage, files: Sequence[str]) -> InputFormat:
    if not files:
        return "folder"
    for kind, suffixes in _SUFFIXES.items():
        if all(file.lower().endswith(suffixes) for file in files):
            return kind
    formats = ", ".join(INPUT_FORMATS)
    raise DataError(f"the format of {quote_text(storage.url)} can't be told by its name: give --input-format, one of {formats}")


def _read_line(line: bytes, number: int, file: str, locate: Callable[[str], str]) -> tuple[PlannedRow, object]:
    """Return the image of a line, and what is to be segmented in it; None where the line doesn't say."""
    place = f"line {number} of {file}"
    try:
        record = parse_json(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        example = '{"image": "photo.jpg", "expression": "the red mug"}'
        return PlannedRow(place=place, error=f"DataError: expected JSON such as {example}"), None
    image = record.get("image")
    row_id = str(record.get("id", record.get("name", f"jsonl-{number}")))[:200]  # as that of a dataset's sample
    row = PlannedRow(place=place, image=image if isinstance(image, str) else "", id=row_id)
    if not row.image.strip():
        return PlannedRow(place=place, id=row.id, error="DataError: the line names no image"), None
    located = PlannedRow(place=place, image=row.image[:2000], source=locate(row.image), id=row.id)
    return located, record.get("expression")


def _is_absolute(image: str) -> bool:
    return image.startswith("/") or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", image) is not None


@contextmanager
def _local_copy(storage: Storage, file: str) -> Iterator[Path]:
    """Yield a file's path on this machine: its own, or that of a copy which is removed in the end."""
    if storage.is_local:
        yield Path(file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy.json"
        with storage.reading(file) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
        yield path
