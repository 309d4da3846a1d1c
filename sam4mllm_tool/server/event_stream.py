"""Server-sent events: what a segmentation comes to while it is worked on, and its answer, or problem, as the last event."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from sam4mllm_tool.errors import Sam4MllmError, ServiceError
from sam4mllm_tool.server.problems import UNEXPECTED, describe_error, logger
from sam4mllm_tool.tools.events import EventWriter

__all__ = ["EVENT_STREAM", "stream_events"]

EVENT_STREAM = "text/event-stream"


async def stream_events(work: Callable[[EventWriter], Awaitable[dict[str, Any]]]) -> AsyncIterator[str]:
    """Yield the events that `work` writes, from whatever thread, and then `result` or `problem`.

    Args:
        work: Takes the function that it writes its events with, and returns the answer.
    """
    loop, events = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()

    def write(event: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    task = asyncio.ensure_future(work(write))
    task.add_done_callback(lambda _: loop.call_soon(events.put_nowait, None))  # after the events that were written before
    try:
        while (event := await events.get()) is not None:
            yield _format(str(event["event"]), event)
        yield _format("result", task.result())
    except Sam4MllmError as error:
        yield _format("problem", describe_error(error).model_dump())
    except Exception:  # noqa: BLE001 - the answer has begun: what happened can only be an event
        logger.exception("a segmentation failed")
        yield _format("problem", describe_error(ServiceError(UNEXPECTED)).model_dump())
    finally:
        task.cancel()


def _format(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
