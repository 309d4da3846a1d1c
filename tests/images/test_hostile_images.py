"""Images that are built to take much time or memory are refused, or decoded within the limits."""

import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile

from sam4mllm_tool.errors import ImageError
from sam4mllm_tool.images import rgb_conversion
from sam4mllm_tool.images.load import ImagePolicy, load_image
from tests.fuzz.hostile_corpus import hostile_image
from tests.images.hostile_images import (
    bmp_of_long_jumps,
    encode,
    exif_of_overlapping_tags,
    gif_of_comments,
    jpeg_of_empty_scans,
    jpeg_of_empty_segments,
    png_chunk,
    png_of_empty_chunks,
    tiff_of_overlapping_strips,
    tiff_of_overlapping_tags,
    tiff_of_progressive_jpeg,
)

SMALL = Image.new("RGB", (8, 8), (200, 0, 0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: jpeg_of_empty_scans(1000, 3000), "more than 0.05 seconds to decode", id="JPEG of empty scans"),
        pytest.param(lambda: jpeg_of_empty_segments(100_001), "more than 100,000 parts", id="JPEG of empty segments"),
        pytest.param(lambda: png_of_empty_chunks(100_001), "more than 100,000 parts", id="PNG of empty chunks"),
        pytest.param(lambda: png_of_empty_chunks(100_001, kind=b"IDAT"), "more than 100,000 parts", id="PNG of empty IDAT"),
        pytest.param(lambda: gif_of_comments(100_001), "more than 100,000 parts", id="GIF of comments"),
        pytest.param(lambda: bmp_of_long_jumps(10**7), "10,000,000 pixels a row", id="BMP that skips rows of any length"),
        pytest.param(lambda: tiff_of_overlapping_strips(2000, 2**16), "parts that overlap", id="TIFF of overlapping strips"),
        pytest.param(lambda: tiff_of_overlapping_tags(2, 2**16, first=324), "tags that overlap", id="TIFF of overlapping tags"),
        pytest.param(tiff_of_progressive_jpeg, "TIFF of progressive JPEGs", id="TIFF of a progressive JPEG"),
    ],
)
def test_an_image_that_is_built_to_be_slow_is_refused(build: Callable[[], bytes], message: str):
    with pytest.raises(ImageError, match=message) as caught:
        load_image(build(), policy=ImagePolicy(decode_timeout_s=0.05))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encode(SMALL, "JPEG", exif=b"Exif\0\0" + exif_of_overlapping_tags(5000, 65_000)), id="EXIF of a JPEG"),
        pytest.param(encode(SMALL, exif=exif_of_overlapping_tags(1000, 2**20)), id="EXIF of a PNG"),
        pytest.param(tiff_of_overlapping_tags(1000, 2**20), id="private tags of a TIFF"),
    ],
)
def test_metadata_that_would_be_read_a_thousand_times_is_not_read(content: bytes, monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    original = ImageFile._safe_read
    monkeypatch.setattr(ImageFile, "_safe_read", lambda fp, size: sizes.append(size) or original(fp, size))
    assert load_image(content).size == (8, 8)
    assert sum(sizes) <= len(content)


JUNK_EXIF = [
    b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\x0e\x01\x05\0\xff\xff\xff\xff\xff\xff\xff\xff",
    b"junk",
    b"II*\0\xff\xff\xff\xff",
    b"MM\0*\0\0\0\x08\xff\xff",
    bytes(range(256)) * 8,
]


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("exif", JUNK_EXIF, ids=["cut off", "word", "no directory", "65,535 tags", "bytes"])
def test_junk_in_the_exif_hides_no_pixels(format_name: str, exif: bytes):
    assert load_image(encode(SMALL, format_name, exif=exif)).size == (8, 8)


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "JPEG"])
def test_the_orientation_of_xmp_is_applied(format_name: str):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    image = SMALL.resize((16, 8))
    if format_name == "PNG":
        content = encode(image)
        at = content.index(b"IDAT") - 4
        content = content[:at] + png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + content[at:]
    else:
        content = encode(image, format_name, xmp=xmp)
    assert load_image(content).size == (8, 16)


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt"])
def test_the_orientation_in_a_raw_profile_of_a_png_is_applied(kind: bytes):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    text = b"\nexif\n      26\n" + exif.tobytes().hex().encode()
    body = b"Raw profile type exif\0" + (text if kind == b"tEXt" else b"\0" + zlib.compress(text))
    content = encode(SMALL.resize((16, 8)))
    at = content.index(b"IDAT") - 4
    assert load_image(content[:at] + png_chunk(kind, body) + content[at:]).size == (8, 16)


