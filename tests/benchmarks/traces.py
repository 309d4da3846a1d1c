"""Record runs of the embedded pair by every method, and replay them: how many give the same result, and how long it takes.

    python -m tests.benchmarks.traces [--scenes N]

Prints medians of this process's CPU time: of a run, a recorded run, saving the trace with its image, loading and replaying it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from typing import TypeVar

from PIL import Image

from sam4mllm_tool.pipeline.sam4mllm import METHODS, Method, Sam4Mllm
from sam4mllm_tool.trace import Recorder, load, replay, save
from sam4mllm_tool.types import Image as RGBImage
from tests.embedded_world import draw_scene, sample_expressions

FIRST_SEED = 400_000
EXPRESSIONS = 4

T = TypeVar("T")


class Benchmark:
    """Collects CPU times by action, and the sizes of the saved files."""

    def __init__(self, path: Path) -> None:
        self.models = Sam4Mllm.load("embedded", "embedded")
        self.path = path
        self.seconds: dict[str, list[float]] = {}
        self.sizes: list[int] = []

    def measure(self, action: str, call: Callable[[], T]) -> T:
        """Call and note how long it took."""
        start = process_time()
        result = call()
        self.seconds.setdefault(action, []).append(process_time() - start)
        return result

    def replays_to_same_result(self, image: RGBImage, expression: str, method: Method) -> bool:
        """Run, record, save and replay one expression."""
        recorder = Recorder(self.models)
        self.measure("run", lambda: self.models.segment(image, expression, method=method))
        self.measure("recorded", lambda: recorder.models.segment(image, expression, method=method))
        self.measure("saved", lambda: save(recorder.traces[0], self.path))
        self.sizes.append(self.path.stat().st_size)
        return not self.measure("replayed", lambda: replay(load(self.path))).difference


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=25, help="number of drawn scenes; default: %(default)s")
    scenes = parser.parse_args().scenes
    with TemporaryDirectory() as folder:
        benchmark, same = Benchmark(Path(folder) / "run.trace.json.gz"), 0
        for seed in range(FIRST_SEED, FIRST_SEED + scenes):
            scene = draw_scene(seed)
            image = Image.fromarray(scene.image)
            for expression in sample_expressions(scene, EXPRESSIONS, Random(seed)):
                same += sum(benchmark.replays_to_same_result(image, expression.text, method) for method in METHODS)
    print(f"{same} of {len(benchmark.sizes)} runs replay to the same result")
    medians = ", ".join(f"{action} {1000 * median(times):.1f} ms" for action, times in benchmark.seconds.items())
    print(medians, f"{median(benchmark.sizes) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
