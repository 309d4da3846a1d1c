"""Score a prediction against its sample: the content of a line of samples.jsonl.

The mask is scored by the protocol (metrics.py). The rest of an answer is scored as follows:
- Box (Acc@0.5): for a sample with one object, the first predicted box must have an IoU of at least 0.5 with the true one.
  Anything else, an unreadable reply included, is a miss.
- Points: the right label is whether the point lies on the true object whose box has the highest IoU with the box of the
  question, or, where that box overlaps no true box, on any true object. So what follows from a wrong box counts as wrong, and
  `right_box` identifies such points. On an ignored pixel neither label is right. A point that PPG wrote is an answer itself.
- Objects: predicted and true objects are matched greedily, the highest IoU first, each at most once. A prediction is right
  where its match has an IoU of at least 0.5. Any object predicted where there is none is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation.metrics import EvaluationProtocol, PixelCounts, count_pixels
from sam4mllm_tool.evaluation.records import SampleRecord, ScoredObject, ScoredPoint, size_bucket
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.protocol.oracle import label_point
from sam4mllm_tool.types import Box, Mask, Point, PointAnswer, Segmentation, SegmentedObject

__all__ = ["GroundTruth", "score_failure", "score_mask", "score_segmentation"]

_HIT_IOU = 0.5


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """A sample with its annotation decoded.

    Attributes:
        sample: The sample.
        masks: One (H, W) bool per object.
        union: (H, W) bool.
        ignored: (H, W) bool; None where no pixel is ignored.
    """

    sample: Sample
    masks: tuple[Mask, ...]
    union: Mask
    ignored: Mask | None

    @classmethod
    def decode(cls, sample: Sample, protocol: EvaluationProtocol) -> "GroundTruth":
        """Decode a sample's masks; where the protocol makes ignored pixels target, they become part of every object.

        Raises:
            DataError: The annotation can't be decoded.
        """
        masks, ignored = sample.masks(), None if sample.ignored is None else sample.ignore()
        union = np.zeros((sample.size.height, sample.size.width), np.bool_)
        for mask in masks:
            union |= mask
        if ignored is not None and protocol.ignored == "target":
            return cls(sample, tuple(mask | ignored for mask in masks), union | ignored, None)
        return cls(sample, masks, union, ignored)

    def count(self, protocol: EvaluationProtocol, predicted: Mask | None, *, stated_none: bool = False) -> PixelCounts:
        """Count the pixels of a predicted mask, (H, W) bool, against the union; None is a miss."""
        return count_pixels(protocol, predicted, self.union, self.ignored, stated_none=stated_none)

    def start_record(self, counts: PixelCounts) -> SampleRecord:
        """Return a record with the sample's own fields only."""
        return SampleRecord(self.sample.id, self.sample.kind, size_bucket(counts.truth / self.union.size), counts)


def score_failure(truth: GroundTruth, protocol: EvaluationProtocol, error: str, *, box_expected: bool = True) -> SampleRecord:
    """Record a sample without a prediction, which is a miss.

    Args:
        truth: The sample's annotation.
        protocol: How it is scored.
        error: Why there is no prediction.
        box_expected: Whether a box was to be predicted too, as models do, not only a mask.
    """
    record = truth.start_record(truth.count(protocol, None))
    return replace(record, error=error, box_hit=False if box_expected and len(truth.sample.boxes) == 1 else None)


def score_mask(truth: GroundTruth, protocol: EvaluationProtocol, mask: Mask, *, stated_none: bool) -> SampleRecord:
    """Score another system's mask, (H, W) bool. Raises DataError where its size isn't the image's."""
    if mask.shape != truth.union.shape:
        actual, expected = list(mask.shape), list(truth.union.shape)
        raise DataError(f"the mask's size is {actual}, the image's {expected} (height, width)")
    record = truth.start_record(truth.count(protocol, mask, stated_none=stated_none))
    return replace(record, mask=dict(rle.encode(mask)))


