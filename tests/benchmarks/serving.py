"""Compare what a server does for many clients at once with what it does for one: `python -m tests.benchmarks.serving`.

Starts `sam4mllm serve` with the embedded pair. Each client keeps its connection, and works through sessions: it sends an image
(`/v1/embed`), then asks about its objects by the image's handle, one after the other, each once the answer before is there. One
client alone is the baseline; then many do the same at once. The sessions are the same, in the same order, and no two of them
are about one image. The command ends with exit code 1 if a request failed otherwise than by status 429, if throughput is below
1.5 times the baseline's, or if memory grows.
"""

import argparse
import asyncio
import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import cycle
from pathlib import Path

import httpx
from PIL import Image

from tests.embedded_world import TEST_SEEDS, draw_scene, name_object
from tests.server.server_process import run_server

LEAST_RATIO, MOST_GROWTH = 1.5, 1.05
STORE_BYTES = 64 * 2**20
"""What the server keeps of images, and of results: as little as holds what all clients work on, so that it is full soon."""


@dataclass(frozen=True)
class Session:
    """An image, and what is asked about it.

    Attributes:
        content: Of a PNG file.
        expressions: In the order in which they are asked.
    """

    content: bytes
    expressions: tuple[str, ...]


@dataclass
class Load:
    """What clients measured.

    Attributes:
        clients: How many there were at once.
        seconds: In which they began sessions.
        latencies: Seconds of each segmentation that was answered, be it after that time.
        in_time: How many were answered within that time.
        statuses: How many requests were answered by each.
        processor_s: Seconds of CPU that the server took in all.
        megabytes: Resident memory of the server, each second.
        batches: How many calls of the MLLM were about at most so many images.
    """

    clients: int
    seconds: float
    latencies: list[float] = field(default_factory=list)
    in_time: int = 0
    statuses: "Counter[int]" = field(default_factory=Counter)
    processor_s: float = 0.0
    megabytes: list[float] = field(default_factory=list)
    batches: dict[str, int] = field(default_factory=dict)

    @property
    def throughput(self) -> float:
        """Segmentations per second."""
        return self.in_time / self.seconds

    @property
    def growth(self) -> float:
        """Memory at the end (the median of the last quarter), over that in the middle (of the quarter before the half)."""
        count = max(1, len(self.megabytes) // 4)
        return statistics.median(self.megabytes[-count:]) / statistics.median(self.megabytes[count : 2 * count])

    def percentile(self, percent: int) -> float:
        """Return the seconds within which so many percent of the segmentations were answered."""
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1]


def draw_sessions(count: int, side: int, expressions: int = 3) -> list[Session]:
    """Draw the images, with up to so many objects of each to ask about."""
    sessions = []
    for seed in range(TEST_SEEDS, TEST_SEEDS + count):
        scene, buffer = draw_scene(seed, side), BytesIO()
        Image.fromarray(scene.image).save(buffer, "PNG")
        sessions.append(Session(buffer.getvalue(), tuple(map(name_object, scene.objects[:expressions]))))
    return sessions


async def run_client(client: httpx.AsyncClient, sessions: Iterator[Session], deadline: float, load: Load) -> None:
    """Work through sessions until the time is over, with at least one question in each, and note what is answered."""
    while time.perf_counter() < deadline:
        session = next(sessions)
        response = await client.post("/v1/embed", files={"image": session.content})
        load.statuses[response.status_code] += 1
        if response.is_success:
            for expression in session.expressions:
                await ask(client, {"image": response.json()["image"], "expressions": [expression]}, load)
                if time.perf_counter() > deadline:
                    break
                load.in_time = len(load.latencies)


async def ask(client: httpx.AsyncClient, body: dict[str, object], load: Load) -> None:
    """Ask about one object, and wait as long as the server says where it has no room."""
    start = time.perf_counter()
    response = await client.post("/v1/segment", json=body)
    load.statuses[response.status_code] += 1
    if response.is_success:
        assert len(response.json()["results"]) == 1
        load.latencies.append(time.perf_counter() - start)
    elif response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        await asyncio.sleep(float(response.headers["Retry-After"]))


