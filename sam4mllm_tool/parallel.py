"""Map a function over items in several processes and yield the results in input order.

Memory stays bounded: each process has at most a few items queued, and the next item is submitted when a result is taken.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from sam4mllm_tool.errors import BackendError

__all__ = ["map_in_processes"]

T = TypeVar("T")
R = TypeVar("R")

QUEUED_PER_PROCESS = 3


def map_in_processes(
    work: Callable[[T], R],
    items: Iterator[T],
    processes: int,
    *,
    prepare: Callable[..., None],
    given: tuple[Any, ...],
    task: str,
) -> Iterator[R]:
    """Yield `work(item)` of each item, in order. The processes end with this one, even if it is killed.

    Args:
        work: A function that pickle finds by name, as `prepare` must be.
        items: Read as results are taken, never all at once.
        processes: How many to start.
        prepare: Called once in each process before any work.
        given: Arguments of `prepare`.
        task: Name of the whole job in error messages, such as "build".

    Raises:
        BackendError: A process died. What `work` raises passes unchanged.
    """
    context = get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(prepare, given)) as pool:
        queued: deque[Future[R]] = deque()
        try:
            for item in items:
                queued.append(pool.submit(work, item))
                if len(queued) > QUEUED_PER_PROCESS * processes:
                    yield queued.popleft().result()
            while queued:
                yield queued.popleft().result()
        except BrokenProcessPool as error:
            raise BackendError(
                f"a process of the {task} died, maybe out of memory: run the same command again to resume"
            ) from error
        finally:
            for future in queued:
                future.cancel()


def _start(prepare: Callable[..., None], given: tuple[Any, ...]) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    prepare(*given)


def _exit_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
