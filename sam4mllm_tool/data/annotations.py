"""Annotated areas as data sets write them: polygons, run lengths, several areas as one; and boxes that agree with them.

Polygons are drawn by pycocotools, whose rules for a pixel on the edge are COCO's own; run lengths are decoded by `rle`, which
gives what pycocotools gives, checks what it reads, and warns of nothing with NumPy 2. Nothing is decoded until asked for. A
region is asked for its box once an iteration, to compare it with the annotated one: of polygons that takes no bitmap, about
20 microseconds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.data.sample import Problems, Region
from sam4mllm_tool.errors import DataError, MissingExtraError
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.boxes import mask_to_box
from sam4mllm_tool.types import Box, Mask, Size

__all__ = [
    "BOXES_AGREE",
    "Polygons",
    "RegionError",
    "RunLengths",
    "Together",
    "agreed_box",
    "box_of_mask",
    "box_of_region",
    "box_xyxy",
    "need_pycocotools",
    "read_segmentation",
]

BOXES_AGREE = 0.7
"""An annotated box whose IoU with its mask's is below this is taken for wrong."""
_ROUNDING = 1.0  # pixels by which a box may reach outside the picture before it counts as wrong
_FARTHEST = 100_000.0  # pixels; pycocotools' memory grows with how far a corner lies


class RegionError(DataError):
    """An area that can't be used. what: in general, under which it is counted. detail: of this one."""

    def __init__(self, what: str, detail: str = "") -> None:
        super().__init__(f"{what}: {detail}" if detail else what)
        self.what = what
        self.detail = detail

    def __reduce__(self) -> tuple[type["RegionError"], tuple[str, str]]:
        return RegionError, (self.what, self.detail)


def need_pycocotools() -> Any:
    """Its module of masks. Raises MissingExtraError where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise MissingExtraError("pycocotools", "train") from error
    return mask


@dataclass(frozen=True, eq=False)
class Polygons:
    """What any of the polygons covers, by COCO's rule for edges. parts: each x1, y1, x2, y2, ... in pixels, float64."""

    parts: tuple[npt.NDArray[np.float64], ...]

    def mask(self, size: Size) -> Mask:
        """(H, W) bool; what lies outside the picture is cut off."""
        return rle.decode(self._drawn(size))

    def box(self, size: Size) -> Box | None:
        """The box of the mask, None of an empty one; without decoding it."""
        drawn = self._drawn(size)
        if not need_pycocotools().area(drawn):
            return None
        x, y, width, height = need_pycocotools().toBbox(drawn).tolist()
        return Box(x, y, x + width, y + height)

    def _drawn(self, size: Size) -> Any:
        cocomask = need_pycocotools()
        # Lists of numbers are polygons to it; an array would be boxes, as would lists of four numbers, which are left out.
        return cocomask.merge(cocomask.frPyObjects([part.tolist() for part in self.parts], size.height, size.width))


@dataclass(frozen=True, eq=False)
class RunLengths:
    """COCO's run-length code, compressed or a tuple of run lengths. size: that which it is written for."""

    size: Size
    counts: str | bytes | tuple[int, ...]

    def mask(self, size: Size) -> Mask:
        """(H, W) bool. Raises RegionError where the code is of another size, or malformed."""
        if size != self.size:
            raise RegionError(
                "the RLE is of another size than the picture",
                f"RLE {self.size.width} x {self.size.height}, picture {size.width} x {size.height}",
            )
        try:
            return rle.decode({"size": [size.height, size.width], "counts": self.counts})
        except ValueError as error:
            raise RegionError("the RLE is malformed", str(error)) from error


@dataclass(frozen=True, eq=False)
class Together:
    """The union of several regions, at least one."""

    regions: tuple[Region, ...]

    def mask(self, size: Size) -> Mask:
        """(H, W) bool."""
        union = self.regions[0].mask(size).copy()
        for region in self.regions[1:]:
            union |= region.mask(size)
        return union

    def box(self, size: Size) -> Box | None:
        """The box around the regions' boxes."""
        boxes = [box for region in self.regions if (box := box_of_region(region, size))]
        if not boxes:
            return None
        x1, y1, x2, y2 = zip(*boxes, strict=True)
        return Box(min(x1), min(y1), max(x2), max(y2))


