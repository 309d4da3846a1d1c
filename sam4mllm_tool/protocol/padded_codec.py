"""Coordinates of a model that sees an image in the middle of a square, as LLaVA 1.5 does: the frame is the square.

What a model writes about such an image counts the square's sides, so pixels are moved into the square before they are written
and back after they are read.
"""

from dataclasses import dataclass
from typing import TypeAlias

from sam4mllm_tool.protocol.coordinate_codec import CoordinateCodec
from sam4mllm_tool.protocol.native_codec import NativeCodec
from sam4mllm_tool.types import Box, Point, Size

__all__ = ["Codec", "PaddedCodec", "margins", "pad_box", "pad_size"]


@dataclass(frozen=True)
class PaddedCodec:
    """Writes and reads coordinates of the image as another codec does those of the square around it.

    Args:
        codec: For coordinates of the square.
    """

    codec: CoordinateCodec | NativeCodec

    @property
    def scale(self) -> float:
        """The number at the far edge, or one above it."""
        return self.codec.scale

    @property
    def box_text(self) -> str:
        """How a box is written."""
        return self.codec.box_text

    @property
    def point_text(self) -> str:
        """How a point is written."""
        return self.codec.point_text

    def encode_box(self, box: Box, size: Size) -> str:
        """Write a box in pixels of the image as text."""
        return self.codec.encode_box(pad_box(box, size), pad_size(size))

    def encode_point(self, point: Point, size: Size) -> str:
        """Write a point in pixels of the image as text."""
        left, top = margins(size)
        return self.codec.encode_point(Point(point.x + left, point.y + top), pad_size(size))

    def decode_box(self, text: str, size: Size) -> Box:
        """Read the four numbers of a box, clipped to the image. Raises ValueError for another count or frame."""
        return _unpad_box(self.codec.decode_box(text, pad_size(size)), size)

    def decode_point(self, text: str, size: Size) -> Point:
        """Read the two numbers of a point, moved to the image's nearest. Raises ValueError for another count or frame."""
        return _unpad_point(self.codec.decode_point(text, pad_size(size)), size)

    def snap_box(self, box: Box, size: Size) -> Box:
        """Return the box that is read back when this one is written."""
        return _unpad_box(self.codec.snap_box(pad_box(box, size), pad_size(size)), size)

    def snap_point(self, point: Point, size: Size) -> Point:
        """Return the point that the model is really asked about when this one is written."""
        left, top = margins(size)
        return _unpad_point(self.codec.snap_point(Point(point.x + left, point.y + top), pad_size(size)), size)


Codec: TypeAlias = CoordinateCodec | NativeCodec | PaddedCodec


def pad_size(size: Size) -> Size:
    """Return the size of the square around an image."""
    return Size(max(size), max(size))


def pad_box(box: Box, size: Size) -> Box:
    """Move a box from an image of `size` to the square around it."""
    left, top = margins(size)
    return Box(box.x1 + left, box.y1 + top, box.x2 + left, box.y2 + top)


def _unpad_box(box: Box, size: Size) -> Box:
    left, top = margins(size)
    return Box(box.x1 - left, box.y1 - top, box.x2 - left, box.y2 - top).clip(size)


def _unpad_point(point: Point, size: Size) -> Point:
    left, top = margins(size)
    return Point(min(max(point.x - left, 0.0), size.width), min(max(point.y - top, 0.0), size.height))


def margins(size: Size) -> tuple[int, int]:
    """Return how many columns are left of the image, and how many rows above it."""
    side = max(size)
    return (side - size.width) // 2, (side - size.height) // 2
