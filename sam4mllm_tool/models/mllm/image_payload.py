"""Images as remote models get them: resized on our side, so that the frame is known, and encoded as data URIs.

A server resizes what it is sent once more, by a rule that differs between servers and is not reported. An image that already
has a size which the family's rule leaves alone stays as it is, so pixels of the image as sent are those that the model counts.
"""

import base64
import io
import math
import threading
from collections import OrderedDict

from PIL import Image as PILImage
from PIL import ImageDraw

from sam4mllm_tool.images.rgb_conversion import ensure_rgb, hash_pixels
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.protocol.native_codec import Resizing, ResizingRule
from sam4mllm_tool.types import Image, Size

__all__ = ["MAX_PIXELS", "MIN_PIXELS", "ImagePayload", "draw_test_image"]

MAX_PIXELS = 1280 * 28 * 28
"""Largest image that is sent, about one megapixel: 1,280 tokens of Qwen2.5-VL, and below what hosted models shrink."""
MIN_PIXELS = 56 * 56
_MULTIPLE = 28
"""Qwen2.5-VL's rule, for families that count pixels and state no rule of their own."""
_MIN_SIDE = 28
"""Servers refuse images that are narrower."""
_MAX_PNG_BYTES = 1_500_000
_CACHED = 4
_TEST_SIDE = 336


class ImagePayload:
    """Resizes and encodes images, and keeps the last few, so that all questions about an image send the same bytes.

    Args:
        dialect: Where it counts pixels of the image as the model gets it, images get sizes that the family leaves alone.
        max_pixels: Larger images are shrunk to it, also where the family takes more.
    """

    def __init__(self, dialect: Dialect, max_pixels: int = MAX_PIXELS) -> None:
        self.resizing: ResizingRule | None = None
        """As `Dialect.resizing`; None where coordinates don't depend on the size."""
        if dialect.frame == "processed":
            multiple, least, most, *sides = dialect.resizing or (_MULTIPLE, MIN_PIXELS, max_pixels)
            self.resizing = (multiple, least, max(least, min(most, max_pixels)), *sides)
        self._max_pixels = max_pixels
        self._encoded: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, image: Image) -> str:
        """Return the image as a data URI: PNG, or JPEG where that would be large."""
        rgb = ensure_rgb(image)
        key = hash_pixels(rgb)
        with self._lock:
            uri = self._encoded.get(key)
        if uri is None:
            uri = _encode(_resize(rgb, self.sent_size(Size(*rgb.size))))
        with self._lock:
            self._encoded[key] = uri
            self._encoded.move_to_end(key)
            if len(self._encoded) > _CACHED:
                self._encoded.popitem(last=False)
        return uri

    def sent_size(self, size: Size) -> Size:
        """Return the size in which an image of `size` pixels is sent."""
        if self.resizing is not None:
            return Resizing(*self.resizing).apply(size)
        scale = min(1.0, math.sqrt(self._max_pixels / (size.width * size.height)))
        scale = max(scale, _MIN_SIDE / min(size))
        return Size(*(max(_MIN_SIDE, math.floor(side * scale)) for side in size)) if scale != 1 else size


def draw_test_image() -> Image:
    """Draw what a model is asked about to learn whether it answers: a red square."""
    image = PILImage.new("RGB", (_TEST_SIDE, _TEST_SIDE), "white")
    ImageDraw.Draw(image).rectangle((100, 100, 236, 236), fill="red")
    return image


def _resize(image: Image, size: Size) -> Image:
    return image if image.size == size else image.resize(size, PILImage.Resampling.BICUBIC)


def _encode(image: Image) -> str:
    for kind, settings in (("png", {}), ("jpeg", {"quality": 95, "subsampling": 0})):
        buffer = io.BytesIO()
        image.save(buffer, kind, **settings)
        if buffer.tell() <= _MAX_PNG_BYTES:
            break
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
