"""What refinement is worth on the embedded world: `python -m tests.benchmarks.refining`.

One click: of at least 1,000 expressions the 100 worst results get one click each, by the protocol of interactive segmentation:
the place deepest inside the largest region in error, positive on what was missed, negative on what is wrong. Reported is the
mean IoU before and after; an expression of nothing counts 1 where nothing is masked.

"No, the other one": scenes in which a noun phrase such as "the ring" fits exactly two objects, and the first answer is one of
them (IoU > 0.5); it is right when what comes next is the other one (IoU >= 0.5). Reported both ways: as shipped, in the
dialect's words first, and by painting over alone, which is what models without such words get.

    --method METHOD   how expressions are asked about (default: adaptive, as the toolkit does)
    --first SEED   first scene (default: the test split's); tune on seeds from 200_000 on, never here
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random

import numpy as np
from PIL import Image as PILImage

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.embedded.expressions import noun_groups, sample_expressions
from sam4mllm_tool.embedded.scenes import TEST_SEEDS, Scene, draw_scene
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.interactive import InteractiveState, RefineError, refine, start
from sam4mllm_tool.pipeline.methods import METHODS, Method
from sam4mllm_tool.pipeline.requests import Transcript
from sam4mllm_tool.types import Image, Mask, PointPrompt, Segmentation, Size

EXPRESSIONS, WORST, PAIRS = 1000, 100, 300
BAR_CLICK, BAR_OTHER = 0.10, 0.90


def union(found: InteractiveState) -> Mask:
    masks = [thing.mask for thing in found.objects]
    return np.logical_or.reduce([np.zeros((found.size.height, found.size.width), np.bool_), *masks])


def truth_of(scene: Scene, targets: Sequence[int]) -> Mask:
    return np.logical_or.reduce([np.zeros(scene.instances.shape, np.bool_), *(scene.mask(i) for i in targets)])


# One click ------------------------------------------------------------------------------------------------------------


def largest_region(mask: Mask) -> Mask:
    """The largest 4-connected part of a (H, W) mask."""
    left, best = mask.copy(), np.zeros_like(mask)
    while left.any():
        region = np.zeros_like(mask)
        region[np.unravel_index(left.argmax(), left.shape)] = True
        while True:
            wide = np.pad(region, 1)
            grown = (wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]) & left
            if (grown == region).all():
                break
            region = grown
        left &= ~region
        best = region if region.sum() > best.sum() else best
    return best


def deepest(region: Mask) -> tuple[float, float]:
    """x and y of the pixel that survives most erosions; beyond the picture's edge counts as outside."""
    last = left = region
    while left.any():
        last = left
        wide = np.pad(left, 1)
        left = wide[1:-1, 1:-1] & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    y, x = np.unravel_index(last.argmax(), last.shape)
    return float(x) + 0.5, float(y) + 0.5


def click_for(masked: Mask, truth: Mask) -> PointPrompt:
    """The standard simulated click."""
    missed, wrong = largest_region(truth & ~masked), largest_region(masked & ~truth)
    region, label = (missed, 1) if missed.sum() >= wrong.sum() else (wrong, 0)
    x, y = deepest(region)
    return PointPrompt(x, y, 1 if label else 0)


@dataclass(frozen=True, eq=False)
class Case:
    seed: int
    text: str
    truth: Mask
    result: Segmentation
    before: float


def cases(models: Sam4Mllm, first: int, method: Method) -> Iterator[Case]:
    """Every result; one that could not be read counts as none."""
    for seed in count(first):
        scene = draw_scene(seed)
        asked = sample_expressions(scene, 4, Random(seed))
        told = models.segment_group(PILImage.fromarray(scene.image), [one.text for one in asked], method=method)
        for expression, result in zip(asked, told, strict=True):
            if isinstance(result, Exception):
                result = Segmentation(expression.text, Size(*scene.instances.shape[::-1]), ())
            truth = truth_of(scene, expression.targets)
            yield Case(seed, expression.text, truth, result, mask_iou(result.mask, truth))


