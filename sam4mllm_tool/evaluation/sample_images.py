"""Draw samples of a report: the truth beside one prediction or several."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

from sam4mllm_tool.data.contact_sheet import draw_sample
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.errors import DataError, ImageError
from sam4mllm_tool.evaluation.metrics import EvaluationProtocol
from sam4mllm_tool.evaluation.records import SampleRecord
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.boxes import mask_to_box
from sam4mllm_tool.types import Mask, Size

__all__ = ["ImagePanel", "SampleImages", "draw_samples", "select_samples"]

_COLOURS = 128  # of a PNG: a third of the bytes of a full palette, without a visible difference


@dataclass(frozen=True)
class ImagePanel:
    """One of the images of a sample.

    Attributes:
        name: What it shows: "truth", or the name of a prediction.
        caption: In words, with the score of a prediction.
        png: The file's bytes; None where it can't be drawn, for which the caption gives the reason.
    """

    name: str
    caption: str
    png: bytes | None


@dataclass(frozen=True)
class SampleImages:
    """A sample and its images side by side, the truth first."""

    id: str
    expression: str
    panels: Sequence[ImagePanel]


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
    ranked = sorted(records, key=lambda record: (protocol.score(record.counts).iou, hash_id(record.id)))
    worst = ranked[: min(count, len(ranked) // 2 or 1)]
    start = max(len(worst), len(ranked) // 2 - count // 2)
    return {"worst": worst, "median": ranked[start : start + count]}


def draw_samples(
    predictions: Sequence[Mapping[str, SampleRecord]], samples: Iterable[Sample], protocol: EvaluationProtocol
) -> list[SampleImages]:
    """Draw samples in their order.

    Args:
        predictions: For each sample its records, by the name of the prediction.
        samples: The dataset, which is read up to the last sample needed.
        protocol: Scores the predictions.
    """
    ids = [next(iter(records.values())).id for records in predictions]
    missing, samples_by_id = set(ids), dict[str, Sample]()
    for sample in samples:
        if sample.id in missing:
            samples_by_id[sample.id] = sample
            missing.remove(sample.id)
        if not missing:
            break
    return [
        _draw(samples_by_id[name], records, protocol)
        for name, records in zip(ids, predictions, strict=True)
        if name in samples_by_id
    ]


def hash_id(name: str) -> bytes:
    """Return a hash by which samples are put in an order that has nothing to do with the dataset's."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _draw(sample: Sample, records: Mapping[str, SampleRecord], protocol: EvaluationProtocol) -> SampleImages:
    panels = [_draw_panel("truth", "truth", sample)]
    for name, record in records.items():
        iou = protocol.score(record.counts).iou
        outcome = f"no prediction: {record.error}" if record.error is not None else f"IoU {100 * iou:.1f} %"
        panels.append(_draw_panel(name, f"{name}, {outcome}", _replace_objects(sample, record)))
    return SampleImages(sample.id, sample.expression, panels)


def _replace_objects(sample: Sample, record: SampleRecord) -> Sample:
    """Return the sample with the predicted objects in place of the true ones."""
    codes = [answer.mask for answer in record.objects if answer.mask is not None] or ([record.mask] if record.mask else [])
    regions = [(mask_to_box(mask), _PredictedRegion(code)) for code in codes if (mask := rle.decode(code)).any()]
    boxes, masks = tuple(box for box, _ in regions), tuple(region for _, region in regions)
    return replace(sample, boxes=boxes, regions=masks, ignored=None)


def _draw_panel(name: str, caption: str, sample: Sample) -> ImagePanel:
    try:
        image = draw_sample(sample)
    except (DataError, ImageError) as error:
        return ImagePanel(name, f"{caption}; it can't be drawn: {error}", None)
    png = BytesIO()
    image.quantize(_COLOURS).save(png, format="PNG", optimize=True)
    return ImagePanel(name, caption, png.getvalue())
