"""What a million masks cost, and how long requests wait in bursts: `python -m tests.benchmarks.capacity` prints the tables.

The embedded pair's seconds are those that docs/speed.md measured. Those of the 8B pair follow from its shapes: floating-point
operations, counted per image and per expression, over what a GPU does per second.
"""

import argparse
import heapq
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

MILLION = 1_000_000
UTILIZATION = 0.4
"""Share of a GPU's peak that dense bfloat16 inference of this size reaches; 0.3 to 0.5 is usual."""


# Cost ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet: dense bfloat16 operations and bytes of memory per second."""

    name: str
    flops: float
    bytes_read: float


GPUS = (Gpu("L4", 121e12, 0.30e12), Gpu("A100 80 GB", 312e12, 2.0e12), Gpu("H100 SXM", 989e12, 3.35e12))

TEXT_WEIGHTS, TEXT_LAYERS, TEXT_WIDTH = 6.98e9, 32, 4096
"""Llama 3 8B without its embeddings, each of which is multiplied once per token."""
IMAGE_TOKENS, EXPRESSION_TOKENS, DECODES = 2_950, 304, 4
"""LLaVA-NeXT at 672 x 672 pixels with 25 points: 3,254 tokens in all, and passes over one token (docs/speed.md)."""
VISION_WEIGHTS, VISION_TOKENS, TILES = 0.30e9, 577, 5
"""CLIP ViT-L/14 at 336 pixels, for the image and its four tiles."""
SAM_ENCODER_FLOPS = 5.5e12
"""SAM ViT-H at 1024 x 1024 pixels: 2.7 tera multiply-adds."""
KEY_VALUE_BYTES = 131_072
"""Of each token, in bfloat16 with 8 heads."""


def count_image_flops() -> float:
    """Return the operations that an image takes whatever is asked about it."""
    attention = 2 * IMAGE_TOKENS**2 * TEXT_WIDTH * TEXT_LAYERS
    return 2 * TEXT_WEIGHTS * IMAGE_TOKENS + attention + 2 * VISION_WEIGHTS * VISION_TOKENS * TILES + SAM_ENCODER_FLOPS


def count_expression_flops() -> float:
    """Return the operations of each expression about it; the mask decoder's are below a hundredth of that."""
    attention = 4 * EXPRESSION_TOKENS * IMAGE_TOKENS * TEXT_WIDTH * TEXT_LAYERS
    return 2 * TEXT_WEIGHTS * EXPRESSION_TOKENS + attention


def estimate_seconds(gpu: Gpu, expressions: int, images_at_once: int = 16) -> float:
    """Return a GPU's seconds per mask, with so many expressions per image, and so many images whose passes are shared."""
    flops = count_image_flops() / expressions + count_expression_flops()
    reading = DECODES * 2 * TEXT_WEIGHTS / gpu.bytes_read / (images_at_once * expressions)
    return flops / (gpu.flops * UTILIZATION) + reading


def format_costs(prices: dict[str, float]) -> Iterator[str]:
    """Yield the rows of the table of GPUs."""
    yield "| GPU | expressions per image | s per mask | masks per day | GPU hours per million | price per million |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for gpu in GPUS:
        for expressions in (1, 5):
            seconds = estimate_seconds(gpu, expressions)
            hours, price = seconds * MILLION / 3600, prices[gpu.name]
            yield (
                f"| {gpu.name} | {expressions} | {seconds:.3f} | {86_400 / seconds:,.0f} | {hours:,.0f} | "
                f"{hours * price:,.0f} at {price:g} an hour |"
            )


# Queue --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QueueResult:
    """What a server did: requests per second, and seconds within which half and 95 % of them were answered."""

    throughput: float
    p50: float
    p95: float

    @classmethod
    def summarize(cls, latencies: Sequence[float], answered: int, seconds: float) -> "QueueResult":
        """Summarize the latencies of all requests, of which so many were answered within so many seconds."""
        ordered = sorted(latencies)
        return cls(answered / seconds, ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))])


def draw_bursts(rate: float, seconds: float, burst: float, random: Random) -> list[float]:
    """Return times of arrival: `rate` per second on average, `burst` times as many in one of five periods of 10 seconds."""
    quiet = rate * (5 - burst) / 4
    if quiet < 0:
        raise ValueError(f"expected burst, a factor, of at most 5, got {burst}")
    times, now = [], 0.0
    while now < seconds:
        current = rate * burst if int(now / 10) % 5 == 4 else quiet
        now += random.expovariate(max(current, 1e-9))
        times.append(now)
    return times


