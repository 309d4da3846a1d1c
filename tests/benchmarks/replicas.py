"""Two replicas on Ray Serve against one: `python -m tests.benchmarks.replicas` (after `make ray`, with `.venv/ray/bin/python`).

A core stands for a machine: with one replica of each model a Ray cluster, `sam4mllm serve --engine ray` with the embedded pair
and the clients share one core, and a second replica of each gets a second core. Clients send small images and five expressions
each, the next once the answer is there. What is measured is compared with the simulation of docs/capacity.md for the same
clients, where a request takes the processor time of one replica of each and what else the first core spends on it, beside what
Ray takes of that core without requests. The command ends with exit code 1 if a request fails, if two replicas do less than 1.6
times as much as one, or if the simulation is off by over 15 %.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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


def measure_load(core: int, seconds: float = 10) -> float:
    """Wait so long, and return the share of that time in which the core worked."""

    def read_idle_seconds() -> float:
        (line,) = (line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
        return sum(map(int, line.split()[4:6])) / os.sysconf("SC_CLK_TCK")

    began, idle = time.perf_counter(), read_idle_seconds()
    time.sleep(seconds)
    return max(0.0, 1 - (read_idle_seconds() - idle) / (time.perf_counter() - began))


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
    latencies = sorted(latency for _, latency in answers)
    in_time = sum(at <= end for at, _ in answers)
    return QueueResult(in_time / seconds, latencies[len(latencies) // 2], latencies[int(0.95 * (len(latencies) - 1))])


def measure_replicas(
    address: str, replicas: int, cores: Sequence[int], options: argparse.Namespace
) -> tuple[QueueResult, float, float]:
    """Serve with so many replicas of each model, the second ones on the second core, all else on the first.

    Returns:
        What the clients got; the seconds of processor time that the first replicas took per request; the share of the first
        core that is taken without requests.
    """
    requests = draw_requests(256, options.side, options.expressions)
    with serve_on_cluster(address, "--min-replicas", str(replicas), "--method", options.method, "--max-queue", "512") as url:
        processes = [list_actors(f"ServeReplica:default:{model}") for model in ("MLLM", "Segmenter")]
        for process in (process for of_model in processes for process in of_model[1:]):
            move_to_core(process, cores[1])
        measure(url, requests, options.clients, 5)  # warms up
        taken = measure_load(cores[0])
        before = sum(read_processor_seconds(of_model[0]) for of_model in processes)
        result = measure(url, requests, options.clients, options.seconds)
        spent = sum(read_processor_seconds(of_model[0]) for of_model in processes) - before
    return result, spent / (result.throughput * options.seconds), taken


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
        one, service_s, taken = measure_replicas(address, 1, cores, arguments)
        two, _, _ = measure_replicas(address, 2, cores, arguments)
    overhead_s = (1 - taken) / one.throughput - service_s
    print(f"a request: {service_s:.2f} s of the replicas' processor time, {overhead_s:.2f} s of all else")
    print(f"without requests {taken:.0%} of the first core is taken")
    simulated = [
        simulate_clients(arguments.clients, arguments.seconds, service_s, replicas, overhead_s=overhead_s, taken=taken)
        for replicas in (1, 2)
    ]
    for name, result in zip(
        ("1, measured", "1, simulated", "2, measured", "2, simulated"), (one, simulated[0], two, simulated[1]), strict=True
    ):
        print(f"{name}: {result.throughput:.2f} requests/s, p50 {result.p50:.2f} s, p95 {result.p95:.2f} s")
    ratio, error = two.throughput / one.throughput, abs(simulated[1].throughput / two.throughput - 1)
    print(f"two replicas do {ratio:.2f} times as much as one; the simulation is off by {error:.0%}")
    faults = [f"below {LEAST_RATIO} times"] if ratio < LEAST_RATIO else []
    faults += ["the simulation is off"] if error > MOST_ERROR else []
    print("\n".join(faults) or "No faults.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
