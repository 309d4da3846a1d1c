"""A part of a picture seen as a picture of its own: what a model is shown to look closer, and the way back.

A view has the picture's proportions and is scaled to its size, so that it costs a model what the whole picture costs, or to a
smaller one. Coordinates are in pixels of the whole picture or of the view as it is shown.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image as PILImage

from sam4mllm_tool.types import Box, Image, Mask, ObjectPrompt, SegmentedObject, Size

__all__ = ["Crop", "ImageTransform", "crop_around", "quadrants"]

_PART = 0.6
"""Of the picture's sides, what a quadrant has of them: neighbours overlap, so that nothing small is cut in two by all."""


class ImageTransform(Protocol):
    """A way of showing a picture."""

    @property
    def words(self) -> str:
        """What is shown, for people."""

    def picture(self, image: Image) -> Image:
        """What is shown of it."""


@dataclass(frozen=True)
class Crop:
    """The part (left, top, width, height) of a picture of `size`, in whole pixels. longest: what the longer side of what is
    shown may be at most; None: as long as the picture's."""

    left: int
    top: int
    width: int
    height: int
    size: Size
    longest: int | None = None

    @property
    def words(self) -> str:
        """What is shown, for people."""
        right, bottom = self.left + self.width, self.top + self.height
        return f"the part from ({self.left}, {self.top}) to ({right}, {bottom}), enlarged"

    @property
    def zoom(self) -> float:
        """How many times larger things are in the view than in a picture shown as large."""
        return self.size.width / self.width

    @property
    def shown(self) -> Size:
        """Of what the view shows."""
        part = min(1.0, (self.longest or max(self.size)) / max(self.size))
        return Size(*(max(1, round(part * side)) for side in self.size))

    def picture(self, image: Image) -> Image:
        """What the view shows."""
        part = (self.left, self.top, self.left + self.width, self.top + self.height)
        return image.resize(self.shown, PILImage.Resampling.BICUBIC, box=part)

    def prompt_in(self, prompt: ObjectPrompt) -> ObjectPrompt:
        """The prompt on the whole picture as one in the view; what lies outside is moved to its edge, or left out."""
        (x1, y1), (x2, y2) = self._in(prompt.box.x1, prompt.box.y1), self._in(prompt.box.x2, prompt.box.y2)
        width, height = self.shown
        box = Box(min(max(x1, 0), width - 1), min(max(y1, 0), height - 1), max(min(x2, width), 1), max(min(y2, height), 1))
        placed = (replace(point, x=x, y=y) for point in prompt.points for x, y in (self._in(point.x, point.y),))
        return ObjectPrompt(box, tuple(point for point in placed if 0 <= point.x <= width and 0 <= point.y <= height))

    def box_out(self, box: Box) -> Box:
        """A box in the view as one on the whole picture."""
        return Box(*self._out(box.x1, box.y1), *self._out(box.x2, box.y2))

    def mask_out(self, mask: Mask) -> Mask:
        """A (H, W) mask in the view as one on the whole picture, empty outside it; a pixel is in it if most of it is."""
        grey = PILImage.fromarray(mask.astype(np.uint8) * np.uint8(255))
        small = np.asarray(grey.resize((self.width, self.height), PILImage.Resampling.BOX)) > 127
        whole = np.zeros((self.size.height, self.size.width), np.bool_)
        whole[self.top : self.top + self.height, self.left : self.left + self.width] = small
        return whole

    def object_out(self, thing: SegmentedObject) -> SegmentedObject:
        """An object in the view as one on the whole picture, without its alternatives."""
        points = tuple(replace(point, x=x, y=y) for point in thing.prompt.points for x, y in (self._out(point.x, point.y),))
        prompt = ObjectPrompt(self.box_out(thing.prompt.box), points)
        return replace(thing, mask=self.mask_out(thing.mask), prompt=prompt, alternatives=())

    def _in(self, x: float, y: float) -> tuple[float, float]:
        return (x - self.left) * self.shown.width / self.width, (y - self.top) * self.shown.height / self.height

    def _out(self, x: float, y: float) -> tuple[float, float]:
        return self.left + x * self.width / self.shown.width, self.top + y * self.height / self.shown.height


def crop_around(box: Box, size: Size, share: float, *, longest: int | None = None) -> Crop | None:
    """The view with the box in its middle, as near as the picture's edges let it, the box's longer side `share` of it.

    None where that would not be much closer than the whole picture is: at least 1.25 times.
    """
    part = max((box.x2 - box.x1) / size.width, (box.y2 - box.y1) / size.height) / share
    if part > 0.8:
        return None
    width, height = max(1, round(part * size.width)), max(1, round(part * size.height))
    left = round(min(max((box.x1 + box.x2 - width) / 2, 0), size.width - width))
    top = round(min(max((box.y1 + box.y2 - height) / 2, 0), size.height - height))
    return Crop(left, top, width, height, size, longest)


def quadrants(size: Size) -> tuple[Crop, ...]:
    """Four views that overlap and together show everything, from the top left row by row."""
    width, height = max(1, round(_PART * size.width)), max(1, round(_PART * size.height))
    return tuple(Crop(left, top, width, height, size) for top in (0, size.height - height) for left in (0, size.width - width))
