"""Verify finished training conversations: they match their manifest, and none is about a held-out image."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import deprecated

from sam4mllm_tool.atomic_io import file_sha256
from sam4mllm_tool.data.class_reader import LEFT_OUT_BY_CHOICE
from sam4mllm_tool.data.heldout import HeldOut, collect_held_out
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.data.training_conversations import CONVERSATIONS_FILE, MANIFEST_FILE, read_conversations
from sam4mllm_tool.errors import DataError, count_noun
from sam4mllm_tool.text import parse_json

__all__ = ["describe_problems", "is_clean", "verify_conversations"]

_FORMAT = 2


def verify_conversations(folder: Path, held_out: Sequence[Path] = ()) -> list[str]:
    """Check a folder that `build_conversations` wrote.

    Args:
        folder: The folder.
        held_out: Roots of the RefCOCO family in addition to those that the manifest names, or in place of those that moved.

    Returns:
        Lines for people: the counts by kind, what was dropped, and which files name the held-out images.

    Raises:
        DataError: The file or its counts differ from the manifest, a line is damaged, an image is held out, or the reference
            files changed or are missing.
    """
    manifest = _load_manifest(folder)
    roots = [source["root"] for source in (*manifest["sources"], *manifest["vqa"])]
    held_out_images = collect_held_out(held_out, [Path(root) for root in (*manifest["held_out_roots"], *roots)])
    _check_held_out(folder, manifest["held_out"], held_out_images, moved=bool(held_out))
    counts = _count_conversations(folder, held_out_images)
    expected = manifest["counts"]
    if differing := [key for key in counts if counts[key] != expected.get(key)]:
        differences = ", ".join(f"{counts[key]} {key} instead of {expected.get(key)}" for key in differing)
        raise DataError(f"{folder} differs from its manifest: {differences}")
    if file_sha256(folder / CONVERSATIONS_FILE) != manifest["sha256"]:
        raise DataError(f"{folder / CONVERSATIONS_FILE} differs from the file that {MANIFEST_FILE} describes: build it again")
    return _summarize(folder, manifest, counts, held_out_images)


@deprecated("verify_lessons is now verify_conversations")
def verify_lessons(folder: Path, held_out: Sequence[Path] = ()) -> list[str]:
    """Call `verify_conversations`, the new name."""
    return verify_conversations(folder, held_out)


def describe_problems(folder: Path) -> list[str]:
    """List what was dropped or corrected during the build, with the first records; empty where there was nothing.

    What readers leave out by choice is not listed. Raises DataError where the folder has no manifest.
    """
    manifest = _load_manifest(folder)
    lines = []
    for read in manifest["read"]:
        problems = _read_problems(read)
        for key in [key for key in problems.counts if key[1] in LEFT_OUT_BY_CHOICE]:
            del problems.counts[key]
        lines += [f"while reading {_source_name(read)}: {line}" for line in problems.lines()]
        lines += [f"  {example}" for example in problems.first]
    lines += [f"{count:,} dropped while building conversations: {reason}" for reason, count in manifest["dropped"].items()]
    lines += [f"  {example}" for example in manifest["first_dropped"]]
    return lines + _describe_missing_vqa(manifest)


def is_clean(folder: Path) -> bool:
    """Whether nothing was dropped or corrected, except by choice. Raises DataError where the folder has no manifest."""
    manifest = _load_manifest(folder)
    reasons = (count["what"] for read in manifest["read"] for count in read["counts"])
    return not manifest["dropped"] and all(reason in LEFT_OUT_BY_CHOICE for reason in reasons)


def _load_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    try:
        manifest = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise DataError(f"{path} is not a manifest of format {_FORMAT}: build the training conversations again")
    return manifest


def _count_conversations(folder: Path, held_out: HeldOut) -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in read_conversations(folder):
        counts["lessons"] += 1
        counts.update(conversation.kind for conversation in line.conversations)
        if held_out.contains(line.image_id, line.image):
            raise DataError(f"{folder}: {line.id!r} is about {line.image_id} ({line.image}), which is held out")
    return counts


def _summarize(folder: Path, manifest: dict[str, Any], counts: Counter[str], held_out: HeldOut) -> list[str]:
    expected = manifest["counts"]
    kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("pqpp", "ppg", "vqa") if counts[kind])
    size, samples = count_noun(counts["lessons"], "line"), count_noun(expected["samples"], "sample")
    lines = [f"{folder}: {size} from {samples} ({kinds} conversations)"]
    lines += [f"  dropped {count:,}: {reason}" for reason, count in manifest["dropped"].items()]
    lines += [
        f"  while reading {_source_name(read)}: {line}" for read in manifest["read"] for line in _read_problems(read).lines()
    ]
    lines += [f"  {line}" for line in _describe_missing_vqa(manifest)]
    by_files = f"by {count_noun(len(held_out.files), 'file')}"
    files = by_files if held_out.files else "no reference file of the RefCOCO family exists"
    images = count_noun(expected.get("held out", 0), "image")
    lines.append(f"  held out: {images} left out, none among the conversations ({files})")
    return lines


def _source_name(read: Mapping[str, Any]) -> str:
    return f"{read['name']}:{read['root']}:{read['split']}"


def _read_problems(read: Mapping[str, Any]) -> Problems:
    counts = Counter({(count["fate"], count["what"]): count["count"] for count in read["counts"]})
    return Problems(counts, list(read["first"]))


def _describe_missing_vqa(manifest: Mapping[str, Any]) -> list[str]:
    missing = manifest["counts"].get("short of vqa", 0)
    return [f"the VQA datasets were exhausted: {missing:,} images fewer than the recipe's share"] if missing else []


def _check_held_out(folder: Path, before: Mapping[str, Any], held_out: HeldOut, *, moved: bool) -> None:
    """Check that no fewer images are held out than when the folder was built.

    Args:
        folder: The folder that was built.
        before: `HeldOut.to_dict` at that time.
        held_out: The images that are held out now.
        moved: Whether the caller gave roots, in which copies of missing files may lie.
    """
    now = held_out.to_dict()
    cure = "name the root that holds the RefCOCO family by --held-out"
    for file, digest in before["files"].items():
        if file in now["files"]:
            if now["files"][file] != digest:
                raise DataError(f"{file} changed since {folder} was built: build it again")
        elif not moved:
            raise DataError(f"{file}, which named held-out images of {folder}, does not exist: {cure}")
    if now["images"] < before["images"]:
        raise DataError(f"{now['images']:,} images are held out, {before['images']:,} were when {folder} was built: {cure}")
    if set(now["files"]) == set(before["files"]) and now["sha256"] != before["sha256"]:
        raise DataError(f"other images are held out than when {folder} was built: build it again")
