"""Recognise images by the content of their files: which are held back from training, and which a model was trained on.

An image keeps its hash when it is renamed, copied or read from another dataset, so that it can't be trained on under one name
and measured on under another.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from sam4mllm_tool.atomic_io import file_sha256
from sam4mllm_tool.text import parse_json

__all__ = ["TRAINED_IMAGES_FILE", "TrainedImages", "choose_images", "hash_image", "resolve_share"]

TRAINED_IMAGES_FILE = "trained_images.json"
"""Beside an adapter: the images that it was trained on (`TrainedImages`)."""
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


@dataclass(frozen=True)
class TrainedImages:
    """Which images a model was trained on.

    Args:
        hashes: As `hash_image` gives them.
        names: Patterns of file names, as `fnmatch` reads them, for images that are too many to be listed: drawn scenes, whose
            names say their seeds.
    """

    hashes: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    def __contains__(self, path: Path) -> bool:
        """Whether an image is one of them. Raises OSError."""
        return any(fnmatchcase(path.name, pattern) for pattern in self.names) or hash_image(path) in self.hashes

    def __or__(self, other: "TrainedImages") -> "TrainedImages":
        return TrainedImages(self.hashes | other.hashes, self.names | other.names)

    def to_json(self) -> str:
        """Return the text of the file that `from_json` reads."""
        names = {"names": sorted(self.names)} if self.names else {}
        return json.dumps({"format": 1, "images": sorted(self.hashes), **names}) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "TrainedImages":
        """Read the text of a file. Raises ValueError for another file."""
        try:
            fields = parse_json(text)
            hashes, names = fields["images"], fields.get("names", [])
            if not all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in (hashes, names)):
                raise TypeError("expected lists of hashes and of names")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no list of trained images: {error}") from error
        return cls(frozenset(hashes), frozenset(names))