def test_an_image_doesnt_wait_for_the_lock_of_warnings():
    loaded: list[Any] = []
    work = threading.Thread(
        target=lambda: loaded.extend(load_image(encode(SMALL, name)) for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP")),
        daemon=True,
    )
    with rgb_conversion._WARNINGS_LOCK:
        work.start()
        work.join(timeout=30)
    assert len(loaded) == 5


@pytest.mark.parametrize("dtype", ["I;16", "I", "F"])
def test_grey_of_many_rows_is_converted_in_order(dtype: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rgb_conversion, "_CONVERTED_PIXELS", 50)
    values = np.arange(20 * 13).reshape(13, 20)
    array = values / 259 if dtype == "F" else values * 253
    image = Image.fromarray(array.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[dtype]))
    expected = np.rint(array * (255 if dtype == "F" else 1 / 257)).astype(np.uint8)
    assert np.array_equal(np.asarray(load_image(image))[..., 0], expected)


def test_a_lazily_opened_image_gives_the_same_pixels_in_all_threads(tmp_path: Any):
    path = tmp_path / "image.png"
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    path.write_bytes(encode(Image.fromarray(noise)))
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            with Image.open(path) as image:
                arrays = list(pool.map(lambda _, image=image: np.asarray(load_image(image)), range(8)))
            assert all(np.array_equal(array, noise) for array in arrays)


@pytest.mark.skipif(sys.platform == "win32", reason="libtiff is linked into Pillow there")
@pytest.mark.parametrize("compression", ["jpeg", "tiff_lzw", "tiff_adobe_deflate", "packbits", "group4"])
def test_decoders_write_nothing_to_stderr(compression: str, capfd: pytest.CaptureFixture[str]):
    mode = "1" if compression == "group4" else "RGB"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).convert(mode)
    content = bytearray(encode(noise, "TIFF", compression=compression))
    for offset in range(50, len(content) - 200, 97):
        content[offset] ^= 0xA5
    with suppress(ImageError):
        load_image(bytes(content))
    assert capfd.readouterr() == ("", "")


def test_a_tiff_whose_tags_are_cut_off_warns_of_nothing(recwarn: pytest.WarningsRecorder):
    with suppress(ImageError):
        load_image(hostile_image(1_013_751))  # Pillow reads its tags once more when the pixels are decoded
    assert not recwarn.list


PEAK = """
import resource, sys
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.errors import ImageError
from tests.images.hostile_images import encode, webp_of_one_colour
from PIL import Image
sources = {
    "webp": lambda: webp_of_one_colour(5000, 5000),
    "rgba": lambda: encode(Image.new("RGBA", (5000, 5000))),
    "base64": lambda: "data:image/png;base64," + "A " * (10**8 // 2),
    "percent": lambda: "data:image/png," + "%41" * (10**8 // 3),
}
load_image(encode(Image.new("RGB", (8, 8)), "WEBP"))
source = sources[sys.argv[1]]()
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
open("/proc/self/clear_refs", "w").write("5")
try:
    load_image(source)
except ImageError:
    pass
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's account of memory")
@pytest.mark.parametrize(("kind", "times"), [("webp", 3.1), ("rgba", 3.1), ("base64", 4), ("percent", 4)])
def test_memory_peaks_at_three_times_the_decoded_image(kind: str, times: float):
    printed = subprocess.run([sys.executable, "-c", PEAK, kind], capture_output=True, text=True, check=True).stdout
    assert int(printed) < times * 100_000_000  # 5,000 x 5,000 pixels of 4 bytes; a text of 100 million characters
