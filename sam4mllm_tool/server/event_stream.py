"""Answers to requests whose work takes a while: JSON, or server-sent events with the answer, or problem, as the last one.

The status of an answer by events is decided by the first event: until then an error has its own status, as without events.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from sam4mllm_tool.errors import Sam4MllmError, ServiceError
from sam4mllm_tool.server.problems import UNEXPECTED, RequestError, describe_error, logger
from sam4mllm_tool.server.server_metrics import ServerMetrics
from sam4mllm_tool.tools.events import EventWriter

__all__ = ["EVENT_STREAM", "answer_request", "cancel_with_client"]

EVENT_STREAM = "text/event-stream"

T = TypeVar("T")
_Events = asyncio.Queue[dict[str, Any] | None]


async def answer_request(
    request: Request, work: Callable[[EventWriter | None], Awaitable[dict[str, Any]]], metrics: ServerMetrics
) -> Response:
    """Do the work of a request, and answer as its header `Accept` says; the work is cancelled when the client goes away.

    Args:
        request: Its body has been read.
        work: Takes the function that it writes its events with, from whatever thread, if they are wanted; returns the answer.
        metrics: Count the errors that come after the first event.

    Raises:
        Sam4MllmError: The work failed before its first event.
    """
    if EVENT_STREAM not in request.headers.get("accept", ""):
        return JSONResponse(await cancel_with_client(request, work(None)))
    loop, events = asyncio.get_running_loop(), _Events()

    def write(event: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    task = asyncio.ensure_future(work(write))
    task.add_done_callback(lambda _: loop.call_soon(events.put_nowait, None))  # after the events that were written before
    try:
        first = await cancel_with_client(request, events.get())
        if first is None:
            task.result()
    except BaseException:
        task.cancel()
        raise
    return StreamingResponse(_write_events(first, events, task, metrics), media_type=EVENT_STREAM)


async def cancel_with_client(request: Request, work: Awaitable[T]) -> T:
    """Await the work, and cancel it when the client goes away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise RequestError(400, "the client went away")
    finally:
        task.cancel()
        gone.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _write_events(
    event: dict[str, Any] | None, events: _Events, task: asyncio.Future[dict[str, Any]], metrics: ServerMetrics
) -> AsyncIterator[str]:
    """Yield the first event and those that follow, and then `result` or `problem`."""
    try:
        while event is not None:
            yield _format(str(event["event"]), event)
            event = await events.get()
        yield _format("result", task.result())
    except Sam4MllmError as error:
        metrics.count_error(error)
        yield _format("problem", describe_error(error).model_dump())
    except Exception as error:  # noqa: BLE001 - the answer has begun: what happened can only be an event
        logger.exception("a segmentation failed")
        metrics.count_error(error)
        yield _format("problem", describe_error(ServiceError(UNEXPECTED)).model_dump())
    finally:
        task.cancel()


def _format(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
