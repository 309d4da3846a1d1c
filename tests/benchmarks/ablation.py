"""Measure what each part of the method contributes, on the embedded world: `python -m tests.benchmarks.ablation --work DIR`.

Evaluates one setting after another on the same scenes of the test split and prints a Markdown table: cIoU and gIoU, the
difference in cIoU from the paper's setting (PQPP, 5 x 5, P(Yes) > 0.75, P(No) > 0.9) with its 95 % interval by paired
bootstrap, and point answers, questions and tokens per expression.

With --tune, it first tunes two adapters of the embedded base on the same scenes with the same settings, one asked about each
point alone and one asked about all points of a box at once, and compares these. With --rough, every setting gets boxes that
are moved by a tenth of their sides and scaled by a fifth instead of the model's boxes; if the exact boxes were evaluated
before, it also prints by how much the gains of PQPP over the box and of `adaptive` over PQPP grow. Results stay in DIR, and a
second run of the command resumes there. It takes some 15 minutes on one core, and 40 more with --tune.
"""

import argparse
import asyncio
import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from sam4mllm_tool.data.build import Source, build_conversations
from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.embedded import TEST_SEEDS
from sam4mllm_tool.embedded.scene_files import SCENES_FILE, write_scenes
from sam4mllm_tool.evaluation import EvaluationConfig, evaluate
from sam4mllm_tool.evaluation.bootstrap import Floats, Statistic, bootstrap_intervals
from sam4mllm_tool.evaluation.comparison import compare
from sam4mllm_tool.evaluation.metrics import PROTOCOLS
from sam4mllm_tool.evaluation.records import read_records, select_scored
from sam4mllm_tool.evaluation.summary import compute_statistics
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.pipeline.sam4mllm import Method, Sam4Mllm
from sam4mllm_tool.protocol import EMBEDDED, Dialect, Grid, Thresholds
from sam4mllm_tool.training.config import TrainingConfig, read_config
from sam4mllm_tool.training.run import train
from sam4mllm_tool.types import MLLM, Box, FreeText, Image, Question, Reply, Size
from tests.benchmarks.pair_options import add_pair_options, read_pair_options

SETTINGS = Path(__file__).parents[2] / "examples" / "embedded.toml"
TRAINED = 200_000
"""First seed of the scenes for tuning."""
JOINT = replace(
    EMBEDDED, name="embedded-joint", points="joint", ask_points_text="Are these points on the object in {box}? {points}"
)
"""The embedded dialect with all points of a box in one question."""
PAPER = "pqpp 5 x 5"


@dataclass(frozen=True)
class Setting:
    """A setting; the defaults are the paper's, except for the choice of mask.

    Attributes:
        method: The method.
        grid: Points per side of the box.
        thresholds: Which point answers are kept.
        by: How SAM's mask is chosen: by its own `score`, or by `both` its score and the point answers.
    """

    method: Method = "pqpp"
    grid: int = 5
    thresholds: Thresholds = Thresholds()
    by: Any = "both"


SHIPPED = {
    "box": Setting("box"),
    "ppg": Setting("ppg"),
    "points": Setting("points"),
    "pqpp 3 x 3": Setting(grid=3),
    PAPER: Setting(),
    "pqpp 7 x 7": Setting(grid=7),
    "pqpp 5 x 5, every answer kept": Setting(thresholds=Thresholds(0, 0)),
    "pqpp 5 x 5, P > 0.5 kept": Setting(thresholds=Thresholds(0.5, 0.5)),
    "pqpp 5 x 5, P > 0.95 kept": Setting(thresholds=Thresholds(0.95, 0.95)),
    "pqpp 5 x 5, SAM's choice of mask": Setting(by="score"),
    "adaptive": Setting("adaptive"),
}
ROUGH = {name: SHIPPED[name] for name in ("box", PAPER, "adaptive")}
STEPS = ("box", "ppg", PAPER, "adaptive")
"""From the simplest method to the best."""


