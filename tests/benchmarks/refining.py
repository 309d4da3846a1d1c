"""Measure what refinement gains on the embedded world: `python -m tests.benchmarks.refining`.

One click: among at least 1,000 expressions, the 100 worst results get one click each, by the standard protocol of interactive
segmentation: at the pixel deepest inside the largest wrong region, positive where the object was missed and negative where the
mask is wrong. The mean IoU before and after is printed; an expression that means nothing has an IoU of 1 for an empty mask.

"No, the other one": scenes in which a noun phrase such as "the ring" fits exactly two objects and the first answer is one of
them (IoU > 0.5). The next answer is right if it is the other object (IoU >= 0.5). It is measured as shipped, which asks in the
dialect's own words first, and by painting over the first answer alone, which is what models without such words get.

    --method METHOD   how expressions are asked about (default: adaptive, as in the toolkit)
    --first SEED   first scene (default: the test split's); tune on seeds from 200_000 on, never on the test split
    --mllm SPEC --segmenter SPEC   another pair
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from random import Random

import numpy as np
from PIL import Image as PILImage

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.embedded import TEST_SEEDS
from sam4mllm_tool.embedded.everyday import EverydayScene, draw_scene, sample_expressions
from sam4mllm_tool.embedded.everyday.noun_phrases import group_by_phrase
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.interactive import InteractiveState, RefineError, refine
from sam4mllm_tool.pipeline.methods import METHODS, Method
from sam4mllm_tool.types import Image, Mask, PointPrompt, Segmentation, Size
from tests.benchmarks.pair_options import add_pair_options, read_pair_options

EXPRESSIONS, WORST, PAIRS = 1000, 100, 300
BAR_CLICK, BAR_OTHER = 0.20, 0.90


def union_mask(state: InteractiveState) -> Mask:
    """Return the union of the state's masks, (H, W) bool."""
    masks = [segmented.mask for segmented in state.objects]
    return np.logical_or.reduce([np.zeros((state.size.height, state.size.width), np.bool_), *masks])


def target_mask(scene: EverydayScene, targets: Sequence[int]) -> Mask:
    """Return the union of the true masks of the targets, (H, W) bool."""
    return np.logical_or.reduce([np.zeros(scene.image.shape[:2], np.bool_), *(scene.mask(i) for i in targets)])


# One click ------------------------------------------------------------------------------------------------------------


def largest_region(mask: Mask) -> Mask:
    """Return the largest 4-connected region of a mask, (H, W) bool."""
    remaining, best = mask.copy(), np.zeros_like(mask)
    while remaining.any():
        region = np.zeros_like(mask)
        region[np.unravel_index(remaining.argmax(), remaining.shape)] = True
        while True:
            wide = np.pad(region, 1)
            grown = (wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]) & remaining
            if (grown == region).all():
                break
            region = grown
        remaining &= ~region
        best = region if region.sum() > best.sum() else best
    return best


def deepest_pixel(region: Mask) -> tuple[float, float]:
    """Return x and y of the pixel that survives most erosions; pixels beyond the image's edge count as outside."""
    last = remaining = region
    while remaining.any():
        last = remaining
        wide = np.pad(remaining, 1)
        remaining = wide[1:-1, 1:-1] & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    y, x = np.unravel_index(last.argmax(), last.shape)
    return float(x) + 0.5, float(y) + 0.5


def simulate_click(mask: Mask, truth: Mask) -> PointPrompt:
    """Return the standard simulated click, in the larger of the missed and the wrong region."""
    missed, wrong = largest_region(truth & ~mask), largest_region(mask & ~truth)
    region, label = (missed, 1) if missed.sum() >= wrong.sum() else (wrong, 0)
    x, y = deepest_pixel(region)
    return PointPrompt(x, y, 1 if label else 0)


@dataclass(frozen=True, eq=False)
class Case:
    """A result with its truth and its IoU."""

    seed: int
    text: str
    truth: Mask
    result: Segmentation
    iou: float


def iter_cases(models: Sam4Mllm, first: int, method: Method) -> Iterator[Case]:
    """Yield every result; an unreadable reply counts as an empty one."""
    for seed in count(first):
        scene = draw_scene(seed)
        samples = sample_expressions(scene, 4, Random(seed))
        image = PILImage.fromarray(scene.image)
        results = models.segment_group(image, [expression.text for expression in samples], method=method)
        for expression, result in zip(samples, results, strict=True):
            if isinstance(result, Exception):
                result = Segmentation(expression.text, Size(*image.size), ())
            truth = target_mask(scene, expression.targets)
            yield Case(seed, expression.text, truth, result, mask_iou(result.mask, truth))


