"""Proves of finished lessons what their manifest says, and that none is about a picture that is held out."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam4mllm_tool.atomic_io import file_sha256
from sam4mllm_tool.data.class_reader import BY_CHOICE
from sam4mllm_tool.data.heldout import HeldOut, keep_out
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.data.training_conversations import LESSONS_FILE, MANIFEST_FILE, read_lessons
from sam4mllm_tool.errors import DataError

__all__ = ["is_clean", "told", "verify_lessons"]

_FORMAT = 2


def verify_lessons(folder: Path, held_out: Sequence[Path] = ()) -> list[str]:
    """What was found, in lines for a person: counts by kind, drops, and against which files the pictures were held.

    held_out: roots of the RefCOCO family beside those that the manifest names, or in their place where those are gone.
    Raises DataError where the file is not the one that the manifest describes, a line is no lesson, the counts differ, a
    picture is held out, or what the pictures were held against is not found as it was.
    """
    manifest = _manifest(folder)
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
    made = manifest["counts"]
    if differing := [key for key in counts if counts[key] != made.get(key)]:
        raise DataError(f"{folder}: {', '.join(f'{counts[k]} {k}, not {made.get(k)}' for k in differing)} as in the manifest")
    if file_sha256(folder / LESSONS_FILE) != manifest["sha256"]:
        raise DataError(f"{folder / LESSONS_FILE} is not the file that {MANIFEST_FILE} describes: build it again")
    kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("pqpp", "ppg", "vqa") if counts[kind])
    lines = [f"{folder}: {counts['lessons']:,} lessons of {made['samples']:,} samples ({kinds} conversations)"]
    lines += [f"  dropped {count:,}: {reason}" for reason, count in manifest["dropped"].items()]
    lines += [f"  while reading {_name(read)}: {line}" for read in manifest["read"] for line in _problems(read).lines()]
    lines += [f"  {line}" for line in _short_of_vqa(manifest)]
    by = f"by {len(kept_out.files)} files" if kept_out.files else "no file of the RefCOCO family was found"
    lines.append(f"  held out: {made.get('held out', 0):,} pictures left out, none among the lessons ({by})")
    return lines


def told(folder: Path) -> list[str]:
    """What was dropped or mended when the lessons were built, in lines for a person, with the first records; none: nothing.

    What readers leave out by choice is not told. Raises DataError where the folder has no manifest.
    """
    manifest = _manifest(folder)
    lines = []
    for read in manifest["read"]:
        problems = _problems(read)
        for by_choice in [key for key in problems.counts if key[1] in BY_CHOICE]:
            del problems.counts[by_choice]
        lines += [f"while reading {_name(read)}: {line}" for line in problems.lines()]
        lines += [f"  {one}" for one in problems.first]
    lines += [f"{count:,} dropped while making lessons: {reason}" for reason, count in manifest["dropped"].items()]
    lines += [f"  {one}" for one in manifest["first_dropped"]]
    return lines + _short_of_vqa(manifest)


def is_clean(folder: Path) -> bool:
    """Whether nothing was dropped or mended but by choice, as `data check` judges a data set. Raises as `told`."""
    manifest = _manifest(folder)
    return not manifest["dropped"] and all(one["what"] in BY_CHOICE for read in manifest["read"] for one in read["counts"])


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise DataError(f"{path} is no manifest of lessons in format {_FORMAT}: build them again")
    return manifest


def _name(read: Mapping[str, Any]) -> str:
    return f"{read['name']}:{read['root']}:{read['split']}"


def _problems(read: Mapping[str, Any]) -> Problems:
    return Problems(Counter({(one["fate"], one["what"]): one["count"] for one in read["counts"]}), list(read["first"]))


def _short_of_vqa(manifest: Mapping[str, Any]) -> list[str]:
    short = manifest["counts"].get("short of vqa", 0)
    return [f"the VQA sets ran out: {short:,} pictures fewer than the share asked for"] if short else []


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
