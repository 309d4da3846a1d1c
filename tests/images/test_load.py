"""What gets in, what does not, and that nothing but an ImageError ever comes out."""

import base64
import contextlib
import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
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
from sam4mllm_tool.images import fetch as fetching
from sam4mllm_tool.images.load import CALLER_POLICY, TOOL_POLICY, ImagePolicy, load_image

SIDE = 8
RED, WHITE, BLACK, GREY = (255, 0, 0), (255, 255, 255), (0, 0, 0), (128, 128, 128)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def quarters(side: int = SIDE) -> Image.Image:
    """Red, green / blue, white: every orientation of it looks different."""
    image = Image.new("RGB", (2, 2))
    for place, colour in enumerate([RED, (0, 255, 0), (0, 0, 255), WHITE]):
        image.putpixel((place % 2, place // 2), colour)
    return image.resize((side * 2, side), Image.Resampling.NEAREST)


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be this large."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\0\0IDAT"


def sized_bmp(width: int, height: int) -> bytes:
    content = encoded(quarters(), "BMP")
    return content[:18] + struct.pack("<ii", width, height) + content[26:]


def huge_tiff() -> bytes:
    """A TIFF whose header claims 100,000 x 100,000 pixels."""
    content = bytearray(encoded(quarters(), "TIFF"))
    for tag in (256, 257):
        place = content.index(struct.pack("<HHI", tag, 4, 1))
        content[place : place + 12] = struct.pack("<HHII", tag, 4, 1, 100_000)
    return bytes(content)


def pixel(image: Image.Image) -> Any:
    return image.getpixel((0, 0))


PNG = encoded(quarters())


# Sources


def test_every_source_gives_the_same_picture(tmp_path: Path):
    path = tmp_path / "a picture.png"
    path.write_bytes(PNG)
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    wrapped = uri[:60] + "\n " + uri[60:].rstrip("=")
    percent = "data:image/png," + quote_from_bytes(PNG)
    array = np.asarray(quarters())
    for source in (path, str(path), PNG, bytearray(PNG), memoryview(PNG), uri, wrapped, percent, quarters(), array):
        image = load_image(source)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), array)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "MPO"])
def test_each_format_is_read(kind: str):
    assert np.abs(np.asarray(load_image(encoded(Image.new("RGB", (SIDE, SIDE), RED), kind)), int) - RED).max() <= 3


def test_a_pil_image_is_neither_changed_nor_returned():
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


def test_a_pil_image_not_yet_loaded_is_read(tmp_path: Path):
    path = tmp_path / "picture.png"
    path.write_bytes(PNG)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(load_image(image)), np.asarray(quarters()))


def test_metadata_stays_out_of_the_picture():
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "at home"
    assert load_image(encoded(quarters(), exif=exif, icc_profile=b"x" * 200, dpi=(72, 72))).info == {}


# Upright and RGB


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int):
    undo = [None, 0, 3, 1, 5, 2, 6, 4][orientation - 1]  # what a camera held that way would have stored
    stored = quarters(32) if undo is None else quarters(32).transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    loaded = load_image(encoded(stored, kind, exif=exif, **options))
    assert loaded.size == (64, 32)
    corners = [loaded.getpixel(at) for at in ((4, 4), (60, 4), (4, 28), (60, 28))]
    assert np.abs(np.array(corners) - [RED, (0, 255, 0), (0, 0, 255), WHITE]).max() < 40


def test_exif_that_is_damaged_does_not_hide_the_picture():
    damaged = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\x0e\x01\x05\0\xff\xff\xff\xff\xff\xff\xff\xff"
    assert load_image(encoded(quarters(), "JPEG", exif=damaged)).size == (SIDE * 2, SIDE)


def palette(*, transparent: bool) -> bytes:
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([0, 0, 0, *RED])
    return encoded(image, transparency=1) if transparent else encoded(image)


