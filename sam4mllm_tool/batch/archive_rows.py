"""Rows of files that hold images: Parquet, and tar files as WebDataset writes them. A row says where in the file its image is.

Of a Parquet file only the expressions and paths are read, of a tar file only the headers and texts.
"""

import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import PurePosixPath
from typing import IO, Any

from sam4mllm_tool.batch.planned_rows import PlannedRow, plan_expressions
from sam4mllm_tool.batch.storage import Storage, import_batch_library
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.text import parse_json

__all__ = ["IMAGE_KINDS", "PARQUET_OPTIONS", "read_parquet", "read_tar"]

IMAGE_KINDS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_TEXTS = ("txt", "json")
_MAX_TEXT = 2**20
PARQUET_OPTIONS = {"pre_buffer": False, "buffer_size": 2**20}
"""A row group is read in pieces, not as a whole: one of images may have gigabytes."""


# Parquet ------------------------------------------------------------------------------------------------------------


def read_parquet(storage: Storage, file: str, locate: Callable[[str], str], expressions: Sequence[str]) -> Iterator[PlannedRow]:
    """Yield the rows of a Parquet file with the columns `image`, `expression` and perhaps `id`.

    Args:
        storage: The file system.
        file: Its path there.
        locate: Makes the source of an image that is given by its path.
        expressions: Those of rows that have none; the column may be missing then.

    Raises:
        DataError: The file is damaged, or lacks a column.
    """
    parquet = import_batch_library("pyarrow.parquet")
    name = file.rpartition("/")[2]
    with storage.reading(file) as opened:
        table = parquet.ParquetFile(opened, **PARQUET_OPTIONS)
        schema = table.schema_arrow
        required = {"image"} if expressions else {"image", "expression"}
        if missing := required - set(schema.names):
            raise DataError(f"{name} has no column {' and no column '.join(sorted(missing))}; it has {', '.join(schema.names)}")
        has_paths = _is_text(schema.field("image").type)
        columns = [name for name in ("expression", "id", *(["image"] if has_paths else [])) if name in schema.names]
        number = 0
        for group in range(table.num_row_groups):
            index = 0
            for batch in table.iter_batches(batch_size=1024, row_groups=[group], columns=columns, use_threads=False):
                for record in batch.to_pylist():
                    place = {"parquet": storage.name_url(file), "group": group, "row": index}
                    row_id = record.get("id")
                    row = PlannedRow(place=f"row {number} of {name}", id="" if row_id is None else str(row_id)[:200])
                    located = _locate_image(row, record, place, locate if has_paths else None)
                    given = record.get("expression")
                    yield from plan_expressions(located, list(expressions) if given is None else given)
                    index, number = index + 1, number + 1


def _is_text(kind: Any) -> bool:
    types = import_batch_library("pyarrow.types")
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _locate_image(
    row: PlannedRow, record: dict[str, Any], place: dict[str, Any], locate: Callable[[str], str] | None
) -> PlannedRow:
    """Return the row with its image: in the file itself, or at the path that the file gives."""
    if locate is None:
        return replace(row, image=row.place, source=place)
    if not (image := record["image"]):
        return replace(row, error="DataError: the row names no image")
    return replace(row, image=image[:2000], source=locate(image))


# WebDataset ---------------------------------------------------------------------------------------------------------


def read_tar(storage: Storage, file: str, expressions: Sequence[str]) -> Iterator[PlannedRow]:
    """Yield the rows of a tar file: neighbouring members that are named alike up to the first dot are a sample.

    A sample has an image, as in `0001.jpg`, and its expressions: the lines of `0001.txt`, or `0001.json` with `expression` or
    `expressions`.

    Args:
        storage: The file system.
        file: The tar file, not compressed.
        expressions: Those of samples that have none.

    Raises:
        DataError: The file is damaged; the rows before the damage have been yielded by then.
    """
    name = file.rpartition("/")[2]
    with storage.reading(file) as opened, tarfile.open(fileobj=opened, mode="r:") as archive:
        members = ((member, *_split_name(member.name)) for member in _iter_members(archive, opened, name))
        for key, sample in groupby(members, key=lambda each: each[1]):
            by_kind = {kind: member for member, _, kind in sample if kind in (*IMAGE_KINDS, *_TEXTS)}
            yield from _plan_sample(key, by_kind, (archive, storage.name_url(file)), expressions)


def _iter_members(archive: tarfile.TarFile, opened: IO[bytes], name: str) -> Iterator[tarfile.TarInfo]:
    """Yield the members without keeping them. Raises DataError where the file doesn't end as it should."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # which keeps all
        if member.isreg():
            yield member
    opened.seek(archive.offset)
    if opened.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a damaged header for the end
        raise DataError(f"{name} is damaged at byte {archive.offset:,}: the rows from there on are missing")


def _split_name(name: str) -> tuple[str, str]:
    """Return a member's key and kind: `a/0001` and `jpg` of `a/0001.jpg`."""
    path = PurePosixPath(name)
    stem, _, kind = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, kind.lower()


def _plan_sample(
    key: str, members: dict[str, tarfile.TarInfo], archive: tuple[tarfile.TarFile, str], expressions: Sequence[str]
) -> Sequence[PlannedRow]:
    opened, url = archive
    place = f"{key} of {url.rpartition('/')[2]}"
    image = next((members[kind] for kind in IMAGE_KINDS if kind in members), None)
    if image is None:
        return [PlannedRow(place=place, id=key, error="DataError: the sample has no image")] if members else []
    source = {"tar": url, "offset": image.offset_data, "size": image.size}
    row = PlannedRow(place=place, image=image.name, source=source, id=key)
    return plan_expressions(row, _read_texts(opened, members) or list(expressions))


def _read_texts(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> list[Any]:
    """Return a sample's expressions; none where it has none that can be read."""
    for kind in _TEXTS:
        member = members.get(kind)
        content = archive.extractfile(member) if member is not None and member.size <= _MAX_TEXT else None
        if content is None:
            continue
        text = content.read().decode("utf-8", "replace")
        if kind == "txt":
            return [line for line in text.splitlines() if line.strip()]
        try:
            record = parse_json(text)
        except json.JSONDecodeError:
            continue
        values = record.get("expressions", record.get("expression")) if isinstance(record, dict) else None
        return values if isinstance(values, list) else [values] if values else []
    return []
