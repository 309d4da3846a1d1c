"""What the processes of a faults' test run; importing it costs a new process next to nothing."""

import signal

__all__ = ["die", "double", "prepare_nothing"]


def die(item: int) -> int:
    """Kill this process."""
    signal.raise_signal(signal.SIGKILL)
    return item


def double(item: int) -> int:
    """Return twice as much."""
    return 2 * item


def prepare_nothing() -> None:
    """Do nothing."""
