"""Which images are loaded, which are refused, and that every refusal is an ImageError."""

import base64
import contextlib
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from sam4mllm_tool.errors import ImageError
from sam4mllm_tool.images import image_files, load
from sam4mllm_tool.images.load import CALLER_POLICY, TOOL_POLICY, ImagePolicy, load_image, read_image

SIDE = 8
RED, WHITE, BLACK, GREY = (255, 0, 0), (255, 255, 255), (0, 0, 0), (128, 128, 128)


def encode(image: Image.Image, format_name: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def quarters(side: int = SIDE) -> Image.Image:
    """An image of red, green / blue, white quarters, which looks different in each orientation."""
    image = Image.new("RGB", (2, 2))
    for index, colour in enumerate([RED, (0, 255, 0), (0, 0, 255), WHITE]):
        image.putpixel((index % 2, index // 2), colour)
    return image.resize((side * 2, side), Image.Resampling.NEAREST)


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a PNG whose header declares this size."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\0\0IDAT"


def bmp_of_size(width: int, height: int) -> bytes:
    content = encode(quarters(), "BMP")
    return content[:18] + struct.pack("<ii", width, height) + content[26:]


def huge_tiff() -> bytes:
    """A TIFF whose header declares 100,000 x 100,000 pixels."""
    content = bytearray(encode(quarters(), "TIFF"))
    for tag in (256, 257):
        offset = content.index(struct.pack("<HHI", tag, 4, 1))
        content[offset : offset + 12] = struct.pack("<HHII", tag, 4, 1, 100_000)
    return bytes(content)


def damaged_webp() -> bytes:
    content = encode(Image.effect_noise((64, 64), 90).convert("RGB"), "WEBP", lossless=True)
    return content[: len(content) // 2] + b"\xff" * (len(content) - len(content) // 2)


def first_pixel(image: Image.Image) -> Any:
    return image.getpixel((0, 0))


PNG = encode(quarters())


# Sources


def test_every_kind_of_source_gives_the_same_image(tmp_path: Path):
    path = tmp_path / "an image.png"
    path.write_bytes(PNG)
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    wrapped = uri[:60] + "\n " + uri[60:].rstrip("=")
    percent = "data:image/png," + quote_from_bytes(PNG)
    array = np.asarray(quarters())
    for source in (path, str(path), PNG, bytearray(PNG), memoryview(PNG), uri, wrapped, percent, quarters(), array):
        image = load_image(source)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), array)


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "MPO"])
def test_each_format_is_read(format_name: str):
    assert np.abs(np.asarray(load_image(encode(Image.new("RGB", (SIDE, SIDE), RED), format_name)), int) - RED).max() <= 3


def test_a_pil_image_is_copied_and_not_changed():
    image = quarters()
    image.getexif()[ExifTags.Base.Orientation] = 6
    image.info["comment"] = "mine"
    before = image.tobytes()
    loaded = load_image(image)
    assert loaded.size == (SIDE, SIDE * 2)
    loaded.putpixel((0, 0), BLACK)
    assert (image.tobytes(), image.size, image.info) == (before, (SIDE * 2, SIDE), {"comment": "mine"})
    assert image.getexif()[ExifTags.Base.Orientation] == 6
    plain = quarters()
    assert load_image(plain) is not plain


def test_a_lazily_opened_pil_image_is_read(tmp_path: Path):
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(load_image(image)), np.asarray(quarters()))


def test_metadata_is_dropped():
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "at home"
    assert load_image(encode(quarters(), exif=exif, icc_profile=b"x" * 200, dpi=(72, 72))).info == {}


# Conversion to upright RGB


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format_name: str, orientation: int):
    undo = [None, 0, 3, 1, 5, 2, 6, 4][orientation - 1]  # what a camera held that way would have stored
    stored = quarters(32) if undo is None else quarters(32).transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 95} if format_name in ("JPEG", "WEBP") else {}
    loaded = load_image(encode(stored, format_name, exif=exif, **options))
    assert loaded.size == (64, 32)
    corners = [loaded.getpixel(at) for at in ((4, 4), (60, 4), (4, 28), (60, 28))]
    assert np.abs(np.array(corners) - [RED, (0, 255, 0), (0, 0, 255), WHITE]).max() < 40


def test_damaged_exif_is_ignored():
    damaged = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\x0e\x01\x05\0\xff\xff\xff\xff\xff\xff\xff\xff"
    assert load_image(encode(quarters(), "JPEG", exif=damaged)).size == (SIDE * 2, SIDE)


