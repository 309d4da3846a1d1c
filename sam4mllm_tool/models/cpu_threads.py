"""Share a CPU's cores among threads that compute apart from one another.

Small models gain little from several cores in one call, and lose much where other threads want a core in the middle of it.
Calls about different images at the same time, each on its share of the cores, gain nearly all of them.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["count_cores", "share_cores", "use_cores"]


def count_cores() -> int:
    """Return how many cores torch computes on: those of the machine, unless it was limited; 1 if it isn't loaded."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else 1


def use_cores(count: int) -> None:
    """Have torch compute on so many cores in this thread."""
    if count_cores() != count:
        sys.modules["torch"].set_num_threads(count)


@contextmanager
def share_cores(threads: int) -> Iterator[int]:
    """Yield how many cores each of so many threads may use; afterwards this thread has all again.

    What the others set holds for threads that begin later, too, and in part for this one.
    """
    cores = count_cores()
    try:
        yield max(1, cores // threads)
    finally:
        if threads > 1:
            sys.modules["torch"].set_num_threads(cores)
