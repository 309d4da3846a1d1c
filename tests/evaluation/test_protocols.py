"""Each protocol against a plain reading of its formulas, on random and adversarial pairs, and against pycocotools' IoU."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from pycocotools import mask as coco

from sam4mllm_tool.evaluation.metrics import PROTOCOLS, Counts, count_pixels, default_protocol, statistics

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

Bools = np.ndarray


@dataclass
class Pair:
    predicted: Bools | None
    truth: Bools
    ignored: Bools | None
    stated_none: bool


def blob(rng: np.random.Generator, height: int, width: int) -> Bools:
    """A mask of a kind drawn by lot: empty, one pixel, full, a rectangle, noise."""
    mask = np.zeros((height, width), np.bool_)
    match rng.integers(6):
        case 0:
            pass
        case 1:
            mask[rng.integers(height), rng.integers(width)] = True
        case 2:
            mask[:] = True
        case 3:
            mask = rng.random((height, width)) < rng.random()
        case _:
            y, x = rng.integers(height), rng.integers(width)
            mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] = True
    return mask


def pairs(count: int, seed: int) -> list[Pair]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        height, width = rng.integers(1, 30), rng.integers(1, 30)
        truth, predicted = blob(rng, height, width), blob(rng, height, width)
        match rng.integers(8):
            case 0:
                predicted = ~truth  # disjoint
            case 1:
                predicted = truth.copy()
            case 2:
                predicted = truth & blob(rng, height, width)
        ignored = blob(rng, height, width) if rng.random() < 0.3 else None
        none = bool(rng.random() < (0.8 if not predicted.any() else 0.1))
        made.append(Pair(None if rng.random() < 0.03 else predicted, truth, ignored, none))
    return made


def plain(name: str, samples: list[Pair]) -> dict[str, float]:
    """The formulas as they stand, sample by sample, pixel set by pixel set."""
    shared = united = 0
    ious, targeted, positives, negatives = [], [], [], []
    for pair in samples:
        skipped = set() if pair.ignored is None else pixels(pair.ignored)
        truth = pixels(pair.truth)
        missed = pair.predicted is None
        predicted = set() if pair.predicted is None else pixels(pair.predicted)
        if name == "seg-zero":
            truth |= skipped
        else:
            truth, predicted = truth - skipped, predicted - skipped
        both, either = len(truth & predicted), len(truth | predicted)
        none = pair.stated_none and not missed
        if name in ("rela", "gsva") and not truth:
            both, either, iou = (0, 0, 1.0) if none else (0, len(predicted), 0.0)
        elif name == "rela" and none:
            both, iou = 0, 0.0
        else:
            iou = both / either if either else 1.0
        if missed:
            iou = 0.0
        shared, united = shared + both, united + either
        ious.append(iou)
        if truth:
            targeted.append(iou)
            negatives.append(not none and not missed)
        else:
            positives.append(none)
    figures = {"cIoU": shared / united, "gIoU": mean(ious)}
    if name == "refcoco":
        figures["mIoU"] = mean(targeted)
        figures |= {f"Pr@{t}": mean([iou > t for iou in targeted]) for t in (0.5, 0.6, 0.7, 0.8, 0.9)}
    if name == "rela":
        figures |= {f"Pr@{t}": mean([iou >= t for iou in targeted]) for t in (0.7, 0.8, 0.9)}
    if name in ("rela", "gsva"):
        figures |= {"N-acc": mean(positives), "T-acc": mean(negatives)}
    return figures


def pixels(mask: Bools) -> set[tuple[int, int]]:
    return {(int(y), int(x)) for y, x in np.argwhere(mask)}


def mean(values: list) -> float:
    return math.fsum(values) / len(values)


def ours(name: str, samples: list[Pair]) -> dict[str, float]:
    protocol = PROTOCOLS[name]
    counts = [count_pixels(protocol, p.predicted, p.truth, p.ignored, stated_none=p.stated_none) for p in samples]
    return {key: one.value for key, one in statistics(protocol, counts).items()}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_figures_are_a_plain_reading_of_the_protocol(name: str) -> None:
    samples = pairs(2000, seed=3)
    expected = plain(name, samples)
    assert ours(name, samples) == pytest.approx(expected, rel=1e-12)
    assert set(expected) == set(PROTOCOLS[name].keys)


def test_the_iou_of_a_pair_is_that_of_pycocotools() -> None:
    compared = 0
    for pair in pairs(2000, seed=4):
        if pair.predicted is None or not (pair.truth.any() or pair.predicted.any()):
            continue
        counts = count_pixels(PROTOCOLS["refcoco"], pair.predicted, pair.truth)
        codes = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in (pair.predicted, pair.truth)]
        assert PROTOCOLS["refcoco"].score(counts).iou == pytest.approx(float(coco.iou([codes[0]], [codes[1]], [0])[0, 0]))
        compared += 1
    assert compared > 1500


TRUTH = Counts(0, 0, 100)
ROWS = [
    pytest.param("rela", Counts(0, 0, 0, stated_none=True), (0, 0, 1.0), id="none, stated so"),
    pytest.param("rela", Counts(0, 40, 0, stated_none=True), (0, 0, 1.0), id="none, stated so, whatever the mask"),
    pytest.param("rela", Counts(0, 40, 0), (0, 40, 0.0), id="none, not stated"),
    pytest.param("rela", Counts(0, 0, 0), (0, 0, 0.0), id="none, not stated, empty mask"),
    pytest.param("rela", Counts(80, 90, 100, stated_none=True), (0, 110, 0.0), id="a target, stated none: U of the raw mask"),
    pytest.param("rela", Counts(0, 0, 100, stated_none=True), (0, 100, 0.0), id="a target, stated none, no raw mask"),
    pytest.param("gsva", Counts(80, 90, 100, stated_none=True), (80, 110, 80 / 110), id="GSVA keeps the raw mask"),
    pytest.param("gsva", Counts(0, 40, 0), (0, 40, 0.0), id="GSVA: none, not stated"),
    pytest.param("lisa", Counts(0, 0, 0), (0, 0, 1.0), id="empty and left empty"),
    pytest.param("lisa", Counts(0, 40, 0), (0, 40, 0.0), id="empty and something predicted"),
    pytest.param("lisa", Counts(80, 90, 100, stated_none=True), (80, 110, 80 / 110), id="what is stated is not asked for"),
    pytest.param("lisa", Counts(0, 0, 0, failed=True), (0, 0, 0.0), id="a crash is no right answer"),
    pytest.param("rela", Counts(0, 0, 0, failed=True), (0, 0, 0.0), id="a crash does not state anything"),
    pytest.param("refcoco", Counts(0, 0, 100, failed=True), (0, 100, 0.0), id="a crash counts all of the truth"),
]


@pytest.mark.parametrize(("name", "counts", "expected"), ROWS)
def test_rows_of_the_protocols(name: str, counts: Counts, expected: tuple[int, int, float]) -> None:
    score = PROTOCOLS[name].score(counts)
    assert (score.intersection, score.union, score.iou) == expected


def test_an_iou_of_exactly_the_threshold_passes_relas_alone() -> None:
    at = Counts(7, 7, 10)
    assert statistics(PROTOCOLS["rela"], [at])["Pr@0.7"].value == 1
    assert statistics(PROTOCOLS["refcoco"], [at])["Pr@0.7"].value == 0
    assert statistics(PROTOCOLS["refcoco"], [at])["Pr@0.6"].value == 1


def test_a_crash_is_no_right_answer_of_either_accuracy() -> None:
    crashed = [Counts(0, 0, 100, failed=True), Counts(0, 0, 0, failed=True)]
    figures = {key: one.value for key, one in statistics(PROTOCOLS["rela"], crashed).items()}
    assert (figures["N-acc"], figures["T-acc"], figures["gIoU"], figures["cIoU"]) == (0, 0, 0, 0)


def test_a_figure_of_no_samples_has_no_value() -> None:
    rightly_none = [Counts(0, 0, 0, stated_none=True)]
    figures = {key: one.value for key, one in statistics(PROTOCOLS["rela"], rightly_none).items()}
    assert figures["gIoU"] == figures["N-acc"] == 1
    assert figures["cIoU"] is figures["T-acc"] is figures["Pr@0.7"] is None


def test_ignored_pixels_are_skipped_or_made_target() -> None:
    truth, ignored, predicted = (np.zeros((4, 10), np.bool_) for _ in range(3))
    truth[0], ignored[1], predicted[:3] = True, True, True
    assert count_pixels(PROTOCOLS["lisa"], predicted, truth, ignored) == Counts(10, 20, 10)
    assert count_pixels(PROTOCOLS["seg-zero"], predicted, truth, ignored) == Counts(20, 30, 20)


def test_masks_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction is \(2, 3\), the truth is \(3, 2\)"):
        count_pixels(PROTOCOLS["lisa"], np.zeros((2, 3), np.bool_), np.zeros((3, 2), np.bool_))


def test_each_data_set_has_its_protocol() -> None:
    names = ("refcoco", "refcoco+", "refcocog", "grefcoco", "reasonseg", "jsonl")
    assert [default_protocol(name) for name in names] == ["refcoco", "refcoco", "refcoco", "rela", "lisa", "refcoco"]