def wide(values: int, mode: str = "I;16") -> Image.Image:
    return Image.frombytes(mode, (SIDE, SIDE), struct.pack("<H" if mode == "I;16" else ">H", values) * SIDE * SIDE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(encoded(Image.new("1", (SIDE, SIDE), 1)), WHITE, id="1 bit"),
        pytest.param(encoded(Image.new("L", (SIDE, SIDE), 128)), GREY, id="grey"),
        pytest.param(encoded(Image.new("LA", (SIDE, SIDE), (0, 0))), WHITE, id="grey and alpha"),
        pytest.param(Image.new("La", (SIDE, SIDE), (0, 0)), WHITE, id="grey and alpha, premultiplied"),
        pytest.param(palette(transparent=False), RED, id="palette"),
        pytest.param(palette(transparent=True), WHITE, id="palette, transparent entry"),
        pytest.param(encoded(Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 0))), WHITE, id="transparent is white"),
        pytest.param(encoded(Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 127))), GREY, id="half transparent is half white"),
        pytest.param(encoded(Image.new("RGB", (SIDE, SIDE), RED), transparency=RED), WHITE, id="one transparent colour"),
        pytest.param(encoded(Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), "TIFF"), RED, id="CMYK TIFF"),
        pytest.param(Image.new("YCbCr", (SIDE, SIDE), (128, 128, 128)), GREY, id="YCbCr"),
        pytest.param(encoded(wide(32896)), GREY, id="16-bit PNG"),
        pytest.param(encoded(wide(65535), "TIFF"), WHITE, id="16-bit TIFF"),
        pytest.param(wide(32896, "I;16B"), GREY, id="16-bit, high byte first"),
        pytest.param(wide(255), (1, 1, 1), id="16-bit and nearly black"),
        pytest.param(encoded(wide(700), transparency=700), WHITE, id="16-bit, transparent value"),
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
    assert pixel(image) == pytest.approx(expected, abs=1)


def test_cmyk_jpeg_is_not_inverted():
    image = Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0))
    assert pixel(load_image(encoded(image, "JPEG", quality=95))) == pytest.approx(RED, abs=6)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind: str):
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in (RED, (0, 255, 0))]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert pixel(load_image(content)) == pytest.approx(RED, abs=2)


# Refusals


