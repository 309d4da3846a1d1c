"""Runs an evaluation: resumable after any cut, the same report whoever shares the work.

While it runs, samples.jsonl.part grows by a picture at a time and order.json says what is evaluated; the same command after
a cut keeps the whole pictures that are there and goes on. Then come metrics.json, report.md and report.html with pictures/,
all made of samples.jsonl, and timings.json, which alone differs from run to run.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from sam4mllm_tool.atomic_io import write_json
from sam4mllm_tool.data.sample import Dataset, Sample
from sam4mllm_tool.errors import BackendError, DataError
from sam4mllm_tool.evaluation.config import EvaluationConfig
from sam4mllm_tool.evaluation.predict import solve_all
from sam4mllm_tool.evaluation.predictions import read_predictions
from sam4mllm_tool.evaluation.records import SAMPLES_FILE, Record, read_records
from sam4mllm_tool.evaluation.report import write_report
from sam4mllm_tool.evaluation.summary import METRICS_FILE, TIMINGS_FILE, summarise, timings
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

__all__ = ["ORDER_FILE", "evaluate"]

ORDER_FILE = "order.json"
_PART = f"{SAMPLES_FILE}.part"
_TOGETHER = 32
"""Samples of a picture that are asked side by side: as many masks are held at once."""
_SYNC_SECONDS = 5.0


def evaluate(
    config: EvaluationConfig, out: str | os.PathLike[str], *, processes: int = 1, models: Sam4Mllm | None = None
) -> dict[str, Any]:
    """Evaluates and writes samples.jsonl, metrics.json, timings.json and the reports into `out`; returns the metrics.

    out: made if need be; one that holds an unfinished run of the same order goes on, a finished one has its reports made
    anew. processes: how many work at once, each with models of its own; a program that asks for several needs the usual
    `if __name__ == "__main__":`. models: in place of the config's specs, in this process.
    Raises DataError for data or predictions that can't be used, or where `out` holds another order; SpecError and
    MissingExtraError for the models; BackendError where a process dies, or where no sample at all was answered.
    """
    out = Path(out)
    order = config.describe(models)
    _claim(out, order)
    dataset = config.open()
    total = _survey(dataset, config)
    problems = {"counts": dataset.problems.lines(), "first": dataset.problems.first}
    if not (out / SAMPLES_FILE).exists():
        with _threads(config):
            _run(dataset, config, out, total, processes=processes, models=models)
    records = read_records(out)
    if not any(record.error is None for record in records):
        raise BackendError(f"none of the {len(records)} samples was answered, see {out / SAMPLES_FILE}: {records[0].error}")
    metrics = summarise(records, config.counting, {"order": order, "read": problems})
    write_json(out / METRICS_FILE, metrics, ensure_ascii=True)
    write_json(out / TIMINGS_FILE, timings(records), ensure_ascii=True)
    write_report(out, metrics, records, _samples(dataset, config))
    return metrics


def _claim(out: Path, order: dict[str, Any]) -> None:
    """Makes the folder that of this order. Raises DataError where it holds samples of another.

    What was begun with a file of predictions is begun anew with another: it may be the mended one, and takes no model.
    """
    path, part, whole = out / ORDER_FILE, out / _PART, out / SAMPLES_FILE
    out.mkdir(parents=True, exist_ok=True)
    if whole.exists() or (part.exists() and part.stat().st_size):
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{out} holds samples of an unknown evaluation ({error}): choose another folder") from error
        differing = sorted(_differing(known, order))
        if differing and (whole.exists() or "predictions" not in known):
            raise DataError(f"{out} holds another evaluation ({', '.join(differing)} differ): choose another folder")
        if differing:
            part.unlink()
    write_json(path, order, ensure_ascii=True)


def _differing(known: Mapping[str, Any], order: Mapping[str, Any]) -> list[str]:
    """The keys that don't hold the same in both, those of mappings as key.key."""
    found = []
    for key in {**known, **order}:
        ours, theirs = known.get(key), order.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            found += [f"{key}.{name}" for name in _differing(ours, theirs)]
        elif ours != theirs:
            found.append(key)
    return found


# The samples, in order ----------------------------------------------------------------------------------------------


