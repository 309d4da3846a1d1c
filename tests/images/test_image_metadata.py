"""What is read from the head of an encoded image, byte by byte, and what is left out of it."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import ExifTags, Image

from sam4mllm_tool.errors import ImageError
from sam4mllm_tool.images import image_metadata
from sam4mllm_tool.images.image_metadata import StrippedImage, find_orientation, strip_metadata
from sam4mllm_tool.images.load import load_image
from tests.images.hostile_images import encode, gif_of_comments, jpeg_of_empty_segments, png_chunk, png_of_empty_chunks

PIXELS = Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8))
SIZES = [(1, 1), (300, 7), (7, 300), (256, 255), (1000, 2)]


def strip(content: bytes) -> StrippedImage:
    return strip_metadata(content, "the image")


def jpeg_segment(marker: int, body: bytes = b"") -> bytes:
    return b"\xff" + struct.pack(">BH", marker, len(body) + 2) + body


def exif_of(orientation: int, *, order: str = "<", tag: int = 0x112, kind: int = 3, count: int = 1) -> bytes:
    """EXIF with a tag of another kind in front of the orientation."""
    entries = struct.pack(f"{order}HHIHH", 0x111, 3, 1, 7, 0) + struct.pack(f"{order}HHIHH", tag, kind, count, orientation, 0)
    return {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, 2) + entries + bytes(4)


def xmp_of(orientation: int) -> bytes:
    return b'<rdf tiff:Orientation="%d"/>' % orientation


# Sizes


@pytest.mark.parametrize(
    ("format_name", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"big_tiff": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": exif_of(1)}),
        ("WEBP", {"lossless": True, "xmp": xmp_of(1)}),
    ],
)
@pytest.mark.parametrize("size", SIZES)
def test_the_size_is_known_before_the_image_is_opened(format_name: str, options: dict[str, object], size: tuple[int, int]):
    content = encode(Image.new("RGB", size), format_name, **options)
    assert strip(content).size == size
    assert load_image(content).size == size


def webp_chunk(kind: bytes, body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBP" + kind + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("content", "size"),
    [
        pytest.param(webp_chunk(b"VP8X", bytes(4) + b"\xff\xff\xff\x00\x00\x01"), (2**24, 2**16 + 1), id="extended"),
        pytest.param(webp_chunk(b"VP8L", b"\x2f" + b"\xff" * 4), (2**14, 2**14), id="lossless"),
        pytest.param(
            webp_chunk(b"VP8 ", bytes(6) + struct.pack("<HH", 0xFFFF, 0xC001)), (2**14 - 1, 1), id="two bits of scale"
        ),
        pytest.param(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">II", 2**31 - 1, 3)), (2**31 - 1, 3), id="PNG"),
        pytest.param(b"GIF87a" + struct.pack("<HH", 65535, 3) + bytes(3) + b";", (65535, 3), id="GIF without colours"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IDAT", bytes(8)), None, id="PNG that doesn't begin with its head"),
    ],
)
def test_the_largest_sizes_are_read_as_they_are_declared(content: bytes, size: tuple[int, int] | None):
    assert strip(content).size == size


def bmp_header(length: int, width: int, height: int, compression: int = 0) -> bytes:
    sides = struct.pack("<HH" if length == 12 else "<ii", width, height)
    return (b"BM" + bytes(12) + struct.pack("<I", length) + sides).ljust(30, b"\0") + struct.pack("<I", compression)


@pytest.mark.parametrize("length", [12, 16, 40, 52, 56, 64, 108, 124])
def test_each_header_of_a_bmp_tells_its_size(length: int):
    assert strip(bmp_header(length, 300, 7)).size == (300, 7)
    if length != 12:
        assert strip(bmp_header(length, 300, -7)).size == (300, 7), "the top row first"
    assert strip(bmp_header(length + 1, 300, 7)).size is None


@pytest.mark.parametrize("compression", [1, 2])
def test_a_run_length_encoded_bmp_may_be_so_wide(compression: int):
    assert strip(bmp_header(40, 2**15, 9, compression)).size == (2**15, 9)
    with pytest.raises(ImageError, match="32,769 pixels a row"):
        strip(bmp_header(40, 2**15 + 1, 9, compression))
    assert strip(bmp_header(40, 2**20, 9, 0)).size == strip(bmp_header(40, 2**20, 9, 3)).size == (2**20, 9)


@pytest.mark.parametrize("marker", range(0xC0, 0xD0))
def test_frames_of_a_jpeg_tell_its_size_and_tables_do_not(marker: int):
    content = b"\xff\xd8" + jpeg_segment(marker, struct.pack(">BHH", 8, 7, 300)) + b"\xff\xd9"
    assert strip(content).size == (None if marker in (0xC4, 0xC8, 0xCC) else (300, 7))


def test_a_jpeg_that_ends_among_its_segments_is_cut_off():
    with pytest.raises(ImageError, match="damaged header: it is cut off"):
        strip(b"\xff\xd8" + jpeg_segment(0xDB, bytes(4)))


def test_the_first_frame_of_a_jpeg_counts():
    frames = b"".join(jpeg_segment(0xC0, struct.pack(">BHH", 8, side, side)) for side in (7, 9))
    assert strip(b"\xff\xd8" + frames + b"\xff\xd9").size == (7, 7)


# What is kept


@pytest.mark.parametrize("marker", [*range(0xE0, 0xF0), 0xFE, 0xDB])
def test_segments_that_are_no_pixels_are_left_out_of_a_jpeg(marker: int):
    segment, content = jpeg_segment(marker, b"mine" * 9), encode(PIXELS, "JPEG")
    kept = strip(content[:2] + segment + content[2:]).content
    assert (segment in kept) == (marker in (0xE0, 0xEE, 0xDB)), "JFIF and Adobe tell the colours, the last one is a table"
    assert kept.replace(segment, b"") == content


@pytest.mark.parametrize("marker", [0x01, *range(0xD0, 0xD9)])
def test_markers_without_a_length_are_skipped(marker: int):
    content = encode(PIXELS, "JPEG")
    assert strip(content[:2] + b"\xff\xff" + bytes([marker]) + content[2:]).content == content


def test_nothing_is_looked_for_behind_the_end_of_a_jpeg():
    content = encode(PIXELS, "JPEG")
    ended = content[:2] + b"\xff\xd9" + content[2:]
    assert strip(ended) == StrippedImage(ended)


def test_chunks_that_are_no_pixels_are_left_out_of_a_png():
    content = encode(PIXELS.convert("P"), transparency=3)
    at = content.index(b"PLTE") - 4
    extra = b"".join(png_chunk(kind, b"mine") for kind in (b"tEXt", b"iCCP", b"gAMA", b"acTL", b"eXIf", b"tIME"))
    assert strip(content[:at] + extra + content[at:] + b"behind the end").content == content


def test_comments_and_applications_are_left_out_of_a_gif_and_the_transparent_colour_stays():
    plain = encode(Image.new("P", (8, 8), 1), "GIF", transparency=1)
    assert np.asarray(load_image(plain)).min() == 255, "transparent is white"
    at = plain.index(b"\x21\xf9")
    comment, application = b"\x21\xfe\x03any\x02of\x00", b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
    assert strip(plain[:at] + comment + application + plain[at:]).content == plain
    assert strip(plain[:at] + b"junk" + plain[at:]).content == plain, "Pillow skips what is no block, too"


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        pytest.param(png_of_empty_chunks, 3, id="PNG"),
        pytest.param(jpeg_of_empty_segments, 6, id="JPEG"),
        pytest.param(gif_of_comments, 0, id="GIF"),
        pytest.param(lambda count: b"GIF87a" + bytes(7) + b"." * count + b";", 0, id="GIF of junk"),
        pytest.param(lambda count: encode(PIXELS, "WEBP") + b"JUNK\0\0\0\0" * count, 1, id="WebP"),
    ],
)
def test_an_image_has_at_most_so_many_parts(build: Callable[[int], bytes], parts: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_metadata, "MAX_PARTS", parts + 10)
    strip(build(10))
    with pytest.raises(ImageError, match=f"more than {parts + 10} parts"):
        strip(build(11))


# Orientation


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_tells_the_orientation_before_xmp(order: str, orientation: int):
    exif = exif_of(orientation, order=order)
    assert find_orientation(exif, xmp_of(4)) == find_orientation(b"Exif\0\0" + exif) == orientation


@pytest.mark.parametrize(
    "exif",
    [
        pytest.param(b"", id="none"),
        pytest.param(exif_of(0), id="0"),
        pytest.param(exif_of(9), id="9"),
        pytest.param(exif_of(6, tag=0x113), id="another tag"),
        pytest.param(exif_of(6, kind=4), id="another type"),
        pytest.param(exif_of(6, count=2), id="two values"),
        pytest.param(exif_of(6)[:-10], id="cut off"),
        pytest.param(b"XX" + exif_of(6)[2:], id="no byte order"),
    ],
)
def test_xmp_tells_the_orientation_where_exif_does_not(exif: bytes):
    assert find_orientation(exif, xmp_of(8)) == 8
    assert find_orientation(exif, b"<tiff:Orientation>3</tiff:Orientation>") == 3
    assert find_orientation(exif, xmp_of(9)) == find_orientation(exif) == 1


@pytest.mark.parametrize("format_name", ["PNG", "WEBP"])
def test_metadata_of_more_than_64_kilobytes_is_not_read(format_name: str):
    for length, orientation in ((2**16, 6), (2**16 + 1, 1)):
        exif = exif_of(6).ljust(length, b"\0")
        if format_name == "PNG":
            content = encode(PIXELS)
            content = (
                content[:33] + png_chunk(b"eXIf", exif) + png_chunk(b"eXIf", exif_of(3)) * (length == 2**16) + content[33:]
            )
        else:
            content = encode(PIXELS, "WEBP", exif=exif)
        assert strip(content).orientation == orientation


def test_the_first_of_two_pieces_of_exif_counts():
    png = encode(PIXELS)
    chunks = b"".join(png_chunk(b"eXIf", exif_of(orientation)) for orientation in (6, 3))
    assert strip(png[:33] + chunks + png[33:]).orientation == 6
    content = encode(PIXELS, "JPEG")
    segments = b"".join(jpeg_segment(0xE1, b"Exif\0\0" + exif_of(orientation)) for orientation in (6, 3))
    xmp = b"".join(jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp_of(orientation)) for orientation in (5, 7))
    assert strip(content[:2] + segments + xmp + content[2:]).orientation == 6
    assert strip(content[:2] + xmp + content[2:]).orientation == 5


def test_a_profile_in_a_png_is_unpacked_to_64_kilobytes_at_most():
    text = b"\nexif\n 100000\n" + exif_of(6).hex().encode() + b"00" * 10**6
    unpacked = image_metadata._decode_raw_profile(b"Raw profile type exif\0\0" + zlib.compress(text))
    assert 60_000 < len(unpacked) < 2**16
    assert find_orientation(unpacked) == 6
    assert image_metadata._decode_raw_profile(b"Raw profile type exif\0\0junk") == b""
    assert image_metadata._decode_raw_profile(b"Raw profile type exif\0\nexif\n 2\n4g") == b""


@pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")  # Pillow's, as the image is opened
def test_a_damaged_exif_of_an_opened_image_hides_no_pixels():
    damaged = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\x0e\x01\x05\0\xff\xff\xff\xff\xff\xff\xff\xff"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(BytesIO(encode(Image.new("RGB", (8, 4)), "JPEG", exif=damaged))) as image:
        assert load_image(image).size == (8, 4)
    with Image.open(BytesIO(encode(Image.new("RGB", (8, 4)), "JPEG", exif=exif))) as image:
        assert load_image(image).size == (4, 8)
