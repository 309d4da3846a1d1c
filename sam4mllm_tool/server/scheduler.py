"""One queue in front of the models: workers gather what clients ask at the same time into common model calls.

On a GPU one worker does it all. On a CPU there is one for each core, up to four, each with models over the same weights and its
share of the cores. A request about an image goes to the worker that was asked about that image before, which has read it.

Requests join at any time, between two model calls. A request that was cancelled, or that waits for too long, is dropped before
it costs another call. An error of a call is the answer to the requests that shared it; the worker goes on.
"""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sam4mllm_tool.errors import Sam4MllmError, ServiceBusyError, ServiceError
from sam4mllm_tool.models.cpu_threads import count_cores, use_cores
from sam4mllm_tool.pipeline.lockstep import ImageRuns, Lockstep
from sam4mllm_tool.pipeline.model_server import ModelServer
from sam4mllm_tool.pipeline.parallel_lockstep import replicate_for_cores
from sam4mllm_tool.pipeline.run_driver import RunDriver
from sam4mllm_tool.server.scheduler_limits import SchedulerLimits
from sam4mllm_tool.types import Image

__all__ = ["Scheduler", "SchedulerObserver"]

_KNOWN_IMAGES = 32
"""Images that models remember, or about as many."""
_MOST_OVERTAKEN = 32
"""How many later requests may go before one because of their images."""

logger = logging.getLogger(__name__)


class SchedulerObserver:
    """Receives scheduler events, for metrics. Called in the workers' threads; override what you need."""

    def after_call(self, images: int) -> None:
        """Receive that the MLLM was called about this many images."""

    def after_drop(self, reason: str) -> None:
        """Receive that a request was dropped because it was `cancelled` or `late`."""


@dataclass(eq=False)
class _Job:
    runs: ImageRuns
    key: bytes
    deadline: float
    future: "Future[list[Any]]" = field(default_factory=Future)
    overtaken: int = 0


class Scheduler:
    """Runs flows for many threads at once. Close it at the end.

    Args:
        server: The models.
        limits: How much waits, and for how long.
        observer: Receives what is done.
    """

    def __init__(
        self, server: ModelServer, limits: SchedulerLimits = SchedulerLimits(), observer: SchedulerObserver | None = None
    ) -> None:
        self.limits = limits
        servers = replicate_for_cores(server, limits.images_at_once)
        most, observer = math.ceil(limits.images_at_once / len(servers)), observer or SchedulerObserver()
        self._queue = _Queue()
        self._queue.workers = [_Worker(each, most, limits, observer, self._queue) for each in servers]
        for worker in self._queue.workers:
            worker.thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._queue.jobs)

    @property
    def in_work(self) -> int:
        """How many requests are in work."""
        return self._queue.in_work

    def submit(self, image: Image, drivers: Sequence[RunDriver[Any]], key: bytes) -> "Future[list[Any]]":
        """Queue the runs of one request.

        Args:
            image: RGB; what all runs are about.
            drivers: Not yet started. A worker's thread advances them.
            key: Of the image, equal for equal pixels alone.

        Returns:
            What each run comes to, in order; errors of one expression alone in its place. Cancel it to drop
            the request.

        Raises:
            QueueFullError: Too many requests wait.
            ServiceBusyError: The scheduler is closing.
        """
        job = _Job(ImageRuns(image, drivers), key, time.monotonic() + self.limits.timeout_s)
        with self._queue.changed:
            self.require_room()
            self._queue.jobs.append(job)
            self._queue.changed.notify_all()
        return job.future

    def require_room(self) -> None:
        """Check that a request would be accepted now. Raises as `submit` does."""
        self.limits.require_room(self.waiting, is_closing=self._queue.is_closing)

    def close(self, timeout_s: float | None = None) -> None:
        """Accept nothing more, and finish what was accepted.

        Args:
            timeout_s: How long to wait for that, in seconds; what is not finished then is answered by a ServiceBusyError.
        """
        with self._queue.changed:
            self._queue.is_closing = True
            self._queue.changed.notify_all()
        end = None if timeout_s is None else time.monotonic() + timeout_s
        for worker in self._queue.workers:
            worker.thread.join(None if end is None else max(0.0, end - time.monotonic()))
        if any(worker.thread.is_alive() for worker in self._queue.workers):
            error = ServiceBusyError("the server stopped before this request was done", 5.0)
            for job in [*(job for worker in self._queue.workers for job in worker.in_work), *self._queue.jobs]:
                _answer(job, error)


