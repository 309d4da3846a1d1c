"""Measure what reasoning about doubtful answers gains: `python -m tests.benchmarks.reasoning`.

Runs the reasoning agent and a single pass (`Sam4Mllm.segment`, method pqpp) on implicit expressions of drawn scenes, including
expressions that mean nothing in their scene. It prints cIoU, gIoU and mIoU of both with the 95 % interval of the difference by
paired bootstrap, N-acc and T-acc, the number of MLLM calls of both as counted at the MLLM, how the runs ended, and how many
exceeded the budget. An unreadable reply or an abstention counts as an empty prediction; no expression is dropped.
`--without closer` and `--without again` leave a part of the agent out; `--mllm` and `--segmenter` measure another
pair.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.agents.reasoning import build_reasoning_graph
from sam4mllm_tool.embedded import TEST_SEEDS
from sam4mllm_tool.embedded.everyday import EverydayExpression, EverydayScene, draw_scene, list_expressions
from sam4mllm_tool.embedded.everyday.expression_templates import load_phrases
from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.evaluation.bootstrap import Statistic, bootstrap_differences, ratio
from sam4mllm_tool.reasoning import Budget, ReasoningConfig, ReasoningResult
from sam4mllm_tool.tools.image_store import ImageStore
from sam4mllm_tool.types import MLLM, Question, Reply
from tests.benchmarks.pair_options import add_pair_options, read_pair_options
from tests.benchmarks.refining import target_mask


@dataclass(frozen=True)
class ExpressionScore:
    """The score of one expression.

    Attributes:
        seed: The scene's.
        expression: Its text.
        targeted: Whether the expression means anything in the scene.
        intersection: Pixels of both prediction and truth.
        union: Pixels of either.
        empty: Whether the prediction is empty.
        rounds: MLLM calls.
        ended: How the agent ended.
        confidence: The agent's confidence in its answer.
        steps: The strategies that the agent tried.
    """

    seed: int
    expression: str
    targeted: bool
    intersection: int
    union: int
    empty: bool
    rounds: int
    ended: str = ""
    confidence: float | None = None
    steps: tuple[str, ...] = ()


class CountingMLLM:
    """An MLLM that counts its calls."""

    greedy = True

    def __init__(self, mllm: MLLM) -> None:
        self._mllm, self.rounds = mllm, 0

    @property
    def name(self) -> str:
        return self._mllm.name

    def reply(self, image: Image.Image, questions: Sequence[Question]) -> list[Reply]:
        self.rounds += 1
        return self._mllm.reply(image, questions)

    async def areply(self, image: Image.Image, questions: Sequence[Question]) -> list[Reply]:
        return self.reply(image, questions)


def iter_scenes(first: int, count: int) -> Iterator[tuple[EverydayScene, list[EverydayExpression]]]:
    """Yield scenes with their implicit expressions, `count` expressions in all, from the seed `first` on."""
    seed, wordings = first, {text for texts in load_phrases().values() for text in texts}
    while count > 0:
        scene = draw_scene(seed)
        implicit = [expression for expression in list_expressions(scene) if expression.text in wordings][:count]
        if implicit:
            yield scene, implicit
        count, seed = count - len(implicit), seed + 1


def measure(
    models: Sam4Mllm, first: int, count: int, budget: Budget, config: ReasoningConfig
) -> tuple[list[ExpressionScore], list[ExpressionScore]]:
    """Return the scores of the single pass and of the agent, both by expression."""
    mllm = CountingMLLM(models.mllm)
    models.mllm = mllm
    store = ImageStore()
    graph = build_reasoning_graph(models, budget=budget, config=config, image_store=store)
    once, reasoned = [], []
    with tqdm(total=count, unit="expression", mininterval=5) as progress:
        for scene, implicit in iter_scenes(first, count):
            image = Image.fromarray(scene.image)
            image_id = store.put(image)
            for expression in implicit:
                truth = target_mask(scene, expression.targets)
                mllm.rounds = 0
                try:
                    mask = models.segment(image, expression.text).mask
                except ReplyError:
                    mask = np.zeros_like(truth)
                once.append(_score(scene.seed, expression, mask, truth, mllm.rounds))
                mllm.rounds = 0
                output = graph.invoke({"image": image_id, "expression": expression.text})
                result = ReasoningResult.from_dict(output["answer"])
                mask = result.segmentation.mask if result.segmentation else np.zeros_like(truth)
                score = _score(scene.seed, expression, mask, truth, mllm.rounds)
                steps = tuple(attempt.step for attempt in result.attempts)
                reasoned.append(replace(score, ended=result.ended, confidence=result.confidence, steps=steps))
                progress.update()
    return once, reasoned


def _score(seed: int, expression: EverydayExpression, mask: Any, truth: Any, rounds: int) -> ExpressionScore:
    intersection, union = int((mask & truth).sum()), int((mask | truth).sum())
    return ExpressionScore(seed, expression.text, bool(expression.targets), intersection, union, not mask.any(), rounds)


def compute_metrics(scores: Sequence[ExpressionScore]) -> dict[str, Statistic]:
    """Return LISA's metrics (train_ds.py, validate): cIoU over all pixels, gIoU over all expressions; and N-acc and T-acc.

    An empty prediction has an IoU of 1 where the expression means nothing.
    """
    intersection, union, targeted, empty = (
        np.array([getattr(score, name) for score in scores], float) for name in ("intersection", "union", "targeted", "empty")
    )
    iou = np.where(union == 0, 1.0, intersection / np.maximum(union, 1))
    return {
        "cIoU": ratio(intersection, union),
        "gIoU": ratio(iou, np.ones(len(scores))),
        "mIoU": ratio(iou * targeted, targeted),
        "N-acc": ratio((1 - targeted) * empty, 1 - targeted),
        "T-acc": ratio(targeted * (1 - empty), targeted),
    }


def format_report(once: Sequence[ExpressionScore], reasoned: Sequence[ExpressionScore], budget: Budget) -> str:
    """Return the metrics and costs as text."""
    absent = sum(not score.targeted for score in once)
    lines = [f"{len(once)} implicit expressions, {absent} of them of something that is not there"]
    lines.append(f"{'':6}{'once':>8}{'agent':>8}{'gain':>9}   95 % interval")
    for name, gain in bootstrap_differences(compute_metrics(once), compute_metrics(reasoned)).items():
        low, high = gain.interval
        lines.append(f"{name:6}{gain.first:8.4f}{gain.second:8.4f}{gain.difference:+9.4f}   {low:+.4f} to {high:+.4f}")
    rounds_once, rounds = (np.array([score.rounds for score in scores]) for scores in (once, reasoned))
    lines.append(f"rounds: once {rounds_once.mean():.2f}, agent {rounds.mean():.2f} on average, {rounds.max()} at most")
    lines.append(f"over the budget of {budget.rounds} rounds: {int((rounds > budget.rounds).sum())}")
    ends = Counter(score.ended for score in reasoned)
    lines.append("ended: " + ", ".join(f"{name} {count}" for name, count in ends.most_common()))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.reasoning", description=__doc__.splitlines()[0])
    parser.add_argument("--expressions", type=int, default=2000, help="number of expressions (default: %(default)s)")
    parser.add_argument(
        "--first", type=int, default=TEST_SEEDS, help="seed of the first scene (default: the test split's first)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=Budget().rounds,
        help="MLLM calls that the agent may make per expression (default: %(default)s)",
    )
    parser.add_argument(
        "--without",
        choices=("closer", "again"),
        nargs="*",
        default=(),
        help="leave out the crop refinement (closer) or every further attempt (again)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores of each expression to this file")
    add_pair_options(parser)
    arguments = parser.parse_args(argv)
    config = ReasoningConfig(refine_crops="closer" not in arguments.without)
    if "again" in arguments.without:
        config = replace(config, steps=())
    budget = Budget(arguments.rounds)
    models = read_pair_options(arguments)
    once, reasoned = measure(models, arguments.first, arguments.expressions, budget, config)
    print(format_report(once, reasoned, budget))
    if arguments.json:
        rows = [[asdict(single), asdict(agent)] for single, agent in zip(once, reasoned, strict=True)]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
