"""Decode an encoded image to RGB within limits of size, memory and processor time.

The size is read from the header and checked before Pillow opens the image. Pillow reads from a file that ends the reading when
the time is over: all of its decoders read in small pieces, but libwebp's and libtiff's, whose time the size alone bounds.
"""

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib import import_module
from io import BytesIO
from typing import Any, Protocol

from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from sam4mllm_tool.errors import ImageError
from sam4mllm_tool.images.image_metadata import strip_metadata
from sam4mllm_tool.images.rgb_conversion import convert_to_upright_rgb, ignore_pillow_warnings
from sam4mllm_tool.types import Image

__all__ = ["DecodingLimits", "check_size", "decode_image"]

_READ_BYTES = 4096
"""How much a decoder is given at once. An empty scan of a progressive JPEG takes some ten bytes."""


class DecodingLimits(Protocol):
    """What `ImagePolicy` says about decoding."""

    @property
    def max_pixels(self) -> int: ...
    @property
    def formats(self) -> tuple[str, ...]: ...
    @property
    def decode_timeout_s(self) -> float: ...


class _TimedFile(BytesIO):
    """An encoded image in memory that can't be read any more once this thread has computed for `seconds`."""

    def __init__(self, content: bytes, seconds: float) -> None:
        super().__init__(content)
        self._end = time.thread_time() + seconds

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._end:
            raise _DecodingTimeError
        return super().read(size)


class _DecodingTimeError(Exception):
    """The time limit is over."""


def decode_image(content: bytes, what: str, limits: DecodingLimits) -> Image:
    """Decode an encoded image as a new, upright, 8-bit RGB image without metadata.

    Args:
        content: The bytes of the image.
        what: Names the image in error messages.
        limits: The largest size, the formats, and the time.

    Raises:
        ImageError: The image is damaged, over a limit, or of another format.
    """
    encoded = strip_metadata(content, what)
    if encoded.size is not None:
        check_size(*encoded.size, what, limits.max_pixels)
    file = _TimedFile(encoded.content, limits.decode_timeout_s)
    with _name_errors(what, limits), _open(file, what, limits) as image:
        check_size(image.width, image.height, what, limits.max_pixels)
        return convert_to_upright_rgb(_load(image), encoded.orientation, what)


def check_size(width: int, height: int, what: str, max_pixels: int) -> None:
    """Raise ImageError for an image without pixels, or with more than `max_pixels`."""
    if width < 1 or height < 1:
        raise ImageError(f"{what} is {width} x {height} pixels: there is nothing in it")
    if width * height > max_pixels:
        raise ImageError(f"{what} is {width} x {height} pixels, over the limit of {max_pixels:,}; scale it down")


def _open(file: BytesIO, what: str, limits: DecodingLimits) -> Image:
    """Open an encoded image without decoding its pixels."""
    try:
        with ignore_pillow_warnings() if _may_warn(file, limits) else nullcontext():
            return PILImage.open(file, formats=limits.formats)
    except _DecodingTimeError:
        raise
    except UnidentifiedImageError as error:
        names = ", ".join(limits.formats)
        raise ImageError(f"{what} is in none of the formats {names}, or it is damaged at its start") from error
    except PILImage.DecompressionBombError as error:
        limit = 2 * (PILImage.MAX_IMAGE_PIXELS or 0)  # Pillow has its own limit
        raise ImageError(f"{what} has too many pixels, over the limit of {limit:,}; scale it down") from error
    except Exception as error:  # on hostile bytes a decoder raises anything
        raise ImageError(f"{what} has a damaged header: {error}") from error


def _may_warn(file: BytesIO, limits: DecodingLimits) -> bool:
    """Whether Pillow may warn of a large size or of a TIFF's tags. Silencing it locks the filters of the whole process."""
    return limits.max_pixels > (PILImage.MAX_IMAGE_PIXELS or 0) or bytes(file.getbuffer()[:2]) in (b"II", b"MM")


@contextmanager
def _name_errors(what: str, limits: DecodingLimits) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except _DecodingTimeError:
        raise ImageError(
            f"{what} takes more than {limits.decode_timeout_s:g} seconds to decode (decode_timeout_s of the policy); save it "
            "again with an image editor"
        ) from None
    except Exception as error:  # on hostile bytes a decoder raises anything
        raise ImageError(f"{what} cannot be decoded, it may be cut off or damaged: {error}") from error


@cache
def _silence_libtiff() -> None:
    """Keep libtiff, and libjpeg inside it, from writing to file descriptor 2 what Pillow raises as an error too.

    The handlers are Pillow's whole libtiff's. Where it is linked otherwise, as on Windows, they stay.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(import_module("PIL._imaging").__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)


def _load(image: Any) -> Image:
    """Decode the pixels of an opened image."""
    if image.format == "TIFF":
        _silence_libtiff()
        with ignore_pillow_warnings():  # Pillow reads the tags again at the end
            image.load()
    decoder = vars(image).pop("_decoder", None) if image.format == "WEBP" else None
    if decoder is None:
        image.decodermaxblock = min(_READ_BYTES, image.decodermaxblock)
        image.load()
        loaded: Image = image
        return loaded
    frame = decoder.get_next()  # Pillow would hold libwebp's two canvases and two copies of them at once
    return PILImage.frombuffer(image.mode, image.size, frame[0], "raw", image.rawmode, 0, 1)