def palette_image(*, transparent: bool) -> bytes:
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([0, 0, 0, *RED])
    return encode(image, transparency=1) if transparent else encode(image)


def grey_16_bit(values: int, mode: str = "I;16") -> Image.Image:
    return Image.frombytes(mode, (SIDE, SIDE), struct.pack("<H" if mode == "I;16" else ">H", values) * SIDE * SIDE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(encode(Image.new("1", (SIDE, SIDE), 1)), WHITE, id="1 bit"),
        pytest.param(encode(Image.new("L", (SIDE, SIDE), 128)), GREY, id="grey"),
        pytest.param(encode(Image.new("LA", (SIDE, SIDE), (0, 0))), WHITE, id="grey and alpha"),
        pytest.param(Image.new("La", (SIDE, SIDE), (0, 0)), WHITE, id="grey and alpha, premultiplied"),
        pytest.param(palette_image(transparent=False), RED, id="palette"),
        pytest.param(palette_image(transparent=True), WHITE, id="palette, transparent entry"),
        pytest.param(encode(Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 0))), WHITE, id="transparent is white"),
        pytest.param(encode(Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 127))), GREY, id="half transparent is half white"),
        pytest.param(encode(Image.new("RGB", (SIDE, SIDE), RED), transparency=RED), WHITE, id="one transparent colour"),
        pytest.param(encode(Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), "TIFF"), RED, id="CMYK TIFF"),
        pytest.param(Image.new("YCbCr", (SIDE, SIDE), (128, 128, 128)), GREY, id="YCbCr"),
        pytest.param(encode(grey_16_bit(32896)), GREY, id="16-bit PNG"),
        pytest.param(encode(grey_16_bit(65535), "TIFF"), WHITE, id="16-bit TIFF"),
        pytest.param(grey_16_bit(32896, "I;16B"), GREY, id="16-bit, high byte first"),
        pytest.param(grey_16_bit(255), (1, 1, 1), id="16-bit and nearly black"),
        pytest.param(encode(grey_16_bit(700), transparency=700), WHITE, id="16-bit, transparent value"),
        pytest.param(Image.new("I", (SIDE, SIDE), 32896), GREY, id="mode I holds 16 bits"),
        pytest.param(Image.new("F", (SIDE, SIDE), 0.5), GREY, id="mode F in 0..1"),
        pytest.param(np.full((SIDE, SIDE), True), WHITE, id="bool array"),
        pytest.param(np.full((SIDE, SIDE), 128, np.uint8), GREY, id="grey array"),
        pytest.param(np.full((SIDE, SIDE), 32896, np.uint16), GREY, id="16-bit array"),
        pytest.param(np.full((SIDE, SIDE), 32896, ">u2"), GREY, id="16-bit array, high byte first"),
        pytest.param(np.full((SIDE, SIDE, 3), 128, np.uint16) * 257, GREY, id="16-bit RGB array"),
        pytest.param(np.full((SIDE, SIDE), 0.5), GREY, id="float array"),
        pytest.param(np.full((SIDE, SIDE, 3), 1, np.float16), WHITE, id="half-precision array"),
        pytest.param(np.full((SIDE, SIDE, 4), [255, 0, 0, 0], np.uint8), WHITE, id="RGBA array"),
        pytest.param(np.full((SIDE, SIDE, 4), [1.0, 0, 0, 1]), RED, id="float RGBA array"),
        pytest.param(np.full((SIDE, SIDE, 3), RED, np.uint8)[::-1, ::2], RED, id="array that is a view"),
    ],
)
def test_every_mode_becomes_rgb(source: Any, expected: tuple[int, int, int]):
    image = load_image(source)
    assert image.mode == "RGB"
    assert first_pixel(image) == pytest.approx(expected, abs=1)


def test_cmyk_jpeg_is_not_inverted():
    image = Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0))
    assert first_pixel(load_image(encode(image, "JPEG", quality=95))) == pytest.approx(RED, abs=6)


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(format_name: str):
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in (RED, (0, 255, 0))]
    content = encode(frames[0], format_name, save_all=True, append_images=frames[1:])
    assert first_pixel(load_image(content)) == pytest.approx(RED, abs=2)