def measure_click(models: Sam4Mllm, cases: Sequence[Case], method: Method, *, bar: float, verbose: bool) -> bool:
    """Return whether one click on each of the worst results gains as much in mean IoU as it has to."""
    worst = sorted(cases, key=lambda case: case.iou)[:WORST]
    after, refused = [], 0
    for case in worst:
        image = PILImage.fromarray(draw_scene(case.seed).image)
        click = simulate_click(case.result.mask, case.truth)
        state = InteractiveState.from_segmentation(case.result)
        run = models.start_run(state.size)
        try:
            state = models.run(image, refine(run, state, clicks=[click], method=method), run).state
        except RefineError:
            refused += 1
        after.append(mask_iou(union_mask(state), case.truth))
        if verbose and after[-1] < 0.8:
            print(f"  {case.iou:.2f} -> {after[-1]:.2f}  {case.seed} {case.text!r} label {click.label}")
    before = float(np.mean([case.iou for case in worst]))
    gain = float(np.mean(after)) - before
    mean_iou = np.mean([case.iou for case in cases])
    worse = sum(case.iou > iou + 0.01 for case, iou in zip(worst, after, strict=True))
    print(f"{len(cases)} expressions, mean IoU {mean_iou:.3f}; the worst {len(worst)}: {before:.3f}")
    print(f"one click: {before + gain:.3f}, {gain:+.3f} (bar {bar:+.2f}), {refused} refused, {worse} worse")
    return gain >= bar


# The other one --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TwoObjects:
    """A scene with two objects of a noun, the state after the first answer, and the other object's mask."""

    seed: int
    image: Image
    state: InteractiveState
    other: Mask


def iter_pairs(models: Sam4Mllm, first: int, method: Method) -> Iterator[TwoObjects]:
    """Yield the pairs of which the first answer is one object."""
    for seed in count(first):
        scene = draw_scene(seed)
        image = PILImage.fromarray(scene.image)
        pairs = [(noun, members) for noun, members in group_by_phrase(scene.objects).items() if len(members) == 2]
        for noun, members in pairs[:2]:
            (result,) = models.segment_group(image, [f"the {noun}"], method=method)
            if isinstance(result, Exception) or len(result.objects) != 1:
                continue
            ious = [mask_iou(result.mask, scene.mask(index)) for index in members]
            if max(ious) > 0.5:
                state = InteractiveState.from_segmentation(result)
                yield TwoObjects(seed, image, state, scene.mask(members[1 - int(np.argmax(ious))]))


def measure_other(models: Sam4Mllm, pairs: Sequence[TwoObjects], name: str, method: Method, verbose: bool) -> float:
    """Return the share of pairs whose other object is the next answer."""
    outcomes: Counter[str] = Counter()
    for pair in pairs:
        run = models.start_run(pair.state.size)
        try:
            flow = refine(run, pair.state, instruction="no, the other one", method=method)
            state = models.run(pair.image, flow, run).state
            outcome = "right" if mask_iou(union_mask(state), pair.other) >= 0.5 else "wrong"
        except RefineError:
            outcome = "none found"
        outcomes[outcome] += 1
        if verbose and outcome != "right":
            print(f"  {pair.seed} {pair.state.expression!r}: {outcome}")
    share = outcomes["right"] / len(pairs)
    print(f"the other one, {name}: {share:.1%} of {len(pairs)} ({dict(outcomes)}) (bar {BAR_OTHER:.0%})")
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=TEST_SEEDS, metavar="SEED", help="seed of the first scene")
    parser.add_argument("--method", choices=METHODS, default="adaptive", help="default: %(default)s")
    parser.add_argument("--expressions", type=int, default=EXPRESSIONS, help="results to choose from (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="scenes of two objects of a noun (default: %(default)s)")
    add_pair_options(parser)
    parser.add_argument("--verbose", action="store_true", help="print the results that stay wrong")
    arguments = parser.parse_args()
    models, first, method = read_pair_options(arguments), arguments.first, arguments.method
    cases = list(islice(iter_cases(models, first, method), arguments.expressions))
    gains = measure_click(models, cases, method, bar=BAR_CLICK, verbose=arguments.verbose)
    pairs = list(islice(iter_pairs(models, first, method), arguments.pairs))
    wordless = Sam4Mllm(models.mllm, models.segmenter, dialect=replace(models.dialect, ask_other_text=""))
    measure_other(wordless, pairs, "by painting over alone", method, verbose=False)
    share = measure_other(models, pairs, "as shipped", method, arguments.verbose)
    raise SystemExit(0 if gains and share >= BAR_OTHER else 1)


if __name__ == "__main__":
    main()
