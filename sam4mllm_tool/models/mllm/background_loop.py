"""One event loop in a thread of its own, on which all requests to servers run.

Blocking and async callers of any loop share one client and one limit on concurrent requests, and cancelling either closes the
requests under way.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

__all__ = ["await_in_background", "finish_in_background", "gather_or_cancel", "run_in_background"]

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_finishing: set["asyncio.Task[None]"] = set()
"""Tasks that nobody waits for: the loop itself keeps only weak references."""


def run_in_background(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop and wait for its result. An interrupt cancels it."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _get_loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def await_in_background(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop without blocking the caller's. Cancelling the caller cancels it."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, _get_loop()))


def finish_in_background(start: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine on the loop without waiting for it, if there is a loop.

    For finalizers: the garbage collector may call them anywhere, so this takes no lock.
    """
    if (loop := _loop) is not None:
        loop.call_soon_threadsafe(_keep, loop, start)


def _keep(loop: asyncio.AbstractEventLoop, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
    task = loop.create_task(start())
    _finishing.add(task)
    task.add_done_callback(_finishing.discard)


async def gather_or_cancel(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines at once and return their results in order; where one fails or the caller is cancelled, cancel all."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _get_loop() -> asyncio.AbstractEventLoop:
    global _loop
    if _loop is None:
        with _lock:
            if _loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=loop.run_forever, name="sam4mllm-requests", daemon=True).start()
                _loop = loop
    return _loop


def _forget_loop() -> None:
    global _loop
    _loop = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loop)  # a forked process has no such thread
