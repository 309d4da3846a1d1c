"""Proves of finished lessons what their manifest says, and that none is about a picture that is held out."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.heldout import HeldOut, keep_out
from sam4mllm_tool.data.lessons import LESSONS_FILE, MANIFEST_FILE, read_lessons
from sam4mllm_tool.errors import DataError

__all__ = ["verify_lessons"]


def verify_lessons(folder: Path, held_out: Sequence[Path] = ()) -> list[str]:
    """What was found, in lines for a person: counts by kind, drops, and against which files the pictures were held.

    held_out: roots of the RefCOCO family beside those that the manifest names, or in their place where those are gone.
    Raises DataError where the file is not the one that the manifest describes, a line is no lesson, the counts differ, a
    picture is held out, or what the pictures were held against is not found as it was.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / MANIFEST_FILE} can't be read: {error}") from error
    counts: Counter[str] = Counter()
    sources = (*manifest["sources"], *manifest["vqa"])
    roots = [Path(root) for root in (*manifest["held_out_roots"], *(source["root"] for source in sources))]
    kept_out = keep_out(held_out, roots)
    _check_family(folder, manifest["held_out"], kept_out, given=bool(held_out))
    for lesson in read_lessons(folder):
        counts["lessons"] += 1
        counts.update(one.kind for one in lesson.conversations)
        if kept_out.holds(lesson.image_id, lesson.image):
            raise DataError(f"{folder}: lesson {lesson.id!r} is about {lesson.image_id} ({lesson.image}), which is held out")
    told = manifest["counts"]
    if differing := [key for key in counts if counts[key] != told.get(key)]:
        raise DataError(f"{folder}: {', '.join(f'{counts[k]} {k}, not {told.get(k)}' for k in differing)} as in the manifest")
    with (folder / LESSONS_FILE).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest["sha256"]:
            raise DataError(f"{folder / LESSONS_FILE} is not the file that {MANIFEST_FILE} describes: build it again")
    kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("pqpp", "ppg", "vqa") if counts[kind])
    lines = [f"{folder}: {counts['lessons']:,} lessons of {told['samples']:,} samples ({kinds} conversations)"]
    lines += [f"  dropped {count:,}: {reason}" for reason, count in manifest["dropped"].items()]
    lines += [f"  while reading {name}: {line}" for name, read in manifest["read"].items() for line in read["counts"]]
    by = f"by {len(kept_out.files)} files" if kept_out.files else "no file of the RefCOCO family was found"
    lines.append(f"  held out: {told.get('held out', 0):,} pictures left out, none among the lessons ({by})")
    return lines


def _check_family(folder: Path, told: Mapping[str, Any], found: HeldOut, *, given: bool) -> None:
    """That the pictures are held against no less than when they were built. given: roots were, which may hold a copy."""
    now = found.described()
    again = "name the root that holds the RefCOCO family by --held-out"
    for file, digest in told["files"].items():
        if file in now["files"]:
            if now["files"][file] != digest:
                raise DataError(f"{file} changed since {folder} was built: build it again")
        elif not given:
            raise DataError(f"{file}, by which pictures of {folder} were held out, is not there: {again}")
    if now["images"] < told["images"]:
        raise DataError(f"{now['images']:,} pictures are held out, {told['images']:,} were when {folder} was built: {again}")
    if set(now["files"]) == set(told["files"]) and now["sha256"] != told["sha256"]:
        raise DataError(f"other pictures are held out than when {folder} was built: build it again")
