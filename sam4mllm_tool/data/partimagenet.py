"""PartImageNet: parts of animals, vehicles and bottles in images of ImageNet.

Layout, as published now and in the first release:
```
root/annotations/train/train.json       or root/train.json
root/images/train/n01440764_10029.JPEG  or root/train/n01440764/n01440764_10029.JPEG
```
The splits val and test are alike; root may also hold all that in PartImageNet/ or partimagenet/. The splits train_whole,
val_whole and test_whole annotate whole objects. The file is in COCO's form, with categories "Quadruped Head" of the
supercategory "Quadruped". Source of the format: TACJu/PartImageNet, README, and the loaders of facebookresearch/VLPart.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.class_reader import ClassName
from sam4mllm_tool.data.coco_like import CocoImage, CocoLikeReader

__all__ = ["PartImageNet"]

_SPELLING = {"tier": "tire"}  # the dataset's own mistake, which a model should not learn


class PartImageNet(CocoLikeReader):
    """PartImageNet; the splits are train, val and test, and each of them with `_whole`."""

    name = "partimagenet"

    def _annotation_files(self, root: Path, split: str) -> list[Path]:
        plain = split.removesuffix("_whole")
        names = (f"annotations/{split}/{split}.json", f"annotations/{split}/{plain}.json", f"annotations/{split}.json")
        return [folder / name for folder in _roots(root) for name in (*names, f"{split}.json")]

    def _image_folders(self, root: Path, split: str) -> list[Path]:
        plain = split.removesuffix("_whole")
        return [folder / name for folder in _roots(root) for name in (f"images/{plain}", plain, "images")]

    def _class_name(self, category: Mapping[str, Any]) -> ClassName:
        """Read "Car Side Mirror" of the supercategory "Car" as the side mirror of the car."""
        words = category["name"].lower().split()
        whole = str(category.get("supercategory") or words[0]).lower()
        part = " ".join(_SPELLING.get(word, word) for word in (words[1:] if words[0] == whole else words))
        return ClassName(whole, "" if part == whole else part)

    def _locate_image(self, image: CocoImage) -> tuple[Path, str]:
        """Look in the folder, then in the folder of the ImageNet class, with which the file's name begins."""
        path = self._images / image.file_name
        if not path.is_file():
            path = self._images / image.file_name.split("_")[0] / image.file_name
        return path, f"partimagenet:{Path(image.file_name).stem}"


def _roots(root: Path) -> tuple[Path, ...]:
    return root, root / "PartImageNet", root / "partimagenet", root / "partimagenet/PartImageNet"
