"""Builds lessons from data sets: in parallel processes, resumable after a cut, the same bytes for the same seed.

Pictures are taken one after another, each with its neighbouring samples; what becomes of one depends on it and on the seed
alone, and results are written in the order of the pictures, so that neither the number of processes nor a cut shows. While
building, lessons.jsonl.part grows and progress.json says up to where it is sound.
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

from sam4mllm_tool.atomic_io import file_sha256, write_json
from sam4mllm_tool.data.conversations import Recipe
from sam4mllm_tool.data.heldout import HeldOut, keep_out
from sam4mllm_tool.data.reader import Reader
from sam4mllm_tool.data.sample import Dataset, Sample
from sam4mllm_tool.data.training_conversations import LESSONS_FILE, MANIFEST_FILE
from sam4mllm_tool.data.workers import Made, Picture, make_all
from sam4mllm_tool.errors import DataError

__all__ = ["Source", "build_lessons"]

PROGRESS_FILE = "progress.json"
_PART = f"{LESSONS_FILE}.part"
_SAVE_EVERY = 200
"""Pictures between two records of the progress."""
_MOST_TOLD = 10
_NO_MORE: Picture = []


@dataclass(frozen=True)
class Source:
    """A data set to learn from: its name as `load_dataset` knows it, its root, split and its reader's options."""

    name: str
    root: Path
    split: str = "train"
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Source":
        """`NAME:ROOT` or `NAME:ROOT:SPLIT`, then `?KEY=VALUE&KEY=VALUE` for options. Raises DataError for anything else."""
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
        """With options in words, KEY=VALUE; its own stay. Raises DataError for a word of another form."""
        from sam4mllm_tool.data.splits import read_options

        return replace(self, options={**read_options(self.name, pairs), **self.options})

    def described(self) -> dict[str, Any]:
        """As JSON, the same from whatever folder it is asked."""
        return asdict(self) | {"root": str(self.root.resolve())}

    def open(self) -> Dataset:
        from sam4mllm_tool.data import load_dataset

        return load_dataset(self.name, self.root, split=self.split, **self.options)


@dataclass
class _Tally:
    """What was made so far; travels through progress.json into the manifest."""

    pictures: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    first_dropped: list[str] = field(default_factory=list)

    def add(self, made: Made) -> None:
        self.pictures += 1
        self.counts.update(made.counts)
        self.dropped.update(made.dropped)
        self.first_dropped += made.where[: max(0, _MOST_TOLD - len(self.first_dropped))]

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> "_Tally":
        return cls(told["pictures"], Counter(told["counts"]), Counter(told["dropped"]), told["first_dropped"])


def build_lessons(
    sources: Sequence[Source],
    out: Path,
    recipe: Recipe,
    *,
    vqa: Sequence[Source] = (),
    held_out: Sequence[Path] = (),
    processes: int = 1,
) -> Path:
    """Writes lessons.jsonl and manifest.json into `out`, which is made if need be; returns `out`.

    sources: data sets with masks; vqa: sets of conversations without, mixed in at the recipe's share of the pictures.
    held_out: roots of the RefCOCO family; pictures of its val and test splits found there, or under the root of a source, are
    left out by their ids, from every set. processes: how many build at once. A build that was cut goes on where it was; one
    that is whole is left as it is.
    Raises DataError where `out` holds lessons of another recipe, a held_out root holds nothing of the family, nothing is left
    to learn, or the lessons can't be written, and what `load_dataset` raises.
    """
    if recipe.vqa and not vqa:
        raise DataError("the recipe asks for VQA turns, but no VQA set is given")
    if processes < 1:
        raise DataError(f"expected at least 1 process, got {processes}")
    kept_out = keep_out(held_out, [source.root for source in (*sources, *vqa)])
    datasets = [source.open() for source in (*sources, *vqa)]
    order = _describe(sources, vqa, held_out, recipe) | {
        "data": [_measured(dataset) for dataset in datasets],
        "held_out": kept_out.described(),
    }
    out.mkdir(parents=True, exist_ok=True)
    if (out / LESSONS_FILE).exists():
        _check_same_order(out / MANIFEST_FILE, order)
        (out / PROGRESS_FILE).unlink(missing_ok=True)  # a cut may come between the two steps that end a build
        return out
    with_masks, without = (_free(_pictures(group), kept_out) for group in (datasets[: len(sources)], datasets[len(sources) :]))
    pictures = _mixed(with_masks, without, recipe.vqa)
    try:
        tally = _write(out, pictures, order, recipe, processes)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"the lessons can't be written to {str(out)!r}: {reason}; the same command will go on") from error
    if not tally.counts["lessons"]:
        told = "; ".join(tally.first_dropped) or "no sample is there, or every picture is held out"
        raise DataError(f"nothing is left to learn: {told}")
    if short := _short_of_vqa(tally.counts, recipe.vqa):
        tally.counts["short of vqa"] = short
    _finish(out, order, tally, datasets)
    return out


def _describe(sources: Sequence[Source], vqa: Sequence[Source], held_out: Sequence[Path], recipe: Recipe) -> dict[str, Any]:
    """What was asked for, as JSON: what makes two builds the same."""
    told = {
        "format": 2,
        "sources": [source.described() for source in sources],
        "vqa": [source.described() for source in vqa],
        "held_out_roots": [root.resolve() for root in held_out],
        "recipe": asdict(recipe),
    }
    described: dict[str, Any] = json.loads(json.dumps(told, default=str))
    return described


