"""Crops of an image, and the way back: a model is shown an enlarged part, and its answer is moved to the whole image.

A crop has the image's aspect ratio and is resized to the image's size, or to a smaller one, so that it costs a model no more
than the whole image does. Coordinates are in pixels, either of the whole image or of the crop as it is shown.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image as PILImage

from sam4mllm_tool.types import Box, Image, Mask, ObjectPrompt, RunLengthMask, SegmentedObject, Size

__all__ = ["Crop", "ImageTransform", "crop_around", "crop_quadrants"]

_QUADRANT_SHARE = 0.6
"""Share of the image's sides that a quadrant has: neighbors overlap, so that nothing small is cut in two by all of them."""
_MAX_CROP_SHARE = 0.8
"""A crop with a larger share of the image's sides would enlarge it less than 1.25 times."""


class ImageTransform(Protocol):
    """A way of showing an image to a model."""

    @property
    def description(self) -> str:
        """What is shown, in words for people."""

    def apply(self, image: Image) -> Image:
        """Return the image to show."""


@dataclass(frozen=True)
class Crop:
    """A part of an image, enlarged.

    Args:
        left: First column of the part.
        top: First row of the part.
        width: Width of the part, in pixels of the image.
        height: Height of the part, in pixels of the image.
        size: Size of the whole image.
        longest: Largest length of the longer side of the crop as shown; None for the image's own.
    """

    left: int
    top: int
    width: int
    height: int
    size: Size
    longest: int | None = None

    @property
    def description(self) -> str:
        """What is shown, in words for people."""
        right, bottom = self.left + self.width, self.top + self.height
        return f"the part from ({self.left}, {self.top}) to ({right}, {bottom}), enlarged"

    @property
    def magnification(self) -> float:
        """How many times larger objects are in the crop than in the whole image shown at the same size."""
        return self.size.width / self.width

    @property
    def output_size(self) -> Size:
        """Size of the crop as it is shown."""
        scale = min(1.0, (self.longest or max(self.size)) / max(self.size))
        return Size(*(max(1, round(scale * side)) for side in self.size))

    def apply(self, image: Image) -> Image:
        """Return the crop of the image, of `output_size`."""
        corners = (self.left, self.top, self.left + self.width, self.top + self.height)
        return image.resize(self.output_size, PILImage.Resampling.BICUBIC, box=corners)

    def to_crop_prompt(self, prompt: ObjectPrompt) -> ObjectPrompt:
        """Move a prompt from the image to the crop: box and mask input are clipped to it, points outside are dropped."""
        (x1, y1), (x2, y2) = self._to_crop(prompt.box.x1, prompt.box.y1), self._to_crop(prompt.box.x2, prompt.box.y2)
        width, height = self.output_size
        box = Box(min(max(x1, 0), width - 1), min(max(y1, 0), height - 1), max(min(x2, width), 1), max(min(y2, height), 1))
        moved = (replace(point, x=x, y=y) for point in prompt.points for x, y in (self._to_crop(point.x, point.y),))
        points = tuple(point for point in moved if 0 <= point.x <= width and 0 <= point.y <= height)
        return replace(prompt, box=box, points=points, mask_input=prompt.mask_input and self._crop_mask(prompt.mask_input))

    def to_image_box(self, box: Box) -> Box:
        """Move a box from the crop to the image."""
        return Box(*self._to_image(box.x1, box.y1), *self._to_image(box.x2, box.y2))

    def to_image_mask(self, mask: Mask) -> Mask:
        """Move a mask from the crop to the image; a pixel of the image is in it if most of its area is.

        Args:
            mask: (H, W) bool, of `output_size`.

        Returns:
            (H, W) bool, of the image's size, empty outside the crop.
        """
        gray = PILImage.fromarray(mask.astype(np.uint8) * np.uint8(255))
        part = np.asarray(gray.resize((self.width, self.height), PILImage.Resampling.BOX)) > 127
        whole = np.zeros((self.size.height, self.size.width), np.bool_)
        whole[self.top : self.top + self.height, self.left : self.left + self.width] = part
        return whole

    def to_image_object(self, segmented: SegmentedObject) -> SegmentedObject:
        """Move an object from the crop to the image, without its alternatives and its mask input."""
        prompt = segmented.prompt
        points = tuple(replace(point, x=x, y=y) for point in prompt.points for x, y in (self._to_image(point.x, point.y),))
        moved = replace(prompt, box=self.to_image_box(prompt.box), points=points, mask_input=None)
        return replace(segmented, mask=self.to_image_mask(segmented.mask), prompt=moved, alternatives=())

    def _crop_mask(self, mask_input: RunLengthMask) -> RunLengthMask:
        gray = PILImage.fromarray(mask_input.mask().astype(np.uint8) * np.uint8(255))
        return RunLengthMask.of(np.asarray(self.apply(gray)) > 127)

    def _to_crop(self, x: float, y: float) -> tuple[float, float]:
        width, height = self.output_size
        return (x - self.left) * width / self.width, (y - self.top) * height / self.height

    def _to_image(self, x: float, y: float) -> tuple[float, float]:
        width, height = self.output_size
        return self.left + x * self.width / width, self.top + y * self.height / height


def crop_around(box: Box, size: Size, share: float, *, longest: int | None = None) -> Crop | None:
    """Crop an image so that a box takes a given share of the crop.

    Args:
        box: Centered in the crop as far as the image's edges allow.
        size: Of the image.
        share: What the box's longer side, relative to the image, takes of the crop's, from 0 to 1.
        longest: As for `Crop`.

    Returns:
        None where the crop would enlarge the image less than 1.25 times.
    """
    scale = max(box.width / size.width, box.height / size.height) / share
    if scale > _MAX_CROP_SHARE:
        return None
    width, height = max(1, round(scale * size.width)), max(1, round(scale * size.height))
    left = round(min(max((box.x1 + box.x2 - width) / 2, 0), size.width - width))
    top = round(min(max((box.y1 + box.y2 - height) / 2, 0), size.height - height))
    return Crop(left, top, width, height, size, longest)


def crop_quadrants(size: Size) -> tuple[Crop, ...]:
    """Return four overlapping crops that cover the image, from the top left row by row."""
    width, height = (max(1, round(_QUADRANT_SHARE * side)) for side in size)
    return tuple(Crop(left, top, width, height, size) for top in (0, size.height - height) for left in (0, size.width - width))
