"""What looking again is worth: `python -m tests.benchmarks.reasoning`.

Asks the reasoning agent and the single pass (`Sam4Mllm.segment`, method pqpp) for implicit expressions of drawn scenes, those
that mean nothing in the scene included, and prints cIoU, gIoU and mIoU of both with the 95 % interval of the difference by
paired bootstrap, N-acc and T-acc, the model rounds of both as counted at the MLLM, how runs ended and whether any went over
its budget. What could not be read or was abstained from counts as an empty prediction; nothing is dropped. `--without closer`,
`--without again` leave a part of the agent out.
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
from sam4mllm_tool.embedded.expressions import IMPLICIT, Expression, expressions
from sam4mllm_tool.embedded.scenes import TEST_SEEDS, draw_scene
from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.evaluation.bootstrap import Statistic, differences, ratio
from sam4mllm_tool.reasoning.attempts import Looking, Reasoned
from sam4mllm_tool.reasoning.budget import Budget
from sam4mllm_tool.tools.image_store import PictureStore
from sam4mllm_tool.types import MLLM, Question, Reply

WORDINGS = frozenset(wording for wordings in IMPLICIT.values() for wording in wordings)


@dataclass(frozen=True)
class Scored:
    """One expression. shared, either: pixels of the prediction and the truth. meant: whether there is any truth."""

    seed: int
    expression: str
    meant: bool
    shared: int
    either: int
    nothing: bool
    rounds: int
    ended: str = ""
    confidence: float | None = None
    steps: tuple[str, ...] = ()


class Counted:
    """An MLLM that counts its rounds."""

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


def implicit(first: int, count: int) -> Iterator[tuple[Any, list[Expression]]]:
    """Scenes from that seed on with their implicit expressions, until there are `count` of these."""
    seed = first
    while count > 0:
        scene = draw_scene(seed)
        asked = [expression for expression in expressions(scene) if expression.text in WORDINGS][:count]
        if asked:
            yield scene, asked
        count, seed = count - len(asked), seed + 1


def measure(models: Sam4Mllm, first: int, count: int, budget: Budget, looking: Looking) -> tuple[list[Scored], list[Scored]]:
    """The single pass and the agent, expression by expression."""
    counted = Counted(models.mllm)
    models.mllm = counted
    store = PictureStore()
    graph = build_reasoning_graph(models, budget=budget, looking=looking, pictures=store)
    once, reasoned = [], []
    with tqdm(total=count, unit="expression", mininterval=5) as progress:
        for scene, asked in implicit(first, count):
            picture = Image.fromarray(scene.image)
            name = store.put(picture)
            for expression in asked:
                truth = np.isin(scene.instances, [index + 1 for index in expression.targets])
                counted.rounds = 0
                try:
                    mask = models.segment(picture, expression.text).mask
                except ReplyError:
                    mask = np.zeros_like(truth)
                once.append(_scored(scene.seed, expression, mask, truth, counted.rounds))
                counted.rounds = 0
                told = Reasoned.from_dict(graph.invoke({"image": name, "expression": expression.text})["answer"])
                mask = told.segmentation.mask if told.segmentation else np.zeros_like(truth)
                score = _scored(scene.seed, expression, mask, truth, counted.rounds)
                steps = tuple(attempt.step for attempt in told.tried)
                reasoned.append(replace(score, ended=told.ended, confidence=told.confidence, steps=steps))
                progress.update()
    return once, reasoned


def _scored(seed: int, expression: Expression, mask: Any, truth: Any, rounds: int) -> Scored:
    shared, either = int((mask & truth).sum()), int((mask | truth).sum())
    return Scored(seed, expression.text, bool(expression.targets), shared, either, not mask.any(), rounds)


def figures(scored: Sequence[Scored]) -> dict[str, Statistic]:
    """As LISA's protocol counts: cIoU over all pixels, gIoU over all expressions, 1 for an empty one that is left empty."""
    shared, either = (np.array([getattr(one, name) for one in scored], float) for name in ("shared", "either"))
    meant, nothing = (np.array([getattr(one, name) for one in scored], float) for name in ("meant", "nothing"))
    iou = np.where(either == 0, 1.0, shared / np.maximum(either, 1))
    return {
        "cIoU": ratio(shared, either),
        "gIoU": ratio(iou, np.ones(len(scored))),
        "mIoU": ratio(iou * meant, meant),
        "N-acc": ratio((1 - meant) * nothing, 1 - meant),
        "T-acc": ratio(meant * (1 - nothing), meant),
    }


def report(once: Sequence[Scored], reasoned: Sequence[Scored], budget: Budget) -> str:
    """The figures as text."""
    absent = sum(not one.meant for one in once)
    lines = [f"{len(once)} implicit expressions, {absent} of them of something that is not there"]
    lines.append(f"{'':6}{'once':>8}{'agent':>8}{'gain':>9}   95 % interval")
    for name, found in differences(figures(once), figures(reasoned)).items():
        low, high = found.interval
        lines.append(f"{name:6}{found.first:8.4f}{found.second:8.4f}{found.difference:+9.4f}   {low:+.4f} to {high:+.4f}")
    rounds = [np.array([one.rounds for one in scored]) for scored in (once, reasoned)]
    lines.append(f"rounds: once {rounds[0].mean():.2f}, agent {rounds[1].mean():.2f} on average, {rounds[1].max()} at most")
    over = int((rounds[1] > budget.rounds).sum())
    lines.append(f"over the budget of {budget.rounds} rounds: {over}")
    ends = Counter(one.ended for one in reasoned)
    lines.append("ended: " + ", ".join(f"{name} {count}" for name, count in ends.most_common()))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.reasoning", description=__doc__.splitlines()[0])
    parser.add_argument("--expressions", type=int, default=2000, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=TEST_SEEDS, help="first seed (default: the test split's first)")
    parser.add_argument("--rounds", type=int, default=Budget().rounds, help="the budget (default: %(default)s)")
    parser.add_argument("--without", choices=("closer", "again"), nargs="*", default=(), help="leave this out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what each expression scored here")
    arguments = parser.parse_args(argv)
    looking = replace(Looking(), closer="closer" not in arguments.without)
    if "again" in arguments.without:
        looking = replace(looking, steps=())
    budget = Budget(arguments.rounds)
    once, reasoned = measure(Sam4Mllm.load(), arguments.first, arguments.expressions, budget, looking)
    print(report(once, reasoned, budget))
    if arguments.json:
        rows = [[asdict(one), asdict(other)] for one, other in zip(once, reasoned, strict=True)]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
