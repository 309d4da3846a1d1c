"""What backends are tested on: drawn images of odd sizes, expressions about them and the true boxes; images of every mode."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image as PILImage

from sam4mllm_tool.models.probing.probe_scenes import draw_probe_scene, draw_probe_scenes
from sam4mllm_tool.types import Box, Image, Label, Mask, Point, Size

__all__ = ["SMALL", "ConformanceCase", "draw_conformance_cases", "draw_every_mode"]


SMALL = Size(109, 73)
"""Size for images of every mode, in pixels: what matters of them is that they are read alike."""


@dataclass(frozen=True, eq=False)
class ConformanceCase:
    """An expression about an image.

    Args:
        image: RGB.
        expression: No two cases of a suite have the same one.
        boxes: Of the objects that it means, in pixels, from left to right; none if there is no such object.
        masks: Of the same objects, (H, W) bool.
        points: Points in the first box with their labels, in pixels.
    """

    image: Image
    expression: str
    boxes: tuple[Box, ...]
    masks: tuple[Mask, ...] = ()
    points: tuple[tuple[Point, Label], ...] = ()

    @property
    def size(self) -> Size:
        """Of the image, in pixels."""
        return Size(*self.image.size)


@cache
def draw_conformance_cases() -> tuple[ConformanceCase, ...]:
    """Return cases of one object, of none and of two, on images of five sizes; always the same ones."""
    pair = draw_probe_scene(Size(595, 447), ("red mug", "red mug", "blue umbrella"), "the white key", seed=3)
    twins = sorted((drawn for drawn in pair.objects if "mug" in drawn.expression), key=lambda drawn: drawn.box.x1)
    single = [
        ConformanceCase(scene.image, drawn.expression, (drawn.box,), (drawn.mask,), drawn.points)
        for scene in draw_probe_scenes()
        for drawn in scene.objects
    ]
    absent = [ConformanceCase(scene.image, scene.absent, ()) for scene in draw_probe_scenes()]
    several = ConformanceCase(pair.image, "all red mugs", tuple(twin.box for twin in twins), tuple(twin.mask for twin in twins))
    return (*single, *absent, several)


def draw_every_mode(image: Image) -> Iterator[Image]:
    """Yield an RGB image in every mode of Pillow that images come in, as far as each can show it; some half transparent."""
    grey = np.asarray(image.convert("L"))
    translucent = image.convert("RGBA")
    translucent.putalpha(PILImage.linear_gradient("L").resize(image.size))
    for mode in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"):
        yield image.convert(mode)
    for mode in ("LA", "PA", "RGBA", "RGBa"):
        yield translucent.convert(mode)
    yield translucent.convert("LA").convert("La")
    yield PILImage.merge("LAB", image.split())
    for values in (grey.astype(np.uint16) * 257, grey.astype(np.int32) * 257, grey.astype(np.float32) / 255):
        yield PILImage.fromarray(values)  # "I;16", "I" and "F"