def read_segmentation(segmentation: Any) -> Region:
    """The region of a COCO annotation's `segmentation`: a list of polygons, or an RLE of either form.

    A polygon of fewer than three points covers nothing and is left out. Raises RegionError for anything else.
    """
    if isinstance(segmentation, Mapping):
        return _read_rle(segmentation)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str | bytes):
        raise RegionError("the segmentation is neither polygons nor an RLE", repr(segmentation)[:80])
    parts = [_read_polygon(part) for part in segmentation]
    parts = [part for part in parts if part.size >= 6]
    if not parts:
        raise RegionError("the mask is empty")
    return Polygons(tuple(parts))


def _read_polygon(part: Any) -> npt.NDArray[np.float64]:
    try:
        corners = np.array(part, np.float64)
    except (TypeError, ValueError) as error:
        raise RegionError("a polygon is not a list of numbers", repr(part)[:80]) from error
    if corners.ndim != 1 or corners.size % 2:
        raise RegionError("a polygon is not x, y, x, y, ...", f"shape {corners.shape}")
    if not np.all(np.abs(corners) <= _FARTHEST):
        raise RegionError("a polygon has a corner far outside any picture", f"{corners[np.argmax(np.abs(corners))]}")
    return corners


def _read_rle(code: Mapping[str, Any]) -> RunLengths:
    size, counts = code.get("size"), code.get("counts")
    whole = isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(side, int) for side in size)
    if not whole or not isinstance(counts, str | bytes | list | tuple):
        raise RegionError("the RLE is malformed", f"expected size [H, W] and counts, got {code!r:.80}")
    height, width = size  # type: ignore[misc]  # two whole numbers, as just checked
    return RunLengths(Size(width, height), counts if isinstance(counts, str | bytes) else tuple(counts))


def box_of_mask(mask: Mask) -> Box | None:
    """The tightest box around a (H, W) mask; x2, y2 one past the last pixel. None of an empty mask."""
    return mask_to_box(mask) if mask.any() else None


def box_of_region(region: Region, size: Size) -> Box | None:
    """The box of the region's mask, None of an empty one; decodes it only where the region doesn't know better."""
    return region.box(size) if isinstance(region, Polygons | Together) else box_of_mask(region.mask(size))


def box_xyxy(box_xywh: Any) -> Box | None:
    """COCO's box as ours; None where it is no box: not four finite numbers, or without an area."""
    if not isinstance(box_xywh, list | tuple) or len(box_xywh) != 4:
        return None
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in box_xywh):
        return None
    x, y, width, height = map(float, box_xywh)
    return Box(x, y, x + width, y + height) if width > 0 and height > 0 else None


def agreed_box(region: Region, annotated: Box | None, size: Size, problems: Problems, where: str) -> Box:
    """The object's box inside the picture: the annotated one, or its mask's where they disagree, which counts as mended.

    They disagree where their IoU is below BOXES_AGREE, or the annotated one reaches outside the picture by over a pixel (less
    is cut off), or is no box. where: the file and the record.
    Raises RegionError where the mask is empty or malformed: whoever needed the object drops and counts what needed it.
    """
    tight = box_of_region(region, size)
    if tight is None:
        raise RegionError("the mask is empty")
    if annotated is None:
        problems.add("mended", "the box is not a box; the mask's is used", where)
        return tight
    if _outside(annotated, size):
        problems.add("mended", "the box reaches outside the picture; the mask's is used", where)
        return tight
    if annotated.iou(tight) < BOXES_AGREE:
        problems.add("mended", "the box disagrees with the mask; the mask's is used", where)
        return tight
    return Box(
        max(0.0, annotated.x1),
        max(0.0, annotated.y1),
        min(float(size.width), annotated.x2),
        min(float(size.height), annotated.y2),
    )


def _outside(box: Box, size: Size) -> bool:
    """Whether it reaches outside the picture by more than rounding."""
    least, most = min(box.x1, box.y1), max(box.x2 - size.width, box.y2 - size.height)
    return least < -_ROUNDING or most > _ROUNDING
