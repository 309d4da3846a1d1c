"""Divide users' own data into train.jsonl, val.jsonl and test.jsonl, by image: no image is in two of them.

Images are told apart by their content, so that two copies of a photo under different names fall into the same file. The same
images and seed give the same division, whatever the files are called.
"""

import json
import os
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from sam4mllm_tool.atomic_io import atomic_path, require_new_file
from sam4mllm_tool.data.annotations import RegionError
from sam4mllm_tool.data.image_hashes import choose_images, hash_image, resolve_share
from sam4mllm_tool.data.jsonl import JsonLines, parse_line
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.errors import DataError, count_noun

__all__ = ["WrittenSplit", "split_dataset"]

_FIRST = "train"


@dataclass(frozen=True)
class WrittenSplit:
    """A file of a division and its counts."""

    path: Path
    expressions: int
    images: int

    def summary(self) -> str:
        """Return one line for people."""
        return f"wrote {self.path}: {count_noun(self.expressions, 'expression')}, {count_noun(self.images, 'image')}"


def split_dataset(
    source: Path,
    out: Path,
    shares: Mapping[str, float],
    problems: Problems,
    *,
    seed: int = 0,
    overwrite: bool = False,
) -> list[WrittenSplit]:
    """Write one JSONL file per split: those of `shares`, and train.jsonl with all other images.

    Args:
        source: A JSONL file, or the folder of an undivided one.
        out: The folder to write to.
        shares: A share of the images by split if below 1, else a number of them.
        problems: Gets the lines that are left out, because they are damaged or their image is missing.
        seed: Seed of the random division.
        overwrite: Replace files that exist.

    Raises:
        DataError: The source is divided already, has too few images, or a file exists.
    """
    path = _find_undivided(source)
    targets = {split: out / f"{split}.jsonl" for split in (_FIRST, *shares)}
    for target in targets.values():
        require_new_file(target, overwrite=overwrite)
    images = dict(_read_images(path, problems))
    split_of_image = _assign_splits(set(images.values()), shares, seed)
    out.mkdir(parents=True, exist_ok=True)
    expressions: Counter[str] = Counter()
    with ExitStack() as stack:
        files = {split: _open_part(stack, target) for split, target in targets.items()}
        for number, record in _read_records(path, images):
            split = split_of_image[images[number]]
            files[split].write(json.dumps(_move_image(record, path.parent, out), ensure_ascii=False) + "\n")
            expressions[split] += 1
    counts = Counter(split_of_image.values())
    return [WrittenSplit(target, expressions[split], counts[split]) for split, target in targets.items()]


def _find_undivided(source: Path) -> Path:
    """Return the file to divide. Raises DataError where its lines name splits."""
    reader = JsonLines(source, "all")
    if named := reader.named_splits():
        raise DataError(f"{reader.path} is divided already: its lines name the splits {', '.join(sorted(named))}")
    return reader.path


def _read_images(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Yield the number of each usable line, from 0, and the hash of its image."""
    with path.open("rb") as lines:
        for number, line in enumerate(tqdm(lines, desc="images", unit="line", disable=None, mininterval=2)):
            if not line.strip():
                continue
            try:
                image = parse_line(line).get("image")
                if not isinstance(image, str) or not image:
                    raise RegionError("the line names no image")
                yield number, hash_image(path.parent / image)
            except RegionError as error:
                problems.add("dropped", error.what, f"{path}, line {number + 1}", error.detail)
            except OSError as error:
                problems.add("dropped", "the image can't be read", f"{path}, line {number + 1}", str(error))


def _read_records(path: Path, numbers: Container[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the lines of these numbers, from 0, with their numbers."""
    with path.open("rb") as lines:
        yield from ((number, parse_line(line)) for number, line in enumerate(lines) if number in numbers)


def _assign_splits(images: set[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Return the split of each image. Every split gets at least one."""
    counts = {split: max(1, resolve_share(share, len(images))) for split, share in shares.items()}
    if sum(counts.values()) >= len(images):
        wanted = ", ".join(f"{count} for {split}" for split, count in counts.items())
        raise DataError(f"{count_noun(len(images), 'image')} can't be divided into {wanted} and at least 1 for {_FIRST}")
    split_of_image: dict[str, str] = {}
    for split, count in counts.items():
        split_of_image |= dict.fromkeys(choose_images(images - set(split_of_image), count, seed=seed), split)
    return split_of_image | dict.fromkeys(images - set(split_of_image), _FIRST)


def _open_part(stack: ExitStack, target: Path) -> TextIO:
    part = stack.enter_context(atomic_path(target))
    return stack.enter_context(part.open("w", encoding="utf-8", errors="backslashreplace"))


def _move_image(record: dict[str, Any], source: Path, out: Path) -> dict[str, Any]:
    """Return the record with its image's path relative to the new folder."""
    image = Path(record["image"])
    if image.is_absolute() or source.resolve() == out.resolve():
        return record
    try:
        moved = Path(os.path.relpath((source / image).resolve(), out.resolve())).as_posix()
    except ValueError:  # on another drive
        moved = (source / image).resolve().as_posix()
    return record | {"image": moved}
