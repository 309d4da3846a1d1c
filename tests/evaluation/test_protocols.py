"""Each protocol agrees with a literal reading of its formulas on random and adversarial masks, and its IoU with pycocotools."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from pycocotools import mask as coco

from sam4mllm_tool.evaluation.metrics import PROTOCOLS, PixelCounts, compute_metrics, count_pixels, default_protocol

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

BoolArray = np.ndarray


@dataclass
class MaskPair:
    """A prediction and its truth, (H, W) bool each."""

    predicted: BoolArray | None
    truth: BoolArray
    ignored: BoolArray | None
    stated_none: bool


def random_mask(rng: np.random.Generator, height: int, width: int) -> BoolArray:
    """Return a mask of a random kind: empty, one pixel, full, a rectangle, noise."""
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


def random_pairs(count: int, seed: int) -> list[MaskPair]:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        height, width = rng.integers(1, 30), rng.integers(1, 30)
        truth, predicted = random_mask(rng, height, width), random_mask(rng, height, width)
        match rng.integers(8):
            case 0:
                predicted = ~truth  # disjoint
            case 1:
                predicted = truth.copy()
            case 2:
                predicted = truth & random_mask(rng, height, width)
        ignored = random_mask(rng, height, width) if rng.random() < 0.3 else None
        stated_none = bool(rng.random() < (0.8 if not predicted.any() else 0.1))
        pairs.append(MaskPair(None if rng.random() < 0.03 else predicted, truth, ignored, stated_none))
    return pairs


def literal_metrics(name: str, samples: list[MaskPair]) -> dict[str, float]:
    """Compute the formulas as they are published, sample by sample, on sets of pixels."""
    intersections = unions = 0
    ious, target_ious, none_hits, target_hits = [], [], [], []
    for pair in samples:
        ignored = set() if pair.ignored is None else pixels(pair.ignored)
        truth = pixels(pair.truth)
        missed = pair.predicted is None
        predicted = set() if pair.predicted is None else pixels(pair.predicted)
        if name == "seg-zero":
            truth |= ignored
        else:
            truth, predicted = truth - ignored, predicted - ignored
        intersection, union = len(truth & predicted), len(truth | predicted)
        stated_none = pair.stated_none and not missed
        if name in ("rela", "gsva") and not truth:
            intersection, union, iou = (0, 0, 1.0) if stated_none else (0, len(predicted), 0.0)
        elif name == "rela" and stated_none:
            intersection, iou = 0, 0.0
        else:
            iou = intersection / union if union else 1.0
        if missed:
            iou = 0.0
        intersections, unions = intersections + intersection, unions + union
        ious.append(iou)
        if truth:
            target_ious.append(iou)
            target_hits.append(not stated_none and not missed)
        else:
            none_hits.append(stated_none)
    metrics = {"cIoU": intersections / unions, "gIoU": mean(ious)}
    if name == "refcoco":
        metrics["mIoU"] = mean(target_ious)
        metrics |= {f"Pr@{t}": mean([iou > t for iou in target_ious]) for t in (0.5, 0.6, 0.7, 0.8, 0.9)}
    if name == "rela":
        metrics |= {f"Pr@{t}": mean([iou >= t for iou in target_ious]) for t in (0.7, 0.8, 0.9)}
    if name in ("rela", "gsva"):
        metrics |= {"N-acc": mean(none_hits), "T-acc": mean(target_hits)}
    return metrics


def pixels(mask: BoolArray) -> set[tuple[int, int]]:
    return {(int(y), int(x)) for y, x in np.argwhere(mask)}


def mean(values: list) -> float:
    return math.fsum(values) / len(values)


def tool_metrics(name: str, samples: list[MaskPair]) -> dict[str, float]:
    protocol = PROTOCOLS[name]
    counts = [count_pixels(protocol, p.predicted, p.truth, p.ignored, stated_none=p.stated_none) for p in samples]
    return {key: statistic.value for key, statistic in compute_metrics(protocol, counts).items()}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_metrics_agree_with_the_published_formulas(name: str) -> None:
    samples = random_pairs(500, seed=3)
    expected = literal_metrics(name, samples)
    assert tool_metrics(name, samples) == pytest.approx(expected, rel=1e-12)
    assert set(expected) == set(PROTOCOLS[name].keys)


def test_iou_agrees_with_pycocotools() -> None:
    compared = 0
    for pair in random_pairs(500, seed=4):
        if pair.predicted is None or not (pair.truth.any() or pair.predicted.any()):
            continue
        counts = count_pixels(PROTOCOLS["refcoco"], pair.predicted, pair.truth)
        encoded = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in (pair.predicted, pair.truth)]
        assert PROTOCOLS["refcoco"].score(counts).iou == pytest.approx(float(coco.iou([encoded[0]], [encoded[1]], [0])[0, 0]))
        compared += 1
    assert compared > 375


ROWS = [
    pytest.param("rela", PixelCounts(0, 0, 0, stated_none=True), (0, 0, 1.0), id="no target, stated so"),
    pytest.param("rela", PixelCounts(0, 40, 0, stated_none=True), (0, 0, 1.0), id="no target, stated so, whatever the mask"),
    pytest.param("rela", PixelCounts(0, 40, 0), (0, 40, 0.0), id="no target, not stated"),
    pytest.param("rela", PixelCounts(0, 0, 0), (0, 0, 0.0), id="no target, not stated, empty mask"),
    pytest.param(
        "rela",
        PixelCounts(80, 90, 100, stated_none=True),
        (0, 110, 0.0),
        id="a target, stated none: the union is that of the raw mask",
    ),
    pytest.param("rela", PixelCounts(0, 0, 100, stated_none=True), (0, 100, 0.0), id="a target, stated none, no raw mask"),
    pytest.param("gsva", PixelCounts(80, 90, 100, stated_none=True), (80, 110, 80 / 110), id="GSVA keeps the raw mask"),
    pytest.param("gsva", PixelCounts(0, 40, 0), (0, 40, 0.0), id="GSVA: no target, not stated"),
    pytest.param("lisa", PixelCounts(0, 0, 0), (0, 0, 1.0), id="no target, nothing predicted"),
    pytest.param("lisa", PixelCounts(0, 40, 0), (0, 40, 0.0), id="no target, something predicted"),
    pytest.param("lisa", PixelCounts(80, 90, 100, stated_none=True), (80, 110, 80 / 110), id="a stated none is ignored"),
    pytest.param("lisa", PixelCounts(0, 0, 0, failed=True), (0, 0, 0.0), id="a crash is not a correct empty answer"),
    pytest.param("rela", PixelCounts(0, 0, 0, failed=True), (0, 0, 0.0), id="a crash states nothing"),
    pytest.param("refcoco", PixelCounts(0, 0, 100, failed=True), (0, 100, 0.0), id="the union of a crash is the truth"),
]


@pytest.mark.parametrize(("name", "counts", "expected"), ROWS)
def test_a_sample_scores_as_its_protocol_says(name: str, counts: PixelCounts, expected: tuple[int, int, float]) -> None:
    score = PROTOCOLS[name].score(counts)
    assert (score.intersection, score.union, score.iou) == expected


def test_only_rela_counts_an_iou_equal_to_the_threshold() -> None:
    counts = PixelCounts(7, 7, 10)
    assert compute_metrics(PROTOCOLS["rela"], [counts])["Pr@0.7"].value == 1
    assert compute_metrics(PROTOCOLS["refcoco"], [counts])["Pr@0.7"].value == 0
    assert compute_metrics(PROTOCOLS["refcoco"], [counts])["Pr@0.6"].value == 1


def test_a_crash_counts_as_wrong_in_both_accuracies() -> None:
    crashed = [PixelCounts(0, 0, 100, failed=True), PixelCounts(0, 0, 0, failed=True)]
    metrics = {key: statistic.value for key, statistic in compute_metrics(PROTOCOLS["rela"], crashed).items()}
    assert (metrics["N-acc"], metrics["T-acc"], metrics["gIoU"], metrics["cIoU"]) == (0, 0, 0, 0)


def test_a_metric_without_samples_has_no_value() -> None:
    correct_none = [PixelCounts(0, 0, 0, stated_none=True)]
    metrics = {key: statistic.value for key, statistic in compute_metrics(PROTOCOLS["rela"], correct_none).items()}
    assert metrics["gIoU"] == metrics["N-acc"] == 1
    assert metrics["cIoU"] is metrics["T-acc"] is metrics["Pr@0.7"] is None


def test_ignored_pixels_are_skipped_or_become_target() -> None:
    truth, ignored, predicted = (np.zeros((4, 10), np.bool_) for _ in range(3))
    truth[0], ignored[1], predicted[:3] = True, True, True
    assert count_pixels(PROTOCOLS["lisa"], predicted, truth, ignored) == PixelCounts(10, 20, 10)
    assert count_pixels(PROTOCOLS["seg-zero"], predicted, truth, ignored) == PixelCounts(20, 30, 20)


def test_masks_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction is \(2, 3\), the truth is \(3, 2\)"):
        count_pixels(PROTOCOLS["lisa"], np.zeros((2, 3), np.bool_), np.zeros((3, 2), np.bool_))


def test_each_dataset_has_its_default_protocol() -> None:
    names = ("refcoco", "refcoco+", "refcocog", "grefcoco", "reasonseg", "jsonl")
    assert [default_protocol(name) for name in names] == ["refcoco", "refcoco", "refcoco", "rela", "lisa", "refcoco"]