def _measured(dataset: Dataset) -> dict[str, int]:
    """What shows that a data set's files changed, and is the same of a copy."""
    files = dataset.index_files() if isinstance(dataset, Reader) else ()
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def _check_same_order(manifest: Path, order: dict[str, Any]) -> None:
    try:
        known = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{manifest} can't be read ({error}): choose another folder") from error
    _refuse_other(manifest.parent, "lessons made otherwise", known, order)


def _refuse_other(out: Path, what: str, known: dict[str, Any], order: dict[str, Any]) -> None:
    differing = sorted(key for key, value in order.items() if known.get(key) != value)
    if differing == ["data"]:
        raise DataError(f"{out} holds {what}: the data sets' files changed since; choose another folder, or remove this one")
    if differing:
        raise DataError(f"{out} holds {what} ({', '.join(differing)} differ): choose another folder, or remove this one")


# The pictures, in order ---------------------------------------------------------------------------------------------


def _pictures(datasets: Iterable[Dataset]) -> Iterator[list[Sample]]:
    """Neighbouring samples of one picture, as a list each."""
    for dataset in datasets:
        for _, samples in groupby(dataset, key=lambda sample: sample.image_path):
            yield list(samples)


def _free(pictures: Iterable[list[Sample]], held_out: HeldOut) -> Iterator[Picture]:
    """None in place of a picture that is held out, so that it can be counted."""
    for samples in pictures:
        path = samples[0].image_path
        ids = {sample.image_id for sample in samples}
        is_out = any(held_out.holds(one, name) for one in ids for name in (path, path.resolve()))
        yield None if is_out else samples


def _mixed(masks: Iterable[Picture], vqa: Iterator[Picture], share: float) -> Iterator[Picture]:
    """VQA pictures among the others, evenly, as long as there are any."""
    told = given = 0
    for samples in masks:
        yield samples
        told += samples is not None
        while given < _wanted(told, share) and (more := next(vqa, _NO_MORE)) is not _NO_MORE:
            yield more
            given += more is not None


def _wanted(with_masks: int, share: float) -> int:
    """VQA pictures beside so many with masks."""
    return int(with_masks * share / (1 - share) + 1e-9)


def _short_of_vqa(counts: Mapping[str, int], share: float) -> int:
    """By how many pictures the VQA sets, which may run out, stay below the share."""
    return max(0, _wanted(counts.get("pictures", 0), share) - counts.get("vqa pictures", 0))


# Writing ------------------------------------------------------------------------------------------------------------


def _write(out: Path, pictures: Iterator[Picture], order: dict[str, Any], recipe: Recipe, processes: int) -> _Tally:
    tally, sound = _progress(out, order)
    with (out / _PART).open("a", encoding="utf-8") as lines:
        lines.truncate(sound)
        rest = islice(pictures, tally.pictures, None)
        bar = tqdm(make_all(rest, out, recipe, processes), initial=tally.pictures, desc="lessons", unit="picture")
        for made in bar:
            lines.writelines(line + "\n" for line in made.lines)
            tally.add(made)
            if tally.pictures % _SAVE_EVERY == 0:
                _save_progress(out, lines, order, tally)
        _save_progress(out, lines, order, tally)
    return tally


def _progress(out: Path, order: dict[str, Any]) -> tuple[_Tally, int]:
    """What an earlier run has made, and how many bytes of it are sound: none where its progress can't be read."""
    path = out / PROGRESS_FILE
    if not path.exists():
        return _Tally(), 0
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        before, sound, tally = dict(known["order"]), int(known["bytes"]), _Tally.from_dict(known["tally"])
    except (ValueError, KeyError, TypeError):  # torn by what cut the run
        return _Tally(), 0
    _refuse_other(out, "an unfinished build of another order", before, order)
    part = out / _PART
    if not part.exists() or part.stat().st_size < sound:  # what the progress tells of is gone
        return _Tally(), 0
    return tally, sound


def _save_progress(out: Path, lines: TextIO, order: dict[str, Any], tally: _Tally) -> None:
    lines.flush()
    os.fsync(lines.fileno())
    write_json(out / PROGRESS_FILE, {"order": order, "bytes": lines.tell(), "tally": vars(tally)})


def _finish(out: Path, order: dict[str, Any], tally: _Tally, datasets: Sequence[Dataset]) -> None:
    manifest = {
        **order,
        "counts": dict(sorted(tally.counts.items())),
        "dropped": dict(sorted(tally.dropped.items())),
        "first_dropped": tally.first_dropped,
        "read": [_as_read(dataset, source) for dataset, source in zip(datasets, order["sources"] + order["vqa"], strict=True)],
        "sha256": file_sha256(out / _PART),
    }
    write_json(out / MANIFEST_FILE, manifest)
    (out / _PART).replace(out / LESSONS_FILE)
    (out / PROGRESS_FILE).unlink(missing_ok=True)


def _as_read(dataset: Dataset, source: dict[str, Any]) -> dict[str, Any]:
    """What reading a source met."""
    counts = [{"fate": fate, "what": what, "count": count} for (fate, what), count in dataset.problems.counts.most_common()]
    return {key: source[key] for key in ("name", "root", "split")} | {"counts": counts, "first": dataset.problems.first}
