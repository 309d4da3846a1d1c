"""Work done by several processes and given back in its order.

Memory holds what is on its way alone: as much is handed out as the processes can use, the next when one comes back.
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

__all__ = ["in_processes"]

T = TypeVar("T")
R = TypeVar("R")


def in_processes(
    work: Callable[[T], R],
    items: Iterator[T],
    processes: int,
    *,
    prepare: Callable[..., None],
    given: tuple[Any, ...],
    task: str,
) -> Iterator[R]:
    """work(item) of each item, in order. prepare(*given) runs once in each process; task: what this is part of, in a word.

    Raises what work raises, and BackendError where a process dies. The processes end with this one, even if it is killed.
    """
    context = get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(prepare, given)) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 3 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise BackendError(f"a process of the {task} died, maybe out of memory: the same command goes on") from error
        finally:
            for future in waiting:
                future.cancel()


def _start(prepare: Callable[..., None], given: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare(*given)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