@pytest.mark.parametrize(
    ("source", "says"),
    [
        pytest.param(b"", "empty", id="no bytes"),
        pytest.param(b"GET / HTTP/1.1", "none of the formats", id="not an image"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", "none of the formats", id="a format that runs programs"),
        pytest.param(PNG[:20], "header|none of the formats", id="cut off in the header"),
        pytest.param(PNG[:-30], "cut off or damaged", id="truncated PNG"),
        pytest.param(encoded(quarters(64), "JPEG")[:-40], "cut off or damaged", id="truncated JPEG"),
        pytest.param(encoded(quarters(64), "WEBP")[:-20], "none of the formats|damaged", id="truncated WEBP"),
        pytest.param(encoded(quarters(64), "BMP")[:-20], "cut off or damaged", id="truncated BMP"),
        pytest.param(encoded(quarters(64), "TIFF")[:40], "header|damaged", id="truncated TIFF"),
        pytest.param(PNG.replace(b"IDAT", b"IDAT\xff\xff", 1), "damaged", id="damaged PNG"),
        pytest.param(
            png_header(100_000, 100_000), "100000 x 100000 pixels, over the limit of 64,000,000", id="100,000 x 100,000"
        ),
        pytest.param(huge_tiff(), "too many pixels, over the limit of 64,000,000", id="100,000 x 100,000 in TIFF"),
        pytest.param(png_header(12_000, 12_000), "12000 x 12000 pixels, over the limit of 64,000,000", id="144 megapixels"),
        pytest.param(png_header(0, 0), "is 0 x 0 pixels: there is nothing in it", id="PNG of 0 x 0"),
        pytest.param(png_header(5, 0), "is 5 x 0 pixels: there is nothing in it", id="PNG without rows"),
        pytest.param(sized_bmp(0, 0), "is 0 x 0 pixels: there is nothing in it", id="BMP of 0 x 0"),
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
        pytest.param("no/such/picture.png", "does not exist", id="missing file"),
        pytest.param(os.curdir, "is a folder", id="a folder"),
        pytest.param(os.devnull, "not a regular file", id="a device"),
        pytest.param("a\0b.png", "null", id="null character in a path"),
        pytest.param("x" * 5000, "cannot be opened", id="endless name"),
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
def test_what_is_no_picture_is_an_image_error_that_names_the_problem(source: Any, says: str):
    with pytest.raises(ImageError, match=says) as caught:
        load_image(source)
    assert len(str(caught.value)) < 500


def test_an_unreadable_file_is_an_image_error(tmp_path: Path):
    path = tmp_path / "locked.png"
    path.write_bytes(PNG)
    path.chmod(0)
    with contextlib.suppress(PermissionError), path.open("rb"):
        pytest.skip("this user may read everything")
    with pytest.raises(ImageError, match=r"locked.png.*cannot be opened: Permission denied"):
        load_image(path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose reading fails")
def test_a_file_whose_reading_fails_is_an_image_error():
    with pytest.raises(ImageError, match="cannot be opened"):
        load_image("/proc/self/mem")


def test_a_huge_header_is_refused_at_once_and_without_memory():
    tracemalloc.start()
    begun = time.perf_counter()
    for width, height in ((100_000, 100_000), (12_000, 12_000), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(ImageError, match="pixels"):
            load_image(png_header(width, height))
    assert time.perf_counter() - begun < 1
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_limits_are_those_of_the_policy(tmp_path: Path):
    path = tmp_path / "picture.png"
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


def test_pillows_own_bomb_warning_is_not_heard(recwarn: pytest.WarningsRecorder):
    with pytest.raises(ImageError, match="over the limit"):
        load_image(png_header(10_000, 10_000))
    assert not recwarn.list


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]),
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 2**16),
)
def test_damaged_bytes_give_a_picture_or_an_image_error(kind: str, edits: list[tuple[int, int]], cut: int):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = bytearray(encoded(quarters(), kind, **({} if kind in ("GIF", "BMP") else {"exif": exif})))
    for place, value in edits:
        content[place % len(content)] = value
    with contextlib.suppress(ImageError):
        assert load_image(content[: len(content) - cut % len(content) if cut % 3 == 0 else None]).mode == "RGB"


# Paths from a tool call


def test_a_tool_call_opens_neither_paths_nor_urls(tmp_path: Path):
    path = tmp_path / "picture.png"
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
    """`open/` holds a picture and links that lead out of it, `secret/` another picture."""
    for folder in ("open/inner", "secret", "open-not"):
        (tmp_path / folder).mkdir(parents=True)
    for place in ("open/picture.png", "open/inner/picture.png", "secret/picture.png", "open-not/picture.png"):
        (tmp_path / place).write_bytes(PNG)
    (tmp_path / "open/link.png").symlink_to(tmp_path / "secret/picture.png")
    (tmp_path / "open/folder").symlink_to(tmp_path / "secret")
    (tmp_path / "open/loop.png").symlink_to(tmp_path / "open/loop.png")
    (tmp_path / "open/kept.png").symlink_to(tmp_path / "open/inner/picture.png")
    (tmp_path / "alias").symlink_to(tmp_path / "open")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        pytest.param("open/picture.png", True, id="in the root"),
        pytest.param("open/inner/picture.png", True, id="below the root"),
        pytest.param("open/inner/../picture.png", True, id="up and still inside"),
        pytest.param("open/kept.png", True, id="link that stays inside"),
        pytest.param("alias/picture.png", True, id="link to the root"),
        pytest.param("secret/picture.png", False, id="another folder"),
        pytest.param("secret/missing.png", False, id="what is missing elsewhere is not told"),
        pytest.param("open/../secret/picture.png", False, id="up and out"),
        pytest.param("open/link.png", False, id="link that leads out"),
        pytest.param("open/folder/picture.png", False, id="folder link that leads out"),
        pytest.param("open-not/picture.png", False, id="folder whose name begins alike"),
    ],
)
@pytest.mark.parametrize("root", ["open", "alias"])
def test_paths_are_held_inside_the_given_folders(two_folders: Path, path: str, allowed: bool, root: str):
    policy = ImagePolicy(allow_paths=(two_folders / root,))
    if allowed:
        assert load_image(two_folders / path, policy=policy)
    else:
        with pytest.raises(ImageError, match="not in a folder that pictures may be opened from"):
            load_image(two_folders / path, policy=policy)


def test_relative_paths_are_looked_for_in_each_folder(two_folders: Path):
    policy = ImagePolicy(allow_paths=(str(two_folders / "secret"), str(two_folders / "open")))
    assert load_image("inner/picture.png", policy=policy)
    with pytest.raises(ImageError, match=r"'missing.png' does not exist"):
        load_image("missing.png", policy=policy)
    with pytest.raises(ImageError, match="not in a folder"):
        load_image("../open-not/picture.png", policy=policy)


def test_a_loop_of_links_is_an_image_error(two_folders: Path):
    for policy in (CALLER_POLICY, ImagePolicy(allow_paths=(two_folders,))):
        with pytest.raises(ImageError, match=r"loop.png.* cannot be opened"):
            load_image(two_folders / "open/loop.png", policy=policy)


def test_a_policy_that_cannot_be_meant_is_a_value_error():
    with pytest.raises(ValueError, match="tuple of folders"):
        ImagePolicy(allow_paths="/pictures")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no format named PNGG"):
        ImagePolicy(formats=("JPEG", "PNGG"))
    assert ImagePolicy(formats=("PPM",)).formats == ("PPM",)


