"""Measures the embedded pair on new test-split scenes: `python -m sam4mllm_tool.embedded.check`.

Prints by kind of expression: box accuracy at IoU 0.5; accuracy of the point answers, of all and of those that pass the
thresholds; the share of replies "no such object"; cIoU and gIoU of each method; how often PPG fell back to the box; and the
embedded Segment Anything alone, prompted with true boxes and true points.

Definitions. Box accuracy: over expressions with one target, the share whose first predicted box has an IoU of at least 0.5 with
the true box. Point answers: the true label is that of the expression's target with the highest box IoU, if that is at least
0.5; else that of the region with the highest box IoU, because the question names the box.
cIoU: sum of intersections over sum of unions. gIoU: mean IoU, 1 if truth and prediction are both empty. A reply that can't be
read counts as an empty prediction; no sample is dropped.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeAlias

import numpy as np
from PIL import Image
from tqdm import tqdm

from sam4mllm_tool.atomic_io import write_json
from sam4mllm_tool.config import SegmentationConfig
from sam4mllm_tool.embedded import TEST_SEEDS
from sam4mllm_tool.embedded.everyday import (
    ABSENT_KINDS,
    KINDS,
    EverydayExpression,
    EverydayScene,
    draw_scene,
    sample_expressions,
)
from sam4mllm_tool.embedded.requirements import BOX_KINDS, GROUPS, METHODS, REQUIREMENTS, Figures
from sam4mllm_tool.errors import EmptyMaskError, ExpressionError, ReplyError
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.models.validation import validate_objects, validate_replies
from sam4mllm_tool.parallel import map_in_processes
from sam4mllm_tool.pipeline.sam4mllm import WITHOUT_POINTS, Sam4Mllm
from sam4mllm_tool.protocol import Thresholds
from sam4mllm_tool.protocol.oracle import label_point
from sam4mllm_tool.types import (
    MLLM,
    Box,
    Mask,
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

_BOX_IOU = 0.5
_SIDE = 256
Outcome: TypeAlias = Segmentation | ReplyError | ExpressionError | EmptyMaskError


@dataclass
class KindTally:
    """Results for one kind of expression.

    Attributes:
        box_hits: Per expression with one target, whether the first box has an IoU of at least 0.5.
        refused: Per expression, whether the reply was that there is no such object.
        fallbacks: Per expression, whether PPG fell back to the box alone.
        points: Per point answer, whether it is right and whether it passes the thresholds.
        areas: Per method and expression, the areas of intersection and union in pixels.
    """

    box_hits: list[bool] = field(default_factory=list)
    refused: list[bool] = field(default_factory=list)
    fallbacks: list[bool] = field(default_factory=list)
    points: list[tuple[bool, bool]] = field(default_factory=list)
    areas: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

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


def measure_models(models: Sam4Mllm, scenes: Iterable[EverydayScene]) -> Figures:
    """Measure a pair of models on scenes.

    Returns:
        Figures by kind of expression, and for the kinds together: those of `GROUPS`, `present`, `all`.
    """
    return _compute_figures([_tally_scene(models, scene, len(KINDS)) for scene in scenes])


def _tally_scene(models: Sam4Mllm, scene: EverydayScene, count: int) -> dict[str, KindTally]:
    """Return the results for `count` expressions about one scene, by kind of expression."""
    tallies: dict[str, KindTally] = {kind: KindTally() for kind in KINDS}
    expressions = sample_expressions(scene, count, Random(f"check-{scene.seed}"))
    for expression, outcomes in zip(expressions, _segment_scene(models, scene, expressions), strict=True):
        tally = tallies[expression.kind]
        _count(tally, scene, expression, *outcomes, models.config.thresholds)
        if expression.kind in BOX_KINDS and len(expression.targets) == 1:
            _count_box(tally, scene, expression, outcomes[0])
    return tallies


def _compute_figures(scenes: Sequence[dict[str, KindTally]]) -> Figures:
    tallies = {kind: _merge(scene[kind] for scene in scenes) for kind in KINDS}
    present = tuple(kind for kind in KINDS if kind not in ABSENT_KINDS)
    groups = {**GROUPS, "present": present, "all": KINDS}
    figures: Figures = {kind: tally.compute_figures() for kind, tally in tallies.items() if tally.refused}
    return figures | {name: _merge(tallies[kind] for kind in kinds).compute_figures() for name, kinds in groups.items()}


def _merge(tallies: Iterable[KindTally]) -> KindTally:
    merged = KindTally()
    for tally in tallies:
        merged.box_hits += tally.box_hits
        merged.refused += tally.refused
        merged.fallbacks += tally.fallbacks
        merged.points += tally.points
        for method, pairs in tally.areas.items():
            merged.areas[method] += pairs
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
    models: Sam4Mllm, scene: EverydayScene, expressions: Sequence[EverydayExpression]
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
    scene: EverydayScene,
    expression: EverydayExpression,
    all_points: Outcome,
    outcomes: dict[str, Outcome],
    thresholds: Thresholds,
) -> None:
    prompts = _list_prompts(all_points)
    tally.refused.append(not prompts)
    tally.fallbacks.append(_fell_back(outcomes["ppg"]))
    truth = np.zeros(scene.image.shape[:2], np.bool_)
    for target in expression.targets:
        truth |= scene.mask(target)
    for method, outcome in outcomes.items():
        mask = outcome.mask if isinstance(outcome, Segmentation) else np.zeros_like(truth)
        tally.areas[method].append((int((mask & truth).sum()), int((mask | truth).sum())))
    for prompt in prompts:
        mask = scene.mask(_find_region(scene, expression.targets, prompt.box))
        for point in prompt.points:
            right = label_point(mask, Point(point.x, point.y)) == point.label
            tally.points.append((right, thresholds.keep(point)))


def _list_prompts(outcome: Outcome) -> list[ObjectPrompt]:
    return [segmented.prompt for segmented in outcome.objects] if isinstance(outcome, Segmentation) else []


def _count_box(tally: KindTally, scene: EverydayScene, expression: EverydayExpression, outcome: Outcome) -> None:
    prompts, true_box = _list_prompts(outcome), scene.regions[expression.targets[0]].box
    tally.box_hits.append(bool(prompts) and prompts[0].box.iou(true_box) >= _BOX_IOU)


def _find_region(scene: EverydayScene, targets: Sequence[int], box: Box) -> int:
    """Return the region that a question about a box is about; see the module's docstring."""

    def overlap(index: int) -> float:
        return box.iou(scene.regions[index].box)

    nearest = max(targets, key=overlap, default=-1)
    return nearest if targets and overlap(nearest) >= _BOX_IOU else max(range(len(scene.regions)), key=overlap)


