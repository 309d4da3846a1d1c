"""Hand inputs to a target one after another, and watch for what must not happen: other errors, waiting, memory."""

import contextlib
import random
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from sam4mllm_tool.errors import ImageError
from sam4mllm_tool.images.load import ImagePolicy, load_image
from tests.fuzz.text_targets import TARGETS

__all__ = ["LONGEST_S", "POLICY", "FuzzFigures", "fuzz_images", "fuzz_text"]

LONGEST_S = 5.0
"""Processor time that one input may take, so that a busy machine fails no test."""
POLICY = ImagePolicy(max_pixels=4_000_000)
"""The default's limits, with fewer pixels, so that memory is bounded by less."""
_MEMORY_BOUND = 3.1 * 4 * POLICY.max_pixels + 2**26
"""Bytes: three times a decoded image of four channels, and what reading the bytes takes."""


class _TooSlow(BaseException):
    """An input takes too long. No handler of ordinary errors takes it for one."""


@dataclass
class FuzzFigures:
    """What a run came to.

    Attributes:
        inputs: How many were read.
        refused: How many of them were refused by the expected error.
        slowest_s: The most processor time of one, in seconds.
        peak_bytes: The most memory that one took beyond what was there; 0 where it isn't measured.
    """

    inputs: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    peak_bytes: int = 0

    def __str__(self) -> str:
        peak = f", peak memory {self.peak_bytes / 1e6:.0f} MB" if self.peak_bytes else ""
        return f"{self.inputs:,} inputs, {self.refused:,} refused, slowest {self.slowest_s:.2f} s{peak}"


def fuzz_text(name: str, count: int, seed: int = 0) -> FuzzFigures:
    """Hand inputs of one kind to what reads them. Raises AssertionError, naming the input's seed."""
    target, figures = TARGETS[name], FuzzFigures()
    for number in range(seed, seed + count):
        rng = random.Random(number)
        given = target.make(rng)
        _read(partial(target.read, given), target.refusals, figures, f"{name}, seed {number}")
    return figures


def fuzz_images(images: Iterable[tuple[str, bytes]]) -> FuzzFigures:
    """Hand images to the image door. Raises AssertionError, naming the image."""
    figures = FuzzFigures()
    for name, content in images:
        before = _reset_peak()
        _read(partial(_load, content), (ImageError,), figures, f"image, {name}: {content[:60]!r}")
        if before:
            figures.peak_bytes = max(figures.peak_bytes, _read_peak() - before)
        assert figures.peak_bytes < _MEMORY_BOUND, f"image, {name}: {figures.peak_bytes:,} bytes"
    return figures


def _load(content: bytes) -> None:
    image = load_image(content, policy=POLICY)
    assert image.mode == "RGB"
    assert image.width * image.height <= POLICY.max_pixels


def _read(read: Callable[[], object], refusals: tuple[type[Exception], ...], figures: FuzzFigures, what: str) -> None:
    began = time.process_time()
    try:
        with _time_limit():
            read()
    except refusals as error:
        figures.refused += 1
        message = str(error)
        assert len(message) < 2000, what
    except (Exception, _TooSlow) as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    figures.inputs += 1
    figures.slowest_s = max(figures.slowest_s, time.process_time() - began)


@contextmanager
def _time_limit() -> Iterator[None]:
    """Interrupt what computes for too long, where it runs Python now and then."""

    def interrupt(_: int, __: FrameType | None) -> Any:
        raise _TooSlow(f"it computes for longer than {LONGEST_S:g} s")

    earlier = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)


def _reset_peak() -> int:
    """Begin to measure the peak anew; return the bytes in use, 0 where the system can't tell."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def _read_peak() -> int:
    fields = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in fields if line.startswith("VmHWM"))
