"""How far a job is: a bar on a terminal, a line every half minute elsewhere, each with rate and time left."""

import time
from collections.abc import Callable

from tqdm import tqdm

from sam4mllm_tool.errors import count_noun

__all__ = ["ProgressReport"]

_SECONDS_BETWEEN_LINES = 30.0


class ProgressReport:
    """Counts rows.

    Args:
        total: Rows of the job.
        done: Those that an earlier run did.
        say: Prints a line.
        clock: Returns seconds.
    """

    def __init__(self, total: int, done: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._before, self._done, self._say, self._clock = total, done, done, say, clock
        self._began = self._last_line = clock()
        self._bar = tqdm(total=total, initial=done, desc="batch", unit="row", disable=None)

    def add(self, rows: int = 1) -> None:
        """Count rows as done."""
        self._done += rows
        self._bar.update(rows)
        if self._bar.disable and self._clock() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = self._clock()
            self._say(self.describe())

    def describe(self) -> str:
        """Return how far it is, as in "500 of 20,000 rows, 4.2 rows/s, 1 h 17 min left"."""
        rate = self.rate
        left = f", {_format_duration((self._total - self._done) / rate)} left" if rate else ""
        return f"{self._done:,} of {count_noun(self._total, 'row')}, {rate:.3g} rows/s{left}"

    @property
    def rate(self) -> float:
        """Rows per second in this run."""
        return (self._done - self._before) / max(self._clock() - self._began, 1e-9)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


def _format_duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60) % 60, round(seconds / 60) // 60
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"
