"""`Sam4Mllm` whose runs all go through a scheduler, so that HTTP, MCP and the web page share one queue."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from sam4mllm_tool.images.rgb_conversion import ensure_rgb, hash_pixels
from sam4mllm_tool.pipeline.requests import Flow, RunHook
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.server.scheduler import Scheduler, SchedulerObserver
from sam4mllm_tool.server.scheduler_limits import SchedulerLimits
from sam4mllm_tool.types import Image

__all__ = ["ScheduledModels"]

T = TypeVar("T")


class ScheduledModels(Sam4Mllm):
    """Models that many threads and tasks may use at once. Close them at the end.

    Args:
        models: What answers.
        limits: How much waits, and for how long.
        observer: Receives what is done.
    """

    def __init__(
        self, models: Sam4Mllm, limits: SchedulerLimits = SchedulerLimits(), observer: SchedulerObserver | None = None
    ) -> None:
        vars(self).update(vars(models))
        self.scheduler = Scheduler(self._server, limits, observer)

    def run(self, image: Image, flow: Flow[T], context: RunContext | None = None, *, hooks: Sequence[RunHook] = ()) -> T:
        """Drive a flow as `Sam4Mllm.run` does, together with all others.

        Raises:
            ServiceError: The queue is full, it took too long, or the server is stopping.
            Exception: Whatever the flow and the models raise.
        """
        future = self.scheduler.submit(image, [self._start_driver(image, flow, context, hooks)], hash_pixels(ensure_rgb(image)))
        result: T = _unpack(future.result())
        return result

    async def arun(self, image: Image, flow: Flow[T], context: RunContext | None = None, *, hooks: Sequence[RunHook] = ()) -> T:
        """Do as `run` does, without blocking the event loop; a cancelled task drops the run."""
        result: T = _unpack(await self.arun_group(image, [(flow, context)], hooks=hooks))
        return result

    async def arun_group(
        self, image: Image, flows: Sequence[tuple[Flow[Any], RunContext | None]], *, hooks: Sequence[RunHook] = ()
    ) -> list[Any]:
        """Drive several flows about one image as one request.

        Args:
            image: RGB.
            flows: Each with the run that it belongs to.
            hooks: Watch or limit all of them.

        Returns:
            What each flow came to, in order; errors of one expression alone in its place.

        Raises:
            ServiceError: As `run`.
            BackendError: A model failed.
        """
        key = await asyncio.to_thread(lambda: hash_pixels(ensure_rgb(image)))
        drivers = [self._start_driver(image, flow, context, hooks) for flow, context in flows]
        return await asyncio.wrap_future(self.scheduler.submit(image, drivers, key))

    def close(self, timeout_s: float | None = None) -> None:
        """Accept nothing more, and finish what was accepted, waiting at most `timeout_s` seconds for it."""
        self.scheduler.close(timeout_s)


def _unpack(outcomes: list[Any]) -> Any:
    (outcome,) = outcomes
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
