"""Our own format, in which users write their own data: a line of JSON per expression, beside the pictures.

```json
{"image": "kitchen.jpg", "expression": "the two blue cups", "objects": [{"mask": {"size": [480, 640], "counts": "PPYo1..."}},
 {"box": [310, 120, 380, 201], "mask": {"size": [480, 640], "counts": "nTl02..."}}]}
```
A line (it is one line, however long) has
- `image`: the picture's file, relative to the folder of this file, or absolute.
- `expression`: what is looked for. Several expressions of one picture are several lines, best one after another.
- `objects`: what it means, in the order in which they are to be named; none, `[]`, says that there is no such object. Each has
  `mask`, COCO's RLE of the upright picture's size, compressed (`rle.encode` writes it) or as a list of run lengths; and, if
  known, `box`, x1, y1, x2, y2 in pixels, x2 and y2 one past the last. Without it the mask's box is taken.
- if wanted: `id`; `kind`, of expression; `ignore`, an RLE of pixels that count neither way; `split`; `image_id`, the picture's
  name across data sets (`coco:581857`, or COCO's number alone).

The file is `<split>.jsonl` (train.jsonl, val.jsonl), else scenes.jsonl, else the only *.jsonl of the folder. A line that names
another split is passed over; a line that names none belongs to every split.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.annotations import RegionError, agreed_box, read_segmentation
from sam4mllm_tool.data.reader import Reader, coco_image_id, one_line, picture_size
from sam4mllm_tool.data.sample import Problems, Region, Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box, Size

__all__ = ["JsonLines"]

_SCENES = "scenes.jsonl"
_Look = Callable[[Path], Size | str]


class JsonLines(Reader):
    """Own data, streamed: no line is held once its sample is given.

    root: the file, or its folder. file: its name, where it is not one of those looked for.
    Raises DataError where there is no such file, or more than one that it could be.
    """

    name = "jsonl"

    def __init__(self, root: Path, split: str = "train", *, file: str | None = None) -> None:
        super().__init__(root, split)
        self.path = root if root.is_file() else _find(root, split, file)

    def _samples(self, problems: Problems) -> Iterator[Sample]:
        look = lru_cache(maxsize=256)(picture_size)
        here = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                where = f"{self.path}, line {number}"
                if not line.strip():
                    continue
                try:
                    told = _read_line(line)
                    if told.get("split", self.split) != self.split:
                        continue
                    here += 1
                    yield self._sample(told, number, look, problems, where)
                except RegionError as error:
                    problems.add("dropped", error.what, f"{where} ({error.detail})" if error.detail else where)
        if not here and not problems:
            raise DataError(f"{self.path} has no lines of split '{self.split}'")

    def _sample(self, told: Mapping[str, Any], number: int, look: _Look, problems: Problems, where: str) -> Sample:
        expression, image = one_line(told.get("expression")), told.get("image")
        if not expression:
            raise RegionError("the expression is empty or not a text")
        if not isinstance(image, str) or not image:
            raise RegionError("the line names no image")
        path = self.path.parent / image
        size = look(path)
        if isinstance(size, str):
            raise RegionError(size, str(path))
        objects = [_read_object(one, size, problems, where) for one in _list(told)]
        ignored = told.get("ignore")
        return Sample(
            id=str(told.get("id", f"jsonl-{number}")),
            image_path=path,
            expression=expression,
            size=size,
            boxes=tuple(box for box, _ in objects),
            regions=tuple(region for _, region in objects),
            ignored=None if ignored is None else _fitting(ignored, size),
            kind=str(told.get("kind", "")),
            split=self.split,
            image_id=_image_id(told.get("image_id")) or coco_image_id(image) or f"file:{path.name}",
            source=self.name,
        )


def _find(root: Path, split: str, file: str | None) -> Path:
    if file is not None:
        if not (root / file).is_file():
            raise DataError(f"{root / file} is not there")
        return root / file
    for name in (f"{split}.jsonl", _SCENES):
        if (root / name).is_file():
            return root / name
    others = sorted(root.glob("*.jsonl"))
    if len(others) != 1:
        there = ", ".join(path.name for path in others) or "no *.jsonl"
        raise DataError(f"{root} has neither {split}.jsonl nor {_SCENES}, but {there}; name the file by the option 'file'")
    return others[0]


def _image_id(told: Any) -> str:
    """COCO's number is written as a number, as digits or as it is here; others stay what they are. "" where there is none."""
    name = "" if told is None else str(told).strip()
    number = name.removeprefix("coco:")
    return f"coco:{int(number)}" if number.isascii() and number.isdecimal() else coco_image_id(name) or name


def _read_line(line: bytes) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise RegionError("the line is not JSON", str(error)) from error
    if not isinstance(told, dict):
        raise RegionError("the line is not a JSON object")
    return told


def _list(told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    objects = told.get("objects")
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        raise RegionError("the line has no list of objects, [] where there is none")
    return objects


def _read_object(told: Mapping[str, Any], size: Size, problems: Problems, where: str) -> tuple[Box, Region]:
    region = _read_mask(told.get("mask"))
    if told.get("box") is None:
        return agreed_box(region, None, size, Problems(), where), region
    return agreed_box(region, _read_box(told["box"]), size, problems, where), region


def _read_mask(code: Any) -> Region:
    if not isinstance(code, Mapping):
        raise RegionError("an object's mask is not an RLE", repr(code)[:80])
    return read_segmentation(code)


def _read_box(told: Any) -> Box | None:
    if not isinstance(told, list) or len(told) != 4 or not all(isinstance(number, int | float) for number in told):
        return None
    box = Box(*map(float, told))
    return box if box.x1 < box.x2 and box.y1 < box.y2 else None


def _fitting(code: Any, size: Size) -> Region:
    """Of ignored pixels, checked here where its line can still be named."""
    region = _read_mask(code)
    region.mask(size)
    return region
