"""Build training conversations from datasets: in parallel processes, resumable, the same bytes for the same seed.

Images are processed in order, each with its neighbouring samples. An image's result depends on it and the seed alone, and
results are written in the order of the images, so that neither the number of processes nor an interruption changes the file.
During a build, lessons.jsonl.part grows, and progress.json says how many of its bytes are complete.
"""

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm
from typing_extensions import deprecated

from sam4mllm_tool.atomic_io import file_sha256, write_json
from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.data.heldout import collect_held_out
from sam4mllm_tool.data.image_order import count_missing_vqa, group_by_image, leave_out, mark_held_out, mix_in_vqa
from sam4mllm_tool.data.reader import Reader
from sam4mllm_tool.data.sample import Dataset, Problems
from sam4mllm_tool.data.sources import Source
from sam4mllm_tool.data.training_conversations import CONVERSATIONS_FILE, MANIFEST_FILE
from sam4mllm_tool.data.workers import BuiltImage, ImageSamples, build_images
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.text import parse_json

__all__ = ["Source", "build_conversations"]

PROGRESS_FILE = "progress.json"
_PART_FILE = f"{CONVERSATIONS_FILE}.part"
_SAVE_INTERVAL = 200
"""Images between two writes of the progress."""
_OPTIONAL_SETTINGS = ("held_back",)
"""Settings that a manifest holds only where they are given."""


@dataclass
class _Tally:
    """Totals of the build so far. They are saved in progress.json and end up in the manifest."""

    images: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    first_dropped: list[str] = field(default_factory=list)

    def add(self, built: BuiltImage) -> None:
        self.images += 1
        self.counts.update(built.counts)
        self.dropped.update(built.dropped)
        self.first_dropped += built.dropped_samples[: max(0, Problems.MAX_EXAMPLES - len(self.first_dropped))]

    def to_dict(self) -> dict[str, Any]:
        totals = {"counts": self.counts, "dropped": self.dropped, "first_dropped": self.first_dropped}
        return {"pictures": self.images, **totals}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "_Tally":
        return cls(value["pictures"], Counter(value["counts"]), Counter(value["dropped"]), value["first_dropped"])


def build_conversations(
    sources: Sequence[Source],
    out: Path,
    recipe: Recipe,
    *,
    vqa: Sequence[Source] = (),
    held_out: Sequence[Path] = (),
    held_back: Collection[str] = (),
    processes: int = 1,
) -> Path:
    """Write lessons.jsonl and manifest.json. An interrupted build continues; a finished one is left as it is.

    Args:
        sources: Datasets with masks.
        out: The folder to write to; it is created if necessary.
        recipe: How samples become conversations.
        vqa: Datasets of conversations without masks, mixed in at the recipe's share of the images.
        held_out: Roots of the RefCOCO family. Images of the val and test splits found there, or under the root of a source,
            are left out of every dataset.
        held_back: Further images that are left out, by `hash_image`.
        processes: How many processes build.

    Returns:
        `out`.

    Raises:
        DataError: `out` holds the result of another recipe, a `held_out` root holds no reference file, no sample can be used,
            or the file can't be written. Errors of `load_dataset` pass through.
    """
    if recipe.vqa and not vqa:
        raise DataError("the recipe mixes in VQA conversations, but no VQA dataset is given")
    if processes < 1:
        raise DataError(f"expected at least 1 process, got {processes}")
    held_out_images = collect_held_out(held_out, [source.root for source in (*sources, *vqa)])
    datasets = [source.open() for source in (*sources, *vqa)]
    settings = _describe_settings(sources, vqa, held_out, recipe) | {
        "data": [_measure_files(dataset) for dataset in datasets],
        "held_out": held_out_images.to_dict(),
        **({"held_back": sorted(held_back)} if held_back else {}),
    }
    out.mkdir(parents=True, exist_ok=True)
    if (out / CONVERSATIONS_FILE).exists():
        _check_finished(out, settings)
        return out
    with_masks, without_masks = (
        mark_held_out(leave_out(group_by_image(group), held_back), held_out_images)
        for group in (datasets[: len(sources)], datasets[len(sources) :])
    )
    tally = _build(out, mix_in_vqa(with_masks, without_masks, recipe.vqa), settings, recipe, processes)
    _finish(out, settings, tally, datasets)
    return out


def _build(out: Path, images: Iterator[ImageSamples], settings: dict[str, Any], recipe: Recipe, processes: int) -> "_Tally":
    """Write the conversations of all images. Raises DataError where there are none."""
    try:
        tally = _write_lines(out, images, settings, recipe, processes)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"can't write to {str(out)!r}: {reason}; the same command continues the build") from error
    if not tally.counts["lessons"]:
        reason = "; ".join(tally.first_dropped) or "there is no sample, or every image is held out"
        raise DataError(f"no sample can be trained on: {reason}")
    if missing := count_missing_vqa(tally.counts, recipe.vqa):
        tally.counts["short of vqa"] = missing
    return tally