# Refusals


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(b"", "empty", id="no bytes"),
        pytest.param(b"GET / HTTP/1.1", "none of the formats", id="not an image"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", "none of the formats", id="a format that runs programs"),
        pytest.param(PNG[:20], "header|none of the formats", id="cut off in the header"),
        pytest.param(PNG[:-30], "cut off or damaged", id="truncated PNG"),
        pytest.param(encode(quarters(64), "JPEG")[:-40], "cut off or damaged", id="truncated JPEG"),
        pytest.param(encode(quarters(64), "WEBP")[:-20], "none of the formats|damaged", id="truncated WEBP"),
        pytest.param(encode(quarters(64), "BMP")[:-20], "cut off or damaged", id="truncated BMP"),
        pytest.param(encode(quarters(64), "TIFF")[:40], "header|damaged", id="truncated TIFF"),
        pytest.param(PNG.replace(b"IDAT", b"IDAT\xff\xff", 1), "damaged", id="damaged PNG"),
        pytest.param(damaged_webp(), "cut off or damaged", id="damaged WEBP"),
        pytest.param(
            png_header(100_000, 100_000), "100000 x 100000 pixels, over the limit of 64,000,000", id="100,000 x 100,000"
        ),
        pytest.param(huge_tiff(), "100000 x 100000 pixels, over the limit of 64,000,000", id="100,000 x 100,000 in TIFF"),
        pytest.param(png_header(12_000, 12_000), "12000 x 12000 pixels, over the limit of 64,000,000", id="144 megapixels"),
        pytest.param(png_header(0, 0), "is 0 x 0 pixels: there is nothing in it", id="PNG of 0 x 0"),
        pytest.param(png_header(5, 0), "is 5 x 0 pixels: there is nothing in it", id="PNG without rows"),
        pytest.param(bmp_of_size(0, 0), "is 0 x 0 pixels: there is nothing in it", id="BMP of 0 x 0"),
        pytest.param(b"GIF89a" + bytes(7) + b";", "is 0 x 0 pixels: there is nothing in it", id="GIF of 0 x 0"),
        pytest.param(Image.new("RGB", (0, 0)), "nothing in it", id="PIL image of 0 x 0"),
        pytest.param(Image.new("RGB", (5, 0)), "nothing in it", id="PIL image without rows"),
        pytest.param(Image.new("I", (2, 2), -1), "scale them to 16 bits", id="mode I below 0"),
        pytest.param(Image.new("I", (2, 2), 70_000), "scale them to 16 bits", id="mode I over 16 bits"),
        pytest.param(Image.new("F", (2, 2), 200.0), r"expected \[0, 1\]", id="mode F in 0..255"),
        pytest.param(np.zeros((0, 0), np.uint8), "nothing in it", id="array of 0 x 0"),
        pytest.param(np.zeros((0, 5, 3), np.uint8), "nothing in it", id="array without rows"),
        pytest.param(np.array([[0.5, np.nan]]), "NaN", id="NaN"),
        pytest.param(np.array([[0.5, np.inf]]), "infinite", id="infinity"),
        pytest.param(np.array([[0.0, 255.0]]), r"0..255, expected \[0, 1\]", id="floats in 0..255"),
        pytest.param(np.array([[-0.1, 1.0]]), "-0.1..1", id="negative floats"),
        pytest.param(np.zeros((4, 4), np.int64), "int64", id="wrong dtype"),
        pytest.param(np.zeros((4, 4), np.complex64), "complex64", id="complex"),
        pytest.param(np.array([["a"]]), "<U1", id="strings"),
        pytest.param(np.array([[None]]), "object", id="objects"),
        pytest.param(np.zeros(4, np.uint8), r"\(4,\)", id="one axis"),
        pytest.param(np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)", id="two channels"),
        pytest.param(np.zeros((3, 40, 40), np.uint8), r"\(3, 40, 40\)", id="channels first"),
        pytest.param(np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)", id="a batch"),
        pytest.param(np.broadcast_to(np.uint8(0), (9000, 9000)), "over the limit", id="array of 81 megapixels"),
        pytest.param(None, "NoneType", id="None"),
        pytest.param([[1, 2]], "list", id="a list"),
        pytest.param("", "empty string", id="empty string"),
        pytest.param(" \n", "empty string", id="blank string"),
        pytest.param("no/such/image.png", "does not exist", id="missing file"),
        pytest.param(os.curdir, "is a folder", id="a folder"),
        pytest.param(os.devnull, "not a regular file", id="a device"),
        pytest.param("a\0b.png", "null", id="null character in a path"),
        pytest.param("x" * 5000, "cannot be opened", id="name that is too long"),
        pytest.param("\ud800.png", "does not exist|cannot be opened", id="name that is not Unicode"),
        pytest.param("file:///etc/hostname", "file://", id="file URL"),
        pytest.param("ftp://example.com/a.png", "ftp://", id="ftp URL"),
        pytest.param("http://example.com/a.png", "turned off", id="URL by default"),
        pytest.param("HTTPS://example.com/a.png", "turned off", id="URL in capitals"),
        pytest.param("data:image/png;base64", "no comma", id="data URI without data"),
        pytest.param("data:image/png;base64,", "empty", id="data URI with empty data"),
        pytest.param("data:image/png;base64,@@@@", "not base64", id="data URI that is not base64"),
        pytest.param("data:image/png;base64,AAAAA", "not base64", id="data URI cut off"),
        pytest.param("data:image/png,\ud800", "half a character", id="data URI with half a character"),
        pytest.param("data:image/png;base64,AA\udcffAA", "half a character", id="base64 with half a character"),
        pytest.param("data:image/png;base64,AAéA", "not base64", id="base64 with a letter of another script"),
        pytest.param("data:text/html,<p>hello", "none of the formats", id="data URI of text"),
    ],
)
def test_an_unreadable_image_raises_an_error_that_names_the_problem(source: Any, message: str):
    with pytest.raises(ImageError, match=message) as caught:
        load_image(source)
    assert len(str(caught.value)) < 500


