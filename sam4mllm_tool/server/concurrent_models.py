"""`Sam4Mllm` whose models run elsewhere and take many calls at once: each run goes its own way, and calls are batched there."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sam4mllm_tool.errors import EmptyMaskError, ExpressionError, ReplyError
from sam4mllm_tool.pipeline.requests import Flow, RunHook
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.server.scheduled_models import ScheduledModels
from sam4mllm_tool.server.scheduler_limits import SchedulerLimits
from sam4mllm_tool.types import Image

__all__ = ["ConcurrentModels", "RequestCounter"]

T = TypeVar("T")


class RequestCounter:
    """Counts requests, and refuses those that are too many. It has what the scheduler shows of itself.

    Args:
        limits: How many requests are in work or wait, and for how long.
    """

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self._count, self._is_closing, self._lock = 0, False, threading.Condition()

    @property
    def in_work(self) -> int:
        """How many requests are in work."""
        return min(self._count, self.limits.images_at_once)

    @property
    def waiting(self) -> int:
        """How many requests there are besides, of which the models may work on some, too."""
        return self._count - self.in_work

    def require_room(self) -> None:
        """Check that a request would be accepted now. Raises QueueFullError, ServiceBusyError."""
        self.limits.require_room(self.waiting, is_closing=self._is_closing)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count a request while the block runs. Raises as `require_room` does."""
        with self._lock:
            self.require_room()
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                self._lock.notify_all()

    def close(self, timeout_s: float | None) -> None:
        """Accept nothing more, and wait for what was accepted, at most `timeout_s` seconds."""
        with self._lock:
            self._is_closing = True
            self._lock.wait_for(lambda: not self._count, timeout_s)


class ConcurrentModels(ScheduledModels):
    """Models that many threads and tasks may use at once, whose calls don't wait for one another. Close them at the end.

    Args:
        models: What answers.
        limits: How many requests there may be at once, and for how long.
        weights: As in `Usage.weights`.
    """

    def __init__(self, models: Sam4Mllm, limits: SchedulerLimits, weights: dict[str, str]) -> None:
        vars(self).update(vars(models))
        self._weights = weights
        self._counter = RequestCounter(limits)
        self.scheduler = self._counter  # type: ignore[assignment]  # which shows the same

    def run(self, image: Image, flow: Flow[T], context: RunContext | None = None, *, hooks: Sequence[RunHook] = ()) -> T:
        """Drive a flow as `Sam4Mllm.run` does. Raises also QueueFullError, ServiceBusyError."""
        with self._counter.counting():
            return Sam4Mllm.run(self, image, flow, context, hooks=hooks)

    async def arun(self, image: Image, flow: Flow[T], context: RunContext | None = None, *, hooks: Sequence[RunHook] = ()) -> T:
        """Do as `run` does, without blocking the event loop. Raises also TooLateError."""
        with self._counter.counting():
            result: T = await self._within_limit(Sam4Mllm.arun(self, image, flow, context, hooks=hooks))
            return result

    async def arun_group(
        self, image: Image, flows: Sequence[tuple[Flow[Any], RunContext | None]], *, hooks: Sequence[RunHook] = ()
    ) -> list[Any]:
        """Drive several flows about one image as one request, as `ScheduledModels.arun_group` does."""
        with self._counter.counting():
            runs = [Sam4Mllm.arun(self, image, flow, context, hooks=hooks) for flow, context in flows]
            outcomes: list[Any] = await self._within_limit(asyncio.gather(*runs, return_exceptions=True))
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, ReplyError | ExpressionError | EmptyMaskError):
                raise outcome
        return outcomes

    async def _within_limit(self, work: Any) -> Any:
        limits = self._counter.limits
        try:
            return await asyncio.wait_for(work, limits.timeout_s)
        except TimeoutError:
            raise limits.late_error() from None

    def close(self, timeout_s: float | None = None) -> None:
        """Accept nothing more, and finish what was accepted, waiting at most `timeout_s` seconds for it."""
        self._counter.close(timeout_s)
