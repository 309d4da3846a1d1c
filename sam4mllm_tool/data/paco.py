"""PACO-LVIS: objects and their parts in images of COCO 2017.

Layout:
```
root/paco/annotations/paco_lvis_v1_train.json      _val and _test likewise; or without annotations/, or without paco/
root/images/train2017/000000391895.jpg             or root/coco/train2017; the annotations name the folder too
```
The file is in COCO's form, with categories "mug" and "mug:handle". `obj_ann_id` links a part's annotation to its object's;
the expressions don't need it: "the handle of the mug" refers to every mug's handle. LVIS doesn't annotate all objects of every
class; a class is left out where LVIS says that there may be more (`not_exhaustive_category_ids`).
Source of the format: facebookresearch/paco, docs and paco/data/datasets.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.class_reader import ClassName
from sam4mllm_tool.data.coco_like import CocoImage, CocoLikeReader
from sam4mllm_tool.data.reader import coco_image_id

__all__ = ["Paco"]


class Paco(CocoLikeReader):
    """PACO-LVIS; the splits are train, val and test."""

    name = "paco"

    def _annotation_files(self, root: Path, split: str) -> list[Path]:
        folders = (root / "paco/annotations", root / "annotations", root / "paco", root)
        return [folder / f"paco_lvis_v1_{split}.json" for folder in folders]

    def _image_folders(self, root: Path, split: str) -> list[Path]:  # noqa: ARG002  # all splits share the folders
        usual = [parent / name for parent in (root, root.parent) for name in ("images", "coco")]
        return [
            folder for folder in (*usual, root) if any((folder / f"{part}2017").is_dir() for part in ("train", "val"))
        ] + usual

    def _class_name(self, category: Mapping[str, Any]) -> ClassName:
        """Split "mug:handle"; LVIS's names have underscores, and a comment in parentheses that tells classes apart."""
        whole, _, part = category["name"].partition(":")
        return ClassName(_readable_name(whole), _readable_name(part))

    def _locate_image(self, image: CocoImage) -> tuple[Path, str]:
        file_name = image.file_name if "/" in image.file_name else f"train2017/{image.file_name}"
        return self._images / file_name, coco_image_id(file_name) or f"coco:{image.id}"


def _readable_name(name: str) -> str:
    """Turn `trash_can` into "trash can" and `bow_(decorative_ribbons)` into "bow"."""
    return " ".join(name.split("_(")[0].split("(")[0].replace("_", " ").split())