class RoughBoxes:
    """An MLLM whose boxes are moved and scaled at random, the same way every time."""

    greedy = True

    def __init__(self, mllm: MLLM, dialect: Dialect) -> None:
        self._mllm, self._dialect = mllm, dialect
        self.name = f"{mllm.name}, its boxes made rough"

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        replies = self._mllm.reply(image, questions)
        size = Size(*image.size)
        return [self._roughen(question, reply, size) for question, reply in zip(questions, replies, strict=True)]

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        return await asyncio.to_thread(self.reply, image, questions)

    def _roughen(self, question: Question, reply: Reply, size: Size) -> Reply:
        if not isinstance(question.answer, FreeText):
            return reply
        rng = Random(f"{question.turns[-1].text} {reply.text}")
        boxes = [roughen_box(box, rng, size) for box in self._dialect.parse_boxes(question, reply, size)]
        return replace(reply, text=self._dialect.format_boxes(boxes, size)) if boxes else reply


def roughen_box(box: Box, rng: Random, size: Size) -> Box:
    """Move the center by a normal 10 % of each side, scale each side log-normally by 20 %, and clip to the image."""
    (x, y), width, height = box.center, box.width, box.height
    x, y = x + rng.gauss(0, 0.1) * width, y + rng.gauss(0, 0.1) * height
    half_width, half_height = (side / 2 * math.exp(rng.gauss(0, math.log(1.2))) for side in (width, height))
    x1, y1, x2, y2 = Box(x - half_width, y - half_height, x + half_width, y + half_height).clip(size)
    return Box(x1, y1, max(x2, x1 + 2), max(y2, y1 + 2))


def run_setting(name: str, setting: Setting, models: Sam4Mllm, data: Path, out: Path, *, segmenter: str = "embedded") -> Path:
    """Evaluate a setting; return its folder."""
    models = copy.copy(models)
    models.config = replace(models.config, sampler=Grid(setting.grid, setting.grid), thresholds=setting.thresholds)
    if setting.by != "both":
        models.segmenter = load_segmenter(segmenter, by=setting.by)
    config = EvaluationConfig(dataset="jsonl", root=data, split="all", protocol="rela", method=setting.method)
    folder = out / folder_name(name)
    evaluate(config, folder, models=models)
    return folder


