"""ADE20K, the full release of 17 January 2021: scenes with all their objects, and the objects with their parts.

Layout, as published; root may also be any folder on the way to training/ and validation/:
```
root/ADE20K_2021_17_01/images/ADE/training/urban/street/ADE_train_00016869.jpg
                                                        ADE_train_00016869.json     its annotation
                                                        ADE_train_00016869/instance_000_ADE_train_00016869.png
```
and validation/ likewise. The json lists the objects in `annotation.object`: `name` with WordNet's synonyms, the first of which
is the class; `raw_name`, the annotator's word; `polygon`; `parts`, with `ispartof`, the id of the whole object; and
`instance_mask`, the bitmap above. An object's mask is its bitmap where that exists, else its polygon; both are amodal: they
include what is hidden by objects in front. Source of the format: CSAILVision/ADE20K, README and a sample of the data.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from sam4mllm_tool.data.annotations import MAX_COORDINATE, Polygons, RegionError, require_pycocotools
from sam4mllm_tool.data.class_reader import AnnotatedImage, ClassInstance, ClassName, ClassReader
from sam4mllm_tool.data.sample import Problems, Region
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.types import Box, Mask, Size

__all__ = ["ADE20K", "Bitmap"]

_FOLDERS = {"train": "training", "val": "validation", "training": "training", "validation": "validation"}
_PARENTS = ("ADE20K_2021_17_01/images/ADE", "ade20k/ADE20K_2021_17_01/images/ADE", "images/ADE", "ADE", "")


@dataclass(frozen=True)
class Bitmap:
    """The pixels of a greyscale PNG that are not black."""

    path: Path

    def mask(self, size: Size) -> Mask:
        """Return the (H, W) bool mask. Raises RegionError where the file is damaged or its size differs."""
        try:
            with PILImage.open(self.path, formats=("PNG",)) as bitmap:
                if bitmap.size != size:
                    sizes = f"{self.path} is {bitmap.width} x {bitmap.height}, the image {size.width} x {size.height}"
                    raise RegionError("the bitmap's size differs from the image's", sizes)
                return np.array(bitmap.convert("L")) > 0
        except (UnidentifiedImageError, PILImage.DecompressionBombError, OSError, SyntaxError) as error:
            raise RegionError("the bitmap can't be read", f"{self.path}: {error}") from error


class ADE20K(ClassReader):
    """ADE20K, read scene by scene; the splits are train and val.

    Args:
        root: The dataset's folder.
        split: The split's name.
        max_instances: See `ClassReader`.
        min_area: See `ClassReader`.

    Raises:
        DataError: The split's folder does not exist.
        MissingExtraError: pycocotools is not installed.
    """

    name = "ade20k"

    def __init__(self, root: Path, split: str = "train", *, max_instances: int = 5, min_area: float = 0.02) -> None:
        super().__init__(root, split, max_instances=max_instances, min_area=min_area)
        require_pycocotools()
        if split not in _FOLDERS:
            raise DataError(f"ade20k has the splits train and val, got '{split}'")
        candidates = [root / parent / _FOLDERS[split] for parent in _PARENTS]
        folder = next((folder for folder in candidates if folder.is_dir()), None)
        if folder is None:
            raise DataError(f"ade20k's scenes do not exist, searched {', '.join(map(str, candidates))}")
        self.path = folder

    def units(self) -> int:
        """Return the number of images in the split, which is what the published counts count."""
        return sum(1 for _ in _list_scenes(self.path))

    def _annotated_images(self, problems: Problems) -> Iterator[AnnotatedImage]:
        for path in _list_scenes(self.path):
            try:
                annotation = _read_annotation(path)
                height, width = (int(side) for side in annotation["imsize"][:2])
                instances = list(self._instances(annotation["object"], path, Size(width, height), problems))
            except (KeyError, TypeError, ValueError) as error:
                problems.add("dropped", "the scene's json is malformed", str(path), f"{type(error).__name__}: {error}")
                continue
            yield AnnotatedImage(path.with_suffix(".jpg"), Size(width, height), f"ade20k:{path.stem}", instances)

    def _instances(self, records: Any, path: Path, size: Size, problems: Problems) -> Iterator[ClassInstance]:
        named = {}
        for number, record in enumerate(_as_list(records)):
            try:
                named[record["id"]] = (_class_word(record), record)
            except (KeyError, TypeError, AttributeError) as error:
                detail = f"{type(error).__name__}: {error}"
                problems.add("dropped", "the object's record is malformed", f"{path}, object {number}", detail)
        for number, (word, record) in named.items():
            where = f"{path}, object {number}"
            whole = _whole_id(record)
            name = ClassName(word) if whole is None else ClassName(named[whole][0], word) if whole in named else None
            if not word:
                problems.add("dropped", "the object has no name", where)
            elif name is None or not name.whole:
                problems.add("dropped", "the object is a part of an unnamed object", where)
            else:
                yield self._instance(name, record, path, size)

    def _instance(self, name: ClassName, record: Mapping[str, Any], path: Path, size: Size) -> ClassInstance:
        where = f"{path}, object {record['id']}"
        try:
            polygon = _read_polygon(record)
        except RegionError as error:
            return ClassInstance(name, None, _find_bitmap(record, path) or error, where)
        corners = polygon.parts[0].reshape(-1, 2)
        box = Box(*corners.min(0).tolist(), *corners.max(0).tolist()).clip(size)  # corners may exceed the image
        if box.area == 0:
            return ClassInstance(name, None, _find_bitmap(record, path) or polygon, where)
        region: Region | None = None if self._is_small(box, size) else _find_bitmap(record, path) or polygon
        return ClassInstance(name, box, region, where)


def _list_scenes(folder: Path) -> Iterator[Path]:
    """Yield the json of each scene, by name, without entering the folders of bitmaps, which hold most of the files."""
    for parent, folders, files in os.walk(folder):
        scenes = sorted(name.removesuffix(".json") for name in files if name.endswith(".json"))
        folders[:] = sorted(set(folders).difference(scenes))
        yield from (Path(parent) / f"{scene}.json" for scene in scenes)


def _read_annotation(path: Path) -> Mapping[str, Any]:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # as some scenes are encoded
    annotation: Mapping[str, Any] = parse_json(text)["annotation"]
    return annotation


def _as_list(value: Any) -> list[Any]:
    """Wrap a single value, because MATLAB writes a list of one element as that element."""
    return value if isinstance(value, list) else [value]


def _class_word(record: Mapping[str, Any]) -> str:
    """Return the first synonym, or the annotator's word where the class is "-"; "" where the object has no name."""
    for text in (record["name"].split(",")[0], record["raw_name"]):
        if word := " ".join(text.split()).strip("-"):
            return word
    return ""


def _whole_id(record: Mapping[str, Any]) -> Any:
    """Return the id of the object that this one is a part of; None for a whole object."""
    parts = record.get("parts")
    part_of = parts.get("ispartof", []) if isinstance(parts, dict) else []
    return (part_of[0] if part_of else None) if isinstance(part_of, list) else part_of


def _read_polygon(record: Mapping[str, Any]) -> Polygons:
    outline = record.get("polygon") or {}
    try:
        corners = np.array([_as_list(outline.get("x", [])), _as_list(outline.get("y", []))], np.float64).T
    except (TypeError, ValueError, OverflowError) as error:
        raise RegionError("the polygon is malformed", str(error)) from error
    if len(corners) < 3 or not np.all(np.abs(corners) <= MAX_COORDINATE):
        raise RegionError("the polygon has no area, or a corner far outside the image")
    return Polygons((corners.reshape(-1),))


def _find_bitmap(record: Mapping[str, Any], path: Path) -> Bitmap | None:
    name = record.get("instance_mask")
    bitmap = path.parent / name if isinstance(name, str) and name else None
    return Bitmap(bitmap) if bitmap is not None and bitmap.is_file() else None
