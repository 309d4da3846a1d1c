"""The published protocols, each defined here and nowhere else: what a sample scores, and which figures are made of the scores.

A sample is reduced to pixel counts (`Counts`); a protocol turns these into I, U and IoU (`Score`) and the scores of many
samples into figures, each a sum over samples divided by another, so that intervals come from the same columns.

What goes for every protocol:
- All of the prediction is compared with all of the truth; a sample without a truth pixel that counts has no target.
- A reply that could not be read, a crash or a missing prediction is a miss: I is 0, U the truth, IoU 0, also where there is
  no target, and neither N-acc nor T-acc takes it for right. Published scripts have nothing to say about it, or drop it.
- Pixels that a sample ignores count neither way, by LISA's rule, except under seg-zero, where they are target.
- A figure of no samples (N-acc without no-target samples, cIoU where every U is 0) is absent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.evaluation.bootstrap import Statistic, ratio
from sam4mllm_tool.types import Mask

__all__ = ["DEFAULT_PROTOCOLS", "PROTOCOLS", "Counts", "Protocol", "Score", "count_pixels", "default_protocol", "statistics"]

Column: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """One prediction against its truth, in pixels that count.

    intersection, predicted, truth: sizes of both together, of the prediction and of the truth. stated_none: the system said
    that there is no such object. failed: there is no prediction, for whatever reason; it counts as a miss.
    """

    intersection: int
    predicted: int
    truth: int
    stated_none: bool = False
    failed: bool = False

    @property
    def union(self) -> int:
        return self.predicted + self.truth - self.intersection

    @property
    def targeted(self) -> bool:
        """Whether there is anything to be found."""
        return self.truth > 0


@dataclass(frozen=True)
class Score:
    """What a sample adds: I and U in pixels, and its IoU from 0 to 1, which is not always I / U."""

    intersection: int
    union: int
    iou: float


@dataclass(frozen=True)
class Protocol:
    """How one benchmark counts.

    keys: its figures, by the names in metrics.json. inclusive: whether Pr@t counts an IoU of exactly t. stated: how "no such
    object", said apart from the mask, is scored: by "rela", by "gsva", or not at all (""), the mask alone counting.
    ignored: what becomes of ignored pixels. source: the code that defines it.
    """

    name: str
    keys: tuple[str, ...]
    source: str
    inclusive: bool = False
    stated: Literal["", "rela", "gsva"] = ""
    ignored: Literal["skipped", "target"] = "skipped"

    def score(self, counts: Counts) -> Score:
        """I, U and IoU of a sample.

        The mask alone: I / U; 1 where U is 0, so an empty truth rightly left empty adds 1 to gIoU and nothing to cIoU.
        ReLA, GSVA: no target and stated so: I = U = 0, IoU 1. No target, not stated: U = |pred|, IoU 0, also for an empty
        mask. A target but stated none: ReLA forces I and IoU to 0 and keeps U = |pred or gt| of the raw mask; without a raw
        mask, as from our own pipeline, that is |gt|. GSVA keeps the raw mask's I and IoU.
        """
        if counts.failed:
            return Score(0, counts.truth, 0.0)
        if not self.stated:
            return Score(counts.intersection, counts.union, counts.intersection / counts.union if counts.union else 1.0)
        if not counts.targeted:
            return Score(0, 0, 1.0) if counts.stated_none else Score(0, counts.predicted, 0.0)
        shared = 0 if counts.stated_none and self.stated == "rela" else counts.intersection
        return Score(shared, counts.union, shared / counts.union)


def _precisions(*tenths: int) -> tuple[str, ...]:
    return tuple(f"Pr@0.{tenth}" for tenth in tenths)


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "refcoco",
            ("cIoU", "gIoU", "mIoU", *_precisions(5, 6, 7, 8, 9)),
            "cIoU (oIoU): LAVT, test.py; mIoU and Pr@ with IoU > t: CRIS, engine/engine.py; gIoU: GRES, which on RefCOCO "
            "itself, where every sample has a target, is mIoU",
        ),
        Protocol("lisa", ("cIoU", "gIoU"), "LISA, train_ds.py, validate, and utils/utils.py, intersectionAndUnionGPU"),
        Protocol(
            "rela",
            ("cIoU", "gIoU", *_precisions(7, 8, 9), "N-acc", "T-acc"),
            "ReLA (GRES), gres_model/evaluation/refer_evaluation.py",
            inclusive=True,
            stated="rela",
        ),
        Protocol("gsva", ("cIoU", "gIoU", "N-acc", "T-acc"), "GSVA, solver.py, eval_gres", stated="gsva"),
        Protocol(
            "seg-zero",
            ("cIoU", "gIoU"),
            "Seg-Zero, evaluation_scripts; its ReasonSeg has the ignored regions in the target, so that its figures don't "
            "compare with LISA's; replies that can't be parsed count as misses here",
            ignored="target",
        ),
    )
}

DEFAULT_PROTOCOLS: Mapping[str, str] = {"grefcoco": "rela", "reasonseg": "lisa"}
"""By data set, where it is not refcoco."""


def default_protocol(dataset: str) -> str:
    """The protocol that a data set's published figures follow."""
    return DEFAULT_PROTOCOLS.get(dataset, "refcoco")


def count_pixels(
    protocol: Protocol, predicted: Mask | None, truth: Mask, ignored: Mask | None = None, *, stated_none: bool = False
) -> Counts:
    """The counts of a sample under a protocol.

    predicted, truth, ignored: (H, W) bool on the picture; predicted None where there is no prediction, a miss. Raises
    ValueError where the shapes differ.
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
        return Counts(0, 0, int(truth.sum()), failed=True)
    return Counts(int((predicted & truth).sum()), int(predicted.sum()), int(truth.sum()), stated_none)


def statistics(protocol: Protocol, samples: Sequence[Counts]) -> dict[str, Statistic]:
    """The protocol's figures over samples, by key; those of no samples are there, and have no value."""
    scores = [protocol.score(counts) for counts in samples]
    shared, united, iou = (
        np.array([getattr(score, name) for score in scores], np.float64) for name in ("intersection", "union", "iou")
    )
    one = np.ones(len(samples))
    targeted = np.array([counts.targeted for counts in samples], np.float64)
    none = np.array([counts.stated_none for counts in samples], np.float64)
    failed = np.array([counts.failed for counts in samples], np.float64)
    found = {
        "cIoU": ratio(shared, united),
        "gIoU": ratio(iou, one),
        "mIoU": ratio(iou * targeted, targeted),
        "N-acc": ratio((1 - targeted) * none, 1 - targeted),
        "T-acc": ratio(targeted * (1 - none) * (1 - failed), targeted),
    }
    for key in protocol.keys:
        if key.startswith("Pr@"):
            passes = iou >= float(key[3:]) if protocol.inclusive else iou > float(key[3:])
            found[key] = ratio(passes * targeted, targeted)
    return {key: found[key] for key in protocol.keys}
