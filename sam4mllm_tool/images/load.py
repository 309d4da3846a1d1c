"""Load an image from a path, bytes, a data URI, a URL, an array or a PIL image, as upright 8-bit RGB.

This is the only way an image enters the package, and every limit on it is in `ImagePolicy`. Every failure is an `ImageError`
that names the problem and its cure. A tool call may reach less than a caller in Python: `TOOL_POLICY` opens neither paths nor
URLs.
"""

import base64
import binascii
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from sam4mllm_tool.errors import ImageError, quote_text
from sam4mllm_tool.images.decoding import check_size, decode_image
from sam4mllm_tool.images.image_files import read_image_file
from sam4mllm_tool.images.rgb_conversion import array_to_rgb, image_to_rgb
from sam4mllm_tool.types import Image

__all__ = ["CALLER_POLICY", "TOOL_POLICY", "ImagePolicy", "ImageSource", "load_image", "read_image"]

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Image | npt.NDArray[Any]
"""A path, data URI or URL as a string; a Path; the bytes of an encoded image; a PIL image; an array."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # an MPO file is opened as the JPEG that it begins with


_MAX_ESCAPES = 2**20
"""Percent signs in a data URI: decoding them takes fifty times the memory of their bytes."""


@dataclass(frozen=True, kw_only=True)
class ImagePolicy:
    """What may be opened, and how large it may be.

    Attributes:
        max_bytes: Largest encoded image, in bytes.
        max_pixels: Largest width x height.
        formats: Accepted formats, by Pillow's names.
        allow_paths: True for any file, False for none, or the folders that a file must lie in once symbolic links are
            resolved; a relative path is then looked up in each of them, and may also begin with the folder's name.
        allow_urls: Open http and https URLs at public addresses.
        url_hosts: The only hosts that URLs and their redirects may lead to; None for any.
        allow_private_addresses: Also open URLs on this machine and its network, for a server of your own.
        url_seconds: Time limit for a whole download, in seconds.
        decode_timeout_s: Time limit for decoding one image, in seconds of its thread's processor time, so that an image isn't
            refused because a machine is busy. The largest progressive JPEGs of noise take 3.
        max_message_images: Most images taken out of one message of a conversation.
        max_message_pixels: Most pixels of all images of one message together.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 64_000_000
    formats: tuple[str, ...] = _FORMATS
    allow_paths: bool | tuple[str | os.PathLike[str], ...] = True
    allow_urls: bool = False
    url_hosts: tuple[str, ...] | None = None
    allow_private_addresses: bool = False
    url_seconds: float = 10.0
    decode_timeout_s: float = 4.0
    max_message_images: int = 16
    max_message_pixels: int = 128_000_000

    def __post_init__(self) -> None:
        if not isinstance(self.allow_paths, bool | tuple):
            raise ValueError(f"expected allow_paths as True, False or a tuple of folders, got {self.allow_paths!r}")
        if not set(self.formats) <= set(_FORMATS):
            PILImage.init()
            if unknown := set(self.formats) - set(PILImage.OPEN):
                raise ValueError(f"Pillow opens no format named {', '.join(sorted(unknown))}")


CALLER_POLICY = ImagePolicy()
"""For callers in Python and the command line: any path, no URLs."""
TOOL_POLICY = ImagePolicy(allow_paths=False)
"""For tool calls, whose arguments a model wrote: neither paths nor URLs."""


def load_image(source: ImageSource, *, policy: ImagePolicy = CALLER_POLICY) -> Image:
    """Load an image as a new, upright, 8-bit RGB image without metadata; the source is not changed.

    Args:
        source: See `ImageSource`. Arrays are (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, of bool, uint8, uint16 or floats
            in [0, 1]. Transparency is composited on white, 16-bit values are scaled to 8 bits, and the first frame of an
            animation is taken.
        policy: What may be opened, and how large it may be.

    Raises:
        ImageError: The image can't be read, is over a limit or is not allowed.
    """
    if isinstance(source, PILImage.Image):
        return _copy_image(source, policy)
    if isinstance(source, np.ndarray):
        return _load_array(source, policy)
    return _load_bytes(*_read(source, policy), policy)


def read_image(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview, *, policy: ImagePolicy = CALLER_POLICY
) -> bytes:
    """Return an encoded image as it is, once `load_image` has opened it.

    Args:
        source: See `ImageSource`; no array and no PIL image, which are not encoded.
        policy: What may be opened, and how large it may be.

    Raises:
        ImageError: As `load_image`.
    """
    content, what = _read(source, policy)
    _load_bytes(content, what, policy)
    return content


