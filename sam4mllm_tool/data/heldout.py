"""Images that nothing may be trained on: those in the val and test splits of the RefCOCO family, in whichever dataset.

The datasets share COCO's images, so that one's train split holds another's test images. Images are recognised by COCO's number,
which either the dataset gives or the image's file name holds.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.atomic_io import file_sha256
from sam4mllm_tool.data.reader import coco_image_id
from sam4mllm_tool.data.reference_files import read_references
from sam4mllm_tool.errors import DataError

__all__ = ["HeldOut", "collect_held_out", "find_held_out"]

_FOLDERS = ("refcoco", "refcoco+", "refcocog", "grefcoco")
_PATTERNS = ("refs(*).p", "grefs(*).json")


@dataclass(frozen=True)
class HeldOut:
    """Held-out images by `Sample.image_id`, and the reference files that name them."""

    images: frozenset[str]
    files: tuple[Path, ...]

    def contains(self, image_id: str, image: Path | str) -> bool:
        """Whether the image is held out, by its id or its file name, either of which may be wrong or missing."""
        return image_id in self.images or coco_image_id(str(image)) in self.images

    def to_dict(self) -> dict[str, Any]:
        """Return JSON: the files with their hashes, the number of images and a hash of their ids."""
        ids = "\n".join(sorted(self.images)).encode()
        files = {str(file): file_sha256(file) for file in self.files}
        return {"files": files, "images": len(self.images), "sha256": hashlib.sha256(ids).hexdigest()}


def find_held_out(*roots: Path) -> HeldOut:
    """Collect the held-out images of every reference file in the roots and in the family's folders below and beside them.

    A root may be one dataset's own folder. Roots without such files, or that don't exist, hold nothing out.

    Raises:
        DataError: A reference file is damaged. An incomplete list would let test images into the training data.
    """
    folders = [folder for folder in dict.fromkeys(place for root in roots for place in _places(root)) if folder.is_dir()]
    paths = (path for folder in folders for pattern in _PATTERNS for path in sorted(folder.glob(pattern)))
    files = tuple(dict.fromkeys(path.resolve() for path in paths))
    images = {f"coco:{ref.image_id}" for path in files for ref in read_references(path) if ref.split != "train"}
    return HeldOut(frozenset(images), files)


def collect_held_out(required: Sequence[Path], optional: Sequence[Path]) -> HeldOut:
    """Collect the held-out images of both lists of roots.

    Args:
        required: Roots that must hold a reference file.
        optional: Roots that may hold one.

    Raises:
        DataError: A required root holds no reference file, or a reference file is damaged.
    """
    for root in required:
        if not find_held_out(root).files:
            raise DataError(
                f"{root} holds no reference file of the RefCOCO family: expected {_FOLDERS[0]}/{_PATTERNS[0]} or similar in it "
                f"({', '.join(_FOLDERS)}), or one of these folders itself"
            )
    return find_held_out(*required, *optional)


def _places(root: Path) -> list[Path]:
    """List the root and the family's folders around it; where the root is a link, also around the link's target."""
    places = []
    for home in dict.fromkeys((Path(os.path.abspath(root)), root.resolve())):  # noqa: PTH100  # absolute() keeps ".."
        parent = home.parent if home.name in _FOLDERS else home
        places += [home, *(parent / name for name in _FOLDERS)]
    return places
