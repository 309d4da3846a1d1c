"""Convert pixels to the numbers that a model writes, and those numbers back to pixels. Nothing else converts coordinates."""

import math
import re
from dataclasses import dataclass
from functools import cache
from string import Formatter

from sam4mllm_tool.types import Box, Point, Size

__all__ = ["CoordinateCodec", "placeholders"]

_MAX_DIGITS = 9
"""A longer number is out of every frame; `int` refuses numbers of some thousand digits with an error of its own."""


@dataclass(frozen=True)
class CoordinateCodec:
    """Write coordinates as integers from 0 to `scale - 1`: the share of the image's side times `scale`, rounded down.

    Reading a number gives the middle of its step. `box_text` and `point_text` decide the order of the numbers for writing and
    for reading: a box written as `[{y1},{x1},{y2},{x2}]` is read in that order too.
    """

    scale: int
    digits: int
    box_text: str
    point_text: str

    def __post_init__(self) -> None:
        if self.scale < 2:
            raise ValueError(f"expected a scale of at least 2, got {self.scale}")
        box, point = self.encode_box(Box(0, 0, 1, 1), Size(1, 1)), self.encode_point(Point(0, 0), Size(1, 1))
        for template, fields, text in ((self.box_text, Box._fields, box), (self.point_text, Point._fields, point)):
            if sorted(placeholders(template)) != sorted(fields) or len(_numbers(text)) != len(fields):
                raise ValueError(f"expected {', '.join(fields)}, each once and apart, {template!r} writes {text!r}")

    def encode_box(self, box: Box, size: Size) -> str:
        """Write a box in pixels as text; it is at least one step wide and high."""
        x1, x2 = self._steps(box.x1, box.x2, size.width)
        y1, y2 = self._steps(box.y1, box.y2, size.height)
        return self.box_text.format(x1=self._pad(x1), y1=self._pad(y1), x2=self._pad(x2), y2=self._pad(y2))

    def encode_point(self, point: Point, size: Size) -> str:
        """Write a point in pixels as text."""
        x, y = self._step(point.x, size.width), self._step(point.y, size.height)
        return self.point_text.format(x=self._pad(x), y=self._pad(y))

    def decode_box(self, text: str, size: Size) -> Box:
        """Read the four numbers of a box, which may be empty or inverted. Raises ValueError for another count or range."""
        return Box(**self._decode(text, self.box_text, size))

    def decode_point(self, text: str, size: Size) -> Point:
        """Read the two numbers of a point. Raises ValueError for another count or range."""
        return Point(**self._decode(text, self.point_text, size))

    def snap_box(self, box: Box, size: Size) -> Box:
        """Return the box that is read back when this one is written."""
        (x1, x2), (y1, y2) = self._steps(box.x1, box.x2, size.width), self._steps(box.y1, box.y2, size.height)
        return Box(*(self._middle(step, side) for step, side in zip((x1, y1, x2, y2), (*size, *size), strict=True)))

    def snap_point(self, point: Point, size: Size) -> Point:
        """Return the point that is read back when this one is written: the middle of the step that it falls in."""
        return Point(*(self._middle(self._step(value, side), side) for value, side in zip(point, size, strict=True)))

    def _decode(self, text: str, template: str, size: Size) -> dict[str, float]:
        """Return pixels by placeholder. `scale` itself, the far edge, is read as the last step."""
        names, numbers = placeholders(template), _numbers(text)
        if len(numbers) != len(names) or any(len(number) > _MAX_DIGITS or int(number) > self.scale for number in numbers):
            raise ValueError(f"expected {len(names)} numbers of 0 to {self.scale - 1}, got {text[:80]!r}")
        sides = (size.width if name.startswith("x") else size.height for name in names)
        steps = (min(int(number), self.scale - 1) for number in numbers)
        return {name: self._middle(step, side) for name, step, side in zip(names, steps, sides, strict=True)}

    def _middle(self, step: int, side: int) -> float:
        return (step + 0.5) * side / self.scale

    def _step(self, value: float, side: int) -> int:
        return max(0, min(self.scale - 1, math.floor(value * self.scale / side)))

    def _steps(self, low: float, high: float, side: int) -> tuple[int, int]:
        first = min(self._step(low, side), self.scale - 2)
        return first, max(self._step(high, side), first + 1)

    def _pad(self, step: int) -> str:
        return f"{step:0{self.digits}d}"


@cache
def placeholders(template: str) -> tuple[str, ...]:
    """Return the names in braces, in order."""
    return tuple(name for _, name, _, _ in Formatter().parse(template) if name)


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)
