"""Go on where a device runs out of memory: with fewer items at a time, and then, where that is allowed, on the CPU.

Imports torch, so packages import this module on first use.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch

__all__ = ["is_out_of_memory", "move_to_cpu", "run_within_memory"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_MESSAGES = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""What RuntimeErrors say where they are no OutOfMemoryError: of Apple's GPUs, of the CPU's allocator, of cuBLAS."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch says that a device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def run_within_memory(
    run: Callable[[Sequence[T]], Sequence[R]],
    items: Sequence[T],
    *,
    release: Callable[[], None],
    on_cpu: Callable[[], AbstractContextManager[None]] | None = None,
) -> list[R]:
    """Run all items together; where the memory doesn't hold that, in halves, and what doesn't fit singly on the CPU.

    Args:
        run: Returns one result per item, in order.
        items: What is run.
        release: Drops what a caller keeps on the device; called before anything is tried again.
        on_cpu: Moves the model to the CPU while its context lasts; None where that is not allowed.

    Raises:
        Exception: What `run` raises: of memory, only for a single item, on the CPU if that is allowed.
    """
    results: list[R] = []
    count = len(items)
    while len(results) < len(items):
        part = items[len(results) : len(results) + count]
        try:
            results += run(part)
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = error.with_traceback(None)  # whose frames hold what fills the memory
        release()
        _empty_caches()
        if len(part) > 1:
            logger.warning("out of memory with %d items: trying half of them", len(part))
            count = len(part) // 2
        elif on_cpu is None:
            raise failure
        else:
            logger.warning("out of memory with a single item: running it and what is left on the CPU")
            with on_cpu():
                return [*results, *run(items[len(results) :])]
    return results


@contextmanager
def move_to_cpu(model: Any) -> Iterator[None]:
    """Move a module to the CPU, and back at the end; where its device has no memory for it then, it stays."""
    home = next(model.parameters()).device
    model.to("cpu")
    _empty_caches()
    try:
        yield
    finally:
        try:
            model.to(home)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("no memory on %s for the model: it stays on the CPU", home)
            model.to("cpu")


def _empty_caches() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
