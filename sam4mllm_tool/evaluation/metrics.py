"""The metrics of the published benchmarks: gIoU, cIoU, mIoU, Pr@, N-acc and T-acc, each as its benchmark's code defines it.

A prediction is reduced to pixel counts (`PixelCounts`). A protocol turns these into intersection, union and IoU
(`SampleScore`), and the scores of many samples into metrics. Each metric is one sum over samples divided by another, so that
bootstrap intervals come from the same columns.

These rules hold for every protocol:
- The union of all predicted objects is compared with the union of all true objects. A sample without a true pixel that counts
  has no target.
- An unreadable reply, a crash or a missing prediction is a miss: its intersection is 0, its union is the truth and its IoU is
  0, even where there is no target; neither N-acc nor T-acc counts it as right. The published scripts drop such samples or
  don't mention them.
- Pixels that a sample ignores count neither way, as in LISA, except under seg-zero, where they belong to the target.
- A metric without samples (N-acc without no-target samples, cIoU where every union is 0) is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sam4mllm_tool.evaluation.bootstrap import Statistic, ratio
from sam4mllm_tool.types import Mask

__all__ = [
    "DEFAULT_PROTOCOLS",
    "PROTOCOLS",
    "EvaluationProtocol",
    "PixelCounts",
    "SampleScore",
    "compute_metrics",
    "count_pixels",
    "default_protocol",
]


@dataclass(frozen=True)
class PixelCounts:
    """A prediction compared with the truth, in pixels that count.

    Attributes:
        intersection: Pixels of both.
        predicted: Pixels of the prediction.
        truth: Pixels of the truth.
        stated_none: Whether the system stated that there is no such object.
        failed: Whether there is no prediction, for whatever reason; the sample is a miss.
    """

    intersection: int
    predicted: int
    truth: int
    stated_none: bool = False
    failed: bool = False

    @property
    def union(self) -> int:
        """Pixels of the prediction or the truth."""
        return self.predicted + self.truth - self.intersection

    @property
    def targeted(self) -> bool:
        """Whether the sample has a target."""
        return self.truth > 0


@dataclass(frozen=True)
class SampleScore:
    """What a sample contributes: intersection and union in pixels, and its IoU in [0, 1], which a protocol may set."""

    intersection: int
    union: int
    iou: float


@dataclass(frozen=True)
class EvaluationProtocol:
    """How one benchmark computes its metrics.

    Attributes:
        name: The name in `PROTOCOLS`.
        keys: The metrics' names, as in metrics.json.
        source: The code that defines the metrics.
        inclusive: Whether Pr@t counts an IoU of exactly t.
        stated: Whose rules decide how a stated "no such object" scores: ReLA's, GSVA's, or none (""), so that the mask
            alone counts.
        ignored: What becomes of the pixels that a sample ignores.
    """

    name: str
    keys: tuple[str, ...]
    source: str
    inclusive: bool = False
    stated: Literal["", "rela", "gsva"] = ""
    ignored: Literal["skipped", "target"] = "skipped"

    def score(self, counts: PixelCounts) -> SampleScore:
        """Return intersection, union and IoU of a sample.

        By the mask alone, IoU is intersection / union, and 1 where the union is 0: an empty truth that is rightly left empty
        adds 1 to gIoU and nothing to cIoU. Under ReLA and GSVA,
        - without a target, stated so: intersection = union = 0, IoU = 1;
        - without a target, not stated: union = |prediction|, IoU = 0, also for an empty mask;
        - with a target, stated that there is none: ReLA sets intersection and IoU to 0 and keeps the union with the raw mask
          (|truth| where there is no raw mask, as from `Sam4Mllm`); GSVA keeps the raw mask's intersection and IoU.
        """
        if counts.failed:
            return SampleScore(0, counts.truth, 0.0)
        if not self.stated:
            return SampleScore(counts.intersection, counts.union, counts.intersection / counts.union if counts.union else 1.0)
        if not counts.targeted:
            return SampleScore(0, 0, 1.0) if counts.stated_none else SampleScore(0, counts.predicted, 0.0)
        intersection = 0 if counts.stated_none and self.stated == "rela" else counts.intersection
        return SampleScore(intersection, counts.union, intersection / counts.union)


def _precisions(*tenths: int) -> tuple[str, ...]:
    return tuple(f"Pr@0.{tenth}" for tenth in tenths)


PROTOCOLS: Mapping[str, EvaluationProtocol] = {
    protocol.name: protocol
    for protocol in (
        EvaluationProtocol(
            "refcoco",
            ("cIoU", "gIoU", "mIoU", *_precisions(5, 6, 7, 8, 9)),
            "cIoU (oIoU): LAVT, test.py; mIoU and Pr@ with IoU > t: CRIS, engine/engine.py; gIoU: GRES, which on RefCOCO "
            "itself, where every sample has a target, is mIoU",
        ),
        EvaluationProtocol(
            "lisa", ("cIoU", "gIoU"), "LISA, train_ds.py, validate, and utils/utils.py, intersectionAndUnionGPU"
        ),
        EvaluationProtocol(
            "rela",
            ("cIoU", "gIoU", *_precisions(7, 8, 9), "N-acc", "T-acc"),
            "ReLA (GRES), gres_model/evaluation/refer_evaluation.py",
            inclusive=True,
            stated="rela",
        ),
        EvaluationProtocol("gsva", ("cIoU", "gIoU", "N-acc", "T-acc"), "GSVA, solver.py, eval_gres", stated="gsva"),
        EvaluationProtocol(
            "seg-zero",
            ("cIoU", "gIoU"),
            "Seg-Zero, evaluation_scripts; its ReasonSeg has the ignored regions in the target, so that its figures don't "
            "compare with LISA's; replies that can't be parsed count as misses here",
            ignored="target",
        ),
    )
}

DEFAULT_PROTOCOLS: Mapping[str, str] = {"grefcoco": "rela", "reasonseg": "lisa"}
"""The protocol of each dataset whose protocol is not refcoco."""


def default_protocol(dataset: str) -> str:
    """Return the name of the protocol that a dataset's published results follow."""
    return DEFAULT_PROTOCOLS.get(dataset, "refcoco")