def test_a_file_without_read_permission_is_refused(tmp_path: Path):
    path = tmp_path / "locked.png"
    path.write_bytes(PNG)
    path.chmod(0)
    with contextlib.suppress(PermissionError), path.open("rb"):
        pytest.skip("this user may read every file")
    with pytest.raises(ImageError, match=r"locked.png.*cannot be opened: Permission denied"):
        load_image(path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose reading fails")
def test_a_read_error_is_an_image_error():
    with pytest.raises(ImageError, match="cannot be opened"):
        load_image("/proc/self/mem")


def test_an_image_with_a_huge_declared_size_is_refused_without_allocating_it():
    tracemalloc.start()
    for width, height in ((100_000, 100_000), (12_000, 12_000), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(ImageError, match="pixels"):
            load_image(png_header(width, height))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_limits_of_the_policy_are_inclusive(tmp_path: Path):
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    for source in (PNG, path, uri):
        with pytest.raises(ImageError, match=f"limit of {len(PNG) - 1} bytes"):
            load_image(source, policy=ImagePolicy(max_bytes=len(PNG) - 1))
        assert load_image(source, policy=ImagePolicy(max_bytes=len(PNG)))
    with pytest.raises(ImageError, match="over the limit of 10 bytes"):
        load_image(uri, policy=ImagePolicy(max_bytes=10))
    for source in (PNG, quarters(), np.asarray(quarters())):
        with pytest.raises(ImageError, match="16 x 8 pixels, over the limit of 127"):
            load_image(source, policy=ImagePolicy(max_pixels=127))
        assert load_image(source, policy=ImagePolicy(max_pixels=128))
    with pytest.raises(ImageError, match="none of the formats JPEG, BMP"):
        load_image(PNG, policy=ImagePolicy(formats=("JPEG", "BMP")))


def test_the_limits_are_those_that_are_documented():
    assert vars(CALLER_POLICY) == {
        "max_bytes": 67_108_864,
        "max_pixels": 64_000_000,
        "formats": ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"),
        "allow_paths": True,
        "allow_urls": False,
        "url_hosts": None,
        "allow_private_addresses": False,
        "url_seconds": 10,
        "decode_timeout_s": 4,
        "max_message_images": 16,
        "max_message_pixels": 128_000_000,
    }
    assert vars(TOOL_POLICY) == vars(CALLER_POLICY) | {"allow_paths": False}
    with pytest.raises(ImageError, match="more than 1,048,576 percent signs"):
        load_image("data:," + "%41" * (2**20 + 1))


def test_a_data_uri_is_limited_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch):
    text, escaped, policy = base64.b64encode(PNG).decode(), quote_from_bytes(PNG), ImagePolicy(max_bytes=len(PNG))
    monkeypatch.setattr(load, "_MAX_ESCAPES", escaped.count("%"))
    room = 2 * len(PNG) + escaped.count("%") - len(text)  # spaces between the letters of base64 are left out
    assert load_image(f"data:image/png;base64,{text[0]}{' ' * room}{text[1:]}", policy=policy)
    with pytest.raises(ImageError, match=f"data URI is over the limit of {len(PNG)} bytes"):
        load_image(f"data:image/png;base64,{text[0]}{' ' * (room + 1)}{text[1:]}", policy=policy)
    assert load_image(f"data:image/png,{escaped}", policy=policy)
    with pytest.raises(ImageError, match="percent signs; encode the image as base64"):
        load_image(f"data:image/png,{escaped.replace('P', '%50', 1)}", policy=policy)
    longest = 3 * len(PNG) + escaped.count("%")
    with pytest.raises(ImageError, match="data URI is over the limit"):
        load_image(f"data:image/png,{'a' * (longest + 1)}", policy=policy)
    with pytest.raises(ImageError, match="the image in the data URI is over the limit"):
        load_image(f"data:image/png,{'a' * longest}", policy=policy)  # decoded, and then too long


def test_pillows_own_limit_is_an_image_error_and_its_warning_is_silenced(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    assert load_image(PNG).size == (16, 8)  # twice as many, for which Pillow warns
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 63)
    with pytest.raises(ImageError, match="too many pixels, over the limit of 126;"):
        load_image(PNG)


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_opening_an_image_counts_as_decoding_it(format_name: str):
    with pytest.raises(ImageError, match="takes more than 0 seconds to decode"):
        load_image(encode(quarters(64), format_name), policy=ImagePolicy(decode_timeout_s=0))


def test_an_encoded_image_is_returned_as_it_is_once_it_can_be_opened(tmp_path: Path):
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert [read_image(source) for source in (path, str(path), PNG, bytearray(PNG), uri)] == [PNG] * 5
    with pytest.raises(ImageError, match="cut off or damaged"):
        read_image(PNG[:-30])
    with pytest.raises(ImageError, match="16 x 8 pixels, over the limit of 127"):
        read_image(PNG, policy=ImagePolicy(max_pixels=127))


def test_an_opened_image_that_is_cut_off_is_an_image_error():
    with (
        Image.open(BytesIO(PNG[:-30])) as image,
        pytest.raises(ImageError, match="the PIL image cannot be decoded, it may be cut off"),
    ):
        load_image(image)


@settings(max_examples=200)
@given(
    format_name=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]),
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 2**16),
)
def test_damaged_bytes_give_an_image_or_an_image_error(format_name: str, edits: list[tuple[int, int]], cut: int):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = bytearray(encode(quarters(), format_name, **({} if format_name in ("GIF", "BMP") else {"exif": exif})))
    for offset, value in edits:
        content[offset % len(content)] = value
    with contextlib.suppress(ImageError):
        assert load_image(content[: len(content) - cut % len(content) if cut % 3 == 0 else None]).mode == "RGB"


