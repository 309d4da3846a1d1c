"""Images made of an image and its masks: the mask, an instance map, cut-outs, the object erased, the background blurred.

A pixel belongs to an object or it does not: edges are hard, so that nothing of the surroundings is left in a cut-out, and
nothing of the object where it was erased, not even under transparent pixels.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage
from PIL import ImageFilter

from sam4mllm_tool.images.draw import OBJECT_COLOURS
from sam4mllm_tool.types import Image, Segmentation

__all__ = ["blurred_image", "cutout_image", "erased_image", "instance_image", "mask_image"]

_BLUR_SHARE = 0.02
"""Standard deviation of the blur, as a share of the image's longer side."""
_MAX_PALETTE = 255


def mask_image(segmentation: Segmentation) -> Image:
    """Return the union of the masks as an 8-bit grey image of the same size: 255 on the objects, 0 elsewhere."""
    return PILImage.fromarray(segmentation.mask.astype(np.uint8) * np.uint8(255))


def instance_image(segmentation: Segmentation) -> Image:
    """Return an image whose pixel values are the objects' numbers, from 1; 0 is the background.

    Where masks overlap, the smallest is on top. Up to 255 objects it is an image with a palette (mode P), so that it can be
    looked at; with more, one of 16 bits (mode I;16).
    """
    count = len(segmentation.objects)
    shape = (segmentation.size.height, segmentation.size.width)
    numbers: npt.NDArray[np.uint16] = np.zeros(shape, np.uint16)
    for index in sorted(range(count), key=lambda index: -int(segmentation.objects[index].mask.sum())):
        numbers[segmentation.objects[index].mask] = index + 1
    if count > _MAX_PALETTE:
        return PILImage.fromarray(numbers)
    image = PILImage.fromarray(numbers.astype(np.uint8))
    colours = [OBJECT_COLOURS[index % len(OBJECT_COLOURS)] for index in range(_MAX_PALETTE)]
    image.putpalette([0, 0, 0, *(level for colour in colours for level in colour)])
    return image


def cutout_image(image: Image, segmentation: Segmentation, *, cropped: bool = False) -> Image:
    """Return the objects on a transparent ground, RGBA: nothing of the image is left around them.

    Args:
        image: RGB, of the segmentation's size.
        segmentation: Its masks are cut out.
        cropped: Whether to crop to the objects. Without an object there is nothing to crop to, and the size stays.

    Raises:
        ValueError: Image and segmentation differ in size.
    """
    mask = _fitting_mask(image, segmentation)
    cutout = PILImage.new("RGBA", image.size)
    cutout.paste(image.convert("RGB"), (0, 0), mask)
    cutout.putalpha(mask)
    return cutout.crop(mask.getbbox()) if cropped and mask.getbbox() else cutout


def erased_image(image: Image, segmentation: Segmentation) -> Image:
    """Return the image without the objects, RGBA, of the same size: transparent where they were, with nothing of them left.

    Raises:
        ValueError: Image and segmentation differ in size.
    """
    kept = _fitting_mask(image, segmentation).point(lambda level: 255 - level)
    erased = PILImage.new("RGBA", image.size)
    erased.paste(image.convert("RGB"), (0, 0), kept)
    erased.putalpha(kept)
    return erased


def blurred_image(image: Image, segmentation: Segmentation) -> Image:
    """Return the image, RGB, with everything but the objects blurred. The objects' colours don't bleed into the background.

    Raises:
        ValueError: Image and segmentation differ in size.
    """
    mask = _fitting_mask(image, segmentation)
    # Premultiplied by its alpha, the background is averaged over background pixels alone.
    background = erased_image(image, segmentation).convert("RGBa")
    blurred = background.filter(ImageFilter.GaussianBlur(_BLUR_SHARE * max(image.size))).convert("RGBA").convert("RGB")
    blurred.paste(image.convert("RGB"), (0, 0), mask)
    return blurred


def _fitting_mask(image: Image, segmentation: Segmentation) -> Image:
    if image.size != segmentation.size:
        raise ValueError(f"the image is {image.size}, the segmentation is for an image of {tuple(segmentation.size)}")
    return mask_image(segmentation)
