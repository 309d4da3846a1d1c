"""Two replicas on Ray Serve against one: `python -m tests.benchmarks.replicas` (after `make ray`, with `.venv/ray/bin/python`).

Starts a Ray cluster on this machine and `sam4mllm serve --engine ray` with the embedded pair, first with one replica of
each model, then with two, a thread each. Clients send small images and an expression each, the next once the answer is
there. What is measured is compared with the simulation of docs/capacity.md for the same clients: the seconds of a request on
a replica follow from the throughput of one, those in the server's own process from its CPU time. The command ends with exit
code 1 if a request fails, if two replicas do less than 1.6 times as much as one, or if the simulation is off by over 15 %.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import httpx
from PIL import Image

from tests.benchmarks.capacity import QueueResult, simulate_clients
from tests.benchmarks.serving import read_processor_seconds
from tests.cluster.ray_cluster import list_actors, serve_on_cluster, start_cluster
from tests.embedded_world import TEST_SEEDS, draw_scene, name_object

LEAST_RATIO, MOST_ERROR = 1.6, 0.15


def draw_requests(count: int, side: int) -> list[tuple[bytes, str]]:
    """Return images as PNG files, each with an expression."""
    requests = []
    for seed in range(TEST_SEEDS, TEST_SEEDS + count):
        scene, content = draw_scene(seed, side), BytesIO()
        Image.fromarray(scene.image).save(content, "PNG")
        requests.append((content.getvalue(), name_object(scene.objects[0])))
    return requests


def measure(url: str, requests: Sequence[tuple[bytes, str]], clients: int, seconds: float) -> QueueResult:
    """Have the clients ask for so long. Raises httpx.HTTPStatusError where a request fails."""
    end = time.perf_counter() + seconds

    def ask(client: int) -> list[tuple[float, float]]:
        answered, number = [], client
        with httpx.Client(base_url=url, timeout=180) as connection:
            while (sent := time.perf_counter()) < end:
                content, expression = requests[number % len(requests)]
                response = connection.post("/v1/segment", files={"image": content}, data={"expressions": expression})
                response.raise_for_status()
                answered.append((time.perf_counter(), time.perf_counter() - sent))
                number += clients
        return answered

    with ThreadPoolExecutor(clients) as pool:
        answers = [answer for answered in pool.map(ask, range(clients)) for answer in answered]
    latencies = sorted(latency for _, latency in answers)
    in_time = sum(at <= end for at, _ in answers)
    return QueueResult(in_time / seconds, latencies[len(latencies) // 2], latencies[int(0.95 * (len(latencies) - 1))])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long to measure, each way")
    parser.add_argument("--clients", type=int, default=16, help="clients at once")
    parser.add_argument("--side", type=int, default=256, help="sides of the images in pixels")
    parser.add_argument("--method", default="pqpp", help="how an expression is segmented")
    arguments = parser.parse_args(argv)
    requests, measured, overhead_s = draw_requests(256, arguments.side), {}, 0.0
    with start_cluster(cpus=2) as address:
        for replicas in (1, 2):
            options = ("--min-replicas", str(replicas), "--method", arguments.method, "--max-queue", "512")
            with serve_on_cluster(address, *options) as url:
                measure(url, requests, arguments.clients, 5)  # warms up
                (server,) = list_actors("ServeReplica:default:Server")
                before = read_processor_seconds(server)
                result = measured[replicas] = measure(url, requests, arguments.clients, arguments.seconds)
                spent = read_processor_seconds(server) - before
            overhead_s = overhead_s or spent / (result.throughput * arguments.seconds)
            service_s = 1 / measured[1].throughput
            expected = simulate_clients(arguments.clients, arguments.seconds, service_s, replicas, overhead_s=overhead_s)
            for name, each in (("measured", result), ("simulated", expected)):
                print(
                    f"{replicas} replicas, {name}: {each.throughput:.2f}/s, p50 {each.p50:.2f} s, p95 {each.p95:.2f} s",
                    flush=True,
                )
    ratio = measured[2].throughput / measured[1].throughput
    error = abs(expected.throughput / measured[2].throughput - 1)
    print(f"two replicas do {ratio:.2f} times as much as one; the simulation is off by {error:.0%}")
    faults = [f"below {LEAST_RATIO} times"] if ratio < LEAST_RATIO else []
    faults += ["the simulation is off"] if error > MOST_ERROR else []
    print("\n".join(faults) or "No faults.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
