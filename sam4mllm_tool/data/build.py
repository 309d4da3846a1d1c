"""Build training conversations from datasets: in parallel processes, resumable, the same bytes for the same seed.

Images are processed in order, each with its neighbouring samples. An image's result depends on it and the seed alone, and
results are written in the order of the images, so that neither the number of processes nor an interruption changes the file.
During a build, lessons.jsonl.part grows, and progress.json says how many of its bytes are complete.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm
from typing_extensions import deprecated

from sam4mllm_tool.atomic_io import file_sha256, write_json
from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.data.heldout import HeldOut, collect_held_out
from sam4mllm_tool.data.reader import Reader
from sam4mllm_tool.data.sample import Dataset, Problems, Sample
from sam4mllm_tool.data.training_conversations import CONVERSATIONS_FILE, MANIFEST_FILE
from sam4mllm_tool.data.workers import BuiltImage, ImageSamples, build_images
from sam4mllm_tool.errors import DataError

__all__ = ["Source", "build_conversations"]

PROGRESS_FILE = "progress.json"
_PART_FILE = f"{CONVERSATIONS_FILE}.part"
_SAVE_INTERVAL = 200
"""Images between two writes of the progress."""
_EXHAUSTED: ImageSamples = []


@dataclass(frozen=True)
class Source:
    """A dataset to train on: its name for `load_dataset`, its root, its split and its reader's options."""

    name: str
    root: Path
    split: str = "train"
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Parse `NAME:ROOT` or `NAME:ROOT:SPLIT`, with options as `?KEY=VALUE&KEY=VALUE`. Raises DataError."""
        name, _, rest = text.partition(":")
        if not name or not rest:
            raise DataError(f"expected NAME:ROOT or NAME:ROOT:SPLIT, as in refcoco:data/coco:train, got {text!r}")
        before, mark, pairs = rest.rpartition("?")
        if mark and "=" in pairs and not Path(rest).exists():
            return cls.parse(f"{name}:{before}").with_options(pairs.split("&"))
        root, colon, split = rest.rpartition(":")
        if not colon or not root or Path(rest).exists():
            return cls(name, Path(rest))
        return cls(name, Path(root), split)

    def with_options(self, pairs: Sequence[str]) -> "Source":
        """Add options given as KEY=VALUE; those already set win. Raises DataError for other text."""
        from sam4mllm_tool.data.splits import read_options

        return replace(self, options={**read_options(self.name, pairs), **self.options})

    def to_dict(self) -> dict[str, Any]:
        """Return values for JSON that don't depend on the working directory."""
        return asdict(self) | {"root": str(self.root.resolve())}

    def open(self) -> Dataset:
        """Load the dataset."""
        from sam4mllm_tool.data import load_dataset

        return load_dataset(self.name, self.root, split=self.split, **self.options)


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
    }
    out.mkdir(parents=True, exist_ok=True)
    if (out / CONVERSATIONS_FILE).exists():
        _check_finished(out, settings)
        return out
    with_masks, without_masks = (
        _mark_held_out(_group_by_image(group), held_out_images)
        for group in (datasets[: len(sources)], datasets[len(sources) :])
    )
    try:
        tally = _write_lines(out, _mix_in_vqa(with_masks, without_masks, recipe.vqa), settings, recipe, processes)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"can't write to {str(out)!r}: {reason}; the same command continues the build") from error
    if not tally.counts["lessons"]:
        reason = "; ".join(tally.first_dropped) or "there is no sample, or every image is held out"
        raise DataError(f"no sample can be trained on: {reason}")
    if missing := _missing_vqa_images(tally.counts, recipe.vqa):
        tally.counts["short of vqa"] = missing
    _finish(out, settings, tally, datasets)
    return out


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
        known = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{manifest} can't be read ({error}): choose another folder") from error
    _check_same_settings(out, "training conversations built with other settings", known, settings)
    (out / PROGRESS_FILE).unlink(missing_ok=True)  # left behind by an interruption between the two last steps of a build


def _check_same_settings(out: Path, content: str, known: dict[str, Any], settings: dict[str, Any]) -> None:
    differing = sorted(key for key, value in settings.items() if known.get(key) != value)
    if differing == ["data"]:
        raise DataError(f"the datasets' files changed since {out} was built: choose another folder, or remove this one")
    if differing:
        raise DataError(f"{out} holds {content} ({', '.join(differing)} differ): choose another folder, or remove this one")


# The images, in order ------------------------------------------------------------------------------------------------


def _group_by_image(datasets: Iterable[Dataset]) -> Iterator[list[Sample]]:
    """Yield the neighbouring samples of one image as a list."""
    for dataset in datasets:
        for _, samples in groupby(dataset, key=lambda sample: sample.image_path):
            yield list(samples)


def _mark_held_out(images: Iterable[list[Sample]], held_out: HeldOut) -> Iterator[ImageSamples]:
    """Replace the samples of held-out images by None, so that the images can be counted."""
    for samples in images:
        path = samples[0].image_path
        ids = {sample.image_id for sample in samples}
        is_held_out = any(held_out.contains(image_id, name) for image_id in ids for name in (path, path.resolve()))
        yield None if is_held_out else samples


def _mix_in_vqa(with_masks: Iterable[ImageSamples], vqa: Iterator[ImageSamples], share: float) -> Iterator[ImageSamples]:
    """Insert VQA images evenly among the others until the VQA datasets are exhausted."""
    mask_images = vqa_images = 0
    for samples in with_masks:
        yield samples
        mask_images += samples is not None
        while vqa_images < _wanted_vqa_images(mask_images, share) and (more := next(vqa, _EXHAUSTED)) is not _EXHAUSTED:
            yield more
            vqa_images += more is not None


def _wanted_vqa_images(mask_images: int, share: float) -> int:
    return int(mask_images * share / (1 - share) + 1e-9)


def _missing_vqa_images(counts: Mapping[str, int], share: float) -> int:
    """Return how many VQA images are missing from the share, because the VQA datasets were exhausted."""
    return max(0, _wanted_vqa_images(counts.get("pictures", 0), share) - counts.get("vqa pictures", 0))


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
        known = json.loads(path.read_text(encoding="utf-8"))
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
