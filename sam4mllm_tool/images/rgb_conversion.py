"""Convert decoded images of any mode, and arrays, to upright 8-bit RGB without metadata.

Transparency is composited on white. Grey values of 16 bits are scaled to 8, floats are expected in [0, 1].
"""

import hashlib
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags
from PIL import Image as PILImage

from sam4mllm_tool.errors import ImageError
from sam4mllm_tool.types import Image

__all__ = [
    "array_to_rgb",
    "convert_to_upright_rgb",
    "ensure_rgb",
    "hash_pixels",
    "ignore_pillow_warnings",
    "image_to_rgb",
]

_WARNINGS_LOCK = threading.Lock()  # warnings.catch_warnings is not thread-safe
_LOADING_LOCKS = tuple(threading.Lock() for _ in range(64))
_CONVERTED_PIXELS = 2**20
_ORIENTATION_TO_TRANSPOSE = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}
"""EXIF orientation -> the transposition that makes the image upright."""
_GREY_16_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


@contextmanager
def ignore_pillow_warnings() -> Iterator[None]:
    """Silence Pillow's warnings: about damaged metadata, which hides no pixels, and about size, which `ImagePolicy` limits."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
        yield


def ensure_rgb(image: Image) -> Image:
    """Return an image that is RGB as it is, and any other as `image_to_rgb` does."""
    return image if image.mode == "RGB" else image_to_rgb(image, "the image")


def hash_pixels(rgb: Image) -> bytes:
    """Return a hash of an RGB image's pixels and size: an image that was drawn on is new, one that was loaded again is not."""
    hashed = hashlib.sha256(b"%dx%d\n" % rgb.size)  # processors compute it faster than others
    hashed.update(rgb.tobytes())
    return hashed.digest()


def image_to_rgb(image: Image, what: str) -> Image:
    """Return an upright RGB copy of a caller's PIL image, without metadata. `what` names the image in error messages.

    Raises:
        ImageError: The values are outside the range of their mode.
    """
    with _LOADING_LOCKS[id(image) % len(_LOADING_LOCKS)]:  # an image that isn't loaded yet has one decoder for all threads
        image.load()
    with ignore_pillow_warnings():
        orientation = _read_orientation(image)
    return convert_to_upright_rgb(image, orientation, what)


def convert_to_upright_rgb(image: Image, orientation: int, what: str) -> Image:
    """Return an upright RGB copy of a loaded image, without metadata.

    Args:
        image: Of any mode.
        orientation: EXIF's number, 1 to 8.
        what: Names the image in error messages.

    Raises:
        ImageError: The values are outside the range of their mode.
    """
    rgb = _convert_mode(image, what)
    if orientation in _ORIENTATION_TO_TRANSPOSE:
        rgb = rgb.transpose(_ORIENTATION_TO_TRANSPOSE[orientation])
    elif rgb is image:
        rgb = image.copy()
    rgb.info.clear()
    return rgb


def _read_orientation(image: Image) -> int:
    """Read the EXIF orientation of a caller's PIL image, which may have been set on the object; 1 where it has none."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001  # damaged metadata hides no pixels, and Pillow raises anything
        return 1
    return orientation if isinstance(orientation, int) else 1


def array_to_rgb(array: npt.NDArray[Any], what: str) -> Image:
    """Convert a (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA array of bool, uint8, uint16 or floats in [0, 1].

    Raises:
        ImageError: Another dtype, NaN or infinity, or floats outside [0, 1].
    """
    image = PILImage.fromarray(np.ascontiguousarray(_to_uint8(array, what)))
    return _composite_on_white(image) if image.mode == "RGBA" else image.convert("RGB")


def _convert_mode(image: Image, what: str) -> Image:
    """Convert to RGB; an RGB image is returned itself."""
    if image.mode in _GREY_16_BIT_MODES or image.mode == "F":
        return _grey_to_rgb(image, what)
    if image.has_transparency_data:
        # Pillow converts premultiplied grey ("La") to nothing but "LA"
        straight = image.convert("LA") if image.mode == "La" else image
        return _composite_on_white(straight.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_to_rgb(image: Image, what: str) -> Image:
    """Convert grey of more than 8 bits: integers in 0..65535 or floats in [0, 1]. Some rows at once, to save memory."""
    rgb = PILImage.new("RGB", image.size)
    step = max(1, _CONVERTED_PIXELS // image.width)
    for top in range(0, image.height, step):
        rows = image.crop((0, top, image.width, min(top + step, image.height)))
        rgb.paste(_grey_rows_to_rgb(np.asarray(rows), image, what), (0, top))
    return rgb


def _grey_rows_to_rgb(values: npt.NDArray[Any], image: Image, what: str) -> Image:
    if image.mode != "F":
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ImageError(f"{what} has values {values.min()}..{values.max()}; scale them to 16 bits, 0..65535")
        values = values.astype(np.uint16)
    grey = _to_uint8(values, what)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(values == transparent, np.uint8(255), grey)
    return PILImage.fromarray(grey).convert("RGB")


def _to_uint8(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.uint8]:
    """Scale values from their dtype's range, floats from [0, 1], to 0..255, and round them."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype.kind != "f":
        raise ImageError(f"expected {what} as bool, uint8, uint16 or floats in [0, 1], got {values.dtype}")
    if not np.isfinite(values).all():
        raise ImageError(f"{what} has NaN or infinite values; replace them first")
    if values.min() < 0 or values.max() > 1:
        raise ImageError(f"{what} has floats in {values.min():g}..{values.max():g}, expected [0, 1]; rescale them")
    return np.rint(values.astype(np.float32) * 255).astype(np.uint8)


def _composite_on_white(image: Image) -> Image:
    rgb = PILImage.new("RGB", image.size, "white")
    rgb.paste(image, mask=image)
    return rgb
