"""Hostile images from seeds: every format, damaged at random, and the structures that are built to cost much."""

import random
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from PIL import Image

from tests.fuzz.mutations import mutate_bytes
from tests.images import hostile_images as built
from tests.images.hostile_images import encode

__all__ = ["hostile_image", "list_built_images", "list_hostile_images", "list_seed_images"]


@cache
def list_seed_images() -> tuple[bytes, ...]:
    """Return small images of every format and of many of its variants."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 33, 3), dtype=np.uint8)
    smooth = np.add.outer(np.arange(24) * 5, np.arange(33) * 3).astype(np.uint8)
    rgb, grey = Image.fromarray(noise), Image.fromarray(smooth)
    rgba, palette = rgb.convert("RGBA"), rgb.convert("P")
    frames = [grey.rotate(angle) for angle in (0, 90)]
    animated: dict[str, object] = {"save_all": True, "append_images": frames}
    return (
        *(encode(image) for image in (rgb, grey, rgba, palette, grey.convert("1"), grey.convert("LA"))),
        encode(Image.fromarray(smooth.astype(np.uint16) * 257)),
        encode(rgb, "PNG", exif=_exif(), icc_profile=bytes(200)),
        encode(palette, "PNG", transparency=3),
        encode(rgb, "JPEG"),
        encode(rgb, "JPEG", progressive=True, exif=_exif(), comment=b"c" * 99),
        encode(grey, "JPEG", quality=5),
        encode(rgb.convert("CMYK"), "JPEG", restart_marker_blocks=2),
        encode(rgb, "WEBP"),
        encode(rgba, "WEBP", lossless=True, exif=_exif(), xmp=b"<x/>"),
        encode(rgb, "WEBP", **animated),
        encode(palette, "GIF"),
        encode(grey, "GIF", comment=b"c" * 300, **animated),
        *(encode(image, "BMP") for image in (rgb, palette, grey.convert("1"))),
        *(encode(rgb, "TIFF", compression=name) for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
        encode(grey.convert("1"), "TIFF", compression="group4"),
        encode(rgba, "TIFF", tiffinfo={270: "d" * 80}),
    )


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "d" * 60
    return exif.tobytes()


def list_built_images() -> dict[str, Callable[[], bytes]]:
    """Return builders of images that are small to send and costly to read."""
    return {
        "JPEG of empty scans": lambda: built.jpeg_of_empty_scans(1000, 40_000),
        "JPEG of empty segments": lambda: built.jpeg_of_empty_segments(300_000),
        "PNG of empty chunks": lambda: built.png_of_empty_chunks(300_000),
        "PNG of empty IDAT": lambda: built.png_of_empty_chunks(300_000, kind=b"IDAT"),
        "GIF of comments": lambda: built.gif_of_comments(300_000),
        "BMP of long jumps": lambda: built.bmp_of_long_jumps(10**7),
        "TIFF of overlapping strips": lambda: built.tiff_of_overlapping_strips(5000, 2**18),
        "TIFF of overlapping tags": lambda: built.tiff_of_overlapping_tags(3000, 2**20),
        "TIFF of a progressive JPEG": built.tiff_of_progressive_jpeg,
        "WebP of one colour": lambda: built.webp_of_one_colour(2000, 2000),
        "WebP over the limit": lambda: built.webp_of_one_colour(16_383, 16_383),
    }


def hostile_image(seed: int) -> bytes:
    """Return one image of the corpus; each seed gives another."""
    rng = random.Random(seed)
    content = rng.choice(list_seed_images())
    if rng.random() < 0.1:
        other = rng.choice(list_seed_images())
        content = content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]
    return mutate_bytes(rng, content)


def list_hostile_images(count: int, start: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield the corpus: all built images, then damaged ones by their seeds."""
    built_images = list_built_images()
    yield from ((name, build()) for name, build in built_images.items())
    yield from ((f"seed {seed}", hostile_image(seed)) for seed in range(start, start + count - len(built_images)))
