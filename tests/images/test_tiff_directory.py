"""The directory of a TIFF, tag by tag: which are kept, how long their values are, and how much they may claim."""

import struct

import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool.errors import ImageError
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.images.tiff_directory import MAX_PARTS, strip_tiff
from tests.images.hostile_images import encode

Entry = tuple[int, int, int, int]
"""Tag, type, count, and the value or its offset."""

SIDES: list[Entry] = [(256, 4, 1, 300), (257, 4, 1, 7)]
LENGTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value by its type: TIFF 6.0, page 16, and BigTIFF."""
PIXEL_TAGS = {
    *(256, 257, 258, 259, 262, 266),  # width, height, bits, compression, colours, order of bits
    *(273, 277, 278, 279, 284, 292, 293, 317, 320),  # strips, samples, planes, fax, prediction, palette
    *(322, 323, 324, 325, 332, 338, 339, 347),  # tiles, inks, alpha, format of samples, JPEG's tables
    *(529, 530, 531, 532),  # YCbCr
}


def build_tiff(entries: list[Entry], *, length: int = 0, order: str = "<", big: bool = False, body: bytes = b"") -> bytes:
    """A TIFF whose directory comes first, padded to `length` bytes."""
    version, offset, count, entry, width = (43, "HHQ", "Q", "HHQ", 8) if big else (42, "I", "H", "HHI", 4)
    places = (8, 0, 16) if big else (8,)
    written = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}H{offset}", version, *places)
    written += struct.pack(order + count, len(entries))
    for tag, kind, number, value in entries:
        code = {3: "H", 4: "I"}.get(kind if number == 1 else 0, "Q" if big else "I")
        written += struct.pack(order + entry, tag, kind, number) + struct.pack(order + code, value).ljust(width, b"\0")
    return (written + bytes(width) + body).ljust(length, b"\0")


def read_directory(content: bytes, *, order: str = "<", big: bool = False) -> list[Entry]:
    """Read the directory that the header points to."""
    offset_at, offset, count, entry = (8, "Q", "Q", "HHQQ") if big else (4, "I", "H", "HHII")
    (start,) = struct.unpack_from(order + offset, content, offset_at)
    (number,) = struct.unpack_from(order + count, content, start)
    start, step = start + struct.calcsize(order + count), struct.calcsize(order + entry)
    assert struct.unpack_from(order + offset, content, start + number * step) == (0,), "no second image"
    return [struct.unpack_from(order + entry, content, start + index * step) for index in range(number)]


@pytest.mark.parametrize("big", [False, True])
def test_the_tags_of_the_pixels_are_kept_and_no_others(big: bool):
    others = [(tag, 4, 1, tag) for tag in range(254, 600) if tag not in (256, 257, 274, 273, 279, 324, 325)]
    lists = [(tag, 4, 1, 0) for tag in (273, 279, 324, 325)]
    content, size, orientation = strip_tiff(build_tiff([*SIDES, *others, *lists], big=big))
    entries = read_directory(content, big=big)
    assert [tag for tag, *_ in entries] == sorted(PIXEL_TAGS)
    assert set(others) & set(entries) == {entry for entry in others if entry[0] in PIXEL_TAGS}
    assert (size, orientation) == ((300, 7), 1)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_the_rest_of_the_file_stays_where_it_is(order: str, big: bool):
    body = bytes(range(1, 100))
    original = build_tiff(SIDES, order=order, big=big, body=body)
    content, size, _ = strip_tiff(original)
    head = 16 if big else 8
    assert content[head : len(original)] == original[head:]
    assert content[: 8 if big else 4] == original[: 8 if big else 4]
    assert struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, 8 if big else 4)[0] % 8 == 0
    assert len(read_directory(content, order=order, big=big)) == 2
    assert content.endswith(bytes(4))
    assert size == (300, 7)


@pytest.mark.parametrize("orientation", range(10))
def test_the_orientation_is_a_number_of_1_to_8(orientation: int):
    read = strip_tiff(build_tiff([*SIDES, (274, 3, 1, orientation)]))[2]
    assert read == (orientation if 1 <= orientation <= 8 else 1)


@pytest.mark.parametrize(("kind", "length"), LENGTHS.items())
def test_values_may_add_up_to_the_file_and_no_more(kind: int, length: int):
    claimed = 4 + 4 + 96 * length
    entries = [*SIDES, (320, kind, 96, 0)]
    smallest = len(build_tiff(entries))
    assert claimed > smallest
    strip_tiff(build_tiff(entries, length=claimed))
    with pytest.raises(ImageError, match="tags that overlap"):
        strip_tiff(build_tiff(entries, length=claimed - 1))


def test_a_tag_has_at_most_so_many_values():
    strip_tiff(build_tiff([*SIDES, (320, 1, MAX_PARTS, 0)], length=2**18 + 100))
    with pytest.raises(ImageError, match="more than 262,144 values"):
        strip_tiff(build_tiff([*SIDES, (320, 1, 2**18 + 1, 0)], length=2**18 + 100))


def test_the_first_of_two_equal_tags_counts():
    assert strip_tiff(build_tiff([*SIDES, (256, 4, 1, 9), (257, 4, 1, 9)]))[1] == (300, 7)


@pytest.mark.parametrize(("offsets", "lengths"), [(273, 279), (324, 325)])
def test_strips_and_tiles_may_add_up_to_the_file_and_no_more(offsets: int, lengths: int):
    for more in (0, 1):
        entries = [*SIDES, (offsets, 4, 1, 0), (lengths, 4, 1, 200 + more)]
        if more:
            with pytest.raises(ImageError, match="parts that overlap"):
                strip_tiff(build_tiff(entries, length=200))
        else:
            strip_tiff(build_tiff(entries, length=200))


@pytest.mark.parametrize("compression", [1, 5, 6, 7, 8, 34892])
@pytest.mark.parametrize(("offsets", "lengths"), [(273, 279), (324, 325)])
def test_a_part_that_is_a_progressive_jpeg_is_refused(compression: int, offsets: int, lengths: int):
    body = b"....\xff\xc2"
    entries = [*SIDES, (259, 3, 1, compression), (offsets, 4, 1, 0), (lengths, 4, 1, 6)]
    start = len(build_tiff(entries))
    for length in (5, 6):
        entries[-2:] = [(offsets, 4, 1, start), (lengths, 4, 1, length)]
        content = build_tiff(entries, body=body)
        if length == 6 and compression in (6, 7, 34892):
            with pytest.raises(ImageError, match="TIFF of progressive JPEGs"):
                strip_tiff(content)
        else:
            strip_tiff(content)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(build_tiff(SIDES)[:-20], id="cut off"),
        pytest.param(build_tiff(SIDES[:1]), id="no height"),
        pytest.param(build_tiff([(256, 4, 0, 0), SIDES[1]]), id="an empty width"),
        pytest.param(build_tiff([(256, 4, 2, 100), SIDES[1]]), id="a width behind the end"),
        pytest.param(build_tiff([(256, 5, 1, 0), SIDES[1]], length=100), id="a width that is a fraction"),
    ],
)
def test_a_directory_without_a_size_is_damaged(content: bytes):
    with pytest.raises(ImageError, match="its directory is cut off or has no size"):
        strip_tiff(content)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"])
@pytest.mark.parametrize("big", [False, True])
def test_the_pixels_are_those_that_pillow_reads_from_the_whole_file(compression: str, big: bool):
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[270] = "at home"
    content = encode(image, "TIFF", compression=compression, big_tiff=big, exif=exif)
    assert b"at home" in content
    loaded = np.asarray(load_image(content), int)
    assert np.abs(loaded - np.asarray(image, int)).max() == 0 or compression == "jpeg"


@pytest.mark.parametrize("place", [2**63, 2**64 - 1])
@pytest.mark.parametrize("where", ["the directory", "a list of strips"])
def test_offsets_that_no_file_is_long_enough_for_are_refused(place: int, where: str):
    content = build_tiff([*SIDES, (273, 4, 9, place)], big=True)
    if where == "the directory":
        content = content[:8] + struct.pack("<Q", place) + content[16:]
    with pytest.raises(ImageError, match="directory is cut off"):
        load_image(content)
