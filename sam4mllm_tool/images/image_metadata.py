"""Read the size and the orientation of an encoded image, and leave out all else that isn't pixels.

Pillow's readers of metadata were written for cameras' files, not for strangers': a few bytes make them read a file thousands of
times, hold all of it in memory again for each tag, or loop for minutes under the lock of Python's warnings. So the containers
are walked here, in one pass that only slices, and what Pillow decodes has no EXIF, XMP, colour profile, text or comment left.
Nothing that changes a pixel is left out, and a damaged image stays damaged: Pillow says what is wrong with it.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sam4mllm_tool.errors import ImageError
from sam4mllm_tool.images.tiff_directory import TIFF_MAGICS, strip_tiff

__all__ = ["StrippedImage", "find_orientation", "strip_metadata"]

MAX_PARTS = 100_000
"""Chunks of a PNG or WebP, segments of a JPEG, parts of a GIF's comments: more than any encoder writes into 64 MB."""

_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_JPEG_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})  # APP1 to APP13, APP15, COM; APP0 and APP14 tell the colours
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_MAX_METADATA = 2**16
_MARKER = re.compile(rb"\xff+[^\xff]")
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_ORIENTATION_TAG = 0x0112
_BMP_HEADER_LENGTHS = (12, 16, 40, 52, 56, 64, 108, 124)
_BMP_RUN_LENGTHS = (1, 2)
_MAX_RUN_LENGTH_WIDTH = 2**15


@dataclass(frozen=True)
class StrippedImage:
    """An encoded image without its metadata.

    Attributes:
        content: What is to be decoded.
        size: Width and height in pixels that it declares, or None where that isn't known before it is opened.
        orientation: EXIF's number, 1 to 8: how the pixels are to be turned once they are decoded.
    """

    content: bytes
    size: tuple[int, int] | None = None
    orientation: int = 1


def strip_metadata(content: bytes, what: str) -> StrippedImage:
    """Return an encoded image without its metadata; a format that isn't known here comes back whole.

    Args:
        content: A PNG, JPEG, GIF, WebP, BMP or TIFF.
        what: Names the image in error messages.

    Raises:
        ImageError: It is built to take a long time or much memory.
    """
    for magic, strip in _FORMATS:
        if re.match(magic, content, re.DOTALL):
            try:
                return strip(content)
            except (struct.error, IndexError) as error:
                raise ImageError(f"{what} has a damaged header: it is cut off") from error
            except ImageError as error:
                raise ImageError(f"{what} {error}") from None
    return StrippedImage(content)


def _count_parts(count: int) -> None:
    if count > MAX_PARTS:
        raise ImageError(f"is cut into more than {MAX_PARTS:,} parts; save it again with an image editor")


def _strip_png(content: bytes) -> StrippedImage:
    first, width, height = struct.unpack_from(">4sII", content, 12)
    if first != b"IHDR":
        return StrippedImage(content)  # which Pillow calls damaged
    kept = [content[:8]]
    metadata: dict[str, bytes] = {}
    for offset, kind, length in _list_chunks(content, 8, ">I4s", 4):
        if kind in _PNG_CHUNKS:
            kept.append(content[offset : offset + 12 + length])
        elif kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt") and length <= _MAX_METADATA:
            metadata.setdefault(_name_png_text(kind, body := content[offset + 8 : offset + 8 + length]), body)
        if kind == b"IEND":
            break
    exif = metadata.get("exif") or _decode_raw_profile(metadata.get("raw", b""))
    return StrippedImage(b"".join(kept), (width, height), find_orientation(exif, metadata.get("xmp", b"")))


def _list_chunks(content: bytes, start: int, layout: str, check: int, *, padding: int = 0) -> Iterator[tuple[int, bytes, int]]:
    """Yield offset, kind and length of each chunk of a PNG or WebP; the last one may be cut off."""
    offset, count = start, 0
    while offset + 8 <= len(content):
        fields = struct.unpack_from(layout, content, offset)
        length, kind = sorted(fields, key=lambda field: isinstance(field, bytes))
        _count_parts(count := count + 1)
        yield offset, kind, length
        offset += 8 + length + (length & padding) + check


def _name_png_text(kind: bytes, body: bytes) -> str:
    if kind == b"eXIf":
        return "exif"
    if body.startswith(b"XML:com.adobe.xmp\0"):
        return "xmp"
    return "raw" if body.startswith(b"Raw profile type exif\0") else "other"


def _decode_raw_profile(body: bytes) -> bytes:
    """Decode EXIF as ImageMagick writes it into a PNG's text: three lines about it, then hexadecimal digits."""
    text = body.partition(b"\0")[2]
    try:
        if text[:1] == b"\0":  # zTXt: the method of compression
            text = zlib.decompressobj().decompress(text[1:], 2 * _MAX_METADATA)
        return bytes.fromhex("".join(text.decode("ascii").split("\n")[3:]))
    except (zlib.error, ValueError):
        return b""