def _fell_back(outcome: Outcome) -> bool:
    """Return whether PPG's points could not be read, so that only the box was requested."""
    return not isinstance(outcome, Segmentation) or any(note.startswith(WITHOUT_POINTS) for note in outcome.notes)


def measure_segmenter(models: Sam4Mllm, scenes: Iterable[EverydayScene]) -> dict[str, float]:
    """Measure the segmenter alone, on all regions of the scenes.

    Returns:
        Mean IoU by prompt: `mean_iou` from the true box and five uniform points in it with true labels, `box_iou` from the box
        alone, `click_iou` from one point on the region; and of the best candidate for the latter two, `best_box_iou` and
        `best_click_iou`.
    """
    return _average([_segmenter_ious(models, scene) for scene in scenes])


def _segmenter_ious(models: Sam4Mllm, scene: EverydayScene) -> dict[str, list[float]]:
    """Return the IoU with each region of one scene, by prompt."""
    ious: dict[str, list[float]] = defaultdict(list)
    rng, image = Random(f"segmenter-{scene.seed}"), Image.fromarray(scene.image)
    masks = [scene.mask(index) for index in range(len(scene.regions))]
    labelled = [_label_points(region.box, mask, rng) for region, mask in zip(scene.regions, masks, strict=True)]
    prompts = {
        "mean_iou": [ObjectPrompt(r.box, points) for r, points in zip(scene.regions, labelled, strict=True)],
        "box_iou": [ObjectPrompt(region.box) for region in scene.regions],
        "click_iou": [ObjectPrompt.from_points([_draw_click(mask, rng)]) for mask in masks],
    }
    for name, group in prompts.items():
        objects = validate_objects(models.segmenter.name, Size(*image.size), group, models.segmenter.segment(image, group))
        for segmented, truth in zip(objects, masks, strict=True):
            ious[name].append(mask_iou(segmented.mask, truth))
            if name != "mean_iou":
                candidates = [segmented.mask, *(candidate.mask for candidate in segmented.alternatives)]
                ious[f"best_{name}"].append(max(mask_iou(mask, truth) for mask in candidates))
    return ious


