"""What a checkpoint's image processor makes of an image's size, and how an image is kept from costing too many tokens.

Families that read images of any size (Qwen-VL, GLM-4.xV) spend a token per 28 x 28 or 32 x 32 pixels, some 15,800 for a
photograph of 12 megapixels. Their processors take a limit themselves, so that the size of the image that the model gets is
known exactly; for other families the image is shrunk before its processor gets it.

Processors that cut the middle out of an image (LLaVA 1.5) would hide the outer parts of all but square ones. They get the
image in the middle of a square of their mean color, as LLaVA 1.5 was trained.
"""

import math
from dataclasses import dataclass
from typing import Any

from PIL import Image as PILImage

from sam4mllm_tool.protocol.padded_codec import margins, pad_size
from sam4mllm_tool.types import Image, Size

__all__ = ["DEFAULT_MAX_PIXELS", "ImagePreparation", "limit_pixels", "read_resizing"]

DEFAULT_MAX_PIXELS = 2**21
"""Of families that read images of any size: 2,675 tokens of 28 x 28 pixels, or 2,048 of 32 x 32."""


@dataclass(frozen=True)
class ImagePreparation:
    """What happens to an image before its processor gets it.

    Args:
        max_pixels: Largest area; None for no limit.
        padding: Color of what makes the image a square, R, G and B from 0 to 255; None to leave it in its shape.
        pads_images: Whether the model sees the image in a square: one that is made here, or by the processor itself.
    """

    max_pixels: int | None = None
    padding: tuple[int, int, int] | None = None
    pads_images: bool = False

    @classmethod
    def for_processor(cls, image_processor: Any, max_pixels: int | None) -> "ImagePreparation":
        """Return what images of a model with this image processor need, which `limit_pixels` has limited if it can."""
        padding = _choose_padding(image_processor)
        pads_images = padding is not None or _pads_itself(image_processor)
        return cls(None if read_resizing(image_processor) else max_pixels, padding, pads_images)

    def apply(self, image: Image) -> Image:
        """Return the image: padded if the processor would cut it, shrunk if it is larger than the model should read."""
        if self.padding is not None and image.width != image.height:
            image = _pad_to_square(image, self.padding)
        scale = math.sqrt((self.max_pixels or math.inf) / (image.width * image.height))
        if scale >= 1:
            return image
        width, height = (max(1, math.floor(side * scale)) for side in image.size)
        return image.resize((width, height), PILImage.Resampling.BICUBIC)


def _pad_to_square(image: Image, color: tuple[int, int, int]) -> Image:
    size = Size(*image.size)
    square = PILImage.new("RGB", pad_size(size), color)
    square.paste(image, margins(size))
    return square


def read_resizing(image_processor: Any) -> tuple[int, int, int] | None:
    """Return how images are resized, in families that resize as Qwen2-VL does: (multiple of both sides, least and most pixels).

    None for families with another rule.
    """
    merged, (least, most) = getattr(image_processor, "merge_size", None), _read_limits(image_processor)
    if not merged or not least or not most:
        return None
    frames = _count_frames(image_processor)
    return image_processor.patch_size * merged, least // frames, most // frames


def limit_pixels(image_processor: Any, max_pixels: int | None = None) -> None:
    """Lower the largest area of an image processor that resizes as Qwen2-VL's does; leave others as they are.

    Args:
        image_processor: Of transformers.
        max_pixels: As in `LoadOptions`.
    """
    if resizing := read_resizing(image_processor):
        multiple, least, most = resizing
        frames, cap = _count_frames(image_processor), max(max_pixels or DEFAULT_MAX_PIXELS, multiple**2)
        limits = {"shortest_edge": min(least, cap) * frames, "longest_edge": min(most, cap) * frames}
        image_processor.size = type(image_processor.size)(**limits)


def _choose_padding(image_processor: Any) -> tuple[int, int, int] | None:
    """Return the mean color of a processor that scales the shorter side of an image and then cuts a square out of its middle.

    None for those that cut more than that, and for those that cut an image into tiles and see its edges there.
    """
    side, crop = _read_limits(image_processor)[0], getattr(image_processor, "crop_size", None) or {}
    cuts = getattr(image_processor, "do_resize", False) and getattr(image_processor, "do_center_crop", False)
    tiles = getattr(image_processor, "image_grid_pinpoints", None)
    if not cuts or tiles or _pads_itself(image_processor) or {dict(crop).get(edge) for edge in ("height", "width")} != {side}:
        return None
    red, green, blue = (int(255 * mean) for mean in image_processor.image_mean)
    return red, green, blue


def _pads_itself(image_processor: Any) -> bool:
    """Whether it is LLaVA's own processor and its padding is on; others mean the padding of tiles by `do_pad`."""
    return type(image_processor).__name__.startswith("LlavaImageProcessor") and bool(image_processor.do_pad)


def _read_limits(image_processor: Any) -> tuple[int | None, int | None]:
    size = getattr(image_processor, "size", None) or {}
    least, most = (getattr(size, edge, None) or dict(size).get(edge) for edge in ("shortest_edge", "longest_edge"))
    return least, most


def _count_frames(image_processor: Any) -> int:
    """Return how often a pixel of an image counts: GLM-4.xV's processors take an image for a video of two frames."""
    return int(image_processor.temporal_patch_size) if type(image_processor).__name__.startswith("Glm") else 1
