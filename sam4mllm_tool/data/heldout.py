"""Pictures that nothing may be trained on: those of any val or test split of the RefCOCO family, whatever set they come from.

The sets share COCO's pictures, so one's train split holds another's test pictures; they are known by COCO's number, whether
a set tells it or the picture's file is named by it.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.atomic_io import file_sha256
from sam4mllm_tool.data.reader import coco_image_id
from sam4mllm_tool.data.refs import read_references
from sam4mllm_tool.errors import DataError

__all__ = ["HeldOut", "held_out_images", "keep_out"]

_FOLDERS = ("refcoco", "refcoco+", "refcocog", "grefcoco")
_FILES = ("refs(*).p", "grefs(*).json")


@dataclass(frozen=True)
class HeldOut:
    """images: by `Sample.image_id`. files: those which named them, none where the root holds nothing of the family."""

    images: frozenset[str]
    files: tuple[Path, ...]

    def holds(self, image_id: str, image: Path | str) -> bool:
        """Whether the picture is held out, by its id or by its file's name: either may be wrong or say nothing."""
        return image_id in self.images or coco_image_id(str(image)) in self.images

    def described(self) -> dict[str, Any]:
        """As JSON: the files with their hashes, the number of pictures and a hash of their ids."""
        ids = "\n".join(sorted(self.images)).encode()
        files = {str(file): file_sha256(file) for file in self.files}
        return {"files": files, "images": len(self.images), "sha256": hashlib.sha256(ids).hexdigest()}


def held_out_images(*roots: Path) -> HeldOut:
    """Of every reference file in the roots' folders of the family, or in a root itself, whoever divided it into splits.

    Where a root is one set's own folder, its sisters beside it count too. What is no folder holds nothing. Raises DataError for
    a corrupt file: a list with holes would let test pictures in.
    """
    places = dict.fromkeys(place for root in roots for place in _places(root))
    folders = [place for place in places if place.is_dir()]
    found = (path for folder in folders for pattern in _FILES for path in sorted(folder.glob(pattern)))
    files = tuple(dict.fromkeys(path.resolve() for path in found))
    images = {f"coco:{one.image_id}" for path in files for one in read_references(path) if one.split != "train"}
    return HeldOut(frozenset(images), files)


def keep_out(named: Sequence[Path], others: Sequence[Path]) -> HeldOut:
    """What is held out by the roots that someone named for it, and by those where the family only may be.

    Raises DataError where a named root holds no file of the family, and what `held_out_images` raises.
    """
    for root in named:
        if not held_out_images(root).files:
            looked = ", ".join(f"{folder}/{pattern}" for folder in _FOLDERS[:1] for pattern in _FILES[:1])
            raise DataError(
                f"{root} holds nothing of the RefCOCO family to keep out: expected {looked} or the like in it "
                f"({', '.join(_FOLDERS)}), or one of these folders itself"
            )
    return held_out_images(*named, *others)


def _places(root: Path) -> list[Path]:
    """The root may be a link, and its sisters beside the link or beside what it leads to."""
    places = []
    for home in dict.fromkeys((Path(os.path.abspath(root)), root.resolve())):  # noqa: PTH100  # absolute() keeps ".."
        above = home.parent if home.name in _FOLDERS else home
        places += [home, *(above / name for name in _FOLDERS)]
    return places
