"""Write small datasets in the formats and layouts of the published files."""

import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30
SQUARE = [5.0, 5.0, 15.0, 5.0, 15.0, 15.0, 5.0, 15.0]
SQUARE_XYWH = [5.0, 5.0, 10.0, 10.0]
TALL = [30.0, 2.0, 36.0, 2.0, 36.0, 22.0, 30.0, 22.0]


_PythonPickler: Any = pickle._Pickler  # type: ignore[attr-defined]  # it has no type annotations


class _Python2Pickler(_PythonPickler):  # type: ignore[misc]
    """Pickles strings as Python 2 pickled byte strings, as in the published refs files."""

    dispatch: ClassVar[dict[Any, Any]] = dict(_PythonPickler.dispatch)

    def save_byte_string(self, text: str) -> None:
        content = text.encode("latin-1")
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)
        self.memoize(text)

    dispatch[str] = save_byte_string


def write_pickle(path: Path, value: Any, *, python2: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        (_Python2Pickler if python2 else pickle.Pickler)(file, protocol=2).dump(value)


def write_json(path: Path, value: Any, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding=encoding)
    return path


def write_image(path: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """Write a grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "grey").save(path)
    return path


def coco_name(image_id: int) -> str:
    return f"COCO_train2014_{image_id:012d}.jpg"


def reference(ref_id: int, ann_id: Any, image_id: int, split: str, *sentences: str) -> dict[str, Any]:
    """Return a reference as in refs(unc).p, whose file_name is not the image's but ends with the annotation's number."""
    sent_ids = [10 * ref_id + number for number in range(len(sentences))]
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "category_id": 1 if isinstance(ann_id, int) else [1] * len(ann_id),
        "image_id": image_id,
        "file_name": f"COCO_train2014_{image_id:012d}_{ref_id}.jpg",
        "split": split,
        "sent_ids": sent_ids,
        "sentences": [
            {"raw": text.upper(), "sent": text, "sent_id": sent_id, "tokens": text.split()}
            for sent_id, text in zip(sent_ids, sentences, strict=True)
        ],
    }


def annotation(ann_id: int, image_id: int, segmentation: Any, bbox: Any, iscrowd: int = 0) -> dict[str, Any]:
    return {
        "id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "segmentation": segmentation,
        "bbox": bbox,
        "area": 1.0,
        "iscrowd": iscrowd,
    }


def write_instances(path: Path, annotations: list[dict[str, Any]], image_ids: Iterable[int]) -> None:
    images = [
        {"id": image_id, "file_name": coco_name(image_id), "width": WIDTH, "height": HEIGHT, "license": 1}
        for image_id in image_ids
    ]
    info = {"description": "This is dev 1.0 version of the 2014 MS COCO dataset.", "version": "1.0"}
    categories = [{"id": 1, "name": "cup", "supercategory": "kitchen"}]
    licenses = [{"id": 1, "name": "none"}]
    write_json(
        path,
        {"info": info, "images": images, "licenses": licenses, "annotations": annotations, "categories": categories},
    )


def write_family(
    root: Path,
    references: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    *,
    name: str = "refcoco",
    file: str = "refs(unc).p",
    python2: bool = True,
) -> Path:
    """Write a dataset of the RefCOCO family with its images; return the root."""
    if file.endswith(".p"):
        write_pickle(root / name / file, references, python2=python2)
    else:
        write_json(root / name / file, references)
    image_ids = sorted({ref["image_id"] for ref in references})
    write_instances(root / name / "instances.json", annotations, image_ids)
    for image_id in image_ids:
        write_image(root / "images" / "train2014" / coco_name(image_id))
    return root


def rectangle(x1: int, y1: int, x2: int, y2: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Return a (H, W) bool mask; x2 and y2 are one past the last pixel."""
    mask = np.zeros((height, width), np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask
