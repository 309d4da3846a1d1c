"""Recognise images by the content of their files: which are held back from training, and which a model was trained on.

An image keeps its hash when it is renamed, copied or read from another dataset, so that it can't be trained on under one name
and measured on under another.
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path

from sam4mllm_tool.atomic_io import file_sha256, write_text

__all__ = [
    "TRAINED_IMAGES_FILE",
    "choose_images",
    "hash_image",
    "parse_trained_images",
    "resolve_share",
    "write_trained_images",
]

TRAINED_IMAGES_FILE = "trained_images.json"
"""Beside an adapter: the hashes of the images that it was trained on."""
_DIGITS = 16


@lru_cache(maxsize=4096)
def hash_image(path: Path) -> str:
    """Return 16 hexadecimal digits that stand for the file's content. Raises OSError."""
    return file_sha256(path)[:_DIGITS]


def choose_images(hashes: Iterable[str], count: int, *, seed: int = 0) -> frozenset[str]:
    """Choose `count` images at random; the choice depends on the images and the seed, not on their order or their names."""
    ranked = sorted(set(hashes), key=lambda image: hashlib.sha256(f"{seed}-{image}".encode()).digest())
    return frozenset(ranked[:count])


def resolve_share(share: float, total: int) -> int:
    """Return the number of images that a setting means: a share of `total` if below 1, else a number of images."""
    return round(share * total) if share < 1 else int(share)


def write_trained_images(path: Path, hashes: Collection[str]) -> None:
    """Write the hashes to a file that `parse_trained_images` reads. Raises OSError."""
    write_text(path, json.dumps({"format": 1, "images": sorted(hashes)}) + "\n")


def parse_trained_images(text: str) -> frozenset[str]:
    """Return the hashes in the text of a file. Raises ValueError for another file."""
    try:
        hashes = json.loads(text)["images"]
        if not isinstance(hashes, list) or not all(isinstance(image, str) for image in hashes):
            raise TypeError("expected a list of hashes")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"this is no list of trained images: {error}") from error
    return frozenset(hashes)
