"""What an evaluation keeps of each sample: a line of samples.jsonl. Every metric, interval and table is computed from these.

A line has these keys, in this order: id; kind of expression; size of the object (small, medium, large, none); I, U and IoU as
the protocol scores them; intersection, predicted and truth in pixels; stated_none; error (why there is no prediction, else
null); dropped (why the truth can't be used, else null); box_hit; points and objects, with their confidences and the truth;
confidence of the whole answer; warnings, why the answer may mean nothing; questions; tokens; mask (the prediction as COCO
RLE); seconds by model, the only key that differs from run to run.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation.metrics import EvaluationProtocol, PixelCounts
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.types import Box, Label

__all__ = [
    "METRICS_FILE",
    "ORDER_FILE",
    "SAMPLES_FILE",
    "SIZES",
    "SampleRecord",
    "ScoredObject",
    "ScoredPoint",
    "read_order",
    "read_records",
    "select_scored",
    "size_bucket",
]

SAMPLES_FILE = "samples.jsonl"
METRICS_FILE = "metrics.json"
ORDER_FILE = "order.json"
SIZES = ("small", "medium", "large", "none")
_SMALL, _LARGE = 0.01, 0.10


def size_bucket(share: float) -> str:
    """Return the size class of a target by its share of the image: small below 1 %, medium to 10 %, large above; none for 0."""
    if not share:
        return "none"
    return "small" if share < _SMALL else "medium" if share <= _LARGE else "large"


@dataclass(frozen=True, slots=True)
class ScoredPoint:
    """The model's label of a point.

    Attributes:
        x: In pixels.
        y: In pixels.
        label: What the model answered: 1 on the object, 0 off it.
        confidence: The probability of that label, None where the backend gave none.
        truth: The right label, None where the point falls on an ignored pixel.
        kept: Whether the segmenter was prompted with the point.
        right_box: Whether the box of the question has an IoU of at least 0.5 with a true box.
    """

    x: float
    y: float
    label: Label
    confidence: float | None
    truth: Label | None
    kept: bool
    right_box: bool


@dataclass(frozen=True, slots=True)
class ScoredObject:
    """A predicted object.

    Attributes:
        box: The prompt's box, in pixels.
        confidence: The calibrated probability that the object was meant, None where it is unknown.
        score: SAM's predicted IoU.
        iou: With the true object that it is matched with; 0 without a match.
        right: Whether `iou` is at least 0.5.
        mask: COCO RLE; None for the only object of a record, whose mask the record has.
        agreement: The share of the point answers that the mask agrees with, None where it is unknown.
    """

    box: Box
    confidence: float | None
    score: float
    iou: float
    right: bool
    mask: Mapping[str, Any] | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class SampleRecord:
    """An evaluated sample; the fields are the keys of its line. box_hit is None unless the sample has exactly one object."""

    id: str
    kind: str
    size: str
    counts: PixelCounts
    error: str | None = None
    dropped: str | None = None
    box_hit: bool | None = None
    points: tuple[ScoredPoint, ...] = ()
    objects: tuple[ScoredObject, ...] = ()
    confidence: float | None = None
    questions: int | None = None
    tokens: int | None = None
    mask: Mapping[str, Any] | None = None
    seconds: Mapping[str, float] | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self, protocol: EvaluationProtocol) -> str:
        """Return the line, without its newline."""
        score = protocol.score(self.counts)
        return json.dumps(
            {
                "id": self.id,
                "kind": self.kind,
                "size": self.size,
                "I": score.intersection,
                "U": score.union,
                "IoU": score.iou,
                "intersection": self.counts.intersection,
                "predicted": self.counts.predicted,
                "truth": self.counts.truth,
                "stated_none": self.counts.stated_none,
                "error": self.error,
                "dropped": self.dropped,
                "box_hit": self.box_hit,
                "points": [asdict(answer) for answer in self.points],
                "objects": [asdict(answer) for answer in self.objects],
                "confidence": self.confidence,
                "warnings": self.warnings,
                "questions": self.questions,
                "tokens": self.tokens,
                "mask": self.mask,
                "seconds": self.seconds,
            }
        )

    @classmethod
    def from_json(cls, line: str | bytes, *, method: str = "adaptive") -> "SampleRecord":
        """Parse a line. Raises ValueError, KeyError or TypeError for one that `to_json` did not write.

        Before 0.3.0 lines had no `warnings` and no `agreement`; that of methods other than `adaptive` stood as `confidence`.
        """
        fields = {"confidence": None, **parse_json(line)}  # older lines have no confidence
        failed = fields["error"] is not None
        counts = PixelCounts(fields["intersection"], fields["predicted"], fields["truth"], fields["stated_none"], failed)
        plain = ("id", "kind", "size", "error", "dropped", "box_hit", "confidence", "questions", "tokens", "mask", "seconds")
        return cls(
            counts=counts,
            points=tuple(ScoredPoint(**answer) for answer in fields["points"]),
            objects=tuple(_parse_object(answer, method) for answer in fields["objects"]),
            warnings=tuple(fields.get("warnings", ())),
            **{name: fields[name] for name in plain},
        )


def _parse_object(answer: dict[str, Any], method: str) -> ScoredObject:
    old = {} if "agreement" in answer or method == "adaptive" else {"confidence": None, "agreement": answer["confidence"]}
    return ScoredObject(**{**answer, **old, "box": Box(*answer["box"])})


def read_records(folder: Path) -> list[SampleRecord]:
    """Read all lines of a finished evaluation. Raises DataError naming the file and the line."""
    path, records, number = folder / SAMPLES_FILE, list[SampleRecord](), 0
    method = _read_method(folder)
    try:
        with path.open("rb") as lines:
            for line in lines:
                number += 1
                records.append(SampleRecord.from_json(line, method=method))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}; is the evaluation finished?") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}, line {number}, is not a sample's: {type(error).__name__}: {error}") from error
    return records


def _read_method(folder: Path) -> str:
    """Return the method of a run; "adaptive" where the folder doesn't say."""
    try:
        order = parse_json((folder / ORDER_FILE).read_text(encoding="utf-8"))
        return str(order.get("method", "adaptive"))
    except (OSError, ValueError, AttributeError):
        return "adaptive"


def select_scored(records: Iterable[SampleRecord]) -> list[SampleRecord]:
    """Return the records that count: all but those whose truth can't be read."""
    return [record for record in records if record.dropped is None]


def read_order(folder: Path) -> Mapping[str, Any]:
    """Read what a finished evaluation evaluated, as `EvaluationConfig.describe` returned it. Raises DataError."""
    path = folder / METRICS_FILE
    try:
        order = parse_json(path.read_text(encoding="utf-8"))["order"]
        if not isinstance(order, dict):
            raise TypeError(f"the order is {str(order)[:80]}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} can't be read ({error}): expected the folder of a finished evaluation") from error
    return order
