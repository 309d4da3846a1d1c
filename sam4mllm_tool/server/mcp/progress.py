"""A tool's events as the protocol's progress notifications."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from mcp.server.mcpserver import Context

from sam4mllm_tool.errors import count_noun

__all__ = ["ProgressReporter"]

_STEPS = {"boxes": 1, "points": 2, "mask": 3}


class ProgressReporter:
    """Reports events in their order, whichever thread they come from, and before the tool's answer.

    Args:
        context: The call that is reported on.
        runs_before: Runs that were reported on in the same call; progress goes on from there.
    """

    def __init__(self, context: Context[Any, Any], runs_before: int = 0) -> None:
        self._context, self._runs_before = context, runs_before
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()

    def write(self, event: Mapping[str, Any] | None) -> None:
        """Report an event (`tools/events.py`)."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def __aenter__(self) -> "ProgressReporter":
        self._task = asyncio.create_task(self._report())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._task.cancel()
            return
        self.write(None)
        await self._task

    async def _report(self) -> None:
        while (event := await self._events.get()) is not None:
            step, count = _STEPS[event["event"]], len(_STEPS)
            done, total = self._runs_before * count + step, (self._runs_before + 1) * count
            await self._context.report_progress(done, total, _describe_event(event))


def _describe_event(event: Mapping[str, Any]) -> str:
    if event["event"] == "boxes":
        return f"{count_noun(len(event['boxes']), 'box', 'boxes')} named" if event["boxes"] else "no such object"
    if event["event"] == "points":
        return f"{count_noun(len(event['points']), 'point')} answered"
    return f"{count_noun(len(event['objects']), 'object')} segmented"
