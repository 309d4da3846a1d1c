"""What is kept of a sample: a line of samples.jsonl, from which alone every figure, interval and table is made.

A line has, in this order: id, kind, size (of the object: small, medium, large, none); I, U and IoU as the protocol scores
them; intersection, predicted and truth in pixels, stated_none; error, why there is no prediction, else null; dropped, why the
truth can't be used, else null; box_hit; points and objects with their confidences and what they should have said; the
confidence of the whole answer; questions and tokens; mask, the prediction as COCO RLE; seconds by model, the only part that
differs from run to run.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation.metrics import Counts, Protocol
from sam4mllm_tool.types import Box, Label

__all__ = ["SAMPLES_FILE", "SIZES", "ObjectAnswer", "PointAnswer", "Record", "read_records", "size_bucket"]

SAMPLES_FILE = "samples.jsonl"
SIZES = ("small", "medium", "large", "none")
_SMALL, _LARGE = 0.01, 0.10


def size_bucket(share: float) -> str:
    """By the target's share of the picture: small below 1 %, medium to 10 %, large above; none without a target."""
    if not share:
        return "none"
    return "small" if share < _SMALL else "medium" if share <= _LARGE else "large"


@dataclass(frozen=True, slots=True)
class PointAnswer:
    """An answer about a point in pixels.

    truth: the label that would be right, None where the point falls on an ignored pixel. kept: whether Segment Anything was
    prompted with it. right_box: whether the box it was asked about has an IoU of at least 0.5 with a true one.
    """

    x: float
    y: float
    label: Label
    confidence: float | None
    truth: Label | None
    kept: bool
    right_box: bool


@dataclass(frozen=True, slots=True)
class ObjectAnswer:
    """An object as predicted. score: Segment Anything's. iou: with the true object that it is paired with, 0 with none.

    mask: COCO RLE, None where it is the only object and the record has its mask.
    """

    box: Box
    confidence: float | None
    score: float
    iou: float
    right: bool
    mask: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Record:
    """A sample as evaluated; the fields are those of its line. box_hit: None but for a sample of a single object."""

    id: str
    kind: str
    size: str
    counts: Counts
    error: str | None = None
    dropped: str | None = None
    box_hit: bool | None = None
    points: tuple[PointAnswer, ...] = ()
    objects: tuple[ObjectAnswer, ...] = ()
    confidence: float | None = None
    questions: int | None = None
    tokens: int | None = None
    mask: Mapping[str, Any] | None = None
    seconds: Mapping[str, float] | None = None

    def to_json(self, protocol: Protocol) -> str:
        """The line, without its end."""
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
                "points": [asdict(point) for point in self.points],
                "objects": [asdict(one) for one in self.objects],
                "confidence": self.confidence,
                "questions": self.questions,
                "tokens": self.tokens,
                "mask": self.mask,
                "seconds": self.seconds,
            }
        )

    @classmethod
    def from_json(cls, line: str | bytes) -> "Record":
        """Raises ValueError, KeyError or TypeError for what `to_json` did not write."""
        told = {"confidence": None, **json.loads(line)}  # which older lines lack
        failed = told["error"] is not None
        counts = Counts(told["intersection"], told["predicted"], told["truth"], told["stated_none"], failed)
        plain = ("id", "kind", "size", "error", "dropped", "box_hit", "confidence", "questions", "tokens", "mask", "seconds")
        return cls(
            counts=counts,
            points=tuple(PointAnswer(**one) for one in told["points"]),
            objects=tuple(ObjectAnswer(**{**one, "box": Box(*one["box"])}) for one in told["objects"]),
            **{name: told[name] for name in plain},
        )


def read_records(folder: Path) -> list[Record]:
    """All lines of a finished evaluation. Raises DataError naming the file and the line."""
    path, records, number = folder / SAMPLES_FILE, list[Record](), 0
    try:
        with path.open("rb") as lines:
            for line in lines:
                number += 1
                records.append(Record.from_json(line))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}; is the evaluation finished?") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}, line {number}, is not a sample's: {type(error).__name__}: {error}") from error
    return records