# Paths from a tool call


def test_a_tool_call_opens_neither_paths_nor_urls(tmp_path: Path):
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    for source in (path, str(path), str(tmp_path / "missing.png")):
        with pytest.raises(ImageError, match="paths are turned off"):
            load_image(source, policy=TOOL_POLICY)
    with pytest.raises(ImageError, match="URLs are turned off"):
        load_image("https://example.com/a.png", policy=TOOL_POLICY)
    assert load_image("data:image/png;base64," + base64.b64encode(PNG).decode(), policy=TOOL_POLICY)
    assert load_image(PNG, policy=TOOL_POLICY)


@pytest.fixture
def two_folders(tmp_path: Path) -> Path:
    """`open/` holds an image and links that lead out of it, `secret/` another image."""
    for folder in ("open/inner", "secret", "open-not"):
        (tmp_path / folder).mkdir(parents=True)
    for path in ("open/image.png", "open/inner/image.png", "secret/image.png", "open-not/image.png"):
        (tmp_path / path).write_bytes(PNG)
    (tmp_path / "open/link.png").symlink_to(tmp_path / "secret/image.png")
    (tmp_path / "open/folder").symlink_to(tmp_path / "secret")
    (tmp_path / "open/loop.png").symlink_to(tmp_path / "open/loop.png")
    (tmp_path / "open/kept.png").symlink_to(tmp_path / "open/inner/image.png")
    (tmp_path / "alias").symlink_to(tmp_path / "open")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        pytest.param("open/image.png", True, id="in the root"),
        pytest.param("open/inner/image.png", True, id="below the root"),
        pytest.param("open/inner/../image.png", True, id="up and still inside"),
        pytest.param("open/kept.png", True, id="link that stays inside"),
        pytest.param("alias/image.png", True, id="link to the root"),
        pytest.param("secret/image.png", False, id="another folder"),
        pytest.param("secret/missing.png", False, id="missing in another folder: its absence is not revealed"),
        pytest.param("open/../secret/image.png", False, id="up and out"),
        pytest.param("open/link.png", False, id="link that leads out"),
        pytest.param("open/folder/image.png", False, id="folder link that leads out"),
        pytest.param("open-not/image.png", False, id="folder whose name has the same beginning"),
    ],
)
@pytest.mark.parametrize("root", ["open", "alias"])
def test_paths_are_confined_to_the_allowed_folders(two_folders: Path, path: str, allowed: bool, root: str):
    policy = ImagePolicy(allow_paths=(two_folders / root,))
    if allowed:
        assert load_image(two_folders / path, policy=policy)
    else:
        with pytest.raises(ImageError, match="not in a folder that images may be opened from"):
            load_image(two_folders / path, policy=policy)


