"""Check prompts and clip them to the image before a segmenter sees them.

Boxes come from a language model: one that extends over the edge is common and is clipped; one without area, or wholly outside
the image, is an error.
"""

import math
from dataclasses import replace

from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, Size

__all__ = ["clip_prompt"]


def clip_prompt(prompt: ObjectPrompt, size: Size) -> ObjectPrompt:
    """Return the prompt with its box and points clipped to the image.

    Args:
        prompt: In pixels.
        size: Of the image, in pixels.

    Raises:
        ValueError: A coordinate is not finite; the box is inverted, has no area or lies outside the image; a label is neither
            0 nor 1; a confidence is not a probability; a prompt of points alone has none on the object; or the mask input is
            not of the image's size.
    """
    points = tuple(_clip_point(point, size) for point in prompt.points)
    if prompt.mask_input is not None and prompt.mask_input.size != (size.height, size.width):
        height, width = prompt.mask_input.size
        raise ValueError(f"expected a mask input of {size.width} x {size.height} pixels, the image's, got {width} x {height}")
    if prompt.points_only:
        return ObjectPrompt.from_points(points, prompt.mask_input)
    return replace(prompt, box=_clip_box(prompt.box, size), points=points)


def _clip_box(box: Box, size: Size) -> Box:
    if not all(math.isfinite(value) for value in box):
        raise ValueError(f"expected a box of four finite numbers, got {tuple(box)}")
    if not (box.x1 < box.x2 and box.y1 < box.y2):
        raise ValueError(f"expected a box with x1 < x2 and y1 < y2, got {tuple(box)}")
    clipped = box.clip(size)
    if not (clipped.x1 < clipped.x2 and clipped.y1 < clipped.y2):
        raise ValueError(f"expected a box on the image of {size.width} x {size.height} pixels, got {tuple(box)}")
    return clipped


def _clip_point(point: PointPrompt, size: Size) -> PointPrompt:
    if not (math.isfinite(point.x) and math.isfinite(point.y)):
        raise ValueError(f"expected a point with finite coordinates, got ({point.x}, {point.y})")
    if point.label not in (0, 1):
        raise ValueError(f"expected a point label of 0 or 1, got {point.label!r}")
    if point.confidence is not None and not 0 <= point.confidence <= 1:
        raise ValueError(f"expected a point confidence in [0, 1], got {point.confidence}")
    x, y = min(max(point.x, 0), size.width), min(max(point.y, 0), size.height)
    return PointPrompt(x, y, point.label, point.confidence)