def one_click(models: Sam4Mllm, first: int, method: Method, verbose: bool) -> float:
    """How much mean IoU rises by one click on the worst results."""
    everything: list[Case] = []
    for case in cases(models, first, method):
        everything.append(case)
        if len(everything) >= EXPRESSIONS:
            break
    worst = sorted(everything, key=lambda case: case.before)[:WORST]
    after, refused = [], 0
    for case in worst:
        picture = PILImage.fromarray(draw_scene(case.seed).image)
        click = click_for(case.result.mask, case.truth)
        found = start(case.result)
        try:
            found = models.run(picture, refine(models.flows, found, Transcript(), clicks=[click], method=method)).found
        except RefineError:
            refused += 1
        after.append(mask_iou(union(found), case.truth))
        if verbose and after[-1] < 0.8:
            print(f"  {case.before:.2f} -> {after[-1]:.2f}  {case.seed} {case.text!r} label {click.label}")
    before = float(np.mean([case.before for case in worst]))
    gain = float(np.mean(after)) - before
    all_before = np.mean([case.before for case in everything])
    print(f"{len(everything)} expressions, mean IoU {all_before:.3f}; the worst {len(worst)}: {before:.3f}")
    print(f"one click: {before + gain:.3f}, {gain:+.3f} (bar {BAR_CLICK:+.2f}), {refused} refused, "
          f"{sum(b.before > a + 0.01 for b, a in zip(worst, after, strict=True))} worse")  # fmt: skip
    return gain


# The other one --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pair:
    seed: int
    picture: Image
    found: InteractiveState
    other: Mask


def pairs(models: Sam4Mllm, first: int, method: Method) -> Iterator[Pair]:
    for seed in count(first):
        scene = draw_scene(seed)
        picture = PILImage.fromarray(scene.image)
        twos = [(noun, members) for noun, members in noun_groups(scene.objects).items() if len(members) == 2]
        for noun, members in twos[:2]:
            (result,) = models.segment_group(picture, [f"the {noun}"], method=method)
            if isinstance(result, Exception) or len(result.objects) != 1:
                continue
            fits = [mask_iou(result.mask, scene.mask(index)) for index in members]
            if max(fits) > 0.5:
                yield Pair(seed, picture, start(result), scene.mask(members[1 - int(np.argmax(fits))]))


def the_other_one(models: Sam4Mllm, some: Sequence[Pair], name: str, method: Method, verbose: bool) -> float:
    """The share of pairs of which the other one is got."""
    outcomes: Counter[str] = Counter()
    for pair in some:
        try:
            flow = refine(models.flows, pair.found, Transcript(), instruction="no, the other one", method=method)
            found = models.run(pair.picture, flow).found
            outcome = "right" if mask_iou(union(found), pair.other) >= 0.5 else "wrong"
        except RefineError:
            outcome = "none found"
        outcomes[outcome] += 1
        if verbose and outcome != "right":
            print(f"  {pair.seed} {pair.found.expression!r}: {outcome}")
    share = outcomes["right"] / len(some)
    print(f"the other one, {name}: {share:.1%} of {len(some)} ({dict(outcomes)}) (bar {BAR_OTHER:.0%})")
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=TEST_SEEDS, metavar="SEED")
    parser.add_argument("--method", choices=METHODS, default="adaptive")
    parser.add_argument("--verbose", action="store_true", help="name what stays wrong")
    arguments = parser.parse_args()
    models, method = Sam4Mllm.load(), arguments.method
    gain = one_click(models, arguments.first, method, arguments.verbose)
    some = [pair for pair, _ in zip(pairs(models, arguments.first, method), range(PAIRS), strict=False)]
    silent = Sam4Mllm(models.mllm, models.segmenter, dialect=replace(models.dialect, ask_other_text=""))
    the_other_one(silent, some, "by painting over alone", method, verbose=False)
    share = the_other_one(models, some, "as shipped", method, arguments.verbose)
    raise SystemExit(0 if gain >= BAR_CLICK and share >= BAR_OTHER else 1)


if __name__ == "__main__":
    main()
