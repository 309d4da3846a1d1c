"""Measures the embedded pair on fresh test-split scenes: `python -m sam4mllm_tool.embedded.check`.

Prints, by kind of expression: box accuracy at IoU 0.5; point answers, all and those that pass the thresholds; how often "no
such object" is said rightly and wrongly; cIoU and gIoU for box, PPG and PQPP; how often PPG fell back to the box; and the
embedded Segment Anything alone, from true boxes and five true points.

How it counts. Box accuracy: single-object kinds; the first box named has IoU of at least 0.5 with the true one, anything else
is a miss. Point answers: the question names a box, so the truth is the object of the scene that this box fits best. cIoU: sum
of intersections over sum of unions; gIoU: mean IoU, 1 where truth and prediction are both empty. A reply that cannot be read
counts as an empty prediction; nothing is dropped.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from tqdm import tqdm

from sam4mllm_tool.embedded.expressions import KINDS, SINGLE_OBJECT_KINDS, Expression, Kind, sample_expressions
from sam4mllm_tool.embedded.scenes import TEST_SEEDS, Scene, draw_scene
from sam4mllm_tool.errors import ExpressionError, ReplyError
from sam4mllm_tool.models.validation import validate_objects, validate_replies
from sam4mllm_tool.pipeline.sam4mllm import WITHOUT_POINTS, Method, Sam4Mllm
from sam4mllm_tool.protocol import Thresholds
from sam4mllm_tool.protocol.oracle import label_point
from sam4mllm_tool.types import (
    MLLM,
    ObjectPrompt,
    Point,
    PointPrompt,
    Question,
    Reply,
    Segmentation,
    SegmentedObject,
    Segmenter,
    Size,
)

METHODS: tuple[Method, ...] = ("box", "ppg", "pqpp")


@dataclass
class Tally:
    """Running sums for one kind of expression."""

    boxes: list[bool] = field(default_factory=list)
    refused: list[bool] = field(default_factory=list)
    fallbacks: list[bool] = field(default_factory=list)
    points: list[tuple[bool, bool]] = field(default_factory=list)  # (right, passes the thresholds)
    overlaps: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {m: [] for m in METHODS})

    def figures(self) -> dict[str, float]:
        """What is printed; a figure that has no samples is absent."""
        passed = [right for right, passes in self.points if passes]
        rates = {
            "box_acc": self.boxes,
            "refused": self.refused,
            "ppg_fallback": self.fallbacks,
            "points": [right for right, _ in self.points],
            "passing": [passes for _, passes in self.points],
            "right_of_passing": passed,
        }
        figures = {name: float(np.mean(values)) for name, values in rates.items() if values}
        for method, pairs in self.overlaps.items():
            intersections, unions = np.array(pairs).T
            figures[f"{method}_cIoU"] = float(intersections.sum() / max(unions.sum(), 1))
            figures[f"{method}_gIoU"] = float(np.mean(np.where(unions == 0, 1.0, intersections / np.maximum(unions, 1))))
        return figures


def measure(models: Sam4Mllm, scenes: Iterable[Scene]) -> dict[str, dict[str, float]]:
    """Figures by kind, and under `single` and `all` those of the single-object kinds and of everything together."""
    tallies: dict[Kind, Tally] = {kind: Tally() for kind in KINDS}
    for scene in scenes:
        asked = sample_expressions(scene, len(KINDS), Random(f"check-{scene.seed}"))
        for expression, result in zip(asked, _answers(models, scene, asked), strict=True):
            _count(tallies[expression.kind], scene, expression, *result, models.thresholds)
    figures: dict[str, dict[str, float]] = {kind: tally.figures() for kind, tally in tallies.items() if tally.refused}
    return {
        **figures,
        "single": _merged(tallies[kind] for kind in SINGLE_OBJECT_KINDS).figures(),
        "present": _merged(tallies[kind] for kind in KINDS if kind != "absent").figures(),
        "all": _merged(tallies.values()).figures(),
    }


def _merged(tallies: Iterable[Tally]) -> Tally:
    merged = Tally()
    for tally in tallies:
        merged.boxes += tally.boxes
        merged.refused += tally.refused
        merged.fallbacks += tally.fallbacks
        merged.points += tally.points
        for method in METHODS:
            merged.overlaps[method] += tally.overlaps[method]
    return merged


class _Heard:
    """An MLLM that remembers what it replied about a picture: asked the same once more, it says the same for nothing."""

    greedy = True

    def __init__(self, mllm: MLLM) -> None:
        self._mllm = mllm
        self._replies: dict[Question, Reply] = {}

    @property
    def name(self) -> str:
        return self._mllm.name

    def reply(self, image: Image.Image, questions: Sequence[Question]) -> list[Reply]:
        new = [question for question in dict.fromkeys(questions) if question not in self._replies]
        self._replies |= zip(new, validate_replies(self.name, new, self._mllm.reply(image, new)), strict=True)
        return [self._replies[question] for question in questions]

    async def areply(self, image: Image.Image, questions: Sequence[Question]) -> list[Reply]:
        return self.reply(image, questions)


class _Unmasked:
    """A segmenter that hands its prompts back, without a mask."""

    name = "none"

    def segment(self, image: Image.Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        nothing = np.broadcast_to(np.False_, (image.height, image.width))
        return [SegmentedObject(nothing, prompt, 0.0) for prompt in prompts]

    async def asegment(self, image: Image.Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        return self.segment(image, prompts)


Outcome: TypeAlias = Segmentation | ReplyError | ExpressionError


def _answers(models: Sam4Mllm, scene: Scene, asked: Sequence[Expression]) -> list[tuple[Outcome, dict[str, Outcome]]]:
    """For each expression: all that the MLLM answered in PQPP, whatever the thresholds, and the result by each method."""
    image, texts, heard = Image.fromarray(scene.image), [expression.text for expression in asked], _Heard(models.mllm)

    def driven(segmenter: Segmenter, thresholds: Thresholds) -> Sam4Mllm:
        dialect, sampler, retries = models.dialect, models.sampler, models.retries
        return Sam4Mllm(heard, segmenter, dialect=dialect, sampler=sampler, thresholds=thresholds, retries=retries)

    answered = driven(_Unmasked(), Thresholds(0, 0)).segment_group(image, texts)
    whole = driven(models.segmenter, models.thresholds)
    found = [whole.segment_group(image, texts, method=method) for method in METHODS]
    by_expression = [dict(zip(METHODS, results, strict=True)) for results in zip(*found, strict=True)]
    return list(zip(answered, by_expression, strict=True))


def _count(
    tally: Tally,
    scene: Scene,
    expression: Expression,
    answered: Outcome,
    found: dict[str, Outcome],
    thresholds: Thresholds,
) -> None:
    prompts = [thing.prompt for thing in answered.objects] if isinstance(answered, Segmentation) else []
    tally.refused.append(not prompts)
    tally.fallbacks.append(_fell_back(found["ppg"]))
    truth = np.isin(scene.instances, [i + 1 for i in expression.targets])
    for method, outcome in found.items():
        mask = outcome.mask if isinstance(outcome, Segmentation) else np.zeros_like(truth)
        tally.overlaps[method].append((int((mask & truth).sum()), int((mask | truth).sum())))
    if expression.kind in SINGLE_OBJECT_KINDS:
        meant = scene.objects[expression.targets[0]].box
        tally.boxes.append(bool(prompts) and prompts[0].box.iou(meant) >= 0.5)
    for prompt in prompts:
        fits = max(range(len(scene.objects)), key=lambda i: prompt.box.iou(scene.objects[i].box))
        for point in prompt.points:
            right = label_point(scene.mask(fits), Point(point.x, point.y)) == point.label
            tally.points.append((right, thresholds.keep(point)))


def _fell_back(outcome: Outcome) -> bool:
    """Whether PPG's points could not be read, so that the box alone was asked for."""
    return not isinstance(outcome, Segmentation) or any(note.startswith(WITHOUT_POINTS) for note in outcome.notes)


