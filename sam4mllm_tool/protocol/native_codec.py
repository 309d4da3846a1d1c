"""Convert pixels to the numbers that off-the-shelf families write, and back: grid lines, fractions, or pixels of another size.

Our own dialects count steps (`CoordinateCodec`): a number names the step that a coordinate falls in. The families that were
trained by others count lines: 0 is the image's left edge and `scale` its right edge, so nothing is added on reading.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sam4mllm_tool.protocol.coordinate_codec import placeholders
from sam4mllm_tool.types import Box, Point, Size

__all__ = ["Frame", "NativeCodec", "Resizing", "ResizingRule"]

Frame: TypeAlias = Literal["steps", "lines", "processed"]
"""What coordinates count: steps of the image's side, lines of a grid over it, or pixels of the image as the model gets it."""
ResizingRule: TypeAlias = tuple[int, ...]
"""The arguments of `Resizing`, three to five."""

_SLACK = 1.05
"""Models overshoot an edge a little (Qwen3-VL writes 1003 of 1000). What is further out is in another frame."""
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)")
_MAX_CHARACTERS = 30


@dataclass(frozen=True)
class Resizing:
    """How a model resizes an image before it reads it, keeping its shape as far as the multiples allow.

    The rule of Qwen2-VL and its successors.

    Args:
        multiple: Both sides become multiples of it.
        min_pixels: Least area.
        max_pixels: Largest area.
        max_side: Longest side, for families that limit it too.
        max_short_side: Shorter side, likewise.
    """

    multiple: int
    min_pixels: int
    max_pixels: int
    max_side: int | None = None
    max_short_side: int | None = None

    def apply(self, size: Size) -> Size:
        """Return the size that an image of `size` gets."""
        sides = [round(side / self.multiple) * self.multiple for side in size]
        area = size.width * size.height
        longest, shortest = self.max_side or math.inf, self.max_short_side or math.inf
        if sides[0] * sides[1] > self.max_pixels or max(sides) > longest or min(sides) > shortest:
            shrink = max(math.sqrt(area / self.max_pixels), max(size) / longest, min(size) / shortest)
            sides = [max(self.multiple, math.floor(side / shrink / self.multiple) * self.multiple) for side in size]
        elif sides[0] * sides[1] < self.min_pixels:
            grow = math.sqrt(self.min_pixels / area)
            sides = [math.ceil(side * grow / self.multiple) * self.multiple for side in size]
        return Size(*sides)


@dataclass(frozen=True)
class NativeCodec:
    """Write a coordinate as its share of the image's side times `scale`, rounded; read a number as that share.

    Args:
        frame: "lines", or "processed" for pixels of the image as the model gets it.
        scale: The number at the far edge, such as 1000, 1 or 100. Unused for pixels.
        decimals: Decimals that are written; more or fewer are read.
        digits: Width to which numbers are padded with zeros; 0 for no padding.
        box_text: How a box is written. Its order of x and y is the one that is read.
        point_text: How a point is written, likewise.
        resizing: How the model resizes an image; needed for pixels.
    """

    frame: Frame
    scale: float
    decimals: int
    digits: int
    box_text: str
    point_text: str
    resizing: Resizing | None = None

    def __post_init__(self) -> None:
        for template, names in ((self.box_text, Box._fields), (self.point_text, Point._fields)):
            if sorted(placeholders(template)) != sorted(names):
                raise ValueError(f"expected {', '.join(names)} in braces, each once, got {template!r}")

    def encode_box(self, box: Box, size: Size) -> str:
        """Write a box in pixels as text; it is at least one unit wide and high."""
        return self.box_text.format(**{name: self._format(value) for name, value in self._box_units(box, size).items()})

    def encode_point(self, point: Point, size: Size) -> str:
        """Write a point in pixels as text."""
        return self.point_text.format(**{name: self._format(value) for name, value in self._point_units(point, size).items()})

    def decode_box(self, text: str, size: Size) -> Box:
        """Read the four numbers of a box, clipped to the image. Raises ValueError for another count or frame."""
        return Box(**self._decode(text, self.box_text, size)).clip(size)

    def decode_point(self, text: str, size: Size) -> Point:
        """Read the two numbers of a point. Raises ValueError for another count or frame."""
        point = Point(**self._decode(text, self.point_text, size))
        return Point(min(max(point.x, 0.0), size.width), min(max(point.y, 0.0), size.height))

    def snap_box(self, box: Box, size: Size) -> Box:
        """Return the box that is read back when this one is written."""
        return Box(**{name: value * self._unit(name, size) for name, value in self._box_units(box, size).items()})

    def snap_point(self, point: Point, size: Size) -> Point:
        """Return the point that is read back when this one is written."""
        return Point(**{name: value * self._unit(name, size) for name, value in self._point_units(point, size).items()})

    def _box_units(self, box: Box, size: Size) -> dict[str, float]:
        units: dict[str, float] = {}
        for low, high, values in (("x1", "x2", (box.x1, box.x2)), ("y1", "y2", (box.y1, box.y2))):
            end, step = self._end(low, size), 10.0**-self.decimals
            first = min(self._round(values[0], low, size), end - step)
            units |= {low: round(first, self.decimals), high: round(max(self._round(values[1], high, size), first + step), 9)}
        return units

    def _point_units(self, point: Point, size: Size) -> dict[str, float]:
        return {name: self._round(value, name, size) for name, value in zip(Point._fields, point, strict=True)}

    def _decode(self, text: str, template: str, size: Size) -> dict[str, float]:
        names, numbers = placeholders(template), _NUMBER.findall(text)
        if len(numbers) != len(names) or any(len(number) > _MAX_CHARACTERS for number in numbers):
            raise ValueError(f"expected {len(names)} numbers, got {text[:80]!r}")
        values = dict(zip(names, map(float, numbers), strict=True))
        for name, value in values.items():
            end = self._end(name, size)
            if not end - end * _SLACK <= value <= end * _SLACK:
                raise ValueError(f"expected {name} from 0 to {end:g}, got {value:g}")
        return {name: value * self._unit(name, size) for name, value in values.items()}

    def _end(self, name: str, size: Size) -> float:
        """Return the number at the far edge of the side that a placeholder counts along."""
        if self.frame == "lines":
            return self.scale
        if self.resizing is None:
            raise ValueError("this dialect counts pixels of the image as the model gets it, whose size is unknown")
        processed = self.resizing.apply(size)
        return processed.width if name.startswith("x") else processed.height

    def _unit(self, name: str, size: Size) -> float:
        """Return how many pixels of the image one unit is."""
        return (size.width if name.startswith("x") else size.height) / self._end(name, size)

    def _round(self, value: float, name: str, size: Size) -> float:
        units = round(value / self._unit(name, size), self.decimals)
        return min(max(units, 0.0), self._end(name, size))

    def _format(self, value: float) -> str:
        return f"{value:0{self.digits}.{self.decimals}f}"
