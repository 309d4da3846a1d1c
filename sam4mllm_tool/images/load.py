"""The only way a picture gets in: from a path, bytes, a data URI, a URL, an array or a PIL image, to upright 8-bit RGB.

Whatever the source, every limit is here. The size is read from the header and checked before a pixel is decoded, the
formats are those of `ImagePolicy`, and whatever is wrong with a picture is an `ImageError` that says what and what to do.
What a tool call may reach is less than what a caller in Python may: `TOOL_POLICY` opens neither paths nor URLs.
"""

import base64
import binascii
import os
import re
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PILImage

from sam4mllm_tool.errors import ImageError, quote_text
from sam4mllm_tool.images.fetch import fetch
from sam4mllm_tool.types import Image

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Image | npt.NDArray[Any]
"""A path, a data URI or a URL as a string; a Path; an encoded picture's bytes; a PIL image; an array."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # MPO is opened as the JPEG that it begins with


@dataclass(frozen=True, kw_only=True)
class ImagePolicy:
    """What may be opened, and how large it may be.

    max_bytes: of an encoded picture. max_pixels: width x height. formats: Pillow's names.
    allow_paths: True for any file, or the folders that files must lie in once symbolic links are followed; a relative path
    is then looked for in each. allow_urls: http and https on public addresses; allow_private_addresses also reaches this
    machine and its network, for a server of your own. url_seconds: for a whole download.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 64_000_000
    formats: tuple[str, ...] = _FORMATS
    allow_paths: bool | tuple[str | os.PathLike[str], ...] = True
    allow_urls: bool = False
    allow_private_addresses: bool = False
    url_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not isinstance(self.allow_paths, bool | tuple):
            raise ValueError(f"expected allow_paths as True, False or a tuple of folders, got {self.allow_paths!r}")
        if not set(self.formats) <= set(_FORMATS):
            PILImage.init()
            if unknown := set(self.formats) - set(PILImage.OPEN):
                raise ValueError(f"Pillow opens no format named {', '.join(sorted(unknown))}")


CALLER_POLICY = ImagePolicy()
"""For a caller in Python and the command: any path, no URLs."""
TOOL_POLICY = ImagePolicy(allow_paths=False)
"""For a tool call, whose arguments a model wrote: neither paths nor URLs."""

_WARNINGS_LOCK = threading.Lock()  # warnings.catch_warnings is not safe for threads
_TO_UPRIGHT = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}
"""From an EXIF orientation to what undoes it."""
_WIDE_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def load_image(source: ImageSource, *, policy: ImagePolicy = CALLER_POLICY) -> Image:
    """The picture as a new, upright, 8-bit RGB image without metadata; the source is left as it was.

    source: see `ImageSource`. Arrays are (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, of bool, uint8, uint16 or floats in
    [0, 1]. Transparency is composited on white, 16-bit values are scaled to 8, of an animation the first frame is taken.
    Raises ImageError for everything that cannot be read, is over a limit, or is not allowed.
    """
    if isinstance(source, PILImage.Image):
        return _from_pil(source, policy)
    if isinstance(source, np.ndarray):
        return _from_array(source, policy)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), "the image given as bytes", policy)
    if isinstance(source, str):
        return _from_string(source, policy)
    if isinstance(source, os.PathLike):
        return _from_path(Path(source), policy)
    raise ImageError(
        f"expected an image as a path, bytes, a data URI, a PIL image or a NumPy array, got {type(source).__name__}"
    )


def _from_string(source: str, policy: ImagePolicy) -> Image:
    scheme = re.match(r"([a-z][a-z0-9+.-]+):", source.strip(), re.IGNORECASE)
    match scheme.group(1).lower() if scheme else "":
        case "data":
            return _from_bytes(_data_uri(source.strip(), policy), "the image in the data URI", policy)
        case "http" | "https":
            if not policy.allow_urls:
                raise ImageError("image URLs are turned off here (allow_urls of the policy); give the picture as a data URI")
            content = fetch(
                source.strip(),
                max_bytes=policy.max_bytes,
                seconds=policy.url_seconds,
                allow_private_addresses=policy.allow_private_addresses,
            )
            return _from_bytes(content, "the image at the URL", policy)
        case other if other and "://" in source[: len(other) + 5]:
            raise ImageError(f"images at {other}:// are not opened; give a path, a data URI or an http(s) URL")
    if not source.strip():
        raise ImageError("the image is an empty string; give a path, a data URI or a URL")
    return _from_path(Path(source), policy)


