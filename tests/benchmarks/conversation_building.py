"""Measure the speed and memory of building training conversations: `python -m tests.benchmarks.conversation_building`.

Prints samples per second of PQPP alone and of both kinds; SAM prompts per second of PPG's selection, against predicting the
same prompts one at a time (with the image encoded once, and once per prompt, as the model's own processor does); and
the memory that building from 100,000 samples takes.
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

from sam4mllm_tool.data import build
from sam4mllm_tool.data.build import Source, build_conversations
from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.data.jsonl import JSONL_FILE
from sam4mllm_tool.data.ppg_targets import draw_point_groups, select_point_groups
from sam4mllm_tool.embedded.scene_files import write_scenes
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.models.segmenter.transformers import TransformersSegmenter
from sam4mllm_tool.protocol import EMBEDDED
from sam4mllm_tool.types import ObjectPrompt
from tests.embedded_world import draw_scene

PQPP_ONLY = Recipe(dialect=EMBEDDED, ppg=0)


def measure_building(folder: Path, scenes: int) -> None:
    """Print samples per second for each recipe and number of processes."""
    data = folder / "scenes"
    write_scenes(data, scenes, seed=0)
    samples = len((data / JSONL_FILE).read_text().splitlines())
    for name, recipe, processes in (
        ("PQPP, 1 process", PQPP_ONLY, 1),
        ("PQPP, 2 processes", PQPP_ONLY, 2),
        ("PQPP and PPG (K = 64), 1 process", replace(PQPP_ONLY, ppg=1), 1),
        ("PQPP and PPG (K = 64), 2 processes", replace(PQPP_ONLY, ppg=1), 2),
    ):
        start = time.perf_counter()
        build_conversations([Source("jsonl", data)], folder / name, recipe, processes=processes)
        print(f"{name}: {samples / (time.perf_counter() - start):.0f} samples/s")


def measure_selection(side: int, images: int) -> None:
    """Print the speed of PPG's selection and of predicting each prompt's mask by itself."""
    segmenter = TransformersSegmenter.load("embedded")
    seconds = {"selected": 0.0, "one by one": 0.0, "one by one, encoded each time": 0.0}
    prompt_count = 0
    for seed in range(images):
        scene = draw_scene(seed, side)
        image, mask, box = Image.fromarray(scene.image), scene.mask(0), scene.objects[0].box
        groups = draw_point_groups(mask, box, EMBEDDED, Random(seed), count=64, on=2, off=1)
        prompts = [ObjectPrompt(box, points) for points in groups]
        segmenter.segment(image, prompts[:1])  # encodes the image before the first measurement
        start = time.perf_counter()
        select_point_groups(image, mask, box, segmenter, EMBEDDED, Random(seed))
        seconds["selected"] += time.perf_counter() - start
        for name, encode_again in (("one by one", False), ("one by one, encoded each time", True)):
            start = time.perf_counter()
            for prompt in prompts:
                if encode_again:
                    segmenter._used_once.clear()
                    segmenter._used_again.clear()
                mask_iou(segmenter.segment(image, [prompt])[0].mask, mask)
            seconds[name] += time.perf_counter() - start
        prompt_count += len(prompts)
    rates = ", ".join(f"{name} {prompt_count / elapsed:.0f}" for name, elapsed in seconds.items())
    ratios = [seconds[name] / seconds["selected"] for name in list(seconds)[1:]]
    print(f"PPG selection, {side} x {side}, SAM prompts/s: {rates}: {ratios[0]:.1f} and {ratios[1]:.1f} times")


def measure_memory(folder: Path, samples: int) -> None:
    """Print the process's memory along a PQPP build of `samples` lines about a few hundred images."""
    data = folder / "many"
    write_scenes(data, 300, seed=0)
    lines = [json.loads(line) for line in (data / JSONL_FILE).read_text().splitlines()]
    with (data / "many.jsonl").open("w") as file:
        for number, line in enumerate(itertools.islice(itertools.cycle(lines), samples)):
            file.write(json.dumps({**line, "id": str(number)}) + "\n")
    measurements: list[tuple[int, float]] = []
    save = build._save_progress

    def save_and_measure(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        measurements.append((arguments[3].counts["samples"], _resident_mb()))  # type: ignore[attr-defined]

    build._save_progress = save_and_measure  # type: ignore[assignment]
    build_conversations([Source("jsonl", data / "many.jsonl")], folder / "conversations", PQPP_ONLY)
    for share in (0.1, 0.5, 1.0):
        count, resident = min(measurements, key=lambda pair: abs(pair[0] - share * samples))
        print(f"memory after {count:,} samples: {resident:.0f} MB")


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60, help="number of scenes to build from (default: %(default)s)")
    parser.add_argument(
        "--samples", type=int, default=100_000, help="number of samples of the memory measurement (default: %(default)s)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_building(Path(folder), arguments.scenes)
        for side in (256, 512):
            measure_selection(side, 6)
        measure_memory(Path(folder), arguments.samples)


if __name__ == "__main__":
    main()
