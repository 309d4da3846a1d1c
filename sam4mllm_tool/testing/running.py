"""What the suites share: running their checks without pytest, and comparing what calls return."""

import asyncio
import unittest
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["cancel_early", "list_checks", "run_checks", "skip"]

T = TypeVar("T")

_TIMEOUT_S = 60.0


def run_checks(suite: type) -> dict[str, str]:
    """Run every check of a suite, each on an instance of its own.

    Args:
        suite: A class that inherits `MLLMConformance` or `SegmenterConformance`.

    Returns:
        For each check, by its name, "passed", "skipped: " with the reason, or "failed: " with the error.
    """
    return {name: _run_check(suite, name) for name in list_checks(suite)}


def list_checks(suite: type) -> list[str]:
    """Return the names of a suite's checks."""
    return [name for name in dir(suite) if name.startswith("test_")]


def skip(reason: str) -> None:
    """Skip the running check, in pytest too."""
    raise unittest.SkipTest(reason)


def _run_check(suite: type, name: str) -> str:
    try:
        getattr(suite(), name)()
    except unittest.SkipTest as error:
        return f"skipped: {error}"
    except Exception as error:  # noqa: BLE001 - it becomes the check's outcome
        return f"failed: {type(error).__name__}: {error}"
    return "passed"


def cancel_early(call: Callable[[], Awaitable[T]]) -> T:
    """Cancel a call that has just begun, and return what the same call gives afterwards.

    Raises:
        AssertionError: The call swallowed its cancellation, or the next one gets no answer within a minute.
    """

    async def cancel_then_repeat() -> T:
        task = asyncio.ensure_future(call())
        await asyncio.sleep(0)
        if task.cancel():
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
            assert isinstance(outcome, asyncio.CancelledError), f"a cancelled call went on, to {outcome!r:.200}"
        try:
            return await asyncio.wait_for(asyncio.ensure_future(call()), _TIMEOUT_S)
        except TimeoutError as error:
            raise AssertionError("the call after a cancelled one gets no answer") from error

    return asyncio.run(cancel_then_repeat())
