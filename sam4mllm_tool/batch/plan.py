"""The plan of a job: a line per row of the input, divided into shards of equally many rows.

It is made once, by reading the input from start to end without its images, and kept beside the results: `_plan.jsonl` has the
rows, `_batch.json` where each shard begins there, and what the results depend on. So a shard's rows are the same whoever asks
for them, also where the input is a stream, and a resumed job doesn't read the input again.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from tqdm import tqdm

from sam4mllm_tool.batch.planned_rows import PlannedRow
from sam4mllm_tool.batch.storage import Storage
from sam4mllm_tool.errors import DataError, quote_text
from sam4mllm_tool.text import parse_json

__all__ = ["BatchPlan", "read_plan", "require_settings", "write_plan"]

BATCH_FILE, PLAN_FILE = "_batch.json", "_plan.jsonl"
_FORMAT = 1


@dataclass(frozen=True)
class BatchPlan:
    """Which rows there are, and which shard each belongs to.

    Attributes:
        storage: The folder of the results.
        settings: What the results depend on, as plain JSON.
        rows: Number of rows.
        shard_rows: Rows per shard; the last one may have fewer.
        offsets: Where each shard begins in the file of the plan, in bytes, and where the last one ends.
    """

    storage: Storage
    settings: Mapping[str, Any]
    rows: int
    shard_rows: int
    offsets: tuple[int, ...]

    @property
    def shards(self) -> range:
        """The numbers of the shards."""
        return range(len(self.offsets) - 1)

    def count_rows(self, shard: int) -> int:
        """Return how many rows a shard has."""
        return min(self.shard_rows, self.rows - shard * self.shard_rows)

    def read_rows(self, shard: int) -> list[PlannedRow]:
        """Return a shard's rows, in order. Raises DataError."""
        lines = self.storage.read(PLAN_FILE, self.offsets[shard], self.offsets[shard + 1]).splitlines()
        try:
            rows = [PlannedRow.from_line(line) for line in lines]
        except (ValueError, TypeError) as error:
            raise self._damage() from error
        if len(rows) != self.count_rows(shard):
            raise self._damage()
        return rows

    def _damage(self) -> DataError:
        return DataError(f"{quote_text(f'{self.storage.url}/{PLAN_FILE}')} is damaged: choose another output")


def write_plan(storage: Storage, rows: Iterable[PlannedRow], shard_rows: int, settings: Mapping[str, Any]) -> BatchPlan:
    """Number the rows and write the plan; memory holds one shard's rows.

    Raises:
        DataError: The input has no rows, or the folder can't be written to.
    """
    rest = iter(tqdm(rows, desc="plan", unit="row", delay=3, leave=False, disable=None))
    count, offset, offsets = 0, 0, [0]
    with storage.writing(PLAN_FILE) as file:
        while lines := [replace(row, row=count + index).to_line() for index, row in enumerate(islice(rest, shard_rows))]:
            count += len(lines)
            offset += file.write(b"".join(lines))
            offsets.append(offset)
        if not count:
            raise DataError(f"{quote_text(str(settings.get('input')))} has no rows: there is nothing to segment")
    record = {"format": _FORMAT, "settings": settings, "rows": count, "shard_rows": shard_rows, "offsets": offsets}
    storage.write(BATCH_FILE, json.dumps(record).encode())
    return BatchPlan(storage, settings, count, shard_rows, tuple(offsets))


def read_plan(storage: Storage) -> BatchPlan | None:
    """Return the plan of the job whose folder this is; None if there is none yet.

    Raises:
        DataError: The plan is damaged, or another version's.
    """
    if not storage.has(BATCH_FILE):
        return None
    try:
        record = parse_json(storage.read(BATCH_FILE))
        if record["format"] != _FORMAT:
            raise ValueError(f"format {record['format']}")
        offsets = tuple(map(int, record["offsets"]))
        return BatchPlan(storage, dict(record["settings"]), int(record["rows"]), int(record["shard_rows"]), offsets)
    except (ValueError, KeyError, TypeError) as error:
        url = quote_text(f"{storage.url}/{BATCH_FILE}")
        raise DataError(f"{url} is damaged, or of another version: choose another output") from error


def require_settings(plan: BatchPlan, settings: Mapping[str, Any]) -> None:
    """Refuse to go on with a job of other settings. Raises DataError that names them."""
    before = plan.settings
    names = sorted(name for name in {**before, **settings} if before.get(name) != settings.get(name))
    if names:
        changes = "; ".join(f"{name}: {before.get(name)} there, {settings.get(name)} now" for name in names)
        raise DataError(f"{quote_text(plan.storage.url)} holds results of other settings ({changes}): choose another output")