def _average(scenes: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    return {name: float(np.mean([iou for scene in scenes for iou in scene[name]])) for name in scenes[0]}


def _label_points(box: Box, mask: Mask, rng: Random) -> tuple[PointPrompt, ...]:
    x1, y1, x2, y2 = box
    points = [Point(rng.uniform(x1, x2), rng.uniform(y1, y2)) for _ in range(5)]
    return tuple(PointPrompt(*point, label_point(mask, point), 1.0) for point in points)


def _draw_click(mask: Mask, rng: Random) -> PointPrompt:
    y, x = rng.choice(np.argwhere(mask).tolist())
    return PointPrompt(x + 0.5, y + 0.5, 1, 1.0)


def measure_pair(
    mllm: str,
    segmenter: str,
    seeds: range,
    *,
    expressions: int | None = None,
    processes: int = 1,
) -> Figures:
    """Measure the models together and the segmenter alone, as `segmenter`, on the scenes of these seeds.

    Args:
        mllm: Spec of the MLLM.
        segmenter: Spec of the segmenter.
        seeds: Of the scenes.
        expressions: Number of expressions about a scene, of kinds in turn; by default as many as there are kinds.
        processes: How many load the models and share the scenes; the figures are the same with any number.
    """
    given = (mllm, segmenter, expressions or len(KINDS))
    if processes > 1:
        results = map_in_processes(_measure_scene, iter(seeds), processes, prepare=_load_models, given=given, task="check")
    else:
        _load_models(*given)
        results = map(_measure_scene, seeds)
    measured = list(tqdm(results, total=len(seeds), unit="scene", mininterval=5, disable=None))
    figures = _compute_figures([tallies for tallies, _ in measured])
    return figures | {"segmenter": _average([ious for _, ious in measured])}


_loaded: list[tuple[Sam4Mllm, int]] = []
"""What this process measures, and by how many expressions a scene."""


def _load_models(mllm: str, segmenter: str, expressions: int) -> None:
    _loaded[:] = [(Sam4Mllm.load(mllm, segmenter), expressions)]


def _measure_scene(seed: int) -> tuple[dict[str, KindTally], dict[str, list[float]]]:
    ((models, expressions),) = _loaded
    scene = draw_scene(seed, _SIDE)
    return _tally_scene(models, scene, expressions), _segmenter_ious(models, scene)


def format_table(figures: Figures) -> str:
    """Format the figures by kind as a table."""
    columns = ["box_acc", "refused", "points", "passing", "right_of_passing"]
    methods = [name.removesuffix("_cIoU") for name in figures["all"] if name.endswith("_cIoU")]
    columns += [f"{method}_{metric}" for metric in ("cIoU", "gIoU") for method in methods]
    lines = [f"{'':18}" + "".join(f"{c.replace('right_of_passing', 'of_passing'):>11}" for c in columns)]
    for kind, row in figures.items():
        if kind != "segmenter":
            lines.append(f"{kind:18}" + "".join(f"{row[c]:11.3f}" if c in row else f"{'-':>11}" for c in columns))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures and whether each requirement is met; the exit code is 1 if one is not."""
    parser = argparse.ArgumentParser(prog="python -m sam4mllm_tool.embedded.check", description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=700, help="number of scenes (default: %(default)s)")
    parser.add_argument("--expressions", type=int, help="expressions about a scene (default: as many as there are kinds)")
    parser.add_argument("--first", type=int, default=TEST_SEEDS, help="first seed (default: the first of the test split)")
    parser.add_argument("--mllm", default="embedded", help="spec of the MLLM to measure (default: %(default)s)")
    parser.add_argument("--segmenter", default="embedded", help="spec of the segmenter to measure (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the scenes (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args(argv)
    specs, seeds = (arguments.mllm, arguments.segmenter), range(arguments.first, arguments.first + arguments.scenes)
    figures = measure_pair(*specs, seeds, expressions=arguments.expressions, processes=arguments.processes)
    print(format_table(figures))
    print(f"ppg fallback: {figures['all']['ppg_fallback']:.3f} of the calls went on with the box alone")
    segmenter = ", ".join(f"{name} {value:.3f}" for name, value in figures["segmenter"].items())
    print(f"segmenter alone, from true prompts: {segmenter}")
    for requirement in REQUIREMENTS:
        mark = "ok  " if requirement.holds(figures) else "MISS"
        limit = f"{requirement.relation} {requirement.limit:.2f}"
        print(f"{mark}  {requirement.description}: {requirement.value(figures):.3f} ({limit})")
    if arguments.json:
        write_json(arguments.json, figures)
    return 0 if all(requirement.holds(figures) for requirement in REQUIREMENTS) else 1


if __name__ == "__main__":
    sys.exit(main())
