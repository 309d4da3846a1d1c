"""What each part of the method is worth on the embedded world: `python -m tests.benchmarks.ablation --work DIR`.

Evaluates one setting after another on the same scenes of the test split and prints a table in Markdown: cIoU and gIoU with 95
% intervals, the difference of cIoU from the paper's setting (PQPP, 5 x 5, P(Yes) > 0.75, P(No) > 0.9) by paired bootstrap,
point answers and questions an expression. With --tune it first tunes two adapters on the embedded base, on the same scenes
with the same settings, one asked about each point alone, one about all points of a box at once, and compares these. With
--rough it tells every setting boxes that are moved by a tenth of their sides and scaled by a fifth instead of those that the
model names, and, where these were asked before, by how much the gain of `adaptive` is larger. Everything stays in DIR and goes
on from there when the command is run again; some 15 minutes on one core, 40 more with --tune.
"""

import argparse
import asyncio
import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from sam4mllm_tool.data.build import Source, build_lessons
from sam4mllm_tool.data.conversations import Recipe
from sam4mllm_tool.embedded.files import SCENES_FILE, write_scenes
from sam4mllm_tool.embedded.scenes import TEST_SEEDS
from sam4mllm_tool.evaluation import EvaluationConfig, evaluate
from sam4mllm_tool.evaluation.bootstrap import Floats, Statistic, intervals
from sam4mllm_tool.evaluation.comparison import compare
from sam4mllm_tool.evaluation.metrics import PROTOCOLS
from sam4mllm_tool.evaluation.records import read_records
from sam4mllm_tool.evaluation.summary import all_statistics, scored
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.pipeline.sam4mllm import Method, Sam4Mllm
from sam4mllm_tool.protocol import EMBEDDED, Dialect, Grid, Thresholds
from sam4mllm_tool.training.config import TrainingConfig, read_config
from sam4mllm_tool.training.run import train
from sam4mllm_tool.types import MLLM, Box, FreeText, Image, Question, Reply, Size

SETTINGS = Path(__file__).parents[2] / "examples" / "embedded.toml"
TRAINED = 200_000
"""First seed of the scenes tuned on."""
JOINT = replace(
    EMBEDDED, name="embedded-joint", points="joint", ask_points_text="Are these points on the object in {box}? {points}"
)
"""The embedded dialect with all points of a box in one question."""
PAPER = "pqpp 5 x 5"


@dataclass(frozen=True)
class Setting:
    """What differs from the paper's. by: SAM's own choice of mask is `score`, ours `both`."""

    method: Method = "pqpp"
    grid: int = 5
    thresholds: Thresholds = Thresholds()
    by: Any = "both"


