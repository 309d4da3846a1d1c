"""One cell of the fault matrix: what goes wrong, where, and a run that says what the caller got."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.types import Segmentation

__all__ = ["FaultCase", "attempt", "describe"]


@dataclass(frozen=True)
class FaultCase:
    """A cell of the matrix.

    Attributes:
        fault: What goes wrong.
        stage: Where.
        run: Lets it go wrong, and returns what the caller got.
        is_slow: Whether it takes more than a second.
    """

    fault: str
    stage: str
    run: Callable[[], str]
    is_slow: bool = False


def attempt(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the error of this package that it raises."""
    try:
        return call()
    except Sam4MllmError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) <= 500
        return error


def describe(outcome: Any, expected: Any = None) -> str:
    """Say what the caller got: an error by its name, or a result by how it differs from the expected one."""
    if isinstance(outcome, Exception):
        return f"`{type(outcome).__name__}`"
    if not isinstance(outcome, Segmentation):
        return "result" if outcome == expected else "another result"
    notes = [note.partition(":")[0] for note in outcome.notes if note not in expected.notes]
    notes += ["no confidence"] if outcome.confidence is None and expected.confidence is not None else []
    return "result" + "".join(f"; {note}" for note in dict.fromkeys(notes))
