"""Call a model within a time limit, and wrap what a backend of somebody's own raises.

A call with a limit runs in a daemon thread: one that never returns is left behind, and neither the caller nor the end of the
program waits for it.
"""

import asyncio
import atexit
import contextvars
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.text import first_line

__all__ = ["acall_model", "call_model", "wrap_backend_errors"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FOREIGN_ERRORS = (RuntimeError, MemoryError, OSError, AssertionError)
"""What a model's library raises when it fails. Other errors are mistakes in a program, and stay what they are."""
_EXIT_GRACE_S = 2.0
"""How long the end of the program waits for calls left behind: torch aborts where it is cut off in the middle of one."""
_ABANDONED: set[threading.Thread] = set()


@contextmanager
def wrap_backend_errors(name: str) -> Iterator[None]:
    """Turn an error of a model's library into a BackendError that names the model.

    What the library says is logged: the message may go to a client or a model that is not to read it.
    """
    try:
        yield
    except _FOREIGN_ERRORS as error:
        kind = type(error).__name__
        logger.error("%r failed: %s: %s", name, kind, first_line(error)[:500])
        raise BackendError(f"{name!r} failed with {kind}, which was logged") from error


def call_model(name: str, work: Callable[[], T], timeout_s: float | None) -> T:
    """Return what `work` returns.

    Args:
        name: The model's, for messages.
        work: Calls the model.
        timeout_s: How long to wait for it, in seconds; None for ever.

    Raises:
        BackendError: The model failed, or gave no answer in time.
        Exception: What else `work` raises.
    """
    with wrap_backend_errors(name):
        if timeout_s is None:
            return work()
        answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        thread = _start(work, lambda *answer: answers.put(answer))
        try:
            result, error = answers.get(timeout=timeout_s)
        except Empty:
            _ABANDONED.add(thread)
            raise _describe_timeout(name, timeout_s) from TimeoutError()
        except BaseException:  # as KeyboardInterrupt
            _ABANDONED.add(thread)
            raise
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]


async def acall_model(
    name: str, work: Callable[[], Awaitable[T]], blocking_work: Callable[[], T], timeout_s: float | None
) -> T:
    """Do as `call_model` does, without blocking the event loop.

    Args:
        name: The model's, for messages.
        work: Calls the model; used without a time limit.
        blocking_work: Does the same, blocking; used with one, since the event loop's own threads hold up its end.
        timeout_s: How long to wait for it, in seconds; None for ever.
    """
    with wrap_backend_errors(name):
        if timeout_s is None:
            return await work()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def resolve(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)

        def answer(result: Any, error: BaseException | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(resolve, result, error)

        thread = _start(blocking_work, answer)
        try:
            done, _ = await asyncio.wait([future], timeout=timeout_s)
        except asyncio.CancelledError:
            _ABANDONED.add(thread)
            raise
        if not done:
            _ABANDONED.add(thread)
            raise _describe_timeout(name, timeout_s) from TimeoutError()
        return future.result()


def _start(work: Callable[[], Any], answer: Callable[[Any, BaseException | None], None]) -> threading.Thread:
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(work)
        except BaseException as error:  # noqa: BLE001  # raised where the answer is waited for
            answer(None, error)
        else:
            answer(result, None)

    thread = threading.Thread(target=run, daemon=True, name="model-call")
    thread.start()
    return thread


def _describe_timeout(name: str, timeout_s: float) -> BackendError:
    return BackendError(f"{name!r} gave no answer within {timeout_s:g} s (timeout_s): try again, or raise the limit")


@atexit.register
def _wait_for_abandoned_calls() -> None:
    end = time.monotonic() + _EXIT_GRACE_S
    for thread in _ABANDONED:
        thread.join(max(0.0, end - time.monotonic()))