def _data_uri(uri: str, policy: ImagePolicy) -> bytes:
    head, comma, payload = uri.partition(",")
    if not comma:
        raise ImageError("malformed data URI: no comma; expected data:image/png;base64,...")
    if len(payload) > 4 * policy.max_bytes:  # three characters a byte at most, and some room for line breaks
        raise ImageError(f"the image in the data URI is over the limit of {policy.max_bytes:,} bytes")
    try:
        content = unquote_to_bytes(payload)
    except UnicodeEncodeError as error:  # a name of bytes that are no text comes in as half characters
        raise ImageError("malformed data URI: it has half a character in it; is it base64 or percent-encoded?") from error
    if not head.lower().endswith(";base64"):
        return content
    content = b"".join(content.split())
    try:
        return base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
    except binascii.Error as error:
        raise ImageError(f"malformed data URI: not base64 ({error}); is it cut off?") from error


def _from_path(path: Path, policy: ImagePolicy) -> Image:
    if not policy.allow_paths:
        raise ImageError("image paths are turned off here (allow_paths of the policy); give the picture as a data URI")
    what = f"the image {quote_text(str(path))}"
    try:
        if isinstance(policy.allow_paths, tuple):
            path = _inside(path, [Path(root).resolve() for root in policy.allow_paths])
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{what} is a folder; give one of the pictures in it")
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device could block, or never end
            raise ImageError(f"{what} is not a regular file")
        with path.open("rb") as file:
            content = file.read(policy.max_bytes + 1)
    except FileNotFoundError as error:
        raise ImageError(f"{what} does not exist") from error
    except OSError as error:
        raise ImageError(f"{what} cannot be opened: {error.strerror or error}") from error
    except (ValueError, RuntimeError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{what} cannot be opened: {error}") from error  # a null character, a loop of links
    return _from_bytes(content, what, policy)


def _inside(path: Path, roots: list[Path]) -> Path:
    """Where the path really leads, if that is in one of the roots. Says the same of what exists elsewhere and what does not."""
    candidates = [(root / path).resolve() for root in roots]  # an absolute path replaces the root
    allowed = [found for found in candidates if any(found.is_relative_to(root) for root in roots)]
    if not allowed:
        raise ImageError(f"the image {quote_text(str(path))} is not in a folder that pictures may be opened from")
    return next((found for found in allowed if found.exists()), allowed[0])


def _from_bytes(content: bytes, what: str, policy: ImagePolicy) -> Image:
    if not content:
        raise ImageError(f"{what} is empty (0 bytes)")
    if len(content) > policy.max_bytes:
        raise ImageError(f"{what} is over the limit of {policy.max_bytes:,} bytes; make it smaller")
    try:
        image = _read_header(content, policy)
    except UnidentifiedImageError as error:
        width, height = _claimed_size(content) or (1, 1)
        if not (width and height):  # Pillow takes it for no picture
            raise ImageError(_nothing_in_it(what, width, height)) from error
        names = ", ".join(policy.formats)
        raise ImageError(f"{what} is in none of the formats {names}, or it is damaged at its start") from error
    except PILImage.DecompressionBombError as error:
        width, height = _claimed_size(content) or (0, 0)
        size = f"is {width} x {height} pixels" if width else "has too many pixels"
        limit = min(policy.max_pixels, 2 * (PILImage.MAX_IMAGE_PIXELS or policy.max_pixels))  # Pillow has one of its own
        raise ImageError(f"{what} {size}, over the limit of {limit:,}; scale it down") from error
    except Exception as error:  # a decoder given hostile bytes raises anything
        raise ImageError(f"{what} has a damaged header: {error}") from error
    with image:
        return _decode(image, what, policy)


def _read_header(content: bytes, policy: ImagePolicy) -> Image:
    with _quietly():
        return PILImage.open(BytesIO(content), formats=policy.formats)


def _claimed_size(content: bytes) -> tuple[int, int] | None:
    """Width and height that the header of a PNG, a GIF or a BMP claims, None for anything else."""
    for magic, layout, place in ((b"\x89PNG\r\n\x1a\n", ">II", 16), (b"GIF8", "<HH", 6), (b"BM", "<ii", 18)):
        if content.startswith(magic) and len(content) >= place + struct.calcsize(layout):
            width, height = struct.unpack_from(layout, content, place)
            return width, abs(height)  # a BMP that begins with its upper row has a negative one
    return None


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Pillow's warnings: of damaged metadata, which hides no picture, and of many pixels, where our limit decides."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
        yield


def _from_pil(image: Image, policy: ImagePolicy) -> Image:
    return _decode(image, "the PIL image", policy)


def _decode(image: Image, what: str, policy: ImagePolicy) -> Image:
    """Checks the size, then decodes. image: opened, not necessarily loaded."""
    _check_size(image.width, image.height, what, policy)
    try:
        image.load()
        rgb = _to_rgb(_upright(image), what)
    except ImageError:
        raise
    except Exception as error:  # a decoder given hostile bytes raises anything
        raise ImageError(f"{what} cannot be decoded, it may be cut off or damaged: {error}") from error
    rgb.info.clear()
    return rgb


def _upright(image: Image) -> Image:
    """A copy as the camera saw it. ImageOps.exif_transpose would also rewrite the metadata, and fail where that is damaged."""
    with _quietly():
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    return image.transpose(_TO_UPRIGHT[orientation]) if orientation in _TO_UPRIGHT else image.copy()


def _to_rgb(image: Image, what: str) -> Image:
    """image: any mode, not the caller's own object."""
    if image.mode in _WIDE_GREY or image.mode == "F":
        return _wide_to_rgb(image, what)
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image  # Pillow takes the premultiplied one no further
        return _on_white(straight.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _wide_to_rgb(image: Image, what: str) -> Image:
    """Grey of more than 8 bits: integers over 0..65535, floats over [0, 1]."""
    values = np.asarray(image)
    if image.mode != "F":
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ImageError(f"{what} has values {values.min()}..{values.max()}; scale them to 16 bits, 0..65535")
        values = values.astype(np.uint16)
    grey = _to_uint8(values, what)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(values == transparent, np.uint8(255), grey)
    return PILImage.fromarray(grey).convert("RGB")


def _from_array(array: npt.NDArray[Any], policy: ImagePolicy) -> Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(f"expected an array of shape (H, W), (H, W, 3) or (H, W, 4), got {array.shape}")
    _check_size(array.shape[1], array.shape[0], "the array", policy)
    image = PILImage.fromarray(np.ascontiguousarray(_to_uint8(array, "the array")))
    return _on_white(image) if image.mode == "RGBA" else image.convert("RGB")


def _to_uint8(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.uint8]:
    """Values over their dtype's range, floats over [0, 1], to 0..255, rounded."""
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


def _on_white(image: Image) -> Image:
    white = PILImage.new("RGBA", image.size, "white")
    return PILImage.alpha_composite(white, image).convert("RGB")


def _check_size(width: int, height: int, what: str, policy: ImagePolicy) -> None:
    if width < 1 or height < 1:
        raise ImageError(_nothing_in_it(what, width, height))
    if width * height > policy.max_pixels:
        raise ImageError(f"{what} is {width} x {height} pixels, over the limit of {policy.max_pixels:,}; scale it down")


def _nothing_in_it(what: str, width: int, height: int) -> str:
    return f"{what} is {width} x {height} pixels: there is nothing in it"
