"""How many requests a server takes at a time, how many wait, and for how long."""

from dataclasses import dataclass

from sam4mllm_tool.errors import QueueFullError, ServiceBusyError, TooLateError

__all__ = ["SchedulerLimits"]


@dataclass(frozen=True, kw_only=True)
class SchedulerLimits:
    """How much waits, and for how long.

    Attributes:
        images_at_once: How many requests are in work at a time, in all workers.
        queue_size: How many requests may wait besides.
        gather_s: How long an idle scheduler waits for more requests after the first one, in seconds.
        timeout_s: From when on a request is too late, in seconds.
    """

    images_at_once: int = 16
    queue_size: int = 64
    gather_s: float = 0.005
    timeout_s: float = 120.0

    def require_room(self, waiting: int, *, is_closing: bool) -> None:
        """Check that one more request is accepted. Raises QueueFullError, ServiceBusyError."""
        if is_closing:
            raise ServiceBusyError("the server is stopping; try again in a while", 5.0)
        if waiting >= self.queue_size:
            raise QueueFullError(f"{waiting} requests wait already, which is the limit; try again in a while")

    def late_error(self) -> TooLateError:
        """Return the error of a request that is too late."""
        return TooLateError(f"the request was not done within {self.timeout_s:g} seconds; try again in a while")