def count_pixels(
    protocol: EvaluationProtocol,
    predicted: Mask | None,
    truth: Mask,
    ignored: Mask | None = None,
    *,
    stated_none: bool = False,
) -> PixelCounts:
    """Count a sample's pixels under a protocol.

    Args:
        protocol: Decides what becomes of the ignored pixels.
        predicted: (H, W) bool on the image; None where there is no prediction, which is a miss.
        truth: (H, W) bool.
        ignored: (H, W) bool; None where no pixel is ignored.
        stated_none: Whether the system stated that there is no such object.

    Raises:
        ValueError: The shapes differ.
    """
    if ignored is not None and ignored.shape != truth.shape:
        raise ValueError(f"the ignored pixels are {ignored.shape}, the truth is {truth.shape}")
    if predicted is not None and predicted.shape != truth.shape:
        raise ValueError(f"the prediction is {predicted.shape}, the truth is {truth.shape}")
    if ignored is not None and protocol.ignored == "target":
        truth = truth | ignored
    elif ignored is not None:
        truth = truth & ~ignored
        predicted = None if predicted is None else predicted & ~ignored
    if predicted is None:
        return PixelCounts(0, 0, int(truth.sum()), failed=True)
    return PixelCounts(int((predicted & truth).sum()), int(predicted.sum()), int(truth.sum()), stated_none)


def compute_metrics(protocol: EvaluationProtocol, samples: Sequence[PixelCounts]) -> dict[str, Statistic]:
    """Return the protocol's metrics over samples, by name; those without samples have no value.

    cIoU: sum of intersections / sum of unions. gIoU: mean IoU over all samples. mIoU: mean IoU over samples with a target.
    Pr@t: share of samples with a target whose IoU exceeds (ReLA: reaches) t. N-acc: share of no-target samples that were
    stated to be so. T-acc: share of samples with a target that were not stated to have none. `EvaluationProtocol.source`
    names the defining code.
    """
    scores = [protocol.score(counts) for counts in samples]
    intersection, union, iou = (
        np.array([getattr(score, name) for score in scores], np.float64) for name in ("intersection", "union", "iou")
    )
    targeted, stated_none, failed = (
        np.array([getattr(counts, name) for counts in samples], np.float64) for name in ("targeted", "stated_none", "failed")
    )
    metrics = {
        "cIoU": ratio(intersection, union),
        "gIoU": ratio(iou, np.ones(len(samples))),
        "mIoU": ratio(iou * targeted, targeted),
        "N-acc": ratio((1 - targeted) * stated_none, 1 - targeted),
        "T-acc": ratio(targeted * (1 - stated_none) * (1 - failed), targeted),
    }
    for key in protocol.keys:
        if key.startswith("Pr@"):
            passes = iou >= float(key[3:]) if protocol.inclusive else iou > float(key[3:])
            metrics[key] = ratio(passes * targeted, targeted)
    return {key: metrics[key] for key in protocol.keys}