def _samples(dataset: Dataset, config: EvaluationConfig) -> Iterator[Sample]:
    """Those with an expression, up to the limit."""
    return islice((sample for sample in dataset if not sample.turns), config.limit)


def _pictures(dataset: Dataset, config: EvaluationConfig) -> Iterator[list[Sample]]:
    """Neighbouring samples of one picture, as lists of at most so many."""
    for _, group in groupby(_samples(dataset, config), key=lambda sample: sample.image_path):
        while some := list(islice(group, _TOGETHER)):
            yield some


def _survey(dataset: Dataset, config: EvaluationConfig) -> int:
    """How many samples there are to evaluate. Raises DataError where ids repeat, or where a prediction is for none."""
    predictions = None if config.predictions is None else read_predictions(config.predictions)
    known: set[str] = set()
    read = _samples(dataset, config) if predictions is None else (sample for sample in dataset if not sample.turns)
    for sample in read:
        if sample.id in known:
            raise DataError(
                f"two samples of {config.dataset}:{config.split} have the id {sample.id!r}: give them different ones"
            )
        known.add(sample.id)
    if not known:
        raise DataError(f"{config.dataset}:{config.split} has no expressions with masks: there is nothing to evaluate")
    for name, prediction in (predictions or {}).items():
        if name not in known:
            raise DataError(f"{prediction.where}: no sample of {config.dataset}:{config.split} has the id {name!r}")
    return min(len(known), config.limit or len(known))


# Running ------------------------------------------------------------------------------------------------------------


def _run(dataset: Dataset, config: EvaluationConfig, out: Path, total: int, *, processes: int, models: Sam4Mllm | None) -> None:
    """Evaluates what is not evaluated yet, and gives the file its name."""
    pictures = _pictures(dataset, config)
    with (out / _PART).open("a+b") as file:
        done, first = _resume(file, pictures)
        if first:
            todo = chain([first], pictures)
            every = 1 if sys.stderr.isatty() else 10
            bar = tqdm(total=total, initial=done, desc="evaluate", unit="sample", mininterval=every)
            for records in _synced(file, solve_all(todo, config, processes=processes, models=models), config):
                bar.update(len(records))
            bar.close()
    (out / _PART).replace(out / SAMPLES_FILE)


def _synced(file: BinaryIO, solved: Iterator[list[Record]], config: EvaluationConfig) -> Iterator[list[Record]]:
    """Writes each picture's records before it passes them on."""
    last = time.monotonic()
    for records in solved:
        file.write("".join(record.to_json(config.counting) + "\n" for record in records).encode())
        file.flush()
        if time.monotonic() - last > _SYNC_SECONDS:
            os.fsync(file.fileno())
            last = time.monotonic()
        yield records
    file.flush()
    os.fsync(file.fileno())


def _resume(file: BinaryIO, pictures: Iterator[list[Sample]]) -> tuple[int, list[Sample] | None]:
    """How many samples are evaluated, and the first picture that isn't wholly; what is in the file of that one is cut off.

    Raises DataError where the file tells of other samples.
    """
    file.seek(0)
    ends = _whole_lines(file)
    done = sound = 0
    for picture in pictures:
        lines = ends[done : done + len(picture)]
        for sample, (name, _) in zip(picture, lines, strict=False):
            if name != sample.id:
                raise DataError(f"{file.name} tells of {name!r} where the data set has {sample.id!r}: choose another folder")
        if len(lines) < len(picture):
            file.truncate(sound)
            return done, picture
        done, sound = done + len(picture), lines[-1][1]
    file.truncate(sound)
    return done, None


def _whole_lines(file: BinaryIO) -> list[tuple[str, int]]:
    """The id of each whole line and the place of its end; a torn one, and what follows it, is not there."""
    found: list[tuple[str, int]] = []
    for line in file:
        try:
            if not line.endswith(b"\n"):
                break
            found.append((Record.from_json(line).id, (found[-1][1] if found else 0) + len(line)))
        except (ValueError, KeyError, TypeError):
            break
    return found


@contextmanager
def _threads(config: EvaluationConfig) -> Iterator[None]:
    """Computes on the config's number of threads, as other processes would, and then on as many as before."""
    if config.predictions is not None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
