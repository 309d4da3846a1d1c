"""Measures the embedded pair on new test-split scenes: `python -m sam4mllm_tool.embedded.check`.

Prints by kind of expression: box accuracy at IoU 0.5; accuracy of the point answers, of all and of those that pass the
thresholds; the share of replies "no such object"; cIoU and gIoU for box, PPG and PQPP; how often PPG fell back to the box; and
the embedded Segment Anything alone, prompted with true boxes and five true points.

Definitions. Box accuracy: over single-object kinds, the share whose first predicted box has an IoU of at least 0.5 with the
true box. Point answers: the question names a box, so the true label is that of the scene's object with the highest box IoU.
cIoU: sum of intersections over sum of unions. gIoU: mean IoU, 1 if truth and prediction are both empty. A reply that can't be
read counts as an empty prediction; no sample is dropped.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from tqdm import tqdm

from sam4mllm_tool.atomic_io import write_json
from sam4mllm_tool.config import SegmentationConfig
from sam4mllm_tool.embedded.expressions import KINDS, SINGLE_OBJECT_KINDS, Expression, Kind, sample_expressions
from sam4mllm_tool.embedded.scenes import TEST_SEEDS, Scene, draw_scene
from sam4mllm_tool.errors import EmptyMaskError, ExpressionError, ReplyError
from sam4mllm_tool.models.validation import validate_objects, validate_replies
from sam4mllm_tool.parallel import map_in_processes
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
Outcome: TypeAlias = Segmentation | ReplyError | ExpressionError | EmptyMaskError
Figures: TypeAlias = dict[str, dict[str, float]]


@dataclass
class KindTally:
    """Results for one kind of expression.

    Attributes:
        box_hits: Per single-object expression, whether the first box has an IoU of at least 0.5.
        refused: Per expression, whether the reply was that there is no such object.
        fallbacks: Per expression, whether PPG fell back to the box alone.
        points: Per point answer, whether it is right and whether it passes the thresholds.
        areas: Per method and expression, the areas of intersection and union in pixels.
    """

    box_hits: list[bool] = field(default_factory=list)
    refused: list[bool] = field(default_factory=list)
    fallbacks: list[bool] = field(default_factory=list)
    points: list[tuple[bool, bool]] = field(default_factory=list)
    areas: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {m: [] for m in METHODS})

    def compute_figures(self) -> dict[str, float]:
        """Compute the figures that are printed; a figure without samples is left out."""
        rates = {
            "box_acc": self.box_hits,
            "refused": self.refused,
            "ppg_fallback": self.fallbacks,
            "points": [right for right, _ in self.points],
            "passing": [passes for _, passes in self.points],
            "right_of_passing": [right for right, passes in self.points if passes],
        }
        figures = {name: float(np.mean(values)) for name, values in rates.items() if values}
        for method, pairs in self.areas.items():
            intersections, unions = np.array(pairs).T
            figures[f"{method}_cIoU"] = float(intersections.sum() / max(unions.sum(), 1))
            figures[f"{method}_gIoU"] = float(np.mean(np.where(unions == 0, 1.0, intersections / np.maximum(unions, 1))))
        return figures


def measure_models(models: Sam4Mllm, scenes: Iterable[Scene]) -> Figures:
    """Measure a pair of models on scenes.

    Returns:
        As `compute_figures` does.
    """
    return compute_figures(_merge_kinds(_tally_scene(models, scene) for scene in scenes))


def _tally_scene(models: Sam4Mllm, scene: Scene) -> dict[Kind, KindTally]:
    tallies: dict[Kind, KindTally] = {kind: KindTally() for kind in KINDS}
    expressions = sample_expressions(scene, len(KINDS), Random(f"check-{scene.seed}"))
    for expression, outcomes in zip(expressions, _segment_scene(models, scene, expressions), strict=True):
        _count(tallies[expression.kind], scene, expression, *outcomes, models.config.thresholds)
    return tallies


def _merge_kinds(scenes: Iterable[dict[Kind, KindTally]]) -> dict[Kind, KindTally]:
    by_scene = list(scenes)
    return {kind: _merge(tallies[kind] for tallies in by_scene) for kind in KINDS}


def compute_figures(tallies: dict[Kind, KindTally]) -> Figures:
    """Return figures by kind of expression, and for kinds together: `single` (single-object kinds), `present`, `all`."""
    figures: Figures = {kind: tally.compute_figures() for kind, tally in tallies.items() if tally.refused}
    return {
        **figures,
        "single": _merge(tallies[kind] for kind in SINGLE_OBJECT_KINDS).compute_figures(),
        "present": _merge(tallies[kind] for kind in KINDS if kind != "absent").compute_figures(),
        "all": _merge(tallies.values()).compute_figures(),
    }


def _merge(tallies: Iterable[KindTally]) -> KindTally:
    merged = KindTally()
    for tally in tallies:
        merged.box_hits += tally.box_hits
        merged.refused += tally.refused
        merged.fallbacks += tally.fallbacks
        merged.points += tally.points
        for method in METHODS:
            merged.areas[method] += tally.areas[method]
    return merged


class _CachingMLLM:
    """An MLLM that answers a repeated question about the same image from memory."""

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


class _FullSegmenter:
    """A segmenter that returns its prompts, each with the whole image as its mask."""

    name = "none"

    def segment(self, image: Image.Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        whole = np.broadcast_to(np.True_, (image.height, image.width))
        return [SegmentedObject(whole, prompt, 0.0) for prompt in prompts]

    async def asegment(self, image: Image.Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        return self.segment(image, prompts)


def _segment_scene(
    models: Sam4Mllm, scene: Scene, expressions: Sequence[Expression]
) -> list[tuple[Outcome, dict[str, Outcome]]]:
    """Return, per expression, PQPP's outcome with all point answers kept, and the outcome of each method."""
    image, mllm = Image.fromarray(scene.image), _CachingMLLM(models.mllm)
    texts = [expression.text for expression in expressions]

    def build(segmenter: Segmenter, thresholds: Thresholds) -> Sam4Mllm:
        config = SegmentationConfig(sampler=models.config.sampler, thresholds=thresholds, retries=models.config.retries)
        return Sam4Mllm(mllm, segmenter, dialect=models.dialect, config=config)

    all_points = build(_FullSegmenter(), Thresholds(0, 0)).segment_group(image, texts)
    pair = build(models.segmenter, models.config.thresholds)
    by_method = [pair.segment_group(image, texts, method=method) for method in METHODS]
    by_expression = [dict(zip(METHODS, outcomes, strict=True)) for outcomes in zip(*by_method, strict=True)]
    return list(zip(all_points, by_expression, strict=True))


