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
another split are skipped. Lines that name none belong to the split that the file is named after, in other files to `train`.
The split `all` has every line. A split that no line belongs to is refused, so that nothing is reported as "val" that was not
set aside as such; `split_files.py` divides a file by image.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.annotations import RegionError, read_segmentation, reconcile_box
from sam4mllm_tool.data.reader import Reader, coco_image_id, normalize_expression, read_image_size
from sam4mllm_tool.data.sample import Problems, Region, Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.types import Box, Size

__all__ = ["ALL", "JSONL_FILE", "TRAIN", "JsonLines", "list_jsonl_splits", "parse_line"]

JSONL_FILE = "scenes.jsonl"
"""The file's name where a folder is not divided into splits."""
ALL, TRAIN = "all", "train"
"""The split of every line, and that of the lines for which neither a field nor the file's name says another."""
_SPLIT_NAME = re.compile(r"(train|val|valid|validation|dev|test)([-_A-Z0-9].*)?")
"""Names of files that say which split their lines belong to."""
_MeasureImage = Callable[[Path], Size | str]


class JsonLines(Reader):
    """Users' own data, streamed line by line.

    Args:
        root: The file, or its folder.
        split: The split's name.
        file: The file's name, where it is not one of those above.

    Raises:
        DataError: The file does not exist, several files are possible, or the file has no such split.
    """

    name = "jsonl"

    def __init__(self, root: Path, split: str = "train", *, file: str | None = None) -> None:
        super().__init__(root, split)
        self.path = root if root.is_file() else _find_file(root, split, file)
        named_after = self.path.stem == split or _SPLIT_NAME.fullmatch(self.path.stem)
        self.default_split = self.path.stem if named_after else TRAIN
        if split not in (ALL, self.default_split) and split not in (named := self.named_splits()):
            raise self._unknown_split(named)

    def named_splits(self) -> set[str]:
        """Return the splits that lines name, which takes reading the file."""
        names = set()
        with self.path.open("rb") as lines:
            for line in lines:
                if b'"split"' in line:
                    with suppress(RegionError):  # reported when the line is read as a sample
                        names.add(_read_split(parse_line(line), ""))
        return names - {""}

    def _unknown_split(self, named: set[str]) -> DataError:
        """Return the error for a split that no line belongs to, which says what there is and what to do."""
        if named:
            there = ", ".join(sorted(named | ({self.default_split} - {self.split})))
            return DataError(f"{self.path} has no split {self.split!r}: it has {there}, and 'all' for all of it")
        if self.default_split != TRAIN or self.path.stem == TRAIN:
            return DataError(f"{self.path} has no split {self.split!r}: all of it is {self.default_split!r}")
        return DataError(
            f"{self.path} is not divided, so it has no split {self.split!r}: name the split 'all' to read all of it, or divide "
            f"it by image with: sam4mllm data split {self.path}"
        )

    def _has(self, record: Mapping[str, Any]) -> bool:
        """Whether a line belongs to the split."""
        return self.split == ALL or _read_split(record, self.default_split) == self.split

    def _samples(self, problems: Problems) -> Iterator[Sample]:
        measure = lru_cache(maxsize=256)(read_image_size)
        lines_of_split = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                where = f"{self.path}, line {number}"
                if not line.strip():
                    continue
                try:
                    record = parse_line(line)
                    if not self._has(record):
                        continue
                    lines_of_split += 1
                    yield self._sample(record, number, measure, problems, where)
                except RegionError as error:
                    problems.add("dropped", error.what, where, error.detail)
        if not lines_of_split and not problems:
            named = self.named_splits()
            raise self._unknown_split(named) if named else DataError(f"{self.path} has no lines")

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


def list_jsonl_splits(root: Path) -> dict[str, Path]:
    """Return the file of each split in a folder, or of each split in a file; `all` alone for one that is not divided.

    Raises:
        DataError: There is no file, or several that are not named after splits.
    """
    paths = [root] if root.is_file() else [path for path in sorted(root.glob("*.jsonl")) if path.name != JSONL_FILE]
    if root.is_dir() and (not paths or not any(_SPLIT_NAME.fullmatch(path.stem) for path in paths)):
        paths = [_find_file(root, ALL, None)] if len(paths) < 2 or (root / JSONL_FILE).is_file() else paths
    splits: dict[str, Path] = {}
    for path in paths:
        reader = JsonLines(path, ALL)
        names = reader.named_splits() or {path.stem if len(paths) > 1 or _SPLIT_NAME.fullmatch(path.stem) else ALL}
        splits |= {name: path for name in sorted(names) if name not in splits}
    return splits


def _find_file(root: Path, split: str, file: str | None) -> Path:
    if file is not None:
        if not (root / file).is_file():
            raise DataError(f"{root / file} does not exist")
        return root / file
    for name in (JSONL_FILE,) if split == ALL else (f"{split}.jsonl", JSONL_FILE):
        if (root / name).is_file():
            return root / name
    others = sorted(root.glob("*.jsonl"))
    if len(others) != 1:
        names = ", ".join(path.name for path in others) or "no *.jsonl"
        missing = f"no {JSONL_FILE}" if split == ALL else f"neither {split}.jsonl nor {JSONL_FILE}"
        raise DataError(f"{root} has {missing}, but {names}; set the option 'file'")
    return others[0]


def _read_image_id(value: Any) -> str:
    """Return `coco:581857` for COCO's number in any form, other ids as they are, and "" for none."""
    name = "" if value is None else str(value).strip()
    number = name.removeprefix("coco:")
    return f"coco:{int(number)}" if number.isascii() and number.isdecimal() else coco_image_id(name) or name


def _read_split(record: Mapping[str, Any], default: str) -> str:
    """Return the split that a line names, `default` for none."""
    value = record.get("split")
    return default if value is None else str(value)


def parse_line(line: bytes) -> dict[str, Any]:
    """Return a line's record. Raises RegionError."""
    try:
        record = parse_json(line)
    except ValueError as error:  # not UTF-8, or not JSON
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
