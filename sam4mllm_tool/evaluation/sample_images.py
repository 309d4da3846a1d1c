"""The samples that say most, the worst and the median ones, each drawn with its truth and its prediction side by side."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np

from sam4mllm_tool.data.contact_sheet import contact_sheet
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.evaluation.metrics import Protocol
from sam4mllm_tool.evaluation.records import Record
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.types import Box, Mask, Size

__all__ = ["Drawn", "choose", "draw"]

_COLOURS = 128  # of a PNG: a third of the bytes, and nobody sees it


@dataclass(frozen=True)
class Drawn:
    """A drawn sample. png: the picture's bytes. title: what is seen, in a line."""

    id: str
    title: str
    png: bytes


@dataclass(frozen=True, eq=False)
class _Predicted:
    """The mask of a record as a region."""

    code: Mapping[str, Any]

    def mask(self, size: Size) -> Mask:
        mask = rle.decode(self.code)
        assert mask.shape == (size.height, size.width)
        return mask


def choose(records: Sequence[Record], protocol: Protocol, count: int) -> dict[str, list[Record]]:
    """Up to so many "worst" and so many "median" samples by IoU; among equals as if by lot, the same at each call."""
    ranked = sorted(records, key=lambda one: (protocol.score(one.counts).iou, _lot(one.id)))
    worst = ranked[: min(count, len(ranked) // 2 or 1)]
    middle = max(len(worst), len(ranked) // 2 - count // 2)
    return {"worst": worst, "median": ranked[middle : middle + count]}


def draw(chosen: Sequence[Record], samples: Iterable[Sample], protocol: Protocol) -> list[Drawn]:
    """The records as pictures, in their order. samples: those of the data set, read up to the last that is needed."""
    wanted = {record.id for record in chosen}
    found: dict[str, Sample] = {}
    for sample in samples:
        if sample.id in wanted:
            found[sample.id] = sample
            if len(found) == len(wanted):
                break
    return [_draw(found[record.id], record, protocol) for record in chosen if record.id in found]


def _draw(sample: Sample, record: Record, protocol: Protocol) -> Drawn:
    iou = protocol.score(record.counts).iou
    said = f"no prediction: {record.error}" if record.error is not None else f"IoU {100 * iou:.1f} %"
    codes = [one.mask for one in record.objects if one.mask is not None] or ([record.mask] if record.mask else [])
    seen = [(box, code) for code in codes if (box := _box(rle.decode(code)))]
    predicted = replace(
        sample,
        boxes=tuple(box for box, _ in seen),
        regions=tuple(_Predicted(code) for _, code in seen),
        ignored=None,
        expression=f"prediction, {said}",
        kind="",
    )
    truth = replace(sample, expression=f"truth: {sample.expression}")
    sheet = contact_sheet([truth, predicted], sample.expression)
    content = BytesIO()
    sheet.image.quantize(_COLOURS).save(content, format="PNG", optimize=True)
    return Drawn(record.id, f"{sample.expression} ({said})", content.getvalue())


def _box(mask: Mask) -> Box | None:
    if not mask.any():
        return None
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Box(float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1))


def _lot(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
