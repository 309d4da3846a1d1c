"""Records runs of the embedded pair by every method and replays them: how many come to the same result, and what it takes.

    python -m tests.benchmarks.traces [--scenes N]

Prints the medians of this process's own time: a run, a run recorded, saving it with its picture, loading and replaying it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

from PIL import Image

from sam4mllm_tool.embedded.expressions import sample_expressions
from sam4mllm_tool.embedded.scenes import draw_scene
from sam4mllm_tool.pipeline.sam4mllm import METHODS, Sam4Mllm
from sam4mllm_tool.trace import Recorder, load, replay, save

FIRST = 400_000
EXPRESSIONS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=25, help="default: %(default)s")
    models, took, same, runs, sizes = Sam4Mllm.load("embedded", "embedded"), dict[str, list[float]](), 0, 0, list[int]()

    def timed(what: str, call: Callable[[], Any]) -> Any:
        began = process_time()
        given = call()
        took.setdefault(what, []).append(process_time() - began)
        return given

    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.trace.json.gz"
        for seed in range(FIRST, FIRST + parser.parse_args().scenes):
            drawn = draw_scene(seed)
            image = Image.fromarray(drawn.image)
            for expression in sample_expressions(drawn, EXPRESSIONS, Random(seed)):
                for method in METHODS:
                    recorder = Recorder(models)
                    timed("run", lambda: models.segment(image, expression.text, method=method))  # noqa: B023
                    timed("recorded", lambda: recorder.models.segment(image, expression.text, method=method))  # noqa: B023
                    timed("saved", lambda: save(recorder.traces[0], path))  # noqa: B023
                    same += not timed("replayed", lambda: replay(load(path))).difference
                    runs += 1
                    sizes.append(path.stat().st_size)
    print(f"{same} of {runs} runs replay to the same result")
    print(", ".join(f"{what} {1000 * median(times):.1f} ms" for what, times in took.items()), f"{median(sizes) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