def _strip_jpeg(content: bytes) -> StrippedImage:
    size, exif, xmp = None, b"", b""
    kept, offset, count = [content[:2]], 2, 0
    while True:
        offset = _find_marker(content, offset)
        marker = content[offset]
        _count_parts(count := count + 1)
        if marker == 0 or marker in _JPEG_STANDALONE:
            offset += 1
            continue
        if marker in (0xDA, 0xD9):
            break
        end = offset + 1 + struct.unpack_from(">H", content, offset + 1)[0]
        body = content[offset + 3 : end]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", body, 1)
            size = size or (width, height)
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = xmp or body
        if marker not in _JPEG_METADATA:
            kept.append(b"\xff" + content[offset:end])
        offset = end
    kept.append(b"\xff" + content[offset:])
    return StrippedImage(b"".join(kept), size, find_orientation(exif, xmp))


def _find_marker(content: bytes, offset: int) -> int:
    """Return the offset of the next marker's second byte. Raises IndexError at the end."""
    match = _MARKER.search(content, offset)
    if match is None:
        raise IndexError
    return match.end() - 1


def _strip_gif(content: bytes) -> StrippedImage:
    """Leave out a GIF's comments and application data in front of its first frame."""
    size = struct.unpack_from("<HH", content, 6)
    offset = 13 + (3 << (content[10] & 7) + 1 if content[10] & 0x80 else 0)
    kept, count = [content[:offset]], 0
    while content[offset] not in (0x2C, 0x3B):  # a frame, the end
        start, offset = offset, offset + 1
        if content[start] != 0x21:  # Pillow skips such bytes
            _count_parts(count := count + 1)
            continue
        is_kept = content[offset] == 0xF9  # tells the transparent colour
        offset += 1
        while length := content[offset]:
            offset += 1 + length
            _count_parts(count := count + 1)
        offset += 1
        if is_kept:
            kept.append(content[start:offset])
    kept.append(content[offset:])
    return StrippedImage(b"".join(kept), size)


def _strip_bmp(content: bytes) -> StrippedImage:
    """Read a BMP's size. Its metadata is a few bytes."""
    header_length = struct.unpack_from("<I", content, 14)[0]
    if header_length not in _BMP_HEADER_LENGTHS:  # another file that begins with BM
        return StrippedImage(content)
    if header_length == 12:
        return StrippedImage(content, struct.unpack_from("<HH", content, 18))
    width, height = struct.unpack_from("<ii", content, 18)
    is_run_length = struct.unpack_from("<I", content, 30)[0] in _BMP_RUN_LENGTHS
    if is_run_length and width > _MAX_RUN_LENGTH_WIDTH:  # Pillow skips up to 255 rows at once, however long they are
        raise ImageError(f"is a run-length encoded BMP of {width:,} pixels a row; save it as a PNG")
    return StrippedImage(content, (width, abs(height)))  # the height is negative where the top row comes first


def _strip_webp(content: bytes) -> StrippedImage:
    """Read the size and the orientation. libwebp doesn't look into the metadata, so it stays."""
    metadata = {
        kind: content[offset + 8 : offset + 8 + length]
        for offset, kind, length in _list_chunks(content, 12, "<4sI", 0, padding=1)
        if kind in (b"EXIF", b"XMP ") and length <= _MAX_METADATA
    }
    orientation = find_orientation(metadata.get(b"EXIF", b""), metadata.get(b"XMP ", b""))
    kind = content[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", content, 21)[0]
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    return StrippedImage(content, (width, height), orientation)


def find_orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation that EXIF, or else XMP, declares: 1 to 8; 1 where neither does or both are damaged.

    Only the main directory of the EXIF is read, and of it only this tag.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order:
            start = struct.unpack_from(f"{order}I", exif, 4)[0]
            for entry in range(struct.unpack_from(f"{order}H", exif, start)[0]):
                tag, kind, count, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * entry)
                if (tag, kind, count) == (_ORIENTATION_TAG, 3, 1) and 1 <= value <= 8:
                    return int(value)
    except struct.error:
        pass  # damaged: it hides no pixels
    match = _XMP_ORIENTATION.search(xmp)
    return int(match[1]) if match else 1


def _strip_tiff(content: bytes) -> StrippedImage:
    return StrippedImage(*strip_tiff(content))


_FORMATS: tuple[tuple[bytes, Callable[[bytes], StrippedImage]], ...] = (
    (rb"\x89PNG\r\n\x1a\n", _strip_png),
    (rb"\xff\xd8", _strip_jpeg),
    (rb"GIF8[79]a", _strip_gif),
    (rb"BM", _strip_bmp),
    (rb"RIFF....WEBP", _strip_webp),
    (TIFF_MAGICS, _strip_tiff),
)
"""How a file of the format begins, and what reads it."""
