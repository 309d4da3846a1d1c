"""Call one instance thousands of times: memory, threads and open files don't grow, and results stay what they were.

`python -m tests.soak.soak` runs the library and then the server, and prints the figures of both. In the first
tenth of the calls caches fill and libraries are imported. The slope of memory is fitted to what follows, and its noise
estimated from ten parts of it, so that a leak stands out from an allocator that takes and returns memory.
"""

import argparse
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from threading import active_count
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.types import Segmentation
from tests.embedded_world import TEST_SEEDS, draw_scene, name_object, sample_expressions
from tests.results import assert_equal_but_for_rounding
from tests.server.server_process import run_server

__all__ = ["CALLS", "MINUTES", "STORE_BYTES", "SoakFigures", "list_library_calls", "list_server_calls", "soak"]

CALLS, MINUTES = 5000, 30.0
"""How many calls are made, unless that takes longer."""
_IMAGES = 40
"""More than any cache of images holds."""
_PARTS = 10
STORE_BYTES = 2**19
"""What the server may keep of images and of results: few enough for the first tenth of the calls to fill it."""


@dataclass(frozen=True)
class SoakFigures:
    """What a run came to.

    Attributes:
        calls: How many were made.
        seconds: How long they took.
        slope: Bytes of memory that a call added, fitted to all calls after the first tenth.
        noise: Standard error of the slope, from the slopes' scatter over ten parts.
        growth: Bytes between the medians of the second and the last tenth.
        threads: How many threads the last call left more than the first tenth.
        handles: The same of open files and sockets.
        differences: Results that differ from those of the first pass.
    """

    calls: int
    seconds: float
    slope: float
    noise: float
    growth: float
    threads: int
    handles: int
    differences: int

    @property
    def is_flat(self) -> bool:
        """Whether nothing grew: the slope of memory is within three times its noise, or it is 8 MiB in all at most."""
        return abs(self.slope) <= 3 * self.noise or abs(self.growth) < 2**23

    def __str__(self) -> str:
        return (
            f"{self.calls:,} calls in {self.seconds:.0f} s: memory {self.slope:+.0f} bytes a call (standard error "
            f"{self.noise:.0f}), {self.growth / 2**20:+.1f} MiB from the second tenth to the last; {self.threads:+d} threads, "
            f"{self.handles:+d} open files, {self.differences} results differ"
        )


def soak(calls: list[Callable[[], Any]], count: int, *, minutes: float = MINUTES, pid: int | None = None) -> SoakFigures:
    """Make calls in turn, `count` in all, and watch a process.

    Args:
        calls: Different ones; each is expected to give what it gave first, an error of this package included.
        count: How many to make.
        minutes: When to end before that.
        pid: Of the process; by default this one.
    """
    process = Path(f"/proc/{pid or 'self'}")
    first: list[Any] = []
    memory, threads, handles, differences = list[int](), list[int](), list[int](), 0
    began = time.perf_counter()
    for number in range(count):
        if time.perf_counter() - began > 60 * minutes:
            break
        result = _call(calls[number % len(calls)])
        if number < len(calls):
            first.append(result)
        else:
            differences += not _are_equal(result, first[number % len(calls)])
        if pid is None and number % 100 == 0:
            gc.collect()
        memory.append(int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"))
        threads.append(len(list((process / "task").iterdir())))
        handles.append(len(list((process / "fd").iterdir())))
    seconds, warm = time.perf_counter() - began, max(1, len(memory) // 10)
    slope, noise = _fit_slope(np.array(memory[warm:], float))
    grown = [float(np.median(each[-warm:]) - np.median(each[warm : 2 * warm])) for each in (memory, threads, handles)]
    return SoakFigures(len(memory), seconds, slope, noise, grown[0], int(grown[1]), int(grown[2]), differences)


def _call(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Sam4MllmError as error:
        return f"{type(error).__name__}: {error}"


def _are_equal(result: Any, expected: Any) -> bool:
    if not isinstance(result, Segmentation) or not isinstance(expected, Segmentation):
        return bool(result == expected)
    try:
        assert_equal_but_for_rounding(result, expected)
    except AssertionError:
        return False
    return True


def _fit_slope(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the slope of a line through the values, and its standard error by the means of ten parts."""
    parts = np.array([part.mean() for part in np.array_split(values, _PARTS)])
    places = np.arange(_PARTS) * len(values) / _PARTS
    (slope, start), residuals = np.polyfit(places, parts, 1), places - places.mean()
    scatter = parts - (slope * places + start)
    return float(slope), float(np.sqrt((scatter @ scatter) / (_PARTS - 2) / (residuals @ residuals)))


def list_library_calls(models: Sam4Mllm) -> list[Callable[[], Any]]:
    """Return calls of all methods about drawn scenes, and some that fail."""
    methods: tuple[Any, ...] = ("box", "pqpp", "box", "ppg", "box", "box", "pqpp", "adaptive")
    calls: list[Callable[[], Any]] = []
    for number in range(_IMAGES):
        scene = draw_scene(TEST_SEEDS + number)
        text = sample_expressions(scene, 1, Random(number))[0].text
        calls.append(partial(models.segment, scene.image, text, method=methods[number % 8]))
    bad: tuple[tuple[Any, str], ...] = ((b"no image", "it"), (np.zeros((9, 9, 3), np.uint8), " "), ("no/such/file.png", "it"))
    calls += [partial(models.segment, image, text) for image, text in bad]
    return calls


def list_server_calls(url: str) -> list[Callable[[], Any]]:
    """Return calls of a server about drawn scenes, and some that fail."""
    from sam4mllm_tool.client import Client

    client = Client(url)
    calls: list[Callable[[], Any]] = []
    for number in range(_IMAGES):
        scene = draw_scene(TEST_SEEDS + number)
        calls.append(partial(client.segment, scene.image, name_object(scene.objects[0]), method="box"))
    calls.append(partial(client.segment, b"no image", "it"))
    calls.append(lambda: httpx.post(f"{url}/v1/segment", content=b"{").status_code)
    return calls


def main() -> None:
    """Soak the library and the server, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS, help="of the library, and as many of the server")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which the library's part, or the server's, ends")
    options = parser.parse_args()
    figures = soak(list_library_calls(Sam4Mllm.load("embedded", "embedded")), options.calls, minutes=options.minutes)
    print(f"library: {figures}; {active_count()} threads at the end", flush=True)
    with run_server("--store-bytes", str(STORE_BYTES)) as (process, url):
        server = soak(list_server_calls(url), options.calls, minutes=options.minutes, pid=process.pid)
    print(f"server: {server}")
    assert figures.is_flat
    assert server.is_flat


if __name__ == "__main__":
    main()