def _count(
    tally: KindTally,
    scene: Scene,
    expression: Expression,
    all_points: Outcome,
    outcomes: dict[str, Outcome],
    thresholds: Thresholds,
) -> None:
    prompts = [segmented.prompt for segmented in all_points.objects] if isinstance(all_points, Segmentation) else []
    tally.refused.append(not prompts)
    tally.fallbacks.append(_fell_back(outcomes["ppg"]))
    truth = np.isin(scene.instances, [i + 1 for i in expression.targets])
    for method, outcome in outcomes.items():
        mask = outcome.mask if isinstance(outcome, Segmentation) else np.zeros_like(truth)
        tally.areas[method].append((int((mask & truth).sum()), int((mask | truth).sum())))
    if expression.kind in SINGLE_OBJECT_KINDS:
        true_box = scene.objects[expression.targets[0]].box
        tally.box_hits.append(bool(prompts) and prompts[0].box.iou(true_box) >= 0.5)
    for prompt in prompts:
        nearest = max(range(len(scene.objects)), key=lambda i: prompt.box.iou(scene.objects[i].box))
        for point in prompt.points:
            right = label_point(scene.mask(nearest), Point(point.x, point.y)) == point.label
            tally.points.append((right, thresholds.keep(point)))


def _fell_back(outcome: Outcome) -> bool:
    """Return whether PPG's points could not be read, so that only the box was requested."""
    return not isinstance(outcome, Segmentation) or any(note.startswith(WITHOUT_POINTS) for note in outcome.notes)


def _segmenter_ious(models: Sam4Mllm, scene: Scene) -> list[float]:
    """Return the segmenter's IoU with each object, from the true box and five uniform points in it with true labels."""
    rng, prompts = Random(f"segmenter-{scene.seed}"), []
    for index, shape in enumerate(scene.objects):
        x1, y1, x2, y2 = shape.box
        points = [Point(rng.uniform(x1, x2), rng.uniform(y1, y2)) for _ in range(5)]
        labelled = tuple(PointPrompt(*point, label_point(scene.mask(index), point), 1.0) for point in points)
        prompts.append(ObjectPrompt(shape.box, labelled))
    image = Image.fromarray(scene.image)
    objects = validate_objects(models.segmenter.name, Size(*image.size), prompts, models.segmenter.segment(image, prompts))
    truths = map(scene.mask, range(len(objects)))
    return [float((each.mask & truth).sum() / (each.mask | truth).sum()) for each, truth in zip(objects, truths, strict=True)]


def measure_pair(mllm: str, segmenter: str, seeds: range, *, processes: int = 1) -> Figures:
    """Measure the models together and the segmenter alone, as `segmenter`, on the scenes of these seeds.

    Args:
        mllm: Spec of the MLLM.
        segmenter: Spec of the segmenter.
        seeds: Of the scenes.
        processes: How many load the models and share the scenes; the figures are the same with any number.
    """
    if processes > 1:
        arguments: dict[str, Any] = {"prepare": _load_models, "given": (mllm, segmenter), "task": "check"}
        results = map_in_processes(_measure_scene, iter(seeds), processes, **arguments)
    else:
        _load_models(mllm, segmenter)
        results = map(_measure_scene, seeds)
    measured = list(tqdm(results, total=len(seeds), unit="scene", mininterval=5, disable=None))
    figures = compute_figures(_merge_kinds(tallies for tallies, _ in measured))
    return figures | {"segmenter": {"mean_iou": float(np.mean([iou for _, ious in measured for iou in ious]))}}