SHIPPED = {
    "box": Setting("box"),
    "ppg": Setting("ppg"),
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


class RoughBoxes:
    """An MLLM whose boxes are made rough, always the same way."""

    greedy = True

    def __init__(self, mllm: MLLM, dialect: Dialect) -> None:
        self._mllm, self._dialect = mllm, dialect
        self.name = f"{mllm.name}, its boxes made rough"

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        replies = self._mllm.reply(image, questions)
        return [self._rough(*pair, Size(*image.size)) for pair in zip(questions, replies, strict=True)]

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        return await asyncio.to_thread(self.reply, image, questions)

    def _rough(self, question: Question, reply: Reply, size: Size) -> Reply:
        if not isinstance(question.answer, FreeText):
            return reply
        rng = Random(f"{question.turns[-1].text} {reply.text}")
        boxes = [roughened(box, rng, size) for box in self._dialect.parse_boxes(question, reply, size)]
        return replace(reply, text=self._dialect.format_boxes(boxes, size)) if boxes else reply


def roughened(box: Box, rng: Random, size: Size) -> Box:
    """Its middle moved by a normal 10 % of each side, each side scaled log-normally by 20 %, within the picture."""
    width, height = box.x2 - box.x1, box.y2 - box.y1
    middle = ((box.x1 + box.x2) / 2 + rng.gauss(0, 0.1) * width, (box.y1 + box.y2) / 2 + rng.gauss(0, 0.1) * height)
    reach = [side / 2 * math.exp(rng.gauss(0, math.log(1.2))) for side in (width, height)]
    low, high = ([min(max(m + sign * r, 0), side) for m, r, side in zip(middle, reach, size, strict=True)] for sign in (-1, 1))
    return Box(low[0], low[1], max(high[0], low[0] + 2), max(high[1], low[1] + 2))


def run(name: str, setting: Setting, models: Sam4Mllm, data: Path, out: Path) -> Path:
    models = copy.copy(models)
    models.sampler, models.thresholds = Grid(setting.grid, setting.grid), setting.thresholds
    if setting.by != "both":
        models.segmenter = load_segmenter("embedded", by=setting.by)
    config = EvaluationConfig(dataset="jsonl", root=data, split="val", protocol="rela", method=setting.method)
    folder = out / folder_name(name)
    evaluate(config, folder, models=models)
    return folder


def table(found: dict[str, Path], against: str) -> str:
    """One line a setting."""
    lines = [
        f"| | cIoU | gIoU | cIoU against {against} | N-acc | T-acc | object ECE | point answers | questions | tokens |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, folder in found.items():
        comparison = compare(found[against], folder).differences
        told = {key: difference.second for key, difference in comparison.items()}
        gap = comparison["cIoU"]
        low, high = gap.interval
        lines.append(
            f"| {name} | {told['cIoU']:.4f} | {told['gIoU']:.4f} | "
            + ("" if name == against else f"{gap.difference:+.4f} [{low:+.4f}, {high:+.4f}]")
            + f" | {told['N-acc']:.3f} | {told['T-acc']:.3f} | "
            + (f"{told['object ECE']:.3f}" if told.get("object ECE") is not None else "")
            + f" | {told['point answers']:.1f} | {told['model calls']:.1f} | {told['tokens']:.0f} |"
        )
    return "\n".join(lines)


def growth(exact: Path, rough: Path) -> str:
    """How much larger the gain of `adaptive` over the paper's setting in cIoU is with rough boxes, by paired bootstrap."""
    folders = [folder / name for folder in (rough, exact) for name in (folder_name("adaptive"), folder_name(PAPER))]
    runs = [sorted(scored(read_records(folder)), key=lambda record: record.id) for folder in folders]
    ious = [all_statistics(run, PROTOCOLS["rela"])["cIoU"] for run in runs]

    def of_sums(sums: Floats) -> Floats:
        ours, paper, ours_exact, paper_exact = (
            iou.of_sums(part) for iou, part in zip(ious, np.split(sums, 4, -1), strict=True)
        )
        return np.asarray((ours - paper) - (ours_exact - paper_exact))

    grown = Statistic(np.concatenate([iou.columns for iou in ious], 1), of_sums)
    low, high = intervals({"growth": grown})["growth"]
    return f"With rough boxes the gain of adaptive over {PAPER} is larger by {grown.value:+.4f} [{low:+.4f}, {high:+.4f}]."


def folder_name(setting: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in setting)


def tune(work: Path, dialect: Dialect, scenes: Path, steps: int, processes: int) -> Sam4Mllm:
    """The embedded base with an adapter that was taught PQPP in that dialect."""
    data, recipe = [Source("jsonl", scenes)], Recipe(dialect=dialect, ppg=0)
    lessons = build_lessons(data, work / f"lessons-{dialect.name}", recipe, processes=processes)
    out = work / f"adapter-{dialect.name}-{steps}"
    told = {**read_config(SETTINGS), "lessons": str(lessons), "out": str(out), "max_steps": steps}
    told["dialect"] = None  # the lessons'
    return Sam4Mllm.load(f"embedded+{train(TrainingConfig.from_dict(told))}", dialect=dialect)


def drawn(folder: Path, count: int, seed: int) -> Path:
    if not (folder / SCENES_FILE).exists():
        write_scenes(folder, count, seed)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=300, help="with seven expressions each (default: %(default)s)")
    parser.add_argument("--first", type=int, default=TEST_SEEDS, help="first seed (default: the test split's first)")
    parser.add_argument("--only", nargs="+", choices=SHIPPED, metavar="SETTING", help="of the first table: %(choices)s")
    parser.add_argument("--rough", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--tuning-scenes", type=int, default=2000)
    parser.add_argument("--tuning-steps", type=int, default=300)
    parser.add_argument("--processes", type=int, default=2, help="that build lessons (default: %(default)s)")
    arguments = parser.parse_args()
    work = arguments.work
    data, models = drawn(work / f"scenes-{arguments.first}", arguments.scenes, arguments.first), Sam4Mllm.load()
    if arguments.tune:
        scenes, folders = drawn(work / "tuning-scenes", arguments.tuning_scenes, TRAINED), {}
        for name, dialect in (("each point alone", EMBEDDED), ("all points at once", JOINT)):
            tuned = tune(work, dialect, scenes, arguments.tuning_steps, arguments.processes)
            folders[name] = run(f"tuned {name}", SHIPPED[PAPER], tuned, data, work)
        print(table(folders, "each point alone"))
        return
    settings = ROUGH if arguments.rough else SHIPPED
    if arguments.only:
        settings = {name: settings[name] for name in (PAPER, *arguments.only) if name in settings}
    if arguments.rough:
        models.mllm = RoughBoxes(models.mllm, models.dialect)
    out = work / ("rough" if arguments.rough else "shipped") / str(arguments.first)
    folders = {name: run(name, setting, models, data, out) for name, setting in settings.items()}
    print(table(folders, PAPER))
    exact = work / "shipped" / str(arguments.first)
    if arguments.rough and (exact / folder_name("adaptive")).exists():
        print(f"\n{growth(exact, out)}")


if __name__ == "__main__":
    main()
