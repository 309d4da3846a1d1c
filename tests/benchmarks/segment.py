"""Measure what one segmentation costs: `python -m tests.benchmarks.segment`.

Runs `sam4mllm segment` on the example image (512 x 512) in fresh processes and reads time and peak memory from the operating
system; then times `segment` in one process after loading, each call on a new image.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from sam4mllm_tool.embedded.scenes import TEST_SEEDS, draw_scene

EXAMPLE_IMAGE = Path(__file__).parents[2] / "examples" / "scene.png"
RUNS = 5


def measure_processes(runs: int = RUNS) -> tuple[list[float], list[float]]:
    """Return the wall-clock seconds and the peak memory in gigabytes of each run of the command."""
    command = [sys.executable, "-m", "sam4mllm_tool", "segment", str(EXAMPLE_IMAGE), "the orange ring", "--json"]
    seconds, gigabytes = [], []
    for _ in range(runs):
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"the command failed with exit code {process.returncode}")
        seconds.append(time.perf_counter() - start)
        gigabytes.append(usage.ru_maxrss * 1024 / 1e9)
    return seconds, gigabytes


def measure_calls() -> list[float]:
    """Return the wall-clock seconds of each call, including the first one."""
    from sam4mllm_tool import Sam4Mllm

    models = Sam4Mllm.load()
    seconds = []
    for seed in range(TEST_SEEDS, TEST_SEEDS + RUNS):
        scene = draw_scene(seed, 512)
        start = time.perf_counter()
        models.segment(scene.image, f"the {scene.objects[0].colour} {scene.objects[0].shape}")
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
