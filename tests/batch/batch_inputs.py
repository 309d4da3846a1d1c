"""Small inputs of batch jobs: drawn scenes, with expressions about them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet

from sam4mllm_tool.batch import BatchConfig, BatchSummary, run_job
from sam4mllm_tool.batch.job import LocalEngine
from sam4mllm_tool.batch.row_inputs import RowInput
from tests.trace.traced import embedded, scene

__all__ = ["SCENES", "list_outcomes", "make_config", "read_rows", "run_embedded", "save_scenes", "write_lines"]

SCENES = {"a.png": 300_000, "b.png": 300_001}


def save_scenes(folder: Path, side: int = 96) -> dict[str, list[str]]:
    """Save small scenes; return the expressions about each."""
    folder.mkdir(parents=True, exist_ok=True)
    expressions = {}
    for name, seed in SCENES.items():
        image, texts = scene(seed)
        image.resize((side, side)).save(folder / name)
        expressions[name] = texts[:2]
    return expressions


def write_lines(path: Path, rows: Sequence[Mapping[str, Any] | str]) -> Path:
    """Write JSON lines; a text is a line as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def make_config(source: Path | str, output: Path | str, *expressions: str, **settings: Any) -> BatchConfig:
    """Return a job of the embedded pair, method `box`, unless `settings` say otherwise."""
    inputs = RowInput(str(source), settings.pop("input_format", None), expressions)
    return BatchConfig(input=inputs, output=str(output), **{"method": "box", **settings})


def run_embedded(source: Path | str, output: Path | str, *expressions: str, **settings: Any) -> BatchSummary:
    """Run the job of `make_config` in this process, with the models that tests share."""
    return run_job(make_config(source, output, *expressions, **settings), LocalEngine(embedded))


def read_rows(output: Path) -> list[dict[str, Any]]:
    """Return all rows of all shards, in the order of their files."""
    tables = [pyarrow.parquet.read_table(path) for path in sorted(output.glob("part-*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def list_outcomes(output: Path) -> list[tuple[str, str, bool, str | None]]:
    """Return image, expression, whether there is a result, and the error of each row."""
    return [(row["image"], row["expression"], row["objects"] is not None, row["error"]) for row in read_rows(output)]