@deprecated("build_lessons is now build_conversations")
def build_lessons(sources: Sequence[Source], out: Path, recipe: Recipe, **options: Any) -> Path:
    """Call `build_conversations`, the new name."""
    return build_conversations(sources, out, recipe, **options)


def _describe_settings(
    sources: Sequence[Source], vqa: Sequence[Source], held_out: Sequence[Path], recipe: Recipe
) -> dict[str, Any]:
    """Return the arguments as JSON: builds with the same description have the same result."""
    settings = {
        "format": 2,
        "sources": [source.to_dict() for source in sources],
        "vqa": [source.to_dict() for source in vqa],
        "held_out_roots": [root.resolve() for root in held_out],
        "recipe": asdict(recipe),
    }
    described: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return described


def _measure_files(dataset: Dataset) -> dict[str, int]:
    """Return what changes with a dataset's files and is the same for a copy of them."""
    files = dataset.index_files() if isinstance(dataset, Reader) else ()
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def _check_finished(out: Path, settings: dict[str, Any]) -> None:
    manifest = out / MANIFEST_FILE
    try:
        known = parse_json(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{manifest} can't be read ({error}): choose another folder") from error
    _check_same_settings(out, "training conversations built with other settings", known, settings)
    (out / PROGRESS_FILE).unlink(missing_ok=True)  # left behind by an interruption between the two last steps of a build


def _check_same_settings(out: Path, content: str, known: dict[str, Any], settings: dict[str, Any]) -> None:
    differing = sorted(key for key in {*settings, *_OPTIONAL_SETTINGS} if known.get(key) != settings.get(key))
    if differing == ["data"]:
        raise DataError(f"the datasets' files changed since {out} was built: choose another folder, or remove this one")
    if differing:
        raise DataError(f"{out} holds {content} ({', '.join(differing)} differ): choose another folder, or remove this one")


# Writing -------------------------------------------------------------------------------------------------------------


def _write_lines(out: Path, images: Iterator[ImageSamples], settings: dict[str, Any], recipe: Recipe, processes: int) -> _Tally:
    tally, complete_bytes = _load_progress(out, settings)
    with (out / _PART_FILE).open("a", encoding="utf-8") as lines:
        lines.truncate(complete_bytes)
        remaining = islice(images, tally.images, None)
        results = build_images(remaining, out, recipe, processes)
        for built in tqdm(results, initial=tally.images, desc="conversations", unit="image", disable=None):
            lines.writelines(line + "\n" for line in built.lines)
            tally.add(built)
            if tally.images % _SAVE_INTERVAL == 0:
                _save_progress(out, lines, settings, tally)
        _save_progress(out, lines, settings, tally)
    return tally


def _load_progress(out: Path, settings: dict[str, Any]) -> tuple[_Tally, int]:
    """Return an earlier run's totals and how many of its bytes are complete; none where its progress can't be read."""
    path = out / PROGRESS_FILE
    if not path.exists():
        return _Tally(), 0
    try:
        known = parse_json(path.read_text(encoding="utf-8"))
        known_settings, complete_bytes, tally = dict(known["order"]), int(known["bytes"]), _Tally.from_dict(known["tally"])
    except (ValueError, KeyError, TypeError):  # damaged by the interruption
        return _Tally(), 0
    _check_same_settings(out, "an unfinished build with other settings", known_settings, settings)
    part = out / _PART_FILE
    if not part.exists() or part.stat().st_size < complete_bytes:
        return _Tally(), 0
    return tally, complete_bytes


def _save_progress(out: Path, lines: TextIO, settings: dict[str, Any], tally: _Tally) -> None:
    lines.flush()
    os.fsync(lines.fileno())
    write_json(out / PROGRESS_FILE, {"order": settings, "bytes": lines.tell(), "tally": tally.to_dict()})


def _finish(out: Path, settings: dict[str, Any], tally: _Tally, datasets: Sequence[Dataset]) -> None:
    sources = settings["sources"] + settings["vqa"]
    manifest = {
        **settings,
        "counts": dict(sorted(tally.counts.items())),
        "dropped": dict(sorted(tally.dropped.items())),
        "first_dropped": tally.first_dropped,
        "read": [_describe_reading(dataset, source) for dataset, source in zip(datasets, sources, strict=True)],
        "sha256": file_sha256(out / _PART_FILE),
    }
    write_json(out / MANIFEST_FILE, manifest)
    (out / _PART_FILE).replace(out / CONVERSATIONS_FILE)
    (out / PROGRESS_FILE).unlink(missing_ok=True)


def _describe_reading(dataset: Dataset, source: dict[str, Any]) -> dict[str, Any]:
    """Return the faults that were found while reading a source, as JSON."""
    counts = [{"fate": fate, "what": what, "count": count} for (fate, what), count in dataset.problems.counts.most_common()]
    return {key: source[key] for key in ("name", "root", "split")} | {"counts": counts, "first": dataset.problems.first}
