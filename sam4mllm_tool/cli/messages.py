"""What the command line says on stderr, where it doesn't mix with results."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from sam4mllm_tool.text import remove_errno

__all__ = ["print_warnings", "say", "timed_loading"]


def say(message: str) -> None:
    """Print a message as one line on stderr, above a progress bar if there is one."""
    tqdm.write(f"sam4mllm: {' '.join(remove_errno(message).split())}", file=sys.stderr)


def print_warnings(warnings: Iterable[str], printed: set[str]) -> None:
    """Print the warnings that are not among those printed before, and add them there."""
    for warning in warnings:
        if warning not in printed:
            printed.add(warning)
            say(f"warning: {warning}")


@contextmanager
def timed_loading() -> Iterator[None]:
    """Say how long the block took to load the models; on a terminal also say that it begins."""
    began = time.perf_counter()
    if sys.stderr.isatty():
        say("loading the models ...")
    yield
    say(f"loading took {time.perf_counter() - began:.1f} s")
