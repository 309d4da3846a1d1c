"""Draw the worst and the median samples, each with its truth and its prediction side by side."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

from sam4mllm_tool.data.contact_sheet import draw_contact_sheet
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.evaluation.metrics import EvaluationProtocol
from sam4mllm_tool.evaluation.records import SampleRecord
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.boxes import mask_to_box
from sam4mllm_tool.types import Mask, Size

__all__ = ["SampleImage", "draw_samples", "select_samples"]

_COLOURS = 128  # of a PNG: a third of the bytes of a full palette, without a visible difference


@dataclass(frozen=True)
class SampleImage:
    """A drawn sample.

    Attributes:
        id: The sample's.
        title: The expression and its score, in a line.
        png: The file's bytes.
    """

    id: str
    title: str
    png: bytes


@dataclass(frozen=True, eq=False)
class _PredictedRegion:
    """The mask of a record as a `Region` of a sample."""

    code: Mapping[str, Any]

    def mask(self, size: Size) -> Mask:
        mask = rle.decode(self.code)
        assert mask.shape == (size.height, size.width)
        return mask


def select_samples(records: Sequence[SampleRecord], protocol: EvaluationProtocol, count: int) -> dict[str, list[SampleRecord]]:
    """Return up to `count` "worst" and `count` "median" samples by IoU; equal ones are ordered by a hash of their ids."""
    ranked = sorted(records, key=lambda record: (protocol.score(record.counts).iou, _hash(record.id)))
    worst = ranked[: min(count, len(ranked) // 2 or 1)]
    start = max(len(worst), len(ranked) // 2 - count // 2)
    return {"worst": worst, "median": ranked[start : start + count]}


def draw_samples(records: Sequence[SampleRecord], samples: Iterable[Sample], protocol: EvaluationProtocol) -> list[SampleImage]:
    """Draw the records in their order. `samples` is the dataset, which is read up to the last sample needed."""
    missing = {record.id for record in records}
    samples_by_id: dict[str, Sample] = {}
    for sample in samples:
        if sample.id in missing:
            samples_by_id[sample.id] = sample
            missing.remove(sample.id)
        if not missing:
            break
    return [_draw(samples_by_id[record.id], record, protocol) for record in records if record.id in samples_by_id]


def _draw(sample: Sample, record: SampleRecord, protocol: EvaluationProtocol) -> SampleImage:
    iou = protocol.score(record.counts).iou
    outcome = f"no prediction: {record.error}" if record.error is not None else f"IoU {100 * iou:.1f} %"
    codes = [answer.mask for answer in record.objects if answer.mask is not None] or ([record.mask] if record.mask else [])
    regions = [(mask_to_box(mask), _PredictedRegion(code)) for code in codes if (mask := rle.decode(code)).any()]
    predicted = replace(
        sample,
        boxes=tuple(box for box, _ in regions),
        regions=tuple(region for _, region in regions),
        ignored=None,
        expression=f"prediction, {outcome}",
        kind="",
    )
    truth = replace(sample, expression=f"truth: {sample.expression}")
    sheet = draw_contact_sheet([truth, predicted], sample.expression)
    png = BytesIO()
    sheet.image.quantize(_COLOURS).save(png, format="PNG", optimize=True)
    return SampleImage(record.id, f"{sample.expression} ({outcome})", png.getvalue())


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