# URLs


class Handler(BaseHTTPRequestHandler):
    """Serves what its server's `answers` say: path -> function of the handler."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers["Host"]))
        with contextlib.suppress(ConnectionError):
            self.server.answers[self.path](self)

    def log_message(self, *_: Any) -> None:
        pass

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class Server(HTTPServer):
    answers: dict[str, Callable[[Handler], None]]
    seen: list[tuple[str, str]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serving(answers: dict[str, Callable[[Handler], None]], context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.answers, server.seen = answers, []
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def trickle(handler: Handler) -> None:
    """A byte every now and then, each well within any timeout of a single read."""
    for byte in b"HTTP/1.0 200 OK\r\nX-Slow: " + b"." * 100:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.05)


ANSWERS: dict[str, Callable[[Handler], None]] = {
    "/picture.png?of=%C3%A9": lambda h: h.send(200, PNG),
    "/picture.png": lambda h: h.send(200, PNG, Content_Length=str(len(PNG))),
    "/hop": lambda h: h.send(302, Location="/picture.png"),
    "/hop2": lambda h: h.send(301, Location="hop"),
    "/hop3": lambda h: h.send(307, Location="/hop2"),
    "/hop4": lambda h: h.send(308, Location="/hop3"),
    "/to-file": lambda h: h.send(302, Location="file:///etc/hostname"),
    "/to-private": lambda h: h.send(302, Location="http://10.1.2.3/picture.png"),
    "/nowhere": lambda h: h.send(302),
    "/missing": lambda h: h.send(404, b"no"),
    "/announced": lambda h: h.send(200, b"", Content_Length="1000000"),
    "/endless": lambda h: h.send(200, b"x" * 3_000_000),
    "/page": lambda h: h.send(200, b"<html>"),
    "/cut": lambda h: h.send(200, PNG[:-30], Content_Length=str(len(PNG))),
    "/trickle": trickle,
    "/garbage": lambda h: h.wfile.write(b"\0\1\2\n"),  # type: ignore[dict-item, return-value]
    "/hang-up": lambda _: None,
}
LOCAL = ImagePolicy(allow_urls=True, allow_private_addresses=True, max_bytes=100_000)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ANSWERS) as server:
        yield server


@pytest.mark.parametrize("path", ["/picture.png", "/picture.png?of=é", "/hop", "/hop2", "/hop3", "/picture.png#part"])
def test_a_picture_is_fetched_through_at_most_three_redirects(server: Server, path: str):
    assert np.array_equal(np.asarray(load_image(server.url + path, policy=LOCAL)), np.asarray(quarters()))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        pytest.param("/hop4", "more than 3 times", id="four redirects"),
        pytest.param("/to-file", "scheme 'file'", id="redirect to a file"),
        pytest.param("/nowhere", "answered 302", id="redirect to nowhere"),
        pytest.param("/missing", "answered 404 Not Found", id="status 404"),
        pytest.param("/announced", "limit of 100,000 bytes", id="too long by its header"),
        pytest.param("/endless", "limit of 100,000 bytes", id="too long without saying so"),
        pytest.param("/page", "none of the formats", id="a page"),
        pytest.param("/cut", "cut off", id="cut off"),
        pytest.param("/garbage", "could not be fetched", id="not HTTP"),
        pytest.param("/hang-up", "could not be fetched", id="no answer"),
    ],
)
def test_a_bad_answer_is_an_image_error(server: Server, path: str, says: str):
    with pytest.raises(ImageError, match=says):
        load_image(server.url + path, policy=LOCAL)


def test_a_server_that_trickles_is_left_after_the_allowed_seconds(server: Server):
    begun = time.perf_counter()
    with pytest.raises(ImageError, match=r"within 0.4 seconds"):
        load_image(server.url + "/trickle", policy=ImagePolicy(allow_urls=True, allow_private_addresses=True, url_seconds=0.4))
    assert time.perf_counter() - begun < 2


def test_a_closed_port_is_an_image_error():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ImageError, match=r"127\.0\.0\.1: .*refused"):
        load_image(f"http://127.0.0.1:{port}/", policy=LOCAL)


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("127.0.0.1", id="loopback"),
        pytest.param("127.1", id="loopback, short"),
        pytest.param("2130706433", id="loopback as one number"),
        pytest.param("0x7f.0.0.1", id="loopback in hexadecimal"),
        pytest.param("localhost", id="loopback by name"),
        pytest.param("0.0.0.0", id="this host"),
        pytest.param("10.0.0.1", id="private 10"),
        pytest.param("172.16.0.1", id="private 172.16"),
        pytest.param("192.168.1.1", id="private 192.168"),
        pytest.param("169.254.169.254", id="link-local, cloud metadata"),
        pytest.param("100.64.0.1", id="carrier's own"),
        pytest.param("224.0.0.1", id="multicast"),
        pytest.param("255.255.255.255", id="broadcast"),
        pytest.param("240.0.0.1", id="reserved"),
        pytest.param("[::1]", id="loopback 6"),
        pytest.param("[::]", id="unspecified 6"),
        pytest.param("[::ffff:127.0.0.1]", id="loopback mapped into 6"),
        pytest.param("[::127.0.0.1]", id="loopback, IPv4-compatible 6"),
        pytest.param("[64:ff9b::7f00:1]", id="loopback behind NAT64"),
        pytest.param("[2002:7f00:1::]", id="loopback inside 6to4"),
        pytest.param("[fe80::1]", id="link-local 6"),
        pytest.param("[fc00::1]", id="private 6"),
        pytest.param("[fec0::1]", id="site-local 6"),
        pytest.param("[ff02::1]", id="multicast 6"),
        pytest.param("[2001:db8::1]", id="documentation 6"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_addresses_that_are_not_public_are_refused(scheme: str, host: str):
    with pytest.raises(ImageError, match="not at a public address"):
        load_image(f"{scheme}://{host}/a.png", policy=ImagePolicy(allow_urls=True))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address: str):
    assert fetching._is_public(address)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("http://", "no host", id="no host"),
        pytest.param("http:///a.png", "no host", id="empty host"),
        pytest.param("http://[::1", "malformed", id="open bracket"),
        pytest.param("http://a:b/", "malformed", id="port is a word"),
        pytest.param("http://a:99999/", "malformed", id="port too large"),
        pytest.param("http://me:secret@example.com/", "user name", id="user name"),
        pytest.param(f"http://{'a' * 70}.example/", "cannot be found", id="label too long"),
        pytest.param("http://no-such-host.invalid/", "cannot be found", id="host unknown"),
        pytest.param("http://1.1.1.1/\ud800", "half a character", id="half a character in the path"),
        pytest.param("http://1.1.1.1/?key=secret\udcff", "half a character", id="half a character in the query"),
        pytest.param("http://\ud800/", "half a character", id="half a character in the host"),
    ],
)
def test_a_malformed_url_is_an_image_error_without_its_secrets(url: str, says: str):
    with pytest.raises(ImageError, match=says) as caught:
        load_image(url, policy=ImagePolicy(allow_urls=True))
    assert "secret" not in str(caught.value)


def test_a_redirect_is_checked_like_a_first_address(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "_is_public", lambda address: address == "127.0.0.1")
    policy = ImagePolicy(allow_urls=True)
    assert load_image(server.url + "/hop", policy=policy)
    with pytest.raises(ImageError, match=r"10\.1\.2\.3 is not at a public address"):
        load_image(server.url + "/to-private", policy=policy)


def test_the_connection_goes_to_the_address_that_was_checked(server: Server, monkeypatch: pytest.MonkeyPatch):
    lookups: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        """Answers once, as a rebinding name server would; the second answer leads elsewhere."""
        if host == "pictures.test":
            lookups.append(host)
            host = "127.0.0.1" if len(lookups) == 1 else "127.0.0.2"
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert load_image(f"http://pictures.test:{server.server_port}/picture.png", policy=LOCAL)
    assert lookups == ["pictures.test"]
    assert server.seen == [("/picture.png", f"pictures.test:{server.server_port}")]


def test_one_private_address_among_public_ones_refuses_the_host(monkeypatch: pytest.MonkeyPatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "192.168.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ImageError, match="not at a public address"):
        load_image("http://pictures.test/a.png", policy=ImagePolicy(allow_urls=True))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_https_verifies_the_hosts_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(ANSWERS, context) as server:
        url = f"https://localhost:{server.server_port}/picture.png"
        with pytest.raises(ImageError, match="certificate verify failed"):
            load_image(url, policy=LOCAL)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert load_image(url, policy=LOCAL).size == (SIDE * 2, SIDE)
        with pytest.raises(ImageError, match="certificate verify failed"):
            load_image(url.replace("localhost", "127.0.0.1"), policy=LOCAL)
