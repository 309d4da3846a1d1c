"""ADE20K, the full release of 17 January 2021: scenes with all their things, and the things with their parts.

Layout, as published; root may also be any folder on the way to training/ and validation/:
```
root/ADE20K_2021_17_01/images/ADE/training/urban/street/ADE_train_00016869.jpg
                                                        ADE_train_00016869.json     what is in it
                                                        ADE_train_00016869/instance_000_ADE_train_00016869.png
```
and validation/ likewise. The json holds the things, `annotation.object`: `name` with WordNet's synonyms, of which the first is
the class; `raw_name`, the annotator's word; `polygon`; `parts`, with `ispartof`, the id of what it is a part of; and
`instance_mask`, the bitmap above. A thing's mask is its bitmap where that is there, else its polygon; both also cover what
stands in front of the thing, as they are annotated. Source of the format: CSAILVision/ADE20K, README and a sample of the data.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from sam4mllm_tool.data.annotations import Polygons, RegionError, need_pycocotools
from sam4mllm_tool.data.class_reader import ClassName, ClassReader, Picture, Thing
from sam4mllm_tool.data.sample import Problems, Region
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box, Mask, Size

__all__ = ["ADE20K", "Bitmap"]

_FOLDERS = {"train": "training", "val": "validation", "training": "training", "validation": "validation"}
_ABOVE = ("ADE20K_2021_17_01/images/ADE", "ade20k/ADE20K_2021_17_01/images/ADE", "images/ADE", "ADE", "")
_FARTHEST = 100_000  # pixels; as for polygons elsewhere


@dataclass(frozen=True)
class Bitmap:
    """What a picture of one channel is not black in."""

    path: Path

    def mask(self, size: Size) -> Mask:
        """(H, W) bool. Raises RegionError where the file is damaged, or of another size."""
        try:
            with PILImage.open(self.path, formats=("PNG",)) as picture:
                if picture.size != size:
                    told = f"{self.path} is {picture.width} x {picture.height}, the picture {size.width} x {size.height}"
                    raise RegionError("the bitmap is of another size than the picture", told)
                return np.array(picture.convert("L")) > 0
        except (UnidentifiedImageError, PILImage.DecompressionBombError, OSError, SyntaxError) as error:
            raise RegionError("the bitmap can't be read", f"{self.path}: {error}") from error


class ADE20K(ClassReader):
    """ADE20K, read a scene at a time.

    split: train or val. max_instances, min_area: see ClassReader. Raises DataError where the split's folder is not there.
    """

    name = "ade20k"

    def __init__(self, root: Path, split: str = "train", *, max_instances: int = 5, min_area: float = 0.02) -> None:
        super().__init__(root, split, max_instances=max_instances, min_area=min_area)
        need_pycocotools()
        if split not in _FOLDERS:
            raise DataError(f"ade20k has the splits train and val, not '{split}'")
        candidates = [root / above / _FOLDERS[split] for above in _ABOVE]
        found = next((folder for folder in candidates if folder.is_dir()), None)
        if found is None:
            raise DataError(f"ade20k's scenes are not there, looked for {', '.join(map(str, candidates))}")
        self.path = found

    def units(self) -> int:
        """Pictures of the split, which the published counts count."""
        return sum(1 for _ in _scenes(self.path))

    def _pictures(self, problems: Problems) -> Iterator[Picture]:
        for path in _scenes(self.path):
            try:
                annotation = _read(path)
                height, width = (int(side) for side in annotation["imsize"][:2])
                things = list(self._things(annotation["object"], path, Size(width, height), problems))
            except (KeyError, TypeError, ValueError) as error:
                problems.add("dropped", "the scene's json is malformed", f"{path} ({type(error).__name__}: {error})")
                continue
            yield Picture(path.with_suffix(".jpg"), Size(width, height), f"ade20k:{path.stem}", things)

    def _things(self, objects: Any, path: Path, size: Size, problems: Problems) -> Iterator[Thing]:
        named = {}
        for number, told in enumerate(_listed(objects)):
            try:
                named[told["id"]] = (_class(told), told)
            except (KeyError, TypeError, AttributeError) as error:
                where = f"{path}, object {number} ({type(error).__name__}: {error})"
                problems.add("dropped", "the object's record is malformed", where)
        for number, (name, told) in named.items():
            where = f"{path}, object {number}"
            if not name:
                problems.add("dropped", "the object has no name", where)
                continue
            whole = _whole(told)
            thing = ClassName(name) if whole is None else ClassName(named[whole][0], name) if whole in named else None
            if thing is None or not thing.thing:
                problems.add("dropped", "the object is a part of nothing that has a name", where)
                continue
            yield self._thing(thing, told, path, size)

    def _thing(self, name: ClassName, told: Mapping[str, Any], path: Path, size: Size) -> Thing:
        place = (f"{path}, object", told["id"])
        try:
            polygon = _polygon(told)
        except RegionError as error:
            return Thing(name, None, _bitmap(told, path) or error, *place)
        corners = polygon.parts[0].reshape(-1, 2)
        left, top = np.maximum(corners.min(0), 0).tolist()  # corners may lie beyond the picture
        right, bottom = np.minimum(corners.max(0), size).tolist()
        box = Box(left, top, right, bottom) if left < right and top < bottom else None
        region: Region | None = None if self.too_small(box, size) else _bitmap(told, path) or polygon
        return Thing(name, box, region, *place)


def _scenes(folder: Path) -> Iterator[Path]:
    """The json of each scene, by name; without a look into the folders of bitmaps, which have most of the files."""
    for here, folders, files in os.walk(folder):
        scenes = sorted(name.removesuffix(".json") for name in files if name.endswith(".json"))
        folders[:] = sorted(set(folders).difference(scenes))
        yield from (Path(here) / f"{scene}.json" for scene in scenes)


def _read(path: Path) -> Mapping[str, Any]:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # as some scenes are written
    annotation: Mapping[str, Any] = json.loads(text)["annotation"]
    return annotation


def _listed(objects: Any) -> list[Any]:
    """MATLAB writes a list of one as the one."""
    return objects if isinstance(objects, list) else [objects]


def _class(told: Mapping[str, Any]) -> str:
    """The first of the synonyms, or the annotator's word where the class has no name, "-"; "" where neither is there."""
    for text in (told["name"].split(",")[0], told["raw_name"]):
        if word := " ".join(text.split()).strip("-"):
            return word
    return ""


def _whole(told: Mapping[str, Any]) -> Any:
    """The id of what it is a part of; None of a thing of its own."""
    parts = told.get("parts")
    part_of = parts.get("ispartof", []) if isinstance(parts, dict) else []
    return (part_of[0] if part_of else None) if isinstance(part_of, list) else part_of


def _polygon(told: Mapping[str, Any]) -> Polygons:
    outline = told.get("polygon") or {}
    try:
        corners = np.array([_listed(outline.get("x", [])), _listed(outline.get("y", []))], np.float64).T
    except (TypeError, ValueError, OverflowError) as error:
        raise RegionError("the polygon is malformed", str(error)) from error
    if len(corners) < 3 or not np.all(np.abs(corners) <= _FARTHEST):
        raise RegionError("the polygon has no area, or a corner far outside any picture")
    return Polygons((corners.reshape(-1),))


def _bitmap(told: Mapping[str, Any], path: Path) -> Bitmap | None:
    named = told.get("instance_mask")
    bitmap = path.parent / named if isinstance(named, str) and named else None
    return Bitmap(bitmap) if bitmap is not None and bitmap.is_file() else None
