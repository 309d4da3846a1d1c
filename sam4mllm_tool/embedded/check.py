"""Measures the embedded pair on fresh test-split scenes: `python -m sam4mllm_tool.embedded.check`.

Prints, by kind of expression: box accuracy at IoU 0.5; point answers, all and those that pass the thresholds; how often "no
such object" is said rightly and wrongly; cIoU and gIoU for box, PPG and PQPP; and the embedded Segment Anything alone, from
true boxes and five true points.

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
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sam4mllm_tool.embedded.expressions import KINDS, SINGLE_OBJECT_KINDS, Expression, Kind, sample_expressions
from sam4mllm_tool.embedded.scenes import TEST_SEEDS, Scene, box_iou, draw_scene
from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.pipeline import Sam4Mllm
from sam4mllm_tool.protocol import PPG, PQPP, Dialogue
from sam4mllm_tool.protocol.truth import label_at
from sam4mllm_tool.types import Box, Mask, ObjectPrompt, Point, PointPrompt, Size

METHODS = ("box", "ppg", "pqpp")


@dataclass
class Tally:
    """Running sums for one kind of expression."""

    boxes: list[bool] = field(default_factory=list)
    refused: list[bool] = field(default_factory=list)
    points: list[tuple[bool, bool]] = field(default_factory=list)  # (right, passes the thresholds)
    overlaps: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {m: [] for m in METHODS})

    def figures(self) -> dict[str, float]:
        """What is printed; a figure that has no samples is absent."""
        passed = [right for right, passes in self.points if passes]
        rates = {
            "box_acc": self.boxes,
            "refused": self.refused,
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
            _count(tallies[expression.kind], scene, expression, *result)
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
        merged.points += tally.points
        for method in METHODS:
            merged.overlaps[method] += tally.overlaps[method]
    return merged


def _answers(
    models: Sam4Mllm, scene: Scene, asked: Sequence[Expression]
) -> list[tuple[tuple[Box, ...], list[tuple[Box, PointPrompt]], dict[str, Mask]]]:
    """For each expression: the boxes named, the points answered with their boxes, and the mask by each method."""
    image, size = Image.fromarray(scene.image), Size(*scene.image.shape[1::-1])
    pqpp = _run(models, image, [PQPP.start(e.text, size, dialect=models.dialect) for e in asked])
    ppg = _run(models, image, [PPG.start(e.text, size, dialect=models.dialect) for e in asked])
    results = []
    for one, other in zip(pqpp, ppg, strict=True):
        boxes = tuple(prompt.box for prompt in one.prompts) if one else ()
        answered = (one.answers if isinstance(one, PQPP) else None) or ()
        points = [(box, point) for box, group in zip(boxes, answered, strict=False) for point in group]
        prompts = {
            "box": tuple(ObjectPrompt(box) for box in boxes),
            "ppg": other.prompts if other else (),
            "pqpp": one.prompts if one else (),
        }
        masks = {method: _mask(models, image, size, wanted) for method, wanted in prompts.items()}
        results.append((boxes, points, masks))
    return results


def _run(models: Sam4Mllm, image: Image.Image, dialogues: Sequence[Dialogue]) -> list[Dialogue | None]:
    """All dialogues of a picture in lock-step, as the pipeline leads them; None where a reply cannot be read."""
    states: list[Dialogue | None] = list(dialogues)
    while any(state and state.pending for state in states):
        questions = [question for state in states if state for question in state.pending]
        replies = iter(models.mllm.reply(image, questions))
        for index, state in enumerate(states):
            if state is None or not state.pending:
                continue
            told = [next(replies) for _ in state.pending]
            try:
                states[index] = state.answer(told)
            except ReplyError:
                states[index] = state.without_points(told)
    return states


def _mask(models: Sam4Mllm, image: Image.Image, size: Size, prompts: Sequence[ObjectPrompt]) -> Mask:
    union = np.zeros((size.height, size.width), np.bool_)
    for thing in models.segmenter.segment(image, prompts) if prompts else ():
        union |= thing.mask
    return union


def _count(
    tally: Tally,
    scene: Scene,
    expression: Expression,
    boxes: tuple[Box, ...],
    points: list[tuple[Box, PointPrompt]],
    masks: dict[str, Mask],
) -> None:
    tally.refused.append(not boxes)
    truth = np.isin(scene.instances, [i + 1 for i in expression.targets])
    for method, mask in masks.items():
        tally.overlaps[method].append((int((mask & truth).sum()), int((mask | truth).sum())))
    if expression.kind in SINGLE_OBJECT_KINDS:
        tally.boxes.append(bool(boxes) and box_iou(boxes[0], scene.objects[expression.targets[0]].box) >= 0.5)
    keep = PQPP.thresholds.keep
    for box, point in points:
        meant = max(range(len(scene.objects)), key=lambda i: box_iou(box, scene.objects[i].box))
        right = label_at(scene.mask(meant), Point(point.x, point.y)) == point.label
        tally.points.append((right, keep(point)))


def measure_segmenter(models: Sam4Mllm, scenes: Iterable[Scene]) -> float:
    """Mean IoU over all objects, from the true box and five points drawn evenly in it with true labels."""
    ious: list[float] = []
    for scene in scenes:
        rng, prompts = Random(f"segmenter-{scene.seed}"), []
        for index, thing in enumerate(scene.objects):
            x1, y1, x2, y2 = thing.box
            places = [Point(rng.uniform(x1, x2), rng.uniform(y1, y2)) for _ in range(5)]
            labelled = tuple(PointPrompt(*place, label_at(scene.mask(index), place), 1.0) for place in places)
            prompts.append(ObjectPrompt(thing.box, labelled))
        for index, found in enumerate(models.segmenter.segment(Image.fromarray(scene.image), prompts)):
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