def replace_by_link_to_file(root: Path) -> None:
    (root / "inner/image.png").unlink()
    (root / "inner/image.png").symlink_to(root.parent / "secret/image.png")


def replace_by_link_to_folder(root: Path) -> None:
    (root / "inner").rename(root / "moved")
    (root / "inner").symlink_to(root.parent / "secret")


def replace_by_pipe(root: Path) -> None:
    (root / "inner/image.png").unlink()
    os.mkfifo(root / "inner/image.png")


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (replace_by_link_to_file, "cannot be opened"),
        (replace_by_link_to_folder, "cannot be opened"),
        (replace_by_pipe, "regular"),
    ],
)
def test_a_file_that_is_replaced_after_the_check_is_not_read(
    two_folders: Path, swap: Callable[[Path], None], message: str, monkeypatch: pytest.MonkeyPatch
):
    check = image_files._require_regular
    checks: list[int] = []

    def check_then_swap(status: os.stat_result, what: str) -> None:
        check(status, what)
        checks.append(1)
        if len(checks) == 1:
            swap(two_folders / "open")

    monkeypatch.setattr(image_files, "_require_regular", check_then_swap)
    with pytest.raises(ImageError, match=message):
        load_image("inner/image.png", policy=ImagePolicy(allow_paths=(two_folders / "open",)))


def test_files_below_a_folder_are_read_where_folders_cannot_be_opened(two_folders: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "supports_dir_fd", set())
    policy = ImagePolicy(allow_paths=(two_folders / "open",))
    assert load_image("inner/image.png", policy=policy).size == (16, 8)
    with pytest.raises(ImageError, match="not in a folder"):
        load_image("link.png", policy=policy)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_files_of_proc_are_refused_whatever_is_allowed():
    for policy in (CALLER_POLICY, ImagePolicy(allow_paths=("/",))):
        with pytest.raises(ImageError, match="it is the system's"):
            load_image("/proc/self/environ", policy=policy)


def test_relative_paths_are_looked_up_in_each_allowed_folder(two_folders: Path):
    policy = ImagePolicy(allow_paths=(str(two_folders / "secret"), str(two_folders / "open")))
    assert load_image("inner/image.png", policy=policy)
    with pytest.raises(ImageError, match=r"'missing.png' does not exist"):
        load_image("missing.png", policy=policy)
    with pytest.raises(ImageError, match="not in a folder"):
        load_image("../open-not/image.png", policy=policy)


def test_a_loop_of_links_is_an_image_error(two_folders: Path):
    for policy in (CALLER_POLICY, ImagePolicy(allow_paths=(two_folders,))):
        with pytest.raises(ImageError, match=r"loop.png.* cannot be opened"):
            load_image(two_folders / "open/loop.png", policy=policy)


def test_an_invalid_policy_is_a_value_error():
    with pytest.raises(ValueError, match="tuple of folders"):
        ImagePolicy(allow_paths="/images")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no format named PNGG"):
        ImagePolicy(formats=("JPEG", "PNGG"))
    assert ImagePolicy(formats=("PPM",)).formats == ("PPM",)
