"""Compare boxes and masks, and turn one into the other. All coordinates are in pixels."""

from collections.abc import Iterable, Sequence

import numpy as np

from sam4mllm_tool.types import Box, Mask

__all__ = ["SAME_OBJECT_IOU", "format_box", "is_same_object", "mask_iou", "mask_to_box", "select_new_boxes"]

SAME_OBJECT_IOU = 0.5
"""IoU from which two boxes, or two masks, are taken to show the same object."""


def mask_to_box(mask: Mask) -> Box:
    """Return the tightest box around a non-empty (H, W) mask; x2 and y2 are one past the last pixel, as in COCO."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Box(float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1))


def is_same_object(box_a: Box, box_b: Box) -> bool:
    """Return whether two boxes overlap enough to show the same object."""
    return box_a.iou(box_b) >= SAME_OBJECT_IOU


def select_new_boxes(boxes: Iterable[Box], known: Sequence[Box], iou: float = SAME_OBJECT_IOU) -> list[Box]:
    """Return the boxes whose IoU with all known boxes, and with the ones already selected, is below `iou`."""
    new: list[Box] = []
    for box in boxes:
        if all(box.iou(other) < iou for other in (*known, *new)):
            new.append(box)
    return new


def mask_iou(a: Mask, b: Mask) -> float:
    """Return intersection over union of two (H, W) masks, in [0, 1]; 1 for two empty ones."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def format_box(box: Sequence[float]) -> str:
    """Return the corners in whole pixels for people and agents to read, such as "(12, 40) to (96, 121)"."""
    x1, y1, x2, y2 = box
    return f"({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f})"
