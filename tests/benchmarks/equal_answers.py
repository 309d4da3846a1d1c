"""Compare the answers of `Sam4Mllm` with those of the reference loop: `python -m tests.benchmarks.equal_answers`.

Over drawn scenes with the embedded pair, an expression each, some of which name nothing in the image; and over tiny random
checkpoints of all families, asked about points jointly and one by one. Families whose processors need torchvision are left out
without it. Ends with exit code 1 if boxes or labels differ, or probabilities by more than a hundredth.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image as PILImage

import tests.torchvision_operators  # noqa: F401  # before anything imports torchvision
from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.protocol import DIALECTS
from sam4mllm_tool.types import Box, Image, Segmentation, Segmenter, Size
from tests.benchmarks.families import FAMILIES, Family, load_family
from tests.benchmarks.forced_replies import force_reply
from tests.benchmarks.measured_pairs import FIRST_SEED
from tests.benchmarks.reference_loop import ReferenceAnswer, ReferenceLoop, find_difference
from tests.embedded_world import draw_scene, list_expressions

COMPARED = [family for family in FAMILIES if family.checkpoint and family.labels and family.title != "the released adapter"]
EXPRESSION = "the ring"


def compare_scenes(count: int) -> tuple[list[str], str]:
    """Compare on drawn scenes; return the differences, and a line that sums up."""
    models = Sam4Mllm.load("embedded", "embedded")
    loop = ReferenceLoop(models)
    differences: list[str] = []
    largest, answered, empty = 0.0, 0, 0
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        scene = draw_scene(seed)
        image, expression = PILImage.fromarray(scene.image), Random(seed).choice(list_expressions(scene)).text
        result, reference = _answer_twice(models, loop, image, expression)
        if (seed - FIRST_SEED) % 50 == 49:
            print(f"{seed - FIRST_SEED + 1} scenes, {len(differences)} differences", file=sys.stderr, flush=True)
        if difference := find_difference(result, reference):
            differences.append(f"scene {seed}, {expression!r}: {difference}")
        elif isinstance(result, Segmentation) and isinstance(reference, ReferenceAnswer):
            pairs = zip(result.point_answers, reference.dialogue.point_answers, strict=True)
            off = [abs((ours.point.confidence or 0) - (other.point.confidence or 0)) for ours, other in pairs]
            largest, answered, empty = max([largest, *off]), answered + len(off), empty + (not off)
    same = f"{count - len(differences)} of {count} scenes have the same boxes and labels"
    return differences, f"{same}: {answered:,} points, {empty} times no object; probabilities differ by up to {largest:.1e}"


def compare_family(family: Family, dialect: str, segmenter: Segmenter, folder: Path) -> str | None:
    """Say how the answers of a tiny checkpoint differ in a dialect; None if they don't."""
    mllm = load_family(family, folder)
    fitted = DIALECTS[dialect].for_model(mllm.resizing, pads_images=mllm.pads_images)
    models = Sam4Mllm(mllm, segmenter, dialect=fitted)
    image = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    with force_reply(models, image, [EXPRESSION], fitted.format_boxes([Box(20, 20, 70, 80)], Size(*image.size))):
        result, reference = _answer_twice(models, ReferenceLoop(models), image, EXPRESSION)
    if not isinstance(result, Segmentation) or len(result.point_answers) != 25:
        return f"no 25 points were answered: {result!s:.100}"
    return find_difference(result, reference)


def compare_families() -> Iterator[tuple[str, str | None]]:
    """Yield the name of each family and dialect with how the answers differ."""
    segmenter, installed = load_segmenter("embedded"), find_spec("torchvision") is not None
    for family in COMPARED:
        each = "plain" if family.dialect == "paligemma" else family.dialect  # whose tiny tokenizer lacks "yes"
        for dialect in (each, "released") if installed or not family.video else ():
            with tempfile.TemporaryDirectory() as folder:
                yield f"{family.title}, {dialect}", compare_family(family, dialect, segmenter, Path(folder))


def _answer_twice(
    models: Sam4Mllm, loop: ReferenceLoop, image: Image, expression: str
) -> tuple[Segmentation | Sam4MllmError, ReferenceAnswer | Sam4MllmError]:
    result: Segmentation | Sam4MllmError
    reference: ReferenceAnswer | Sam4MllmError
    try:
        result = models.segment(image, expression)
    except Sam4MllmError as error:
        result = error
    try:
        reference = loop.segment(image, expression)
    except Sam4MllmError as error:
        reference = error
    return result, reference


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=500, help="drawn scenes; 0 to leave them out")
    parser.add_argument("--no-families", action="store_true", help="leave out the tiny checkpoints")
    parser.add_argument("--threads", type=int, help="threads of the CPU; by default as many as there are cores")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    differences = []
    for name, difference in () if arguments.no_families else compare_families():
        print(f"{name}: {difference or 'equal'}", flush=True)
        differences += [difference] if difference else []
    if arguments.scenes:
        found, line = compare_scenes(arguments.scenes)
        print("\n".join([*found, line]))
        differences += found
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
