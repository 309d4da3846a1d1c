"""The project's own format, for users' own data: one line of JSON per expression, beside the images.

```json
{"image": "kitchen.jpg", "expression": "the two blue cups", "objects": [{"mask": {"size": [480, 640], "counts": "PPYo1..."}},
 {"box": [310, 120, 380, 201], "mask": {"size": [480, 640], "counts": "nTl02..."}}]}
```
A line (without line breaks, however long it is) has
- `image`: the image's file, absolute or relative to the folder of this file.
- `expression`: the referring expression. Several expressions about an image are several lines, best next to each other.
- `objects`: what the expression refers to, in the order in which a reply should list the objects; `[]` where there is no such
  object. Each has `mask`, COCO's RLE with the size of the upright image, compressed (`rle.encode` writes it) or as a list of
  run lengths; and optionally `box`, x1, y1, x2, y2 in pixels, where x2 and y2 are one past the last pixel. The default is the
  mask's box.
- optionally `id`; `kind`, the kind of expression; `ignore`, an RLE of pixels that evaluation skips; `split`; `image_id`, the
  image's name across datasets (`coco:581857`, or COCO's number alone).

The file is `<split>.jsonl` (train.jsonl, val.jsonl), else scenes.jsonl, else the only *.jsonl of the folder. Lines that name
another split are skipped; lines that name none belong to every split.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.annotations import RegionError, read_segmentation, reconcile_box
from sam4mllm_tool.data.reader import Reader, coco_image_id, normalize_expression, read_image_size
from sam4mllm_tool.data.sample import Problems, Region, Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box, Size

__all__ = ["JSONL_FILE", "JsonLines"]

JSONL_FILE = "scenes.jsonl"
"""The file's name where a folder is not divided into splits."""
_MeasureImage = Callable[[Path], Size | str]


class JsonLines(Reader):
    """Users' own data, streamed line by line.

    Args:
        root: The file, or its folder.
        split: The split's name.
        file: The file's name, where it is not one of those above.

    Raises:
        DataError: The file does not exist, or several files are possible.
    """

    name = "jsonl"

    def __init__(self, root: Path, split: str = "train", *, file: str | None = None) -> None:
        super().__init__(root, split)
        self.path = root if root.is_file() else _find_file(root, split, file)

    def _samples(self, problems: Problems) -> Iterator[Sample]:
        measure = lru_cache(maxsize=256)(read_image_size)
        lines_of_split = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                where = f"{self.path}, line {number}"
                if not line.strip():
                    continue
                try:
                    record = _parse_line(line)
                    if record.get("split", self.split) != self.split:
                        continue
                    lines_of_split += 1
                    yield self._sample(record, number, measure, problems, where)
                except RegionError as error:
                    problems.add("dropped", error.what, where, error.detail)
        if not lines_of_split and not problems:
            raise DataError(f"{self.path} has no lines of split '{self.split}'")

    def _sample(self, record: Mapping[str, Any], number: int, measure: _MeasureImage, problems: Problems, where: str) -> Sample:
        expression, image = normalize_expression(record.get("expression")), record.get("image")
        if not expression:
            raise RegionError("the expression is empty or not a text")
        if not isinstance(image, str) or not image:
            raise RegionError("the line names no image")
        path = self.path.parent / image
        size = measure(path)
        if isinstance(size, str):
            raise RegionError(size, str(path))
        objects = [_read_object(value, size, problems, where) for value in _list_objects(record)]
        ignored = record.get("ignore")
        return Sample(
            id=str(record.get("id", f"jsonl-{number}")),
            image_path=path,
            expression=expression,
            size=size,
            boxes=tuple(box for box, _ in objects),
            regions=tuple(region for _, region in objects),
            ignored=None if ignored is None else _read_ignored(ignored, size),
            kind=str(record.get("kind", "")),
            split=self.split,
            image_id=_read_image_id(record.get("image_id")) or coco_image_id(image) or f"file:{path.name}",
            source=self.name,
        )


def _find_file(root: Path, split: str, file: str | None) -> Path:
    if file is not None:
        if not (root / file).is_file():
            raise DataError(f"{root / file} does not exist")
        return root / file
    for name in (f"{split}.jsonl", JSONL_FILE):
        if (root / name).is_file():
            return root / name
    others = sorted(root.glob("*.jsonl"))
    if len(others) != 1:
        names = ", ".join(path.name for path in others) or "no *.jsonl"
        raise DataError(f"{root} has neither {split}.jsonl nor {JSONL_FILE}, but {names}; set the option 'file'")
    return others[0]


def _read_image_id(value: Any) -> str:
    """Return `coco:581857` for COCO's number in any form, other ids as they are, and "" for none."""
    name = "" if value is None else str(value).strip()
    number = name.removeprefix("coco:")
    return f"coco:{int(number)}" if number.isascii() and number.isdecimal() else coco_image_id(name) or name


def _parse_line(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise RegionError("the line is not JSON", str(error)) from error
    if not isinstance(record, dict):
        raise RegionError("the line is not a JSON object")
    return record


def _list_objects(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    objects = record.get("objects")
    if not isinstance(objects, list) or not all(isinstance(value, dict) for value in objects):
        raise RegionError("the line has no list of objects (expected [] for no such object)")
    return objects


def _read_object(value: Mapping[str, Any], size: Size, problems: Problems, where: str) -> tuple[Box, Region]:
    region = _read_mask(value.get("mask"))
    if value.get("box") is None:
        return reconcile_box(region, None, size, Problems(), where), region
    return reconcile_box(region, _read_box(value["box"]), size, problems, where), region


def _read_mask(code: Any) -> Region:
    if not isinstance(code, Mapping):
        raise RegionError("an object's mask is not an RLE", repr(code)[:80])
    return read_segmentation(code)


def _read_box(value: Any) -> Box | None:
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(number, int | float) for number in value):
        return None
    box = Box(*map(float, value))
    return box if box.x1 < box.x2 and box.y1 < box.y2 else None


def _read_ignored(code: Any, size: Size) -> Region:
    """Decode the ignored pixels once, so that a fault is reported with its line."""
    region = _read_mask(code)
    region.mask(size)
    return region
