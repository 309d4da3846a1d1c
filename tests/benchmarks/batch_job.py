"""What `sam4mllm batch` does on Ray, and after kills: `python -m tests.benchmarks.batch_job` (needs the extras batch and ray).

Draws small scenes, starts a Ray cluster on this machine, and runs three jobs over the same rows with the embedded pair: with
one worker, undisturbed; with two workers, undisturbed; and with two of which one is killed -9, whose driver then is killed -9
too, and that is resumed by the same command. The command ends with exit code 1 if a row is missing or there twice, if the bytes
of a shard differ between the jobs, if a worker's memory grows, or if two workers are below 1.7 times as fast as one.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pyarrow.parquet
from PIL import Image

from tests.cluster.ray_cluster import list_actors, start_cluster, start_command, wait_until
from tests.embedded_world import TEST_SEEDS, draw_scene, sample_expressions

LEAST_RATIO, MOST_GROWTH = 1.7, 1.1


@dataclass
class Job:
    """A job and what was measured of it.

    Attributes:
        rows: The input.
        out: The folder of the results.
        words: Options of the command.
        seconds: How long the workers took from the first shard to the last.
        megabytes: Resident memory of the largest worker, each second.
    """

    rows: Path
    out: Path
    words: Sequence[str]
    seconds: float = 0.0
    megabytes: list[float] = field(default_factory=list)

    def start(self) -> "subprocess.Popen[str]":
        """Start the command."""
        return start_command("batch", self.rows, self.out, *self.words)

    def read_shards(self) -> dict[str, bytes]:
        """Return the shards that are there."""
        return {path.name: path.read_bytes() for path in self.out.glob("part-*")}

    def count_shards(self) -> int:
        """Return how many shards are there."""
        return len(list(self.out.glob("part-*")))

    def finish(self, process: "subprocess.Popen[str]") -> None:
        """Wait for the end, and note time and memory. Raises RuntimeError if the job fails."""
        done = threading.Event()
        watching = threading.Thread(target=self._watch, args=(done,))
        watching.start()
        _, err = process.communicate()
        done.set()
        watching.join()
        if process.returncode != 0:
            raise RuntimeError(err)
        times = sorted(path.stat().st_mtime for path in self.out.glob("part-*"))
        self.seconds = times[-1] - times[0]

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(1):
            sizes = [_read_megabytes(process) for process in list_actors("_Actor")]
            self.megabytes += [max(sizes)] if sizes else []

    @property
    def growth(self) -> float:
        """Memory in the last quarter over that in the second, medians."""
        count = max(1, len(self.megabytes) // 4)
        return statistics.median(self.megabytes[-count:]) / statistics.median(self.megabytes[count : 2 * count])


def _read_megabytes(process: int) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024 if "VmRSS:" in status else 0.0


def draw_rows(folder: Path, count: int, side: int, per_image: int) -> Path:
    """Draw scenes, and write `count` rows with `per_image` expressions about each image."""
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as lines:
        for first in range(0, count, per_image):
            seed = TEST_SEEDS + first
            scene = draw_scene(seed, 256)
            Image.fromarray(scene.image).resize((side, side)).save(folder / f"{seed}.png")
            texts = [expression.text for expression in sample_expressions(scene, per_image, Random(seed))]
            for number in range(min(per_image, count - first)):
                row = {"image": f"{seed}.png", "expression": texts[number % len(texts)], "id": f"{first + number}"}
                lines.write(json.dumps(row) + "\n")
    return folder / "rows.jsonl"


def kill_and_resume(job: Job) -> None:
    """Run a job, kill a worker after some shards and the driver after some more, and resume it."""
    process = job.start()
    shards = len(json.loads((job.out / "_batch.json").read_text())["offsets"]) - 1 if _wait_for_plan(job, process) else 0
    for part, kill in ((4, lambda: os.kill(list_actors("_Actor")[0], signal.SIGKILL)), (2, process.kill)):
        wait_until(lambda part=part: job.count_shards() >= max(1, shards // part), seconds=36_000)  # type: ignore[misc]
        kill()
        print(f"killed a {'worker' if part == 4 else 'driver'} after {job.count_shards()} of {shards} shards", flush=True)
    process.communicate()
    job.finish(job.start())


def _wait_for_plan(job: Job, process: "subprocess.Popen[str]") -> bool:
    wait_until(lambda: (job.out / "_batch.json").exists() or process.poll() is not None)
    return (job.out / "_batch.json").exists()


def find_faults(jobs: dict[str, Job], rows: int) -> list[str]:
    """Return in what the jobs miss their bars."""
    faults, first = [], next(iter(jobs))
    for name, job in jobs.items():
        numbers = [number for path in sorted(job.out.glob("part-*")) for number in _read_row_numbers(path)]
        if numbers != list(range(rows)):
            faults.append(f"{name}: rows are missing, or there twice")
        if job.read_shards() != jobs[first].read_shards():
            faults.append(f"{name}: the bytes differ from those of {first}")
        if job.growth > MOST_GROWTH:
            faults.append(f"{name}: memory grows {job.growth:.2f} times")
    ratio = compare_speed(jobs)
    if ratio is not None and ratio < LEAST_RATIO:
        faults.append(f"two workers are {ratio:.2f} times as fast as one, below {LEAST_RATIO}")
    return faults


def compare_speed(jobs: dict[str, Job]) -> float | None:
    """Return how many times as fast two workers are as one; None where not both were measured."""
    return jobs["one"].seconds / jobs["two"].seconds if {"one", "two"} <= set(jobs) else None


def _read_row_numbers(path: Path) -> list[int]:
    numbers: list[int] = pyarrow.parquet.read_table(path, columns=["row"])["row"].to_pylist()
    return numbers


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each job")
    parser.add_argument("--side", type=int, default=128, help="sides of the images in pixels")
    parser.add_argument("--per-image", type=int, default=10, help="expressions about each image")
    parser.add_argument("--shard-rows", type=int, default=200, help="rows per shard")
    parser.add_argument("--method", default="box", help="how an expression is segmented")
    parser.add_argument("--jobs", nargs="+", default=["one", "two", "killed"], help="which of the jobs, by workers")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, start_cluster(cpus=2) as address:
        rows = draw_rows(Path(folder), arguments.rows, arguments.side, arguments.per_image)
        options = ["--engine", "ray", "--address", address, "--method", arguments.method]
        options += ["--shard-rows", str(arguments.shard_rows)]
        jobs = {}
        for name in arguments.jobs:
            job = jobs[name] = Job(rows, Path(folder) / name, [*options, "--workers", "1" if name == "one" else "2"])
            began = time.perf_counter()
            kill_and_resume(job) if name == "killed" else job.finish(job.start())
            rate, memory = arguments.rows / job.seconds, statistics.median(job.megabytes)
            seconds = time.perf_counter() - began
            print(
                f"{name}: {seconds:.0f} s in all, {rate:.1f} rows/s, worker {memory:.0f} MB, growth {job.growth:.2f}",
                flush=True,
            )
        faults = find_faults(jobs, arguments.rows)
    if (ratio := compare_speed(jobs)) is not None:
        print(f"two workers are {ratio:.2f} times as fast as one")
    print("\n".join(faults) or "No faults.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