def score_segmentation(truth: GroundTruth, protocol: EvaluationProtocol, result: Segmentation) -> SampleRecord:
    """Score a result of the pipeline; a result without objects states that there is no such object.

    Raises:
        DataError: The result's size isn't the sample's.
    """
    if result.size != truth.sample.size:
        raise DataError(f"the image is {tuple(result.size)}, the dataset says {tuple(truth.sample.size)}")
    mask = result.mask
    points = _drop_repeated(result.point_answers) or [
        PointAnswer(predicted.prompt.box, point) for predicted in result.objects for point in predicted.prompt.points
    ]
    return replace(
        truth.start_record(truth.count(protocol, mask, stated_none=not result.objects)),
        box_hit=_score_box(truth.sample.boxes, result.objects),
        points=_score_points(truth, result.objects, points),
        objects=_score_objects(truth, result.objects),
        questions=result.usage.questions,
        tokens=None if result.usage.tokens is None else sum(result.usage.tokens),
        confidence=result.confidence,
        mask=dict(rle.encode(mask)),
        seconds=dict(result.usage.seconds),
        warnings=result.warnings,
    )


def _score_box(true_boxes: Sequence[Box], objects: Sequence[SegmentedObject]) -> bool | None:
    if len(true_boxes) != 1:
        return None
    return bool(objects) and objects[0].prompt.box.iou(true_boxes[0]) >= _HIT_IOU


def _drop_repeated(answers: Sequence[PointAnswer]) -> list[PointAnswer]:
    """Count a question that was asked twice once, by its last answer."""
    return list({(answer.box, answer.point.x, answer.point.y): answer for answer in answers}.values())


def _score_points(
    truth: GroundTruth, objects: Sequence[SegmentedObject], answers: Sequence[PointAnswer]
) -> tuple[ScoredPoint, ...]:
    kept = {(point.x, point.y, point.label) for predicted in objects for point in predicted.prompt.points}
    scored = []
    for answer in answers:
        point = answer.point
        ious = [answer.box.iou(true_box) for true_box in truth.sample.boxes]
        best = max(range(len(ious)), key=ious.__getitem__) if ious else None
        target = truth.union if best is None or not ious[best] else truth.masks[best]
        location = Point(point.x, point.y)
        ignored = truth.ignored is not None and label_point(truth.ignored, location)
        label = None if ignored else label_point(target, location)
        right_box = best is not None and ious[best] >= _HIT_IOU
        is_kept = (point.x, point.y, point.label) in kept
        scored.append(ScoredPoint(point.x, point.y, point.label, point.confidence, label, is_kept, right_box))
    return tuple(scored)


def _score_objects(truth: GroundTruth, objects: Sequence[SegmentedObject]) -> tuple[ScoredObject, ...]:
    ious = _match_objects(truth, objects)
    return tuple(
        ScoredObject(
            box=predicted.prompt.box,
            confidence=predicted.confidence,
            score=predicted.score,
            iou=iou,
            right=iou >= _HIT_IOU,
            mask=dict(rle.encode(predicted.mask)) if len(objects) > 1 else None,
            agreement=predicted.agreement,
        )
        for predicted, iou in zip(objects, ious, strict=True)
    )


def _match_objects(truth: GroundTruth, objects: Sequence[SegmentedObject]) -> list[float]:
    """Return each predicted object's IoU with the true object that it is matched with, 0 without a match."""
    counted = None if truth.ignored is None else ~truth.ignored
    ious = np.array([[_mask_iou(predicted.mask, true_mask, counted) for true_mask in truth.masks] for predicted in objects])
    matched = [0.0] * len(objects)
    while ious.size and ious.max() > 0:
        row, column = (int(index) for index in np.unravel_index(ious.argmax(), ious.shape))
        matched[row] = float(ious[row, column])
        ious[row], ious[:, column] = 0.0, 0.0
    return matched


def _mask_iou(a: Mask, b: Mask, counted: Mask | None) -> float:
    """Return the IoU over the pixels that count; unlike `geometry.boxes.mask_iou`, two empty masks don't match."""
    if counted is not None:
        a, b = a & counted, b & counted
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0
