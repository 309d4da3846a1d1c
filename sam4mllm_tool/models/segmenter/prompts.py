"""What a segmenter may be asked: prompts are checked, and cut to the picture, before any model sees them.

Boxes come from a language model, so that one which reaches over the edge is ordinary and is cut; one that has no area, or
none on the picture, is a mistake.
"""

import math

from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, Size

__all__ = ["clip_prompt"]


def clip_prompt(prompt: ObjectPrompt, size: Size) -> ObjectPrompt:
    """The prompt with its box and points cut to the picture; the prompt itself where all of it lies inside.

    Raises ValueError for coordinates that are not finite, a box that is inverted, has no area or lies outside the
    picture, and a point whose label is neither 0 nor 1 or whose confidence is not a probability.
    """
    return ObjectPrompt(_clip_box(prompt.box, size), tuple(_clip_point(point, size) for point in prompt.points))


def _clip_box(box: Box, size: Size) -> Box:
    if not all(math.isfinite(value) for value in box):
        raise ValueError(f"expected a box of four finite numbers, got {tuple(box)}")
    if not (box.x1 < box.x2 and box.y1 < box.y2):
        raise ValueError(f"expected a box with x1 < x2 and y1 < y2, got {tuple(box)}")
    clipped = Box(max(box.x1, 0), max(box.y1, 0), min(box.x2, size.width), min(box.y2, size.height))
    if not (clipped.x1 < clipped.x2 and clipped.y1 < clipped.y2):
        raise ValueError(f"expected a box on the picture of {size.width} x {size.height} pixels, got {tuple(box)}")
    return clipped


def _clip_point(point: PointPrompt, size: Size) -> PointPrompt:
    if not (math.isfinite(point.x) and math.isfinite(point.y)):
        raise ValueError(f"expected a point of finite coordinates, got ({point.x}, {point.y})")
    if point.label not in (0, 1):
        raise ValueError(f"expected a point's label to be 0 or 1, got {point.label!r}")
    if point.confidence is not None and not 0 <= point.confidence <= 1:
        raise ValueError(f"expected a point's confidence in [0, 1], got {point.confidence}")
    x, y = min(max(point.x, 0), size.width), min(max(point.y, 0), size.height)
    return PointPrompt(x, y, point.label, point.confidence)