def measure_segmenter(models: Sam4Mllm, scenes: Iterable[Scene]) -> float:
    """Mean IoU over all objects, from the true box and five points drawn evenly in it with true labels."""
    ious: list[float] = []
    for scene in scenes:
        rng, prompts = Random(f"segmenter-{scene.seed}"), []
        for index, thing in enumerate(scene.objects):
            x1, y1, x2, y2 = thing.box
            places = [Point(rng.uniform(x1, x2), rng.uniform(y1, y2)) for _ in range(5)]
            labelled = tuple(PointPrompt(*place, label_point(scene.mask(index), place), 1.0) for place in places)
            prompts.append(ObjectPrompt(thing.box, labelled))
        image = Image.fromarray(scene.image)
        objects = validate_objects(models.segmenter.name, Size(*image.size), prompts, models.segmenter.segment(image, prompts))
        for index, found in enumerate(objects):
            truth = scene.mask(index)
            ious.append(float((found.mask & truth).sum() / (found.mask | truth).sum()))
    return float(np.mean(ious))


BARS: tuple[tuple[str, Callable[[dict[str, Any]], float], str, float], ...] = (
    ("box Acc@0.5, single-object kinds", lambda f: f["single"]["box_acc"], ">=", 0.90),
    ("box Acc@0.5, worst of them", lambda f: min(f[k]["box_acc"] for k in SINGLE_OBJECT_KINDS if k in f), ">=", 0.80),
    ("points that pass the thresholds, right", lambda f: f["present"]["right_of_passing"], ">=", 0.97),
    ("points that pass the thresholds, share", lambda f: f["present"]["passing"], ">=", 0.50),
    ("absent recognised", lambda f: f["absent"]["refused"], ">=", 0.90),
    ("present refused", lambda f: f["present"]["refused"], "<=", 0.03),
    ("pqpp cIoU", lambda f: f["all"]["pqpp_cIoU"], ">=", 0.80),
    ("pqpp cIoU above box-only", lambda f: f["all"]["pqpp_cIoU"] - f["all"]["box_cIoU"], ">", 0.0),
    ("segmenter alone, 5 true points, mean IoU", lambda f: f["segmenter"]["mean_iou"], ">=", 0.92),
)
"""What the pair is held to: description, figure, which way, bar."""


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures by kind as text."""
    columns = ["box_acc", "refused", "points", "passing", "right_of_passing"]
    columns += [f"{method}_{metric}" for metric in ("cIoU", "gIoU") for method in METHODS]
    lines = [f"{'':10}" + "".join(f"{c.replace('right_of_passing', 'of_passing'):>11}" for c in columns)]
    for kind, row in figures.items():
        if kind != "segmenter":
            lines.append(f"{kind:10}" + "".join(f"{row[c]:11.3f}" if c in row else f"{'-':>11}" for c in columns))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures and whether each bar holds; the exit code is 1 where one does not."""
    parser = argparse.ArgumentParser(prog="python -m sam4mllm_tool.embedded.check", description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=300, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=TEST_SEEDS, help="first seed (default: the test split's first)")
    parser.add_argument("--mllm", default="embedded", help="another MLLM's spec")
    parser.add_argument("--segmenter", default="embedded", help="another segmenter's spec")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    arguments = parser.parse_args(argv)
    models = Sam4Mllm.load(arguments.mllm, arguments.segmenter)
    seeds = range(arguments.first, arguments.first + arguments.scenes)
    progress = tqdm((draw_scene(seed) for seed in seeds), total=len(seeds), unit="scene", mininterval=5)
    figures = measure(models, progress)
    figures["segmenter"] = {"mean_iou": measure_segmenter(models, (draw_scene(seed) for seed in seeds))}
    print(table(figures))
    print(f"ppg fallback: {figures['all']['ppg_fallback']:.3f} of the calls went on with the box alone")
    held = True
    for what, figure, way, bar in BARS:
        value = figure(figures)
        good = {">=": value >= bar, ">": value > bar, "<=": value <= bar}[way]
        held &= good
        print(f"{'ok  ' if good else 'MISS'}  {what}: {value:.3f} ({way} {bar:.2f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