class _Queue:
    """What the workers share; `changed` guards it.

    Attributes:
        jobs: Requests that wait, the oldest first.
        workers: All of them.
        is_closing: Whether nothing more is accepted.
    """

    def __init__(self) -> None:
        self.jobs: list[_Job] = []
        self.workers: list[_Worker] = []
        self.is_closing = False
        self.changed = threading.Condition()

    @property
    def in_work(self) -> int:
        """How many requests are in work."""
        return sum(len(worker.in_work) for worker in self.workers)

    def take(self, worker: "_Worker") -> _Job | None:
        """Remove and return the next request for a worker, which then has it in work; None while there is none for it."""
        index = self.choose(worker)
        if index is None:
            return None
        for job in self.jobs[:index]:
            job.overtaken += 1
        taken = self.jobs.pop(index)
        worker.in_work.append(taken)
        worker.known[taken.key] = None
        worker.known.move_to_end(taken.key)
        if len(worker.known) > _KNOWN_IMAGES:
            worker.known.popitem(last=False)
        self.changed.notify_all()
        return taken

    def choose(self, worker: "_Worker") -> int | None:
        """Return which request is next for a worker: one about an image that it knows; else one that no other one waits for."""
        if len(worker.in_work) >= worker.most or not self.jobs:
            return None
        if self.jobs[0].overtaken >= _MOST_OVERTAKEN:
            return 0
        known = next((index for index, job in enumerate(self.jobs) if job.key in worker.known), None)
        if known is not None or len(worker.in_work) >= (len(self.jobs) + self.in_work) / len(self.workers):
            return known
        others = [other for other in self.workers if other is not worker and len(other.in_work) < other.most]
        return next((i for i, job in enumerate(self.jobs) if not any(job.key in other.known for other in others)), None)


class _Worker:
    """A thread that takes requests from the queue, and drives those that it has together.

    Attributes:
        in_work: What it drives.
        known: The keys of the images that it was asked about last, the last one last.
        most: How many requests it drives at a time.
    """

    def __init__(
        self, server: ModelServer, most: int, limits: SchedulerLimits, observer: SchedulerObserver, queue: _Queue
    ) -> None:
        self.in_work: list[_Job] = []
        self.known: OrderedDict[bytes, None] = OrderedDict()
        self.most = most
        self.thread = threading.Thread(target=self._loop, name="sam4mllm-scheduler", daemon=True)
        self._lockstep, self._limits, self._observer, self._queue = Lockstep(server), limits, observer, queue
        self._cores = count_cores()

    def _loop(self) -> None:
        while self._wait_for_work():
            try:
                self._refill()
                self._share_cores()
                images = self._lockstep.serve_once() if self.in_work else 0
                if images:
                    self._observer.after_call(images)
                self._answer_done()
            except Exception as error:  # the service has to live; nobody may wait for ever
                logger.exception("the scheduler failed")
                self._fail_all(error)

    def _share_cores(self) -> None:
        """Compute on all cores if no other worker has anything to do, and else on a share of them."""
        busy = sum(bool(worker.in_work) for worker in self._queue.workers)
        use_cores(max(1, self._cores // max(1, busy)))

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do; an idle worker then waits a little for more. False: it is all over."""
        queue = self._queue
        with queue.changed:
            if self.in_work:
                return True
            queue.changed.wait_for(lambda: queue.choose(self) is not None or (queue.is_closing and not queue.jobs))
            if not queue.jobs:
                return False
            queue.changed.wait_for(lambda: len(queue.jobs) >= self.most or queue.is_closing, self._limits.gather_s)
            return True

    def _refill(self) -> None:
        """Drop what nobody waits for any more, and begin what has room."""
        for job in list(self.in_work):
            if (error := self._find_drop_reason(job)) is not None:
                self._lockstep.remove(job.runs, error)
                self.in_work.remove(job)
                _answer(job, error)
        while True:
            with self._queue.changed:
                waiting = self._queue.take(self)
            if waiting is None:
                return
            self._begin(waiting)

    def _begin(self, job: _Job) -> None:
        if (error := self._find_drop_reason(job)) is not None:
            job.runs.fail(error)
            self.in_work.remove(job)
            _answer(job, error)
            return
        try:
            self._lockstep.add(job.runs)
        except Exception as failure:  # noqa: BLE001 - it is this request's alone
            job.runs.fail(failure)

    def _find_drop_reason(self, job: _Job) -> Sam4MllmError | None:
        if job.future.cancelled():
            self._observer.after_drop("cancelled")
            return ServiceError("the request was cancelled")
        if time.monotonic() > job.deadline:
            self._observer.after_drop("late")
            return self._limits.late_error()
        return None

    def _answer_done(self) -> None:
        for job in [job for job in self.in_work if job.runs.is_done]:
            self.in_work.remove(job)
            _answer(job, job.runs.error)

    def _fail_all(self, error: Exception) -> None:
        for job in self.in_work:
            job.runs.fail(error)
            _answer(job, error)
        self.in_work.clear()
        self._lockstep.groups.clear()


def _answer(job: _Job, error: Exception | None) -> None:
    """Hand over the outcomes, or the error, unless nobody waits for them any more."""
    if job.future.done() or not job.future.set_running_or_notify_cancel():
        return
    if error is not None:
        job.future.set_exception(error)
    else:
        job.future.set_result(job.runs.outcomes)