def simulate(arrivals: Sequence[float], service_s: float, replicas: int, *, spread: float = 0.3, seed: int = 0) -> QueueResult:
    """Simulate one queue before replicas that work on one request at a time.

    Args:
        arrivals: Times at which requests come, in seconds.
        service_s: Mean seconds of a request on a replica.
        replicas: How many there are.
        spread: Standard deviation of these seconds, as a share of them.
        seed: Of the draws.
    """
    random, free, latencies, end = Random(seed), [0.0] * replicas, [], 0.0
    heapq.heapify(free)
    for arrival in arrivals:
        start = max(arrival, heapq.heappop(free))
        end = start + max(service_s * 0.2, random.gauss(service_s, spread * service_s))
        heapq.heappush(free, end)
        latencies.append(end - arrival)
    latencies.sort()
    at = [latencies[int(share * (len(latencies) - 1))] for share in (0.5, 0.95)]
    return QueueResult(len(latencies) / max(*free, arrivals[-1]), *at)


def simulate_clients(
    clients: int,
    seconds: float,
    service_s: float,
    replicas: int,
    *,
    overhead_s: float = 0.0,
    taken: float = 0.0,
    seed: int = 0,
) -> QueueResult:
    """Simulate clients that each send a request once the one before is answered, as benchmarks do.

    A request takes time of the first core, then goes to the replica where the fewest wait, as Ray Serve's router sends it. Each
    works on one request at a time, and what has work on a core shares it equally.

    Args:
        clients: How many there are.
        seconds: How long they send. Requests that are answered by then count.
        service_s: Seconds of a request on a replica's core.
        replicas: How many there are, each with a core.
        overhead_s: Seconds of each request that the first core spends besides, on what all of them share.
        taken: Share of the first core that is taken whatever is sent, below 1.
        seed: Of the draws.
    """
    random, now, latencies = Random(seed), 0.0, list[float]()
    work = [overhead_s] + [service_s] * replicas
    waiting = [[0.0] * clients] + [
        list[float]() for _ in range(replicas)
    ]  # when they were sent: of the overhead, of each replica
    remaining = list(work)
    while True:
        active = [index for index, times in enumerate(waiting) if times]
        sharers = Counter(max(index - 1, 0) for index in active)
        rates = {index: (1 - taken * (index < 2)) / sharers[max(index - 1, 0)] for index in active}
        step = min(remaining[index] / rates[index] for index in active)
        if (now := now + step) >= seconds:
            break
        for index in active:
            remaining[index] -= step * rates[index]
        for index in [index for index in active if remaining[index] < 1e-9]:
            remaining[index], sent = work[index], waiting[index].pop(0)
            if index:
                latencies.append(now - sent)
                waiting[0].append(now)
            else:
                fewest = min(map(len, waiting[1:]))
                random.choice([times for times in waiting[1:] if len(times) == fewest]).append(sent)
    return QueueResult.summarize(latencies, len(latencies), seconds)


def format_queue(service_s: float) -> Iterator[str]:
    """Yield the rows of the table of bursts."""
    yield "| load of one replica | burst | replicas | p50, s | p95, s |"
    yield "| ---: | ---: | ---: | ---: | ---: |"
    for load in (0.5, 0.8):
        for burst in (1.0, 3.0):
            arrivals = draw_bursts(load / service_s, 3600, burst, Random(1))
            for replicas in (1, 2, 3):
                result = simulate(arrivals, service_s, replicas)
                yield f"| {load:.0%} | {burst:g} | {replicas} | {result.p50:.2f} | {result.p95:.2f} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--price", type=float, nargs=3, default=[0.8, 1.8, 3.0], help="an hour of L4, A100 and H100")
    parser.add_argument("--service-s", type=float, default=0.22, help="seconds of a request on a replica")
    arguments = parser.parse_args(argv)
    print(f"an image: {count_image_flops() / 1e12:.1f} TFLOP, each expression: {count_expression_flops() / 1e12:.1f} TFLOP")
    print("\n".join(format_costs(dict(zip((gpu.name for gpu in GPUS), arguments.price, strict=True)))))
    print("\n".join(format_queue(arguments.service_s)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
