"""Two replicas on Ray Serve against one: `python -m tests.benchmarks.replicas` (after `make ray`, with `.venv/ray/bin/python`).

A core stands for a machine: with one replica of each model a Ray cluster, `sam4mllm serve --engine ray` with the embedded pair
and the clients share one core, and a second replica of each gets a second core. Clients send small images and five expressions
each, the next once the answer is there. What is measured is compared with the simulation of docs/capacity.md for the same
clients and the same seconds of processor time: of the replicas for a request, of all else for a request, and of what Ray takes
of the first core without requests. The command ends with exit code 1 if a request fails, if two replicas do less than 1.6 times
as much as one, or if the simulated throughput is off by over 15 %.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random

import httpx
from PIL import Image

from tests.benchmarks.capacity import QueueResult, simulate_clients
from tests.benchmarks.serving import read_processor_seconds
from tests.cluster.ray_cluster import list_actors, serve_on_cluster, start_cluster
from tests.embedded_world import TEST_SEEDS, draw_scene, sample_expressions

LEAST_RATIO, MOST_ERROR = 1.6, 0.15
_IDLE_S = 10


def draw_requests(count: int, side: int, expressions: int) -> list[tuple[bytes, list[str]]]:
    """Return images as PNG files, each with expressions."""
    requests = []
    for seed in range(TEST_SEEDS, TEST_SEEDS + count):
        scene, content = draw_scene(seed, side), BytesIO()
        Image.fromarray(scene.image).save(content, "PNG")
        texts = [expression.text for expression in sample_expressions(scene, expressions, Random(seed))]
        requests.append((content.getvalue(), texts))
    return requests


def move_to_core(process: int, core: int) -> None:
    """Have all threads of a process run on this core alone."""
    for thread in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def read_busy_seconds(core: int) -> float:
    """Return for how long a core has worked since the machine started."""
    (line,) = (line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    user, nice, system, _, _, interrupts, soft_interrupts = map(int, line.split()[1:8])
    return (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")


def measure(url: str, requests: Sequence[tuple[bytes, list[str]]], clients: int, seconds: float) -> QueueResult:
    """Have the clients ask for so long. Raises httpx.HTTPStatusError where a request fails."""
    end = time.perf_counter() + seconds

    def ask(client: int) -> list[tuple[float, float]]:
        answered, number = [], client
        with httpx.Client(base_url=url, timeout=180) as connection:
            while (sent := time.perf_counter()) < end:
                content, expressions = requests[number % len(requests)]
                response = connection.post("/v1/segment", files={"image": content}, data={"expressions": expressions})
                response.raise_for_status()
                answered.append((time.perf_counter(), time.perf_counter() - sent))
                number += clients
        return answered

    with ThreadPoolExecutor(clients) as pool:
        answers = [answer for answered in pool.map(ask, range(clients)) for answer in answered]
    return QueueResult.summarize([latency for _, latency in answers], sum(at <= end for at, _ in answers), seconds)


@dataclass(frozen=True)
class MeasuredReplicas:
    """What replicas did, and the processor time that it took.

    Attributes:
        result: What the clients got.
        service_s: Seconds of the replicas per request.
        overhead_s: Seconds per request of all else on the first core.
        taken: Share of the first core that is taken without requests.
    """

    result: QueueResult
    service_s: float
    overhead_s: float
    taken: float


def measure_replicas(address: str, replicas: int, cores: Sequence[int], options: argparse.Namespace) -> MeasuredReplicas:
    """Serve with so many replicas of each model, the second ones on the second core, all else on the first."""
    requests = draw_requests(256, options.side, options.expressions)
    with serve_on_cluster(address, "--min-replicas", str(replicas), "--method", options.method, "--max-queue", "512") as url:
        of_models = [list_actors(f"ServeReplica:default:{model}") for model in ("MLLM", "Segmenter")]
        first, others = [processes[0] for processes in of_models], [p for processes in of_models for p in processes[1:]]
        for process in others:
            move_to_core(process, cores[1])

        def read() -> tuple[float, float, float]:
            on_first, on_others = (math.fsum(map(read_processor_seconds, processes)) for processes in (first, others))
            return read_busy_seconds(cores[0]), on_first, on_others

        measure(url, requests, options.clients, 5)  # warms up
        idle = read()
        time.sleep(_IDLE_S)
        start = read()
        result = measure(url, requests, options.clients, options.seconds)
        end = read()
    taken = (start[0] - idle[0]) / _IDLE_S
    busy, on_first, on_others = (after - before for after, before in zip(end, start, strict=True))
    answered = result.throughput * options.seconds
    overhead = busy - on_first - taken * options.seconds
    return MeasuredReplicas(result, (on_first + on_others) / answered, max(0.0, overhead) / answered, taken)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long to measure, each way")
    parser.add_argument("--clients", type=int, default=8, help="clients at once")
    parser.add_argument("--side", type=int, default=256, help="sides of the images in pixels")
    parser.add_argument("--expressions", type=int, default=5, help="expressions about each image")
    parser.add_argument("--method", default="pqpp", help="how an expression is segmented")
    arguments = parser.parse_args(argv)
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {cores[0]})  # and all that is started from here
    with start_cluster(cpus=2) as address:
        measured = [measure_replicas(address, replicas, cores, arguments) for replicas in (1, 2)]
    for replicas, each in enumerate(measured, start=1):
        print(f"{replicas}: a request takes {each.service_s:.2f} s of the replicas, {each.overhead_s:.2f} s of all else")
        print(f"{replicas}: without requests {each.taken:.0%} of the first core is taken")
    simulated = [
        simulate_clients(
            arguments.clients,
            arguments.seconds,
            each.service_s,
            replicas,
            overhead_s=each.overhead_s,
            taken=each.taken,
        )
        for replicas, each in enumerate(measured, start=1)
    ]
    for replicas, pair in enumerate(zip(measured, simulated, strict=True), start=1):
        for name, result in (("measured", pair[0].result), ("simulated", pair[1])):
            print(f"{replicas}, {name}: {result.throughput:.2f} requests/s, p50 {result.p50:.2f} s, p95 {result.p95:.2f} s")
    one, two = (each.result.throughput for each in measured)
    ratio, error = two / one, abs(simulated[1].throughput / two - 1)
    print(f"two replicas do {ratio:.2f} times as much as one; the simulation is off by {error:.0%}")
    faults = [f"below {LEAST_RATIO} times"] if ratio < LEAST_RATIO else []
    faults += ["the simulation is off"] if error > MOST_ERROR else []
    print("\n".join(faults) or "No faults.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
