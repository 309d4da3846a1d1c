"""Pictures that nothing may be trained on: those of any val or test split of the RefCOCO family, whatever set they come from.

The sets share COCO's pictures, so one's train split holds another's test pictures; they are known by COCO's number.
"""

from dataclasses import dataclass
from pathlib import Path

from sam4mllm_tool.data.refs import read_references

__all__ = ["HeldOut", "held_out_images"]

_FOLDERS = ("refcoco", "refcoco+", "refcocog", "grefcoco")
_FILES = ("refs(*).p", "grefs(*).json")


@dataclass(frozen=True)
class HeldOut:
    """images: by `Sample.image_id`. files: those which named them, none where the root holds nothing of the family."""

    images: frozenset[str]
    files: tuple[Path, ...]


def held_out_images(*roots: Path) -> HeldOut:
    """Of every reference file in the roots' folders of the family, or in a root itself, whoever divided it into splits.

    Where a root is one set's own folder, its sisters beside it count too. What is no folder holds nothing. Raises DataError for
    a corrupt file: a list with holes would let test pictures in.
    """
    places = dict.fromkeys(place for root in roots for place in _places(root))
    folders = [place for place in places if place.is_dir()]
    files = tuple(path for folder in folders for pattern in _FILES for path in sorted(folder.glob(pattern)))
    images = {f"coco:{one.image_id}" for path in files for one in read_references(path) if one.split != "train"}
    return HeldOut(frozenset(images), files)


def _places(root: Path) -> tuple[Path, ...]:
    above = root.parent if root.name in _FOLDERS else root
    return root, *(above / name for name in _FOLDERS)
