"""One queue in front of the models: a thread gathers what clients ask at the same time into common model calls.

Requests join at any time, between two model calls. A request that was cancelled, or that waits for too long, is dropped before
it costs another call. An error of a call is the answer to the requests that shared it; the thread goes on.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sam4mllm_tool.errors import QueueFullError, Sam4MllmError, ServiceBusyError, ServiceError, TooLateError
from sam4mllm_tool.pipeline.lockstep import ImageRuns, Lockstep
from sam4mllm_tool.pipeline.model_server import ModelServer
from sam4mllm_tool.pipeline.run_driver import RunDriver
from sam4mllm_tool.types import Image

__all__ = ["Scheduler", "SchedulerLimits", "SchedulerObserver"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SchedulerLimits:
    """How much waits, and for how long.

    Attributes:
        images_at_once: How many requests are in work at a time.
        queue_size: How many requests may wait besides.
        gather_s: How long an idle scheduler waits for more requests after the first one, in seconds.
        timeout_s: From when on a request is too late, in seconds.
    """

    images_at_once: int = 16
    queue_size: int = 64
    gather_s: float = 0.005
    timeout_s: float = 120.0


class SchedulerObserver:
    """Receives scheduler events, for metrics. Called in the scheduler's thread; override what you need."""

    def after_call(self, images: int) -> None:
        """Receive that the MLLM was called about this many images."""

    def after_drop(self, reason: str) -> None:
        """Receive that a request was dropped because it was `cancelled` or `late`."""


@dataclass(eq=False)
class _Job:
    runs: ImageRuns
    deadline: float
    future: "Future[list[Any]]" = field(default_factory=Future)


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
        self._lockstep, self._observer = Lockstep(server), observer or SchedulerObserver()
        self._queue: deque[_Job] = deque()
        self._in_work: list[_Job] = []
        self._wake = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._loop, name="sam4mllm-scheduler", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    @property
    def in_work(self) -> int:
        """How many requests are in work."""
        return len(self._in_work)

    def submit(self, image: Image, drivers: Sequence[RunDriver[Any]]) -> "Future[list[Any]]":
        """Queue the runs of one request.

        Args:
            image: RGB; what all runs are about.
            drivers: Not yet started. The scheduler's thread advances them.

        Returns:
            What each run comes to, in order; errors of one expression alone in its place. Cancel it to drop
            the request.

        Raises:
            QueueFullError: Too many requests wait.
            ServiceBusyError: The scheduler is closing.
        """
        job = _Job(ImageRuns(image, drivers), time.monotonic() + self.limits.timeout_s)
        with self._wake:
            self.require_room()
            self._queue.append(job)
            self._wake.notify_all()
        return job.future

    def require_room(self) -> None:
        """Check that a request would be accepted now. Raises as `submit` does."""
        if self._is_closing:
            raise ServiceBusyError("the server is stopping; try again in a while", 5.0)
        if len(self._queue) >= self.limits.queue_size:
            raise QueueFullError(f"{len(self._queue)} requests wait already, which is the limit; try again in a while")

    def close(self, timeout_s: float | None = None) -> None:
        """Accept nothing more, and finish what was accepted.

        Args:
            timeout_s: How long to wait for that, in seconds; what is not finished then is answered by a ServiceBusyError.
        """
        with self._wake:
            self._is_closing = True
            self._wake.notify_all()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            error = ServiceBusyError("the server stopped before this request was done", 5.0)
            for job in [*self._in_work, *self._queue]:
                _answer(job, error)

    def _loop(self) -> None:
        while self._wait_for_work():
            try:
                self._refill()
                images = self._lockstep.serve_once() if self._in_work else 0
                if images:
                    self._observer.after_call(images)
                self._answer_done()
            except Exception as error:  # the service has to live; nobody may wait for ever
                logger.exception("the scheduler failed")
                self._fail_all(error)

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do; an idle scheduler then waits a little for more. False: it is all over."""
        with self._wake:
            if self._in_work:
                return True
            self._wake.wait_for(lambda: self._queue or self._is_closing)
            if not self._queue:
                return False
            enough = self.limits.images_at_once
            self._wake.wait_for(lambda: len(self._queue) >= enough or self._is_closing, self.limits.gather_s)
            return True

    def _refill(self) -> None:
        """Drop what nobody waits for any more, and begin what has room."""
        for job in list(self._in_work):
            if (error := self._find_drop_reason(job)) is not None:
                self._lockstep.remove(job.runs, error)
                self._in_work.remove(job)
                _answer(job, error)
        while len(self._in_work) < self.limits.images_at_once:
            with self._wake:
                if not self._queue:
                    return
                waiting = self._queue.popleft()
            self._begin(waiting)

    def _begin(self, job: _Job) -> None:
        if (error := self._find_drop_reason(job)) is not None:
            job.runs.fail(error)
            _answer(job, error)
            return
        try:
            self._lockstep.add(job.runs)
        except Exception as failure:  # noqa: BLE001 - it is this request's alone
            job.runs.fail(failure)
        self._in_work.append(job)

    def _find_drop_reason(self, job: _Job) -> Sam4MllmError | None:
        if job.future.cancelled():
            self._observer.after_drop("cancelled")
            return ServiceError("the request was cancelled")
        if time.monotonic() > job.deadline:
            self._observer.after_drop("late")
            return TooLateError(f"the request was not done within {self.limits.timeout_s:g} seconds; try again in a while")
        return None

    def _answer_done(self) -> None:
        for job in [job for job in self._in_work if job.runs.is_done]:
            self._in_work.remove(job)
            _answer(job, job.runs.error)

    def _fail_all(self, error: Exception) -> None:
        for job in self._in_work:
            job.runs.fail(error)
            _answer(job, error)
        self._in_work.clear()
        self._lockstep.groups.clear()


def _answer(job: _Job, error: Exception | None) -> None:
    """Hand over the outcomes, or the error, unless nobody waits for them any more."""
    if job.future.done() or not job.future.set_running_or_notify_cancel():
        return
    if error is not None:
        job.future.set_exception(error)
    else:
        job.future.set_result(job.runs.outcomes)
