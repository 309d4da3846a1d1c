"""PACO-LVIS: objects and their parts in pictures of COCO 2017.

Layout:
```
root/paco/annotations/paco_lvis_v1_train.json      _val and _test likewise; or without annotations/, or without paco/
root/images/train2017/000000391895.jpg             or root/coco/train2017; the annotations name the folder too
```
COCO's form, with categories "mug" and "mug:handle"; `obj_ann_id` links a part's annotation to its object's, which the
expressions here need not know: "the handle of the mug" means that of every mug. LVIS doesn't annotate all of every class: where
it says that there may be more (`not_exhaustive_category_ids`), the class is left out.
Source of the format: facebookresearch/paco, docs and paco/data/datasets.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.annotations import need_pycocotools
from sam4mllm_tool.data.class_reader import ClassName, Picture
from sam4mllm_tool.data.coco_like import CocoLikeReader, find_file
from sam4mllm_tool.data.reader import coco_image_id, first_folder
from sam4mllm_tool.data.sample import Problems

__all__ = ["Paco"]


class Paco(CocoLikeReader):
    """PACO-LVIS.

    max_instances, min_area: see ClassReader. images, annotations: the folder that holds train2017, and the json, where they
    are not in the layout's places. Raises DataError where either is not there; MissingExtraError.
    """

    name = "paco"

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
        file = f"paco_lvis_v1_{split}.json"
        folders = (root / "paco/annotations", root / "annotations", root / "paco", root)
        self.path = find_file(Path(annotations)) if annotations else find_file(*(folder / file for folder in folders))
        usual = [above / place for above in (root, root.parent) for place in ("images", "coco")]
        holders = [folder for folder in (*usual, root) if (folder / "train2017").is_dir() or (folder / "val2017").is_dir()]
        self._images = first_folder(Path(images)) if images else first_folder(*holders, *usual)

    def _class_name(self, category: Mapping[str, Any]) -> ClassName:
        """Of a category's record: "mug:handle" is a part. LVIS's names have underscores, and what they mean in parentheses."""
        thing, _, part = category["name"].partition(":")
        return ClassName(_spoken(thing), _spoken(part))

    def _pictures(self, problems: Problems) -> Iterator[Picture]:
        self._index.tell(problems)
        for image in self._index.images.values():
            file_name = image.file_name if "/" in image.file_name else f"train2017/{image.file_name}"
            image_id = coco_image_id(file_name) or f"coco:{image.id}"
            yield Picture(
                self._images / file_name, image.size, image_id, self._index.things(image, problems), self._index.unsure(image)
            )


def _spoken(name: str) -> str:
    """As one says it: `trash_can` and `bow_(decorative_ribbons)` without what only tells classes apart."""
    return " ".join(name.split("_(")[0].split("(")[0].replace("_", " ").split())
