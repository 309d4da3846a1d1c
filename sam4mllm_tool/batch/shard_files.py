"""The file of a shard: Parquet or COCO, the same bytes for the same results.

Nothing of a file depends on when or where it was made, so timings are not in it.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sam4mllm_tool.batch.planned_rows import PlannedRow
from sam4mllm_tool.batch.storage import Storage, import_batch_library
from sam4mllm_tool.data.batch_output import ShardFormat
from sam4mllm_tool.errors import DataError, Sam4MllmError
from sam4mllm_tool.images.annotation_formats import to_coco
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.types import Segmentation

__all__ = [
    "ShardCounts",
    "ShardFile",
    "describe_error",
    "new_shard_file",
    "read_counts",
]

_METADATA = b"sam4mllm"
_OBJECTS_PER_ROW = 2**16
"""Ids of annotations are unique over all shards: this times the row's number, and on."""


@dataclass(frozen=True)
class ShardCounts:
    """How many rows a shard has, and how many of them have an error."""

    rows: int
    errors: int


class ShardFile(Protocol):
    """Collects the outcomes of a shard's rows, in any order, without their masks' pixels."""

    def add(self, row: PlannedRow, outcome: Segmentation | str) -> None:
        """Add a row's result, or the text of its error."""

    def encode(self) -> bytes:
        """Return the file, its rows in the input's order."""


def describe_error(error: Sam4MllmError) -> str:
    """Return the text of a row's error: its kind, and what is wrong, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def new_shard_file(shard_format: ShardFormat) -> ShardFile:
    """Return an empty file. Raises MissingExtraError."""
    return _ParquetShard() if shard_format == "parquet" else _CocoShard()


def read_counts(storage: Storage, name: str) -> ShardCounts:
    """Read what a shard's file says of itself. Raises DataError where it is damaged."""
    try:
        if name.endswith(".parquet"):
            parquet = import_batch_library("pyarrow.parquet")
            with storage.reading(f"{storage.path}/{name}") as opened:
                counts = parse_json(parquet.read_metadata(opened).metadata[_METADATA])
        else:
            counts = parse_json(storage.read(name))["info"]
        return ShardCounts(int(counts["rows"]), int(counts["errors"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{storage.url}/{name} is damaged: remove it, and run the same command again") from error


# Parquet ------------------------------------------------------------------------------------------------------------


@dataclass
class _ParquetShard:
    _records: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, row: PlannedRow, outcome: Segmentation | str) -> None:
        record: dict[str, Any] = {name: getattr(row, name) for name in ("row", "id", "place", "image", "expression")}
        if isinstance(outcome, str):
            record["error"] = outcome
        else:
            record |= {
                "width": outcome.size.width,
                "height": outcome.size.height,
                "objects": json.dumps([segmented.to_dict() for segmented in outcome.objects]),
                "confidence": outcome.confidence,
                "abstained": outcome.abstained,
                "warnings": list(outcome.warnings),
            }
        self._records[row.row] = record

    def encode(self) -> bytes:
        arrow, parquet = import_batch_library("pyarrow"), import_batch_library("pyarrow.parquet")
        records = [self._records[row] for row in sorted(self._records)]
        counts = {"rows": len(records), "errors": sum("error" in record for record in records)}
        fields = [
            *(("row", arrow.int64()), ("id", arrow.string()), ("place", arrow.string())),
            *(("image", arrow.string()), ("expression", arrow.string()), ("width", arrow.int32()), ("height", arrow.int32())),
            *(("objects", arrow.string()), ("confidence", arrow.float64()), ("abstained", arrow.bool_())),
            *(("warnings", arrow.list_(arrow.string())), ("error", arrow.string())),
        ]
        schema = arrow.schema(fields, metadata={_METADATA: json.dumps(counts).encode()})
        content = io.BytesIO()
        parquet.write_table(arrow.Table.from_pylist(records, schema), content, compression="zstd")
        return content.getvalue()


# COCO ---------------------------------------------------------------------------------------------------------------


@dataclass
class _CocoShard:
    """`rows` lists every row: those without objects and those with an error have no annotation that would show them."""

    _images: dict[str, dict[str, Any]] = field(default_factory=dict)
    _annotations: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    _rows: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, row: PlannedRow, outcome: Segmentation | str) -> None:
        values = {name: getattr(row, name) for name in ("row", "id", "place", "image", "expression")}
        if isinstance(outcome, str):
            self._rows[row.row] = {**values, "image_id": None, "error": outcome}
            return
        size = {"width": outcome.size.width, "height": outcome.size.height}
        image = self._images.setdefault(json.dumps(row.source), {"id": row.row + 1, "file_name": row.image, **size})
        self._rows[row.row] = {**values, "image_id": image["id"], "error": None}
        self._annotations[row.row] = [
            annotation
            | {"id": row.row * _OBJECTS_PER_ROW + annotation["id"], "image_id": image["id"], "category_id": 1}
            | {"expression": row.expression}
            for annotation in to_coco(outcome)["annotations"]
        ]

    def encode(self) -> bytes:
        order = sorted(self._rows)
        rows = [self._rows[row] for row in order]
        content: Mapping[str, Any] = {
            "info": {"rows": len(rows), "errors": sum(row["error"] is not None for row in rows)},
            "images": sorted(self._images.values(), key=lambda image: int(image["id"])),
            "annotations": [annotation for row in order for annotation in self._annotations.get(row, ())],
            "categories": [{"id": 1, "name": "object", "supercategory": ""}],
            "rows": rows,
        }
        return json.dumps(content).encode()