def _read(source: object, policy: ImagePolicy) -> tuple[bytes, str]:
    """Return an encoded image, and what names it in error messages."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), "the image given as bytes"
    if isinstance(source, str):
        return _read_string(source, policy)
    if isinstance(source, os.PathLike):
        return _read_path(Path(source), policy)
    raise ImageError(
        f"expected an image as a path, bytes, a data URI, a PIL image or a NumPy array, got {type(source).__name__}"
    )


def _read_string(source: str, policy: ImagePolicy) -> tuple[bytes, str]:
    stripped = source.strip()
    if not stripped:
        raise ImageError("the image is an empty string; give a path, a data URI or a URL")
    match = re.match(r"([a-z][a-z0-9+.-]+):", stripped, re.IGNORECASE)
    scheme = match[1].lower() if match else ""
    if scheme == "data":
        return _decode_data_uri(stripped, policy), "the image in the data URI"
    if scheme in ("http", "https"):
        return _read_url(stripped, policy), "the image at the URL"
    if scheme and stripped[len(scheme) :].startswith("://"):
        raise ImageError(f"images at {scheme}:// are not opened; give a path, a data URI or an http(s) URL")
    return _read_path(Path(source), policy)


def _read_url(url: str, policy: ImagePolicy) -> bytes:
    if not policy.allow_urls:
        raise ImageError("image URLs are turned off here (allow_urls of the policy); give the image as a data URI")
    from sam4mllm_tool.images.fetch import fetch_image_bytes  # httpx takes a while to import

    return fetch_image_bytes(
        url,
        max_bytes=policy.max_bytes,
        timeout_s=policy.url_seconds,
        allow_private_addresses=policy.allow_private_addresses,
        hosts=policy.url_hosts,
    )


def _decode_data_uri(uri: str, policy: ImagePolicy) -> bytes:
    head, comma, payload = uri.partition(",")
    if not comma:
        raise ImageError("malformed data URI: no comma; expected data:image/png;base64,...")
    is_base64 = head.lower().endswith(";base64")
    if len(payload) > (2 if is_base64 else 3) * policy.max_bytes + _MAX_ESCAPES:
        raise ImageError(f"the image in the data URI is over the limit of {policy.max_bytes:,} bytes")
    if payload.count("%") > _MAX_ESCAPES:
        raise ImageError(f"the data URI has more than {_MAX_ESCAPES:,} percent signs; encode the image as base64")
    try:
        content = unquote_to_bytes(payload) if "%" in payload else payload.encode()
    except UnicodeEncodeError as error:
        raise ImageError(
            "malformed data URI: it contains half a character (an unpaired surrogate); is it base64 or percent-encoded?"
        ) from error
    return _decode_base64(content) if is_base64 else content


def _decode_base64(content: bytes) -> bytes:
    content = content.translate(None, b" \t\r\n\f\v")
    try:
        return base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
    except binascii.Error as error:
        raise ImageError(f"malformed data URI: not base64 ({error}); is it cut off?") from error


def _read_path(path: Path, policy: ImagePolicy) -> tuple[bytes, str]:
    if not policy.allow_paths:
        raise ImageError("image paths are turned off here (allow_paths of the policy); give the image as a data URI")
    what = f"the image {quote_text(str(path))}"
    roots = policy.allow_paths if isinstance(policy.allow_paths, tuple) else None
    return read_image_file(path, what, max_bytes=policy.max_bytes, roots=roots), what


def _load_bytes(content: bytes, what: str, policy: ImagePolicy) -> Image:
    if not content:
        raise ImageError(f"{what} is empty (0 bytes)")
    if len(content) > policy.max_bytes:
        raise ImageError(f"{what} is over the limit of {policy.max_bytes:,} bytes; make it smaller")
    return decode_image(content, what, policy)


def _copy_image(image: Image, policy: ImagePolicy) -> Image:
    """Load and convert the pixels of a caller's own PIL image."""
    what = "the PIL image"
    check_size(image.width, image.height, what, policy.max_pixels)
    try:
        return image_to_rgb(image, what)
    except ImageError:
        raise
    except Exception as error:  # a decoder raises anything
        raise ImageError(f"{what} cannot be decoded, it may be cut off or damaged: {error}") from error


def _load_array(array: npt.NDArray[Any], policy: ImagePolicy) -> Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(f"expected an array of shape (H, W), (H, W, 3) or (H, W, 4), got {array.shape}")
    check_size(array.shape[1], array.shape[0], "the array", policy.max_pixels)
    return array_to_rgb(array, "the array")
