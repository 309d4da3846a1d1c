"""The engine `ray`: Ray Data streams the shards' numbers through a pool of actors, each of which holds the models.

What Ray moves are numbers and reports. An actor reads its shard's rows and images and writes its file itself, so that memory
stays constant and a task that runs twice, because an actor or its machine died, writes the same file twice.
"""

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.batch.batch_config import BatchConfig
from sam4mllm_tool.batch.shard_worker import ShardReport, ShardWorker
from sam4mllm_tool.batch.storage import import_batch_library
from sam4mllm_tool.errors import BackendError, Sam4MllmError
from sam4mllm_tool.text import first_line

__all__ = ["RayEngine"]

_MOST_TASKS = 10_000
"""The driver keeps something of each task; jobs of more shards give each task several."""


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Hands shards to actors on a Ray cluster.

    Attributes:
        address: The cluster's; None for RAY_ADDRESS of the environment, else a new cluster on this machine, which ends with
            the job.
        workers: Number of actors, each with its own models.
        gpus_per_worker: GPUs per actor; a fraction shares one.
        cpus_per_worker: CPU cores per actor, also its number of threads.
    """

    address: str | None = None
    workers: int = 1
    gpus_per_worker: float = 0.0
    cpus_per_worker: float = 1.0
    counts_rows = False

    def work(self, config: BatchConfig, shards: Sequence[int], on_row: Callable[[], None]) -> Iterator[ShardReport]:  # noqa: ARG002
        """Do as `Engine.work` says."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of what its core writes to stderr here
        ray, data = import_batch_library("ray", "ray"), import_batch_library("ray.data", "ray")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        was_running = ray.is_initialized()
        if not was_running:
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.WARNING)
        try:
            yield from self._stream(data, config, shards)
        except ray.exceptions.RayError as error:
            raise BackendError(f"Ray ended the job: {first_line(error)}") from error
        finally:
            if not was_running:
                ray.shutdown()

    def _stream(self, data: Any, config: BatchConfig, shards: Sequence[int]) -> Iterator[ShardReport]:
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        workers = min(self.workers, len(shards))
        reports = data.from_items(list(shards), override_num_blocks=min(len(shards), _MOST_TASKS)).map_batches(
            _Actor,
            fn_constructor_kwargs={"config": config, "threads": max(1, int(self.cpus_per_worker)), "folder": str(Path.cwd())},
            compute=data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            batch_size=1,
            num_cpus=self.cpus_per_worker,
            num_gpus=self.gpus_per_worker,
            max_restarts=-1,
            max_task_retries=-1,
        )
        for row in reports.iter_rows():
            outcome = pickle.loads(row["outcome"])  # of our own actors
            if isinstance(outcome, Sam4MllmError):
                raise outcome
            yield outcome


class _Actor:
    """A worker in a process of its own. It returns errors: Ray would print those that it raises, at length."""

    def __init__(self, config: BatchConfig, threads: int, folder: str) -> None:
        with suppress(OSError):  # on another machine there may be no such folder
            os.chdir(folder)  # where specs of models may be
        self._config, self._threads = config, threads
        self._worker: ShardWorker | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        return {"outcome": [pickle.dumps(self._work(int(shard))) for shard in batch["item"]]}

    def _work(self, shard: int) -> ShardReport | Sam4MllmError:
        import torch

        torch.set_num_threads(self._threads)
        try:
            self._worker = self._worker or ShardWorker(self._config)
            return self._worker.work(shard)
        except Sam4MllmError as error:
            return error