_loaded: list[Sam4Mllm] = []
"""The models of this process."""


def _load_models(mllm: str, segmenter: str) -> None:
    _loaded[:] = [Sam4Mllm.load(mllm, segmenter)]


def _measure_scene(seed: int) -> tuple[dict[Kind, KindTally], list[float]]:
    (models,), scene = _loaded, draw_scene(seed)
    return _tally_scene(models, scene), _segmenter_ious(models, scene)


@dataclass(frozen=True)
class Requirement:
    """What the embedded pair must reach on the test split.

    Attributes:
        description: What is measured, in words.
        read: Reads the figure from what `measure_pair` returns.
        relation: How the figure must relate to the limit: >=, > or <=.
        limit: The limit.
    """

    description: str
    read: Callable[[Figures], float]
    relation: str
    limit: float

    def value(self, figures: Figures) -> float:
        """Return the figure, NaN where it has no samples."""
        try:
            return self.read(figures)
        except KeyError:
            return math.nan

    def holds(self, figures: Figures) -> bool:
        """Return whether the figures meet the requirement; a figure without samples doesn't."""
        value = self.value(figures)
        return {">=": value >= self.limit, ">": value > self.limit, "<=": value <= self.limit}[self.relation]


REQUIREMENTS = (
    Requirement("box Acc@0.5, single-object kinds", lambda f: f["single"]["box_acc"], ">=", 0.90),
    Requirement(
        "box Acc@0.5, worst of them", lambda f: min(f[k]["box_acc"] for k in SINGLE_OBJECT_KINDS if k in f), ">=", 0.80
    ),
    Requirement("points that pass the thresholds, right", lambda f: f["present"]["right_of_passing"], ">=", 0.97),
    Requirement("points that pass the thresholds, share", lambda f: f["present"]["passing"], ">=", 0.50),
    Requirement("absent recognised", lambda f: f["absent"]["refused"], ">=", 0.90),
    Requirement("present refused", lambda f: f["present"]["refused"], "<=", 0.03),
    Requirement("pqpp cIoU", lambda f: f["all"]["pqpp_cIoU"], ">=", 0.80),
    Requirement("pqpp cIoU above box-only", lambda f: f["all"]["pqpp_cIoU"] - f["all"]["box_cIoU"], ">", 0.0),
    Requirement("segmenter alone, 5 true points, mean IoU", lambda f: f["segmenter"]["mean_iou"], ">=", 0.92),
)
"""What the embedded pair must reach on 300 scenes."""


def format_table(figures: Figures) -> str:
    """Format the figures by kind as a table."""
    columns = ["box_acc", "refused", "points", "passing", "right_of_passing"]
    columns += [f"{method}_{metric}" for metric in ("cIoU", "gIoU") for method in METHODS]
    lines = [f"{'':10}" + "".join(f"{c.replace('right_of_passing', 'of_passing'):>11}" for c in columns)]
    for kind, row in figures.items():
        if kind != "segmenter":
            lines.append(f"{kind:10}" + "".join(f"{row[c]:11.3f}" if c in row else f"{'-':>11}" for c in columns))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures and whether each requirement is met; the exit code is 1 if one is not."""
    parser = argparse.ArgumentParser(prog="python -m sam4mllm_tool.embedded.check", description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=300, help="number of scenes (default: %(default)s)")
    parser.add_argument("--first", type=int, default=TEST_SEEDS, help="first seed (default: the first of the test split)")
    parser.add_argument("--mllm", default="embedded", help="spec of the MLLM to measure (default: %(default)s)")
    parser.add_argument("--segmenter", default="embedded", help="spec of the segmenter to measure (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the scenes (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args(argv)
    seeds = range(arguments.first, arguments.first + arguments.scenes)
    figures = measure_pair(arguments.mllm, arguments.segmenter, seeds, processes=arguments.processes)
    print(format_table(figures))
    print(f"ppg fallback: {figures['all']['ppg_fallback']:.3f} of the calls went on with the box alone")
    for requirement in REQUIREMENTS:
        mark = "ok  " if requirement.holds(figures) else "MISS"
        limit = f"{requirement.relation} {requirement.limit:.2f}"
        print(f"{mark}  {requirement.description}: {requirement.value(figures):.3f} ({limit})")
    if arguments.json:
        write_json(arguments.json, figures)
    return 0 if all(requirement.holds(figures) for requirement in REQUIREMENTS) else 1


if __name__ == "__main__":
    sys.exit(main())
