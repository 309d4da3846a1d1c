"""Compare what a query costs with the released way and with the least possible: `python -m tests.benchmarks.speed`.

For each pair of models: the reference loop (reference_loop.py) and `Sam4Mllm.segment` in turns, each time on a new image, on
the same weights and machine, with their passes and tokens counted by hooks; and the floor, counted from the models' shapes. The
embedded pair also by number of points, objects and expressions, by the size of the image, and in batches of images. The command
ends with exit code 1 if an answer differs. Qwen2.5-VL's processor needs torchvision: `make video`, then PYTHONPATH=.venv/video.
With `--counts` models that read the same prompts and are narrow are counted instead of timed, in a minute. With `--gpu` the
shapes of the paper's 8B model and of Qwen2.5-VL 7B are measured, with SAM ViT-H and SAM 2.1 L.
"""

import argparse
import gc
import json
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import tests.torchvision_operators  # noqa: F401  # before anything imports torchvision
from sam4mllm_tool.protocol import Grid
from sam4mllm_tool.types import Size
from tests.benchmarks.measured_pairs import GPU_PAIRS, NARROW_PAIRS, PAIRS, MeasuredPair
from tests.benchmarks.speed_comparison import Case, Comparison, compare, compare_in_turns, measuring
from tests.benchmarks.speed_tables import format_query, format_scaling, to_json

GRIDS = {5: Grid(5, 1), 25: Grid(5, 5), 100: Grid(10, 10), 400: Grid(20, 20)}
BATCH = 16


def measure_query(pair: MeasuredPair, repeats: int, asks: int | None) -> Comparison:
    """Measure one expression with 25 points."""
    return compare(pair, Case("one expression, 25 points", asks=asks, with_floor=True), repeats)


def measure_scaling(pair: MeasuredPair, repeats: int, *, quick: bool) -> Iterator[Comparison]:
    """Measure by number of points, objects and expressions, and by size of the image; the longest in our way alone."""
    points = [
        (pair.with_settings(sampler=GRIDS[count]), Case(f"{count} points", with_reference=count <= 100))
        for count in ((5, 25) if quick else GRIDS)
    ]
    objects = [
        (pair.with_settings(), Case(f"{count} objects, 25 points each", objects=count, with_reference=count <= 5))
        for count in ((1, 5) if quick else (1, 5, 20))
    ]
    expressions = [
        (pair.with_settings(), Case(f"{count} expressions, 25 points each", expressions=count, with_reference=count == 1))
        for count in ((1, 10) if quick else (1, 10, 100))
    ]
    sizes = [(pair, Case(f"an image of {side} x {side} pixels", size=Size(side, side))) for side in (256, 1024, 2048)]
    for cases in (points, objects, expressions, *(() if quick else (sizes,))):
        yield from compare_in_turns(cases, repeats)


def measure_batches(pair: MeasuredPair, repeats: int) -> list[Comparison]:
    """Measure different images one at a time, and together in `segment_many`."""
    alone, together = Comparison(f"{BATCH} images one at a time"), Comparison(f"{BATCH} images in segment_many")
    for repeat in range(repeats):
        for comparison, half in ((alone, 0), (together, 1)):
            first = 10_000 + BATCH * (2 * repeat + half)
            pairs = [pair.draw(seed) for seed in range(first, first + BATCH)]
            with pair.forcing(pairs[0][0], [pairs[0][1]]), measuring(pair, comparison.ours):
                if comparison is together:
                    pair.models.segment_many(pairs)
                else:
                    for image, expression in pairs:
                        pair.models.segment(image, expression)
    return [alone, together]


def measure_pair(pair: MeasuredPair, arguments: argparse.Namespace) -> list[Comparison]:
    """Measure a pair, print its tables, and return its comparisons."""
    scales = pair.title == "embedded" or arguments.gpu
    repeats = (2 if arguments.quick else 5) if scales else 1
    print(f"\n## {pair.title}: {pair.device}, {str(pair.model.dtype).removeprefix('torch.')}\n", flush=True)
    query = measure_query(pair, repeats, None if scales else arguments.asks)
    print(format_query(query, counts_alone=arguments.counts), flush=True)
    if not scales:
        return [query]
    others = [*measure_scaling(pair, repeats, quick=arguments.quick), *measure_batches(pair, repeats)]
    print(format_scaling(others), flush=True)
    return [query, *others]


def choose_names(arguments: argparse.Namespace) -> list[str]:
    """Return the names of the pairs to measure, or end the command with one line that says why there are none."""
    if arguments.gpu:
        if not torch.cuda.is_available():
            sys.exit("--gpu measures on a CUDA device, and torch sees none: run it on a machine with a GPU")
        return list(GPU_PAIRS)
    names: list[str] = arguments.model or list(NARROW_PAIRS if arguments.counts else PAIRS)
    if "qwen2.5-vl" in names and find_spec("torchvision") is None:
        sys.exit("qwen2.5-vl needs torchvision: run `make video`, then set PYTHONPATH=.venv/video")
    return names


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=list(PAIRS), help="measure this pair alone; may be repeated")
    parser.add_argument("--gpu", action="store_true", help="measure models of 7 to 8 billion weights on a GPU instead")
    parser.add_argument(
        "--counts", action="store_true", help="count passes and tokens alone, on narrow models of the same prompts"
    )
    parser.add_argument("--quick", action="store_true", help="fewer cases of the embedded pair, repeated less")
    parser.add_argument(
        "--asks", type=int, help="questions about points that the reference loop asks of large models (each costs the same)"
    )
    parser.add_argument("--threads", type=int, help="threads of the CPU; by default as many as there are cores")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    arguments = parse_arguments(argv)
    names = choose_names(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    builders = {**PAIRS, **GPU_PAIRS, **(NARROW_PAIRS if arguments.counts else {})}
    figures: dict[str, Any] = {}
    differences: list[str] = []
    for name in names:
        comparisons = measure_pair(builders[name](), arguments)
        figures[name] = [to_json(comparison) for comparison in comparisons]
        differences += [difference for comparison in comparisons for difference in comparison.differences]
        gc.collect()
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print("\n".join(differences) or "All answers are those of the reference loop.")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