def format_table(folders: dict[str, Path], baseline: str) -> str:
    """Return the table, one line per setting."""
    lines = [
        f"| | cIoU | gIoU | cIoU against {baseline} | N-acc | T-acc | object ECE | point answers | questions | tokens |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, folder in folders.items():
        differences = compare(folders[baseline], folder).differences
        values = {key: difference.second for key, difference in differences.items()}
        gap = differences["cIoU"]
        low, high = gap.interval
        lines.append(
            f"| {name} | {values['cIoU']:.4f} | {values['gIoU']:.4f} | "
            + ("" if name == baseline else f"{gap.difference:+.4f} [{low:+.4f}, {high:+.4f}]")
            + f" | {values['N-acc']:.3f} | {values['T-acc']:.3f} | "
            + (f"{values['object ECE']:.3f}" if values.get("object ECE") is not None else "")
            + f" | {values['point answers']:.1f} | {values['model calls']:.1f} | {values['tokens']:.0f} |"
        )
    return "\n".join(lines)


def format_steps(folders: dict[str, Path]) -> str:
    """Return by how much each method's cIoU is above that of the simpler one before it, by paired bootstrap, a line each."""
    lines = []
    for simpler, better in pairwise(name for name in STEPS if name in folders):
        gap = compare(folders[simpler], folders[better]).differences["cIoU"]
        low, high = gap.interval
        chance = "beyond chance" if low > 0 else "not beyond chance"
        lines.append(f"- {better} above {simpler}: {gap.difference:+.4f} [{low:+.4f}, {high:+.4f}], {chance}")
    return "\n".join(lines)


def format_growth(exact: Path, rough: Path, better: str, simpler: str) -> str:
    """Say how much larger the gain of one setting over another in cIoU is with rough boxes, by paired bootstrap."""
    folders = [folder / name for folder in (rough, exact) for name in (folder_name(better), folder_name(simpler))]
    runs = [sorted(select_scored(read_records(folder)), key=lambda record: record.id) for folder in folders]
    ious = [compute_statistics(run, PROTOCOLS["rela"])["cIoU"] for run in runs]

    def of_sums(sums: Floats) -> Floats:
        second, first, second_exact, first_exact = (
            iou.of_sums(part) for iou, part in zip(ious, np.split(sums, 4, -1), strict=True)
        )
        return np.asarray((second - first) - (second_exact - first_exact))

    growth = Statistic(np.concatenate([iou.columns for iou in ious], 1), of_sums)
    low, high = bootstrap_intervals({"growth": growth})["growth"]
    return f"- gain of {better} over {simpler}, larger with rough boxes by {growth.value:+.4f} [{low:+.4f}, {high:+.4f}]"


def folder_name(setting: str) -> str:
    """Return a setting's name with letters, digits and dashes only."""
    return "".join(letter if letter.isalnum() else "-" for letter in setting)


def tune(work: Path, dialect: Dialect, scenes: Path, steps: int, processes: int) -> Sam4Mllm:
    """Tune an adapter of the embedded base on PQPP conversations in this dialect."""
    data, recipe = [Source("jsonl", scenes)], Recipe(dialect=dialect, ppg=0)
    conversations = build_conversations(data, work / f"lessons-{dialect.name}", recipe, processes=processes)
    out = work / f"adapter-{dialect.name}-{steps}"
    settings = {**read_config(SETTINGS), "lessons": str(conversations), "out": str(out), "max_steps": steps}
    settings["dialect"] = None  # the conversations' own
    return Sam4Mllm.load(f"embedded+{train(TrainingConfig.from_dict(settings))}", dialect=dialect)


def draw_scenes(folder: Path, count: int, seed: int) -> Path:
    """Write scenes into the folder unless it has them; return it."""
    if not (folder / SCENES_FILE).exists():
        write_scenes(folder, count, seed)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="the folder for all results")
    parser.add_argument(
        "--scenes", type=int, default=300, help="number of scenes, with seven expressions each (default: %(default)s)"
    )
    parser.add_argument(
        "--first", type=int, default=TEST_SEEDS, help="seed of the first scene (default: the test split's first)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SHIPPED,
        metavar="SETTING",
        help="evaluate only these settings and the paper's: %(choices)s",
    )
    add_pair_options(parser)
    parser.add_argument("--rough", action="store_true", help="move and scale every box of the model at random")
    parser.add_argument("--tune", action="store_true", help="tune and compare two adapters instead")
    parser.add_argument("--tuning-scenes", type=int, default=2000, help="number of scenes to tune on (default: %(default)s)")
    parser.add_argument("--tuning-steps", type=int, default=300, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="processes that build training data (default: %(default)s)")
    arguments = parser.parse_args()
    work = arguments.work
    data = draw_scenes(work / f"scenes-{arguments.first}", arguments.scenes, arguments.first)
    models = read_pair_options(arguments)
    if arguments.tune:
        folders, tuning = {}, work / "tuning-scenes"
        scenes = draw_scenes(tuning, arguments.tuning_scenes, TRAINED)
        for name, dialect in (("each point alone", EMBEDDED), ("all points at once", JOINT)):
            tuned = tune(work, dialect, scenes, arguments.tuning_steps, arguments.processes)
            folders[name] = run_setting(f"tuned {name}", SHIPPED[PAPER], tuned, data, work)
        print(format_table(folders, "each point alone"))
        return
    settings = ROUGH if arguments.rough else SHIPPED
    if arguments.only:
        settings = {name: settings[name] for name in (PAPER, *arguments.only) if name in settings}
    if arguments.rough:
        models.mllm = RoughBoxes(models.mllm, models.dialect)
    out = work / ("rough" if arguments.rough else "shipped") / str(arguments.first)
    folders = {
        name: run_setting(name, setting, models, data, out, segmenter=arguments.segmenter) for name, setting in settings.items()
    }
    print(f"{format_table(folders, PAPER)}\n\n{format_steps(folders)}")
    exact = work / "shipped" / str(arguments.first)
    for simpler, better in (("box", PAPER), (PAPER, "adaptive")):
        if arguments.rough and all(name in settings and (exact / folder_name(name)).exists() for name in (simpler, better)):
            print(format_growth(exact, out, better, simpler))


if __name__ == "__main__":
    main()
