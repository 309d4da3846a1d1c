"""Rewrite the directory of a TIFF to the tags that its pixels need, and refuse one that is built to be slow or large.

A tag says where its values are and how many: a hundred tags may each claim the whole file, and so may each strip of pixels.
Here the parts of a file may add up to the file and no more. Pillow and libtiff then read only the first image's own tags.
"""

import struct
from dataclasses import dataclass

from sam4mllm_tool.errors import ImageError

__all__ = ["TIFF_MAGICS", "strip_tiff"]

TIFF_MAGICS = rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]"

MAX_PARTS = 2**18
"""Strips or tiles: 64 million pixels in the smallest tiles that the format allows, 16 x 16."""

_PIXEL_TAGS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339, 347}
    | {529, 530, 531, 532}
)
_ORIENTATION, _COMPRESSION = 274, 259
_OFFSETS_AND_LENGTHS = ((273, 279), (324, 325))
_JPEG_COMPRESSIONS = (6, 7, 34892)
_PROGRESSIVE = b"\xff\xc2"
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TYPE_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}


@dataclass(frozen=True)
class _Layout:
    """How the numbers of a TIFF or a BigTIFF are written."""

    order: str
    count: str
    entry: str
    offset: str
    header_offset: int

    @classmethod
    def of(cls, content: bytes) -> "_Layout":
        order = "<" if content.startswith(b"II") else ">"
        if 43 in content[2:4]:
            return cls(order, f"{order}Q", f"{order}HHQ8s", f"{order}Q", 8)
        return cls(order, f"{order}H", f"{order}HHI4s", f"{order}I", 4)


def strip_tiff(content: bytes) -> tuple[bytes, tuple[int, int], int]:
    """Return a TIFF with the tags of its first image's pixels alone, its width and height, and its orientation.

    Raises:
        ImageError: Parts of it overlap, it has too many of them, or it is cut off. The message continues "the image ...".
    """
    layout = _Layout.of(content)
    try:
        entries = _read_entries(content, layout)
        numbers = {tag: _read_numbers(content, layout, entry) for tag, entry in entries.items() if entry[1] in _TYPE_CODES}
        size = (numbers[256][0], numbers[257][0])
    except (struct.error, OverflowError, KeyError, IndexError) as error:  # BigTIFF's offsets have 64 bits
        raise ImageError("has a damaged header: its directory is cut off or has no size") from error
    for offsets, lengths in _OFFSETS_AND_LENGTHS:
        if sum(numbers.get(lengths, ())) > len(content):
            raise ImageError("has parts that overlap; save it again with an image editor")
        if numbers.get(_COMPRESSION, (1,))[0] in _JPEG_COMPRESSIONS:
            for offset, length in zip(numbers.get(offsets, ()), numbers.get(lengths, ()), strict=False):
                if content.find(_PROGRESSIVE, offset, offset + length) >= 0:
                    raise ImageError("is a TIFF of progressive JPEGs; save it as a JPEG or a PNG")
    kept = [struct.pack(layout.entry, *entry) for tag, entry in sorted(entries.items()) if tag in _PIXEL_TAGS]
    directory = struct.pack(layout.count, len(kept)) + b"".join(kept) + struct.pack(layout.offset, 0)
    padding = bytes(-len(content) % 8)
    header = content[: layout.header_offset] + struct.pack(layout.offset, len(content) + len(padding))
    orientation = numbers.get(_ORIENTATION, (1,))[0]
    return header + content[len(header) :] + padding + directory, size, orientation if 1 <= orientation <= 8 else 1


def _read_entries(content: bytes, layout: _Layout) -> dict[int, tuple[int, int, int, bytes]]:
    """Read the first directory: (tag, type, count, value or offset) by tag; a tag that comes twice counts once."""
    (start,) = struct.unpack_from(layout.offset, content, layout.header_offset)
    (count,) = struct.unpack_from(layout.count, content, start)
    offset, step = start + struct.calcsize(layout.count), struct.calcsize(layout.entry)
    entries: dict[int, tuple[int, int, int, bytes]] = {}
    for _ in range(min(count, 2**16)):
        tag, kind, number, value = struct.unpack_from(layout.entry, content, offset)
        offset += step
        if tag in _PIXEL_TAGS or tag == _ORIENTATION:
            entries.setdefault(tag, (tag, kind, number, value))
    if sum(number * _TYPE_SIZES.get(kind, 1) for _, kind, number, _ in entries.values()) > len(content):
        raise ImageError("has tags that overlap; save it again with an image editor")
    if any(number > MAX_PARTS for _, _, number, _ in entries.values()):
        raise ImageError(f"has a tag of more than {MAX_PARTS:,} values; save it again with an image editor")
    return entries


def _read_numbers(content: bytes, layout: _Layout, entry: tuple[int, int, int, bytes]) -> tuple[int, ...]:
    _, kind, count, value = entry
    numbers = struct.Struct(f"{layout.order}{count}{_TYPE_CODES[kind]}")
    if numbers.size <= len(value):
        return numbers.unpack_from(value)
    return numbers.unpack_from(content, struct.unpack(layout.offset, value)[0])
