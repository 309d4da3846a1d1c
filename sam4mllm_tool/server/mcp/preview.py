"""An image of a result that fits into a tool's answer: hosts refuse answers of more than about a megabyte."""

import base64
from dataclasses import replace
from io import BytesIO

import numpy as np
from PIL import Image as PILImage

from sam4mllm_tool.images.draw import overlay
from sam4mllm_tool.types import Box, Image, ObjectPrompt, Segmentation, Size

__all__ = ["MAX_PREVIEW_LENGTH", "encode_preview", "preview_result"]

MAX_PREVIEW_LENGTH = 700_000
"""Characters of base64 at most."""
_MAX_SIDE = 1568
"""Pixels of the longer side at most; chat models scale larger images down."""
_MIN_SIDE = 512
"""Pixels of the shorter side that a small image is enlarged to, so that labels can be read."""
_QUALITIES = (90, 75)


def preview_result(image: Image, segmentation: Segmentation) -> str:
    """Draw a result over its image and encode it with `encode_preview`. A large image is scaled down before it is drawn on."""
    scale = _MAX_SIDE / max(image.size)
    if scale < 1:
        size = Size(max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, PILImage.Resampling.LANCZOS)
        segmentation = _resize_result(segmentation, size)
    return encode_preview(overlay(image, segmentation, min_side=_MIN_SIDE))


def _resize_result(segmentation: Segmentation, size: Size) -> Segmentation:
    """Return a result as that of its image at another size, to be drawn."""
    x_scale, y_scale = size.width / segmentation.size.width, size.height / segmentation.size.height
    objects = []
    for segmented in segmentation.objects:
        box, points = segmented.prompt.box, segmented.prompt.points
        prompt = ObjectPrompt(
            Box(box.x1 * x_scale, box.y1 * y_scale, box.x2 * x_scale, box.y2 * y_scale),
            tuple(replace(point, x=point.x * x_scale, y=point.y * y_scale) for point in points),
        )
        mask = np.asarray(PILImage.fromarray(segmented.mask).resize(size, PILImage.Resampling.NEAREST))
        objects.append(replace(segmented, mask=mask, prompt=prompt, alternatives=()))
    return replace(segmentation, size=size, objects=tuple(objects))


def encode_preview(image: Image, max_length: int = MAX_PREVIEW_LENGTH) -> str:
    """Encode an image as JPEG in base64, of lower quality and then smaller until it fits.

    Args:
        image: RGB.
        max_length: Characters of base64 at most.
    """
    image = image.copy()
    image.thumbnail((_MAX_SIDE, _MAX_SIDE), PILImage.Resampling.LANCZOS)
    while True:
        for quality in _QUALITIES:
            file = BytesIO()
            image.save(file, "JPEG", quality=quality, optimize=True)
            text = base64.b64encode(file.getvalue()).decode("ascii")
            if len(text) <= max_length or max(image.size) == 1:
                return text
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)), PILImage.Resampling.LANCZOS)
