"""One event loop in a thread of its own, on which all requests to servers run.

Blocking and async callers of any loop share one client and one limit on concurrent requests, and cancelling either closes the
requests under way.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["await_in_background", "run_in_background", "start_in_background"]

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def run_in_background(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop and wait for its result. An interrupt cancels it."""
    future = start_in_background(coroutine)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def await_in_background(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop without blocking the caller's. Cancelling the caller cancels it."""
    return await asyncio.wrap_future(start_in_background(coroutine))


def start_in_background(coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
    """Run a coroutine on the loop without waiting for it."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="sam4mllm-requests", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, _loop)


def _forget_loop() -> None:
    global _loop
    _loop = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loop)  # a forked process has no such thread
