"""Measure what one segmentation costs: `python -m tests.benchmarks.segment`.

Runs `sam4mllm segment` on the example image (512 x 512) in fresh processes and reads time and peak memory from the operating
system; then times `segment` in one process after loading, each call on a new image.
"""

import statistics
import subprocess
import sys
import time

from tests.embedded_world import TEST_SEEDS, draw_scene, name_object
from tests.example_scene import EXAMPLE_IMAGE, MEMBER

RUNS = 5

_MEASURE_COMMAND = f"""
import resource, subprocess, sys, time
start = time.perf_counter()
command = [sys.executable, "-m", "sam4mllm_tool", "segment", {str(EXAMPLE_IMAGE)!r}, {MEMBER!r}, "--json"]
subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Run by a small process: a child's peak memory includes that of the process which started it, up to its first own code."""


def measure_processes(runs: int = RUNS) -> tuple[list[float], list[float]]:
    """Return the wall-clock seconds and the peak memory in gigabytes of each run of the command."""
    seconds, gigabytes = [], []
    for _ in range(runs):
        measured = subprocess.run([sys.executable, "-c", _MEASURE_COMMAND], stdout=subprocess.PIPE, text=True, check=True)
        took, kilobytes = measured.stdout.split()
        seconds.append(float(took))
        gigabytes.append(int(kilobytes) * 1024 / 1e9)
    return seconds, gigabytes


def measure_calls() -> list[float]:
    """Return the wall-clock seconds of each call, including the first one."""
    from sam4mllm_tool import Sam4Mllm

    models = Sam4Mllm.load()
    seconds = []
    for seed in range(TEST_SEEDS, TEST_SEEDS + RUNS):
        scene = draw_scene(seed, 512)
        start = time.perf_counter()
        models.segment(scene.image, name_object(scene.objects[0]))
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    seconds, gigabytes = measure_processes()
    calls = measure_calls()
    print(f"whole process: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s (limit 10 s)")
    print(f"peak memory: {max(gigabytes):.2f} GB (limit 1.5 GB)")
    print(f"after loading: median {statistics.median(calls):.2f} s, worst {max(calls):.2f} s (limit 1.5 s)")


if __name__ == "__main__":
    main()
