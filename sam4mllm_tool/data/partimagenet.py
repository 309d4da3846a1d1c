"""PartImageNet: parts of animals, vehicles and bottles in pictures of ImageNet.

Layout, as published, and as it was at first:
```
root/annotations/train/train.json       or root/train.json
root/images/train/n01440764_10029.JPEG  or root/train/n01440764/n01440764_10029.JPEG
```
and the same of val and test; root may also hold all that in PartImageNet/ or partimagenet/. The splits train_whole, val_whole
and test_whole have the whole things. COCO's form, with categories "Quadruped Head" of the supercategory "Quadruped".
Source of the format: TACJu/PartImageNet, README, and the loaders of facebookresearch/VLPart.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.annotations import need_pycocotools
from sam4mllm_tool.data.class_reader import ClassName, Picture
from sam4mllm_tool.data.coco_like import CocoLikeReader, find_file
from sam4mllm_tool.data.reader import first_folder
from sam4mllm_tool.data.sample import Problems

__all__ = ["PartImageNet"]

_SPELT = {"tier": "tire"}  # the data set's own slip, which is not to be learnt


class PartImageNet(CocoLikeReader):
    """PartImageNet.

    max_instances, min_area: see ClassReader. images, annotations: the folder of the split's pictures, and the json, where
    they are not in the layout's places. Raises DataError where either is not there; MissingExtraError.
    """

    name = "partimagenet"

    def __init__(
        self,
        root: Path,
        split: str = "train",
        *,
        max_instances: int = 5,
        min_area: float = 0.02,
        images: Path | str | None = None,
        annotations: Path | str | None = None,
    ) -> None:
        super().__init__(root, split, max_instances=max_instances, min_area=min_area)
        need_pycocotools()
        plain = split.removesuffix("_whole")
        folders = (root, root / "PartImageNet", root / "partimagenet", root / "partimagenet/PartImageNet")
        files = (
            f"annotations/{split}/{split}.json",
            f"annotations/{split}/{plain}.json",
            f"annotations/{split}.json",
            f"{split}.json",
        )
        candidates = [folder / file for folder in folders for file in files]
        self.path = find_file(Path(annotations)) if annotations else find_file(*candidates)
        places = [folder / place for folder in folders for place in (f"images/{plain}", plain, "images")]
        self._images = first_folder(Path(images)) if images else first_folder(*places)

    def _class_name(self, category: Mapping[str, Any]) -> ClassName:
        """Of a category's record: "Car Side Mirror" of the supercategory "Car" is the side mirror of the car."""
        words = category["name"].lower().split()
        thing = str(category.get("supercategory") or words[0]).lower()
        part = " ".join(_SPELT.get(word, word) for word in (words[1:] if words[0] == thing else words))
        return ClassName(thing, "" if part == thing else part)

    def _pictures(self, problems: Problems) -> Iterator[Picture]:
        self._index.tell(problems)
        for image in self._index.images.values():
            stem = Path(image.file_name).stem
            yield Picture(
                self._picture(image.file_name), image.size, f"partimagenet:{stem}", self._index.things(image, problems)
            )

    def _picture(self, file_name: str) -> Path:
        """In the folder, or in the folder of its ImageNet class, with which its name begins."""
        path = self._images / file_name
        return path if path.is_file() else self._images / file_name.split("_")[0] / file_name
