"""Annotated areas as datasets store them (polygons, run lengths), and boxes that agree with them.

pycocotools draws the polygons, because its rule for edge pixels is COCO's own. `geometry.rle` decodes run lengths: it gives
pycocotools' result and validates its input. Nothing is decoded before it is needed. Every iteration compares each annotated
box with its region's; for polygons that takes no bitmap, about 20 microseconds.
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
    "MAX_COORDINATE",
    "Polygons",
    "RegionError",
    "RunLengths",
    "read_box_xywh",
    "read_segmentation",
    "reconcile_box",
    "region_box",
    "require_pycocotools",
]

_MIN_BOX_IOU = 0.7
"""An annotated box whose IoU with its mask's box is lower is considered wrong."""
_EDGE_TOLERANCE = 1.0  # pixels by which a box may exceed the image before it counts as wrong
MAX_COORDINATE = 100_000.0  # pixels; the memory that drawing a polygon takes grows with its farthest corner


class RegionError(DataError):
    """An area can't be used. `what` is the fault in general, under which it is counted; `detail` describes this area."""

    def __init__(self, what: str, detail: str = "") -> None:
        super().__init__(f"{what}: {detail}" if detail else what)
        self.what = what
        self.detail = detail

    def __reduce__(self) -> tuple[type["RegionError"], tuple[str, str]]:
        return RegionError, (self.what, self.detail)


def require_pycocotools() -> Any:
    """Return pycocotools' mask module. Raises MissingExtraError where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise MissingExtraError("pycocotools", "train") from error
    return mask


@dataclass(frozen=True, eq=False)
class Polygons:
    """The union of polygons, by COCO's rule for edges. Each part is x1, y1, x2, y2, ... in pixels, float64."""

    parts: tuple[npt.NDArray[np.float64], ...]

    def mask(self, size: Size) -> Mask:
        """Return the (H, W) bool mask, cut off at the image's edges."""
        return rle.decode(self._encode(size))

    def box(self, size: Size) -> Box | None:
        """Return the mask's box without decoding the mask; None for an empty mask."""
        code = self._encode(size)
        if not require_pycocotools().area(code):
            return None
        x, y, width, height = require_pycocotools().toBbox(code).tolist()
        return Box(x, y, x + width, y + height)

    def _encode(self, size: Size) -> Any:
        coco_mask = require_pycocotools()
        # pycocotools takes an array, or a list of four numbers, for boxes; read_segmentation drops the latter.
        return coco_mask.merge(coco_mask.frPyObjects([part.tolist() for part in self.parts], size.height, size.width))


@dataclass(frozen=True, eq=False)
class RunLengths:
    """COCO's RLE for an image of `size`: compressed, or a tuple of run lengths."""

    size: Size
    counts: str | bytes | tuple[int, ...]

    def mask(self, size: Size) -> Mask:
        """Return the (H, W) bool mask. Raises RegionError where the RLE has another size or is malformed."""
        if size != self.size:
            sizes = f"RLE {self.size.width} x {self.size.height}, image {size.width} x {size.height}"
            raise RegionError("the RLE's size differs from the image's", sizes)
        try:
            return rle.decode({"size": [size.height, size.width], "counts": self.counts})
        except ValueError as error:
            raise RegionError("the RLE is malformed", str(error)) from error


def read_segmentation(segmentation: Any) -> Region:
    """Read the `segmentation` of a COCO annotation: a list of polygons, or an RLE in either form.

    Polygons of fewer than three points cover nothing and are skipped.

    Raises:
        RegionError: The value is neither, or nothing is left of it.
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
    if not np.all(np.abs(corners) <= MAX_COORDINATE):
        raise RegionError("a polygon has a corner far outside the image", f"{corners[np.argmax(np.abs(corners))]}")
    return corners


def _read_rle(code: Mapping[str, Any]) -> RunLengths:
    size, counts = code.get("size"), code.get("counts")
    valid_size = isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(side, int) for side in size)
    if not valid_size or not isinstance(counts, str | bytes | list | tuple):
        raise RegionError("the RLE is malformed", f"expected size [H, W] and counts, got {code!r:.80}")
    height, width = size  # type: ignore[misc]  # two integers, as checked above
    return RunLengths(Size(width, height), counts if isinstance(counts, str | bytes) else tuple(counts))


def region_box(region: Region, size: Size) -> Box | None:
    """Return the box of the region's mask, None for an empty one. The mask is decoded only if it has to be."""
    if isinstance(region, Polygons):
        return region.box(size)
    mask = region.mask(size)
    return mask_to_box(mask) if mask.any() else None


def read_box_xywh(box_xywh: Any) -> Box | None:
    """Convert COCO's [x, y, width, height]; return None for anything but four finite numbers with an area."""
    if not isinstance(box_xywh, list | tuple) or len(box_xywh) != 4:
        return None
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in box_xywh):
        return None
    x, y, width, height = map(float, box_xywh)
    return Box(x, y, x + width, y + height) if width > 0 and height > 0 else None


def reconcile_box(region: Region, annotated: Box | None, size: Size, problems: Problems, where: str) -> Box:
    """Return the annotated box clipped to the image, or the mask's box where the two disagree, which counts as corrected.

    They disagree where their IoU is below 0.7, where the annotated box exceeds the image by more than a pixel, or where it is
    no box (None).

    Args:
        region: The object's mask.
        annotated: The object's box in pixels.
        size: Of the image, in pixels.
        problems: Gets the corrections.
        where: The file and the record.

    Raises:
        RegionError: The mask is empty or malformed.
    """
    tight = region_box(region, size)
    if tight is None:
        raise RegionError("the mask is empty")
    if annotated is None:
        fault = "the box is not valid"
    elif _exceeds(annotated, size):
        fault = "the box exceeds the image"
    elif annotated.iou(tight) < _MIN_BOX_IOU:
        fault = "the box disagrees with the mask"
    else:
        return Box(*map(float, annotated.clip(size)))
    problems.add("corrected", f"{fault}; the mask's box is used", where)
    return tight


def _exceeds(box: Box, size: Size) -> bool:
    lowest, highest = min(box.x1, box.y1), max(box.x2 - size.width, box.y2 - size.height)
    return lowest < -_EDGE_TOLERANCE or highest > _EDGE_TOLERANCE
