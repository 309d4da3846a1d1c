"""How fast lessons are built, and in how much memory: `python -m tests.benchmarks.lessons`.

Prints samples a second of PQPP building in one process, of both kinds, the prompts a second that PPG's selection tries
against the same prompts one by one (the picture encoded once for all of them, and once for each, as the model's own processor
and forward do), and the memory of building from 100,000 samples.
"""

import argparse
import itertools
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from random import Random

from PIL import Image

from sam4mllm_tool.data.build import Source, build_lessons
from sam4mllm_tool.data.conversations import Recipe
from sam4mllm_tool.data.point_groups import best_groups, random_groups
from sam4mllm_tool.embedded.files import SCENES_FILE, write_scenes
from sam4mllm_tool.embedded.scenes import draw_scene
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.models.segmenter.transformers import TransformersSegmenter
from sam4mllm_tool.protocol import EMBEDDED
from sam4mllm_tool.types import ObjectPrompt

PQPP_ONLY = Recipe(dialect=EMBEDDED, ppg=0)


def building(folder: Path, scenes: int) -> None:
    data = folder / "scenes"
    write_scenes(data, scenes, seed=0)
    samples = len((data / SCENES_FILE).read_text().splitlines())
    for name, recipe, processes in (
        ("PQPP, 1 process", PQPP_ONLY, 1),
        ("PQPP, 2 processes", PQPP_ONLY, 2),
        ("PQPP and PPG (K = 64), 1 process", replace(PQPP_ONLY, ppg=1), 1),
        ("PQPP and PPG (K = 64), 2 processes", replace(PQPP_ONLY, ppg=1), 2),
    ):
        began = time.perf_counter()
        build_lessons([Source("jsonl", data)], folder / name, recipe, processes=processes)
        print(f"{name}: {samples / (time.perf_counter() - began):.0f} samples/s")


def selection(side: int, pictures: int) -> None:
    """PPG's selection against what it stands in for: the segmenter asked for the mask of each prompt, one at a time."""
    segmenter = TransformersSegmenter.load("embedded")
    seconds = {"selected": 0.0, "one by one": 0.0, "one by one, encoded each time": 0.0}
    tried = 0
    for seed in range(pictures):
        scene = draw_scene(seed, side)
        picture, mask, box = Image.fromarray(scene.image), scene.mask(0), scene.objects[0].box
        prompts = [ObjectPrompt(box, p) for p in random_groups(mask, box, EMBEDDED, Random(seed), count=64, on=2, off=1)]
        segmenter.segment(picture, prompts[:1])  # the picture is encoded before either begins
        began = time.perf_counter()
        best_groups(picture, mask, box, segmenter, EMBEDDED, Random(seed))
        seconds["selected"] += time.perf_counter() - began
        for name, forget in (("one by one", False), ("one by one, encoded each time", True)):
            began = time.perf_counter()
            for prompt in prompts:
                if forget:
                    segmenter._once.clear()
                    segmenter._often.clear()
                mask_iou(segmenter.segment(picture, [prompt])[0].mask, mask)
            seconds[name] += time.perf_counter() - began
        tried += len(prompts)
    rates = ", ".join(f"{name} {tried / taken:.0f}" for name, taken in seconds.items())
    times = [seconds[name] / seconds["selected"] for name in list(seconds)[1:]]
    print(f"PPG selection, {side} x {side}, SAM prompts/s: {rates}: {times[0]:.1f} and {times[1]:.1f} times")


def memory(folder: Path, samples: int) -> None:
    """A data set of so many lines over a few hundred pictures, built with PQPP; the process's memory along the way."""
    data = folder / "many"
    write_scenes(data, 300, seed=0)
    lines = [json.loads(line) for line in (data / SCENES_FILE).read_text().splitlines()]
    with (data / "many.jsonl").open("w") as file:
        for number, line in enumerate(itertools.islice(itertools.cycle(lines), samples)):
            file.write(json.dumps({**line, "id": str(number)}) + "\n")
    from sam4mllm_tool.data import build

    seen: list[tuple[int, float]] = []
    save = build._save_progress

    def watch(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        seen.append((arguments[3].counts["samples"], _resident_mb()))  # type: ignore[attr-defined]

    build._save_progress = watch  # type: ignore[assignment]
    build_lessons([Source("jsonl", data / "many.jsonl")], folder / "many-lessons", PQPP_ONLY)
    for share in (0.1, 0.5, 1.0):
        told, resident = min(seen, key=lambda one: abs(one[0] - share * samples))
        print(f"memory after {told:,} samples: {resident:.0f} MB")


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--samples", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        building(Path(folder), arguments.scenes)
        for side in (256, 512):
            selection(side, 6)
        memory(Path(folder), arguments.samples)


if __name__ == "__main__":
    main()
