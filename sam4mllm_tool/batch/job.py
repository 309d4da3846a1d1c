"""Run a job: plan it, hand the shards that are missing to an engine, and write the manifest once all are there."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from sam4mllm_tool import __version__
from sam4mllm_tool.batch.batch_config import BatchConfig
from sam4mllm_tool.batch.plan import BatchPlan, read_plan, require_settings, write_plan
from sam4mllm_tool.batch.progress_report import ProgressReport
from sam4mllm_tool.batch.shard_files import ShardCounts, read_counts
from sam4mllm_tool.batch.shard_worker import ShardReport, ShardWorker
from sam4mllm_tool.batch.storage import Storage, open_storage
from sam4mllm_tool.data.batch_output import BATCH_MANIFEST_FILE, shard_name
from sam4mllm_tool.errors import DataError, count_noun
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

__all__ = ["BatchSummary", "Engine", "LocalEngine", "run_job"]

_PRINTED_ERRORS = 20
_READERS = 16
"""Files of an object store that are read at a time."""


class Engine(Protocol):
    """Hands shards to workers."""

    def work(self, config: BatchConfig, shards: Sequence[int], on_row: Callable[[], None]) -> Iterator[ShardReport]:
        """Work off the shards, in any order, and yield what became of each.

        Args:
            config: The job, whose plan is written.
            shards: Their numbers.
            on_row: Called after each row where the engine knows of it; otherwise rows count when their shard is done.

        Raises:
            Sam4MllmError: The work can't go on.
        """

    @property
    def counts_rows(self) -> bool:
        """Whether `work` calls `on_row`."""


class LocalEngine:
    """Works off the shards in this process, one after another.

    Args:
        load: Loads the models; by default as the job says.
    """

    counts_rows = True

    def __init__(self, load: Callable[[], Sam4Mllm] | None = None) -> None:
        self._load = load

    def work(self, config: BatchConfig, shards: Sequence[int], on_row: Callable[[], None]) -> Iterator[ShardReport]:
        """Do as `Engine.work` says."""
        worker = ShardWorker(config, self._load() if self._load else None)
        for shard in shards:
            yield worker.work(shard, on_row)


@dataclass(frozen=True)
class BatchSummary:
    """What became of a job.

    Attributes:
        rows: How many rows the input has.
        errors: How many of them have an error.
        manifest: The manifest's URL.
    """

    rows: int
    errors: int
    manifest: str


def run_job(
    config: BatchConfig,
    engine: Engine | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> BatchSummary:
    """Segment all rows, or go on where an earlier run with these settings was interrupted.

    Args:
        config: The job.
        engine: Who does the work; by default this process.
        say: Gets lines about the progress, the first errors and warnings.

    Raises:
        DataError: The input has no rows or can't be read, or the output can't be written, or holds other results.
        SpecError, MissingExtraError: The models, or a library, can't be loaded.
        BackendError: The models fail at every row. What is done stays.
    """
    engine, config = engine or LocalEngine(), config.resolve()
    storage = open_storage(config.output)
    plan = _prepare_plan(storage, config, say)
    there = storage.list_sizes()
    missing = [shard for shard in plan.shards if shard_name(shard, config.format) not in there]
    done = plan.rows - sum(map(plan.count_rows, missing))
    if done:
        say(f"{done:,} of {count_noun(plan.rows, 'row')} are done already")
    counts = _work(engine, config, plan, missing, say) if missing else {}
    return _finish(storage, config, plan, counts)


def _prepare_plan(storage: Storage, config: BatchConfig, say: Callable[[str], None]) -> BatchPlan:
    settings = config.describe()
    plan = read_plan(storage)
    if plan is not None:
        require_settings(plan, settings)
        return plan
    plan = write_plan(storage, config.input.read(), config.shard_rows, settings)
    say(f"planned {count_noun(plan.rows, 'row')} in {count_noun(len(plan.shards), 'shard')}")
    return plan


def _work(
    engine: Engine, config: BatchConfig, plan: BatchPlan, missing: Sequence[int], say: Callable[[str], None]
) -> dict[int, ShardCounts]:
    """Have the shards worked off, say how that goes, and return what became of each."""
    counts: dict[int, ShardCounts] = {}
    progress = ProgressReport(plan.rows, plan.rows - sum(map(plan.count_rows, missing)), say)
    printed, warnings = 0, set[str]()
    try:
        for report in engine.work(config, missing, progress.add):
            counts[report.shard] = ShardCounts(report.rows, report.errors)
            if not engine.counts_rows:
                progress.add(report.rows)
            for message in report.messages[: _PRINTED_ERRORS - printed]:
                printed += 1
                say(message)
                if printed == _PRINTED_ERRORS:
                    say("further errors are not printed; the column 'error' has them all")
            for warning in sorted(set(report.warnings) - warnings):
                warnings.add(warning)
                say(f"warning: {warning}")
    finally:
        progress.close()
    say(f"this run: {progress.describe()}")
    return counts


def _finish(storage: Storage, config: BatchConfig, plan: BatchPlan, counts: Mapping[int, ShardCounts]) -> BatchSummary:
    """Write the manifest; the counts of shards that an earlier run wrote are read. Raises DataError where one is damaged."""
    names, sizes = [shard_name(shard, config.format) for shard in plan.shards], storage.list_sizes()
    with ThreadPoolExecutor(_READERS) as pool:
        earlier = [shard for shard in plan.shards if shard not in counts]
        read = pool.map(lambda shard: read_counts(storage, names[shard]), earlier)
        counts = {**counts, **dict(zip(earlier, read, strict=True))}
    shards, rows, errors = [], 0, 0
    for shard, name in enumerate(names):
        if name not in sizes:
            raise DataError(f"{storage.url}/{name} is missing: run the same command again")
        rows, errors = rows + counts[shard].rows, errors + counts[shard].errors
        first_row = shard * plan.shard_rows
        entry = {"file": name, "first_row": first_row, "rows": counts[shard].rows, "errors": counts[shard].errors}
        shards.append({**entry, "bytes": sizes[name]})
    manifest = {"version": __version__, "settings": dict(plan.settings), "rows": rows, "errors": errors, "shards": shards}
    storage.write(BATCH_MANIFEST_FILE, json.dumps(manifest, indent=1).encode())
    storage.remove_leftovers()
    return BatchSummary(rows, errors, f"{storage.url}/{BATCH_MANIFEST_FILE}")
