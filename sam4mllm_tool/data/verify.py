"""Proves of finished lessons what their manifest says, and that none is about a picture that is held out."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sam4mllm_tool.data.heldout import held_out_images
from sam4mllm_tool.data.lessons import LESSONS_FILE, MANIFEST_FILE, read_lessons
from sam4mllm_tool.errors import DataError

__all__ = ["verify_lessons"]


def verify_lessons(folder: Path, held_out: Sequence[Path] = ()) -> list[str]:
    """What was found, in lines for a person: counts by kind, drops, and against which files the pictures were held.

    held_out: roots of the RefCOCO family beside those that the manifest names.
    Raises DataError where the file is not the one that the manifest describes, a line is no lesson, the counts differ, or
    a picture is held out.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / MANIFEST_FILE} can't be read: {error}") from error
    counts: Counter[str] = Counter()
    sources = (*manifest["sources"], *manifest["vqa"])
    roots = [Path(root) for root in (*held_out, *manifest["held_out_roots"], *(source["root"] for source in sources))]
    kept_out = held_out_images(*roots)
    for lesson in read_lessons(folder):
        counts["lessons"] += 1
        counts.update(one.kind for one in lesson.conversations)
        if lesson.image_id in kept_out.images:
            raise DataError(f"{folder}: lesson {lesson.id!r} is about {lesson.image_id}, which is held out")
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
