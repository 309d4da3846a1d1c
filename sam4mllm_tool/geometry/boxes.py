"""Boxes and masks by themselves: one around the other, and against one another. NumPy alone."""

from collections.abc import Iterable, Sequence

import numpy as np

from sam4mllm_tool.types import Box, Mask

__all__ = ["distinct_boxes", "format_box", "mask_iou", "mask_to_box"]


def mask_to_box(mask: Mask) -> Box:
    """The tightest box around a non-empty (H, W) mask; x2 and y2 are one past the last pixel, as in COCO."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Box(float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1))


def distinct_boxes(boxes: Iterable[Box], known: Sequence[Box], iou: float) -> list[Box]:
    """Those of the boxes that have less than this IoU with all known ones, and with one another."""
    new: list[Box] = []
    for box in boxes:
        if all(box.iou(other) < iou for other in (*known, *new)):
            new.append(box)
    return new


def mask_iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two (H, W) masks; two empty ones are alike."""
    either = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / either if either else 1.0


def format_box(box: Sequence[float]) -> str:
    """Its corners in whole pixels, for people and models to read: (12, 40) to (96, 121)."""
    x1, y1, x2, y2 = box
    return f"({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f})"
