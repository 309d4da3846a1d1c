"""An image of noise and results with a hole and several parts, for the tests of what results are written as."""

import io

import numpy as np
from PIL import Image

from sam4mllm_tool.types import Box, Mask, ObjectPrompt, PointPrompt, Segmentation, SegmentedObject, Size

SIZE = Size(60, 40)


def ring_mask() -> Mask:
    """A ring with a hole, and a part of its own."""
    y, x = np.mgrid[: SIZE.height, : SIZE.width]
    distance = np.hypot(x - 18, y - 20)
    return ((distance < 15) & (distance > 6)) | ((x > 40) & (x < 50) & (y > 25) & (y < 32))


def filled_ring() -> Mask:
    """The ring of `ring_mask` without its hole, in two parts."""
    mask = ring_mask()
    mask[14:27, 12:25] = True
    return mask


def block_mask() -> Mask:
    mask = np.zeros((SIZE.height, SIZE.width), bool)
    mask[2:10, 38:55] = True
    return mask


def segmentation(*masks: Mask, expression: str = "the mug & <co>") -> Segmentation:
    prompt = ObjectPrompt(Box(3, 5, 33, 35), (PointPrompt(8, 20, 1, 0.9),))
    objects = tuple(SegmentedObject(mask, prompt, 0.91, 0.8) for mask in masks or (ring_mask(), block_mask()))
    return Segmentation(expression, SIZE, objects)


def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(4).integers(1, 255, (SIZE.height, SIZE.width, 3), np.uint8))


def open_image(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))