async def measure_load(url: str, process_id: int, sessions: Sequence[Session], clients: int, seconds: float) -> Load:
    """Have so many clients share the sessions for so long."""
    load, before, rest = Load(clients, seconds), read_batches(url), cycle(sessions)
    processor_s = read_processor_seconds(process_id)
    watching = asyncio.create_task(watch_memory(process_id, load))
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=180, limits=limits) as client:
        deadline = time.perf_counter() + seconds
        await asyncio.gather(*(run_client(client, rest, deadline, load) for _ in range(clients)))
    watching.cancel()
    load.processor_s = read_processor_seconds(process_id) - processor_s
    load.batches = {limit: count - before.get(limit, 0) for limit, count in read_batches(url).items()}
    return load


async def watch_memory(process_id: int, load: Load) -> None:
    while True:
        status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
        load.megabytes.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)
        await asyncio.sleep(1)


def read_processor_seconds(process_id: int) -> float:
    """Return the seconds of CPU that a process has taken, of all its threads."""
    fields = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_batches(url: str) -> dict[str, int]:
    """Return from /metrics how many calls of the MLLM there were about so many images, by the upper ends of the histogram."""
    pattern = r'sam4mllm_batch_images_bucket\{le="([^"]+)"\} (\S+)'
    total, batches = 0, {}
    for limit, count in re.findall(pattern, httpx.get(f"{url}/metrics").text):
        batches[limit], total = int(float(count)) - total, int(float(count))
    return batches


def format_load(load: Load) -> str:
    """Write what clients measured, in lines."""
    batches = ", ".join(f"<= {limit.removesuffix('.0')}: {count}" for limit, count in load.batches.items() if count)
    return (
        f"{load.clients} clients at once, {load.seconds:.0f} s: {load.throughput:.2f} segmentations per second\n"
        f"  latency: p50 {load.percentile(50):.2f} s, p95 {load.percentile(95):.2f} s\n"
        f"  CPU of the server: {load.processor_s / len(load.latencies):.2f} s per segmentation\n"
        f"  statuses: {', '.join(f'{status}: {count}' for status, count in sorted(load.statuses.items()))}\n"
        f"  images per call of the MLLM: {batches}\n"
        f"  memory of the server in MB, at times: {' '.join(f'{value:.0f}' for value in sample(load.megabytes))}"
    )


def sample(values: Sequence[float], count: int = 8) -> list[float]:
    """Return some values, the first and the last among them."""
    last = len(values) - 1
    return [values[round(last * number / (count - 1))] for number in range(count)]


def find_faults(alone: Load, together: Load) -> list[str]:
    """Return in what the server misses its bars."""
    faults = []
    failed = {status for load in (alone, together) for status in load.statuses} - {
        httpx.codes.OK,
        httpx.codes.TOO_MANY_REQUESTS,
    }
    if failed:
        faults.append(f"requests failed with status {', '.join(map(str, sorted(failed)))}")
    if together.throughput < LEAST_RATIO * alone.throughput:
        faults.append(f"throughput is below {LEAST_RATIO} times that of one client")
    if together.growth > MOST_GROWTH:
        faults.append(f"memory grows: {together.growth:.2f} times in the second half")
    return faults


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="how long to measure, each way")
    parser.add_argument("--clients", type=int, default=64, help="clients at once")
    parser.add_argument("--images", type=int, default=512, help="images that the clients work through")
    parser.add_argument("--side", type=int, default=512, help="sides of the images in pixels")
    parser.add_argument("--serve", nargs="*", default=[], metavar="OPTION", help="options of `sam4mllm serve`, without dashes")
    arguments = parser.parse_args(argv)
    sessions = draw_sessions(arguments.images, arguments.side)
    with run_server(*(f"--{option}" for option in arguments.serve), SAM4MLLM_STORE_BYTES=str(STORE_BYTES)) as (process, url):
        asyncio.run(measure_load(url, process.pid, sessions, clients=4, seconds=5))  # warms up
        loads = []
        for clients in (1, arguments.clients):
            loads.append(asyncio.run(measure_load(url, process.pid, sessions, clients, arguments.seconds)))
            print(format_load(loads[-1]), flush=True)
    alone, together = loads
    print(f"{together.throughput / alone.throughput:.2f} times the throughput of one client (at least {LEAST_RATIO})")
    faults = find_faults(alone, together)
    print("\n".join(faults) or "No faults.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
