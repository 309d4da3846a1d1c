"""A prediction against its sample: what becomes a line of samples.jsonl.

How answers are judged, beside the masks:
- Box: of a sample of one object, the first box named has an IoU of at least 0.5 with the true one; anything else, a reply that
  can't be read too, is a miss (Acc@0.5).
- Points: the truth is whether the point lies on the object that the box it was asked about fits best, else, where it overlaps
  none, on any that is meant: what a wrong box leads to counts as wrong, and `right_box` tells such points apart. On an
  ignored pixel an answer is neither. Of PPG's own points the label is the answer.
- Objects: predicted and true ones are paired, the best IoU first, each at most once; a prediction is right where its pair
  has an IoU of at least 0.5. What is predicted where there is nothing is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation.metrics import Counts, Protocol, count_pixels
from sam4mllm_tool.evaluation.records import ObjectAnswer, PointAnswer, Record, size_bucket
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.protocol.oracle import label_point
from sam4mllm_tool.types import Box, Mask, Point, PointPrompt, Segmentation, SegmentedObject

__all__ = ["Truth", "judge_failure", "judge_mask", "judge_segmentation"]

_HIT = 0.5

Asked = Sequence[tuple[Box, PointPrompt]]
"""Answers about points, each with the box that it was asked about."""


@dataclass(frozen=True, eq=False)
class Truth:
    """A sample's annotation, decoded. masks: one an object; union, ignored: (H, W) bool; ignored None where nothing is."""

    sample: Sample
    masks: tuple[Mask, ...]
    union: Mask
    ignored: Mask | None

    @classmethod
    def of(cls, sample: Sample, protocol: Protocol) -> "Truth":
        """Ignored pixels that the protocol makes target are part of every object, for points and objects too.

        Raises DataError where the annotation can't be decoded.
        """
        masks, ignored = sample.masks(), None if sample.ignored is None else sample.ignore()
        union = np.zeros((sample.size.height, sample.size.width), np.bool_)
        for mask in masks:
            union |= mask
        if ignored is not None and protocol.ignored == "target":
            return cls(sample, tuple(mask | ignored for mask in masks), union | ignored, None)
        return cls(sample, masks, union, ignored)

    def count(self, protocol: Protocol, predicted: Mask | None, *, stated_none: bool = False) -> Counts:
        return count_pixels(protocol, predicted, self.union, self.ignored, stated_none=stated_none)

    def record(self, counts: Counts) -> Record:
        """With nothing but the sample's own fields."""
        return Record(self.sample.id, self.sample.kind, size_bucket(counts.truth / self.union.size), counts)


def judge_failure(truth: Truth, protocol: Protocol, error: str, *, asked: bool = True) -> Record:
    """A sample without a prediction, a miss. asked: whether models were asked, so that a box was due."""
    single = asked and len(truth.sample.boxes) == 1
    return replace(truth.record(truth.count(protocol, None)), error=error, box_hit=False if single else None)


def judge_mask(truth: Truth, protocol: Protocol, mask: Mask, *, stated_none: bool) -> Record:
    """A mask that another system made. Raises DataError where it is of another size than the picture."""
    if mask.shape != truth.union.shape:
        told, wanted = list(mask.shape), list(truth.union.shape)
        raise DataError(f"the mask's size is {told}, the picture's {wanted} (height, width)")
    return replace(truth.record(truth.count(protocol, mask, stated_none=stated_none)), mask=dict(rle.encode(mask)))


def judge_segmentation(truth: Truth, protocol: Protocol, found: Segmentation, asked: Asked) -> Record:
    """What the pipeline found; no objects state that there is none. asked: as `answers.Listener` heard them."""
    if found.size != truth.sample.size:
        raise DataError(f"the picture is {tuple(found.size)}, the data set says {tuple(truth.sample.size)}")
    mask = found.mask
    asked = asked or [(one.prompt.box, point) for one in found.objects for point in one.prompt.points]
    return replace(
        truth.record(truth.count(protocol, mask, stated_none=not found.objects)),
        box_hit=_box_hit(truth.sample.boxes, found.objects),
        points=_judge_points(truth, found.objects, asked),
        objects=_judge_objects(truth, found.objects),
        questions=found.usage.questions,
        tokens=None if found.usage.tokens is None else sum(found.usage.tokens),
        confidence=found.confidence,
        mask=dict(rle.encode(mask)),
        seconds=dict(found.usage.seconds),
    )


def _box_hit(true: Sequence[Box], found: Sequence[SegmentedObject]) -> bool | None:
    if len(true) != 1:
        return None
    return bool(found) and found[0].prompt.box.iou(true[0]) >= _HIT


def _judge_points(truth: Truth, found: Sequence[SegmentedObject], asked: Asked) -> tuple[PointAnswer, ...]:
    kept = {(point.x, point.y, point.label) for one in found for point in one.prompt.points}
    judged = []
    for box, point in asked:
        fits = [box.iou(other) for other in truth.sample.boxes]
        best = max(range(len(fits)), key=fits.__getitem__) if fits else None
        meant = truth.union if best is None or not fits[best] else truth.masks[best]
        place = Point(point.x, point.y)
        skipped = truth.ignored is not None and label_point(truth.ignored, place)
        label = None if skipped else label_point(meant, place)
        right_box = best is not None and fits[best] >= _HIT
        is_kept = (point.x, point.y, point.label) in kept
        judged.append(PointAnswer(point.x, point.y, point.label, point.confidence, label, is_kept, right_box))
    return tuple(judged)


def _judge_objects(truth: Truth, found: Sequence[SegmentedObject]) -> tuple[ObjectAnswer, ...]:
    counted = None if truth.ignored is None else ~truth.ignored
    ious = np.array([[_mask_iou(one.mask, true, counted) for true in truth.masks] for one in found])
    paired = dict.fromkeys(range(len(found)), 0.0)
    while ious.size and ious.max() > 0:
        row, column = (int(index) for index in np.unravel_index(ious.argmax(), ious.shape))
        paired[row] = float(ious[row, column])
        ious[row], ious[:, column] = 0.0, 0.0
    return tuple(
        ObjectAnswer(
            box=one.prompt.box,
            confidence=one.confidence,
            score=one.score,
            iou=paired[index],
            right=paired[index] >= _HIT,
            mask=dict(rle.encode(one.mask)) if len(found) > 1 else None,
        )
        for index, one in enumerate(found)
    )


def _mask_iou(one: Mask, other: Mask, counted: Mask | None) -> float:
    if counted is not None:
        one, other = one & counted, other & counted
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0
