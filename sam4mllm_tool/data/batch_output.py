"""The folder that `sam4mllm batch` writes: the names of its files, and its results, read as predictions.

So models on a cluster are scored as those of one process are.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from sam4mllm_tool.errors import DataError, MissingExtraError
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.text import parse_json

__all__ = ["BATCH_MANIFEST_FILE", "SHARD_FILES", "SHARD_FORMATS", "ShardFormat", "iter_batch_results", "shard_name"]

ShardFormat = Literal["parquet", "coco"]
SHARD_FORMATS: tuple[ShardFormat, ...] = get_args(ShardFormat)
BATCH_MANIFEST_FILE = "_manifest.json"
"""There once all shards are."""
SHARD_FILES = "part-*"
"""The shards' files, as a pattern."""
_SUFFIXES: dict[ShardFormat, str] = {"parquet": "parquet", "coco": "json"}


def shard_name(shard: int, shard_format: ShardFormat) -> str:
    """Return the name of a shard's file."""
    return f"part-{shard:06d}.{_SUFFIXES[shard_format]}"


def iter_batch_results(folder: Path) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Yield the place, the sample's id and the union of the masks of each row that has a result; None where there is no object.

    Args:
        folder: The output of a job in Parquet. Rows with an error are skipped: their samples are misses.

    Raises:
        DataError: The job is not finished, or its files are no such results.
        MissingExtraError: pyarrow is not installed.
    """
    if not (folder / BATCH_MANIFEST_FILE).is_file():
        raise DataError(f"{folder} has no {BATCH_MANIFEST_FILE}: expected the output of a finished sam4mllm batch")
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError("pyarrow", "batch") from error
    paths = sorted(folder.glob(f"{SHARD_FILES}.parquet"))
    if not paths:
        raise DataError(f"{folder} has no Parquet files: run the job with --format parquet")
    for path in paths:
        try:
            rows = parquet.read_table(path, columns=["id", "objects", "error"]).to_pylist()
            for number, row in enumerate(rows):
                if row["error"] is None:
                    yield f"{path}, row {number}", row["id"], _unite(parse_json(row["objects"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged, or no result of sam4mllm batch: {error}") from error


def _unite(objects: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the RLE of the union of the objects' masks. Raises ValueError."""
    if len(objects) < 2:
        return objects[0]["mask"] if objects else None
    return dict(rle.encode(np.logical_or.reduce([rle.decode(each["mask"]) for each in objects])))
