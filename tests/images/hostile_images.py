"""Images that are small to send and costly to read: each builder returns the bytes of one."""

import struct
import zlib
from io import BytesIO

from PIL import Image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def encode(image: Image.Image, format_name: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def png_chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def jpeg_of_empty_scans(side: int = 4000, scans: int = 1000) -> bytes:
    """A progressive JPEG whose scans refine nothing: each takes a pass over all coefficients and some bytes of the file."""
    content = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    first = content.index(b"\xff\xda")
    blocks = ((side + 7) // 8) ** 2
    # An AC scan of coefficients 1 to 63 at bit 1, coded by one symbol, 0xE0: a run of 2**14 to 2**15 - 1 blocks without any.
    table = b"\xff\xc4" + struct.pack(">HB", 20, 0x10) + bytes([1] + [0] * 15) + b"\xe0"
    bits = "".join("0" + "1" * 14 for _ in range(-(-blocks // (2**15 - 1))))
    bits += "1" * (-len(bits) % 8)
    entropy = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    scan = table + b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 63, 0x01) + entropy
    return content[:first] + _first_scan(content[first:]) + scan * scans + b"\xff\xd9"


def _first_scan(content: bytes) -> bytes:
    """The DC scan, up to the next marker."""
    offset = 2 + struct.unpack_from(">H", content, 2)[0]
    while not (content[offset] == 0xFF and content[offset + 1] != 0):
        offset += 1
    return content[:offset]


def jpeg_of_empty_segments(segments: int) -> bytes:
    """A JPEG with that many empty comments."""
    content = encode(Image.new("L", (8, 8)), "JPEG")
    return content[:2] + b"\xff\xfe\0\x02" * segments + content[2:]


def png_of_empty_chunks(chunks: int, kind: bytes = b"teXt") -> bytes:
    """A PNG with that many empty chunks in front of its pixels."""
    content = encode(Image.new("RGB", (8, 8)))
    offset = content.index(b"IDAT") - 4
    return content[:offset] + png_chunk(kind) * chunks + content[offset:]


def exif_of_overlapping_tags(tags: int, size: int) -> bytes:
    """EXIF of `size` bytes whose tags each claim all of it."""
    entries = b"".join(struct.pack("<HHII", 0x9000 + tag, 7, size - 8, 8) for tag in range(tags))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", tags) + entries).ljust(size, b"\0")


def tiff_of_overlapping_tags(tags: int, size: int, first: int = 0x9000) -> bytes:
    """A TIFF whose tags, by default private ones, each claim the whole file."""
    return _tiff([(first + tag, 7, size - 8, 8) for tag in range(tags)], size)


def tiff_of_overlapping_strips(strips: int, size: int) -> bytes:
    """A compressed TIFF of one row a strip, in which each strip claims the whole file."""
    offsets = struct.pack("<I", 8) * strips
    counts = struct.pack("<I", size - 8) * strips
    return _tiff([(273, 4, strips, offsets), (279, 4, strips, counts)], size, height=strips, compression=8)


def _tiff(
    more: list[tuple[int, int, int, int | bytes]], size: int, *, height: int = 8, compression: int = 1, pixels: bytes = b""
) -> bytes:
    body = bytearray((pixels or zlib.compress(bytes(8))).ljust(1024, b"\0"))
    entries: list[tuple[int, int, int, int]] = []
    plain: list[tuple[int, int, int, int | bytes]] = [
        (256, 4, 1, 8), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1), (277, 3, 1, 1),
        (278, 4, 1, 1 if height > 8 else height),
    ]  # fmt: skip
    if not any(tag == 273 for tag, *_ in more):
        plain += [(273, 4, 1, 8), (279, 4, 1, 64)]
    for tag, kind, count, value in sorted(plain + more):
        if isinstance(value, bytes):
            entries.append((tag, kind, count, 8 + len(body)))
            body += value
        else:
            entries.append((tag, kind, count, value))
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return (b"II*\0" + struct.pack("<I", 8 + len(body)) + bytes(body) + directory).ljust(size, b"\0")


def tiff_of_progressive_jpeg() -> bytes:
    """A TIFF whose one strip is a progressive JPEG."""
    jpeg = encode(Image.new("L", (8, 8)), "JPEG", progressive=True)
    return _tiff([(273, 4, 1, 8), (279, 4, 1, len(jpeg))], 4096, compression=7, pixels=jpeg)


def bmp_of_long_jumps(width: int) -> bytes:
    """A run-length encoded BMP of one row that skips 255 rows at once."""
    content = encode(Image.new("L", (8, 1)), "BMP")
    start = struct.unpack_from("<I", content, 10)[0]
    header = content[:18] + struct.pack("<iiHHI", width, 1, 1, 8, 1) + content[34:start]
    return header + b"\0\2\0\xff" * 8 + b"\0\1"


def gif_of_comments(blocks: int) -> bytes:
    """A GIF with a comment of that many parts of one byte, in front of its pixels."""
    content = encode(Image.new("L", (8, 8)), "GIF")
    offset = content.index(b"\x2c", 13 + 3 * 2 ** ((content[10] & 7) + 1))
    return content[:offset] + b"\x21\xfe" + b"\x01a" * blocks + b"\0" + content[offset:]


def webp_of_one_colour(width: int, height: int) -> bytes:
    """A lossless WebP of some 30 bytes, whatever its size."""
    stream = 0x2F | (width - 1) << 8 | (height - 1) << 22
    # no transform, no colour cache, no meta codes; five codes of one symbol of one bit each
    bit = 40
    bit += 3
    for _ in range(5):
        stream |= 0b0001 << bit  # simple code, one symbol, of one bit, which is 0
        bit += 4
    payload = stream.to_bytes(-(-bit // 8) + 1, "little")
    payload += b"\0" * (len(payload) % 2)
    return b"RIFF" + struct.pack("<I", 12 + len(payload)) + b"WEBPVP8L" + struct.pack("<I", len(payload)) + payload
