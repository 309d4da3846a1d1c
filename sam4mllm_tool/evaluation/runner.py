"""Run an evaluation, resuming an interrupted one.

During a run, samples.jsonl.part grows by one image's lines at a time, and order.json says what is evaluated. After an
interruption, the same command keeps the images that are complete and continues. At the end come metrics.json, report.md and
report.html with pictures/, all computed from samples.jsonl, and timings.json, the only file that differs from run to run.

Under `torchrun` each process has a share of the images (process_share.py), and the first one writes the result.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from sam4mllm_tool.atomic_io import write_json
from sam4mllm_tool.data.sample import Dataset, Sample
from sam4mllm_tool.errors import BackendError, DataError, EmptyMaskError
from sam4mllm_tool.evaluation.config import EvaluationConfig
from sam4mllm_tool.evaluation.predict import predict_records
from sam4mllm_tool.evaluation.predictions import read_predictions
from sam4mllm_tool.evaluation.process_share import ProcessShare
from sam4mllm_tool.evaluation.records import METRICS_FILE, ORDER_FILE, SAMPLES_FILE, SampleRecord, read_records
from sam4mllm_tool.evaluation.report import write_report
from sam4mllm_tool.evaluation.summary import TIMINGS_FILE, count_warnings, summarize_records, summarize_timings
from sam4mllm_tool.evaluation.trained_images import describe_trained_images
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.text import parse_json

__all__ = ["ORDER_FILE", "evaluate"]

_GROUP_SIZE = 32
"""Samples of an image that are asked about side by side; as many results are held in memory at once."""
_SYNC_SECONDS = 5.0


def evaluate(
    config: EvaluationConfig, out: str | os.PathLike[str], *, processes: int = 1, models: Sam4Mllm | None = None
) -> dict[str, Any]:
    """Evaluate and write samples.jsonl, metrics.json, timings.json and the reports.

    Args:
        config: What to evaluate.
        out: The folder to write to, created if need be. An unfinished run of the same order in it continues; a finished
            one only gets its reports written again.
        processes: The number of processes, each with its own models. A script that asks for several needs the usual
            `if __name__ == "__main__":`.
        models: Used instead of the config's specs, in this process.

    Returns:
        The content of metrics.json; nothing in the processes of `torchrun` besides the first.

    Raises:
        DataError: The dataset or the predictions can't be used, or `out` holds another evaluation.
        SpecError, MissingExtraError: The models can't be loaded.
        BackendError: A process died, or every sample failed.
    """
    out = Path(out)
    order = config.describe(models)
    _claim_folder(out, order)
    dataset = config.open()
    total = _check_samples(dataset, config)
    problems = {"counts": dataset.problems.lines(), "first": dataset.problems.first}
    share = ProcessShare.from_environment()
    if not (out / SAMPLES_FILE).exists():
        with _limit_threads(config):
            _run(dataset, config, out, total, processes=processes, models=models)
        share.merge(out, _iter_images(dataset, config))
    if not share.is_first:
        return {}
    warnings = _warn_of_trained_images(dataset, config, models)
    records = read_records(out)
    if all(record.error is not None and not record.error.startswith(EmptyMaskError.__name__) for record in records):
        raise BackendError(f"none of the {len(records)} samples was answered, see {out / SAMPLES_FILE}: {records[0].error}")
    warnings += count_warnings(records)
    metrics = summarize_records(records, config.scoring_protocol, {"order": order, "read": problems, "warnings": warnings})
    write_json(out / METRICS_FILE, metrics, ensure_ascii=True)
    write_json(out / TIMINGS_FILE, summarize_timings(records), ensure_ascii=True)
    write_report(out, metrics, records, _iter_samples(dataset, config))
    return metrics


def _warn_of_trained_images(dataset: Dataset, config: EvaluationConfig, models: Sam4Mllm | None) -> list[str]:
    """Return the warning, if there is one; a spec alone tells where a model's list of trained images is."""
    if config.predictions is not None or models is not None:
        return []
    warning = describe_trained_images(config.models.mllm_spec, _iter_samples(dataset, config))
    return [] if warning is None else [warning]


def _claim_folder(out: Path, order: dict[str, Any]) -> None:
    """Write the order into the folder. Raises DataError where the folder holds samples of another order.

    An unfinished run on a file of predictions starts again where the file has changed: the file may have been corrected, and
    no model's work is lost.
    """
    path, whole = out / ORDER_FILE, out / SAMPLES_FILE
    out.mkdir(parents=True, exist_ok=True)
    parts = [part for part in out.glob(f"{SAMPLES_FILE}.*") if _has_content(part)]
    if whole.exists() or parts:
        try:
            earlier = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{out} holds samples of an unknown evaluation ({error}): choose another folder") from error
        differing = sorted(_differing_keys(earlier, order))
        if differing and (whole.exists() or "predictions" not in earlier):
            raise DataError(f"{out} holds another evaluation ({', '.join(differing)} differ): choose another folder")
        if differing:
            for part in parts:
                part.unlink(missing_ok=True)
    write_json(path, order, ensure_ascii=True)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:  # another process has just renamed it
        return True


def _differing_keys(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ, those of nested mappings as key.key."""
    keys = []
    for key in {**first, **second}:
        first_value, second_value = first.get(key), second.get(key)
        if isinstance(first_value, dict) and isinstance(second_value, dict):
            keys += [f"{key}.{name}" for name in _differing_keys(first_value, second_value)]
        elif first_value != second_value:
            keys.append(key)
    return keys


# Samples, in order --------------------------------------------------------------------------------------------------


def _iter_samples(dataset: Dataset, config: EvaluationConfig) -> Iterator[Sample]:
    """Yield the samples that have an expression, up to the limit."""
    return islice((sample for sample in dataset if not sample.turns), config.limit)


def _iter_images(dataset: Dataset, config: EvaluationConfig) -> Iterator[list[Sample]]:
    """Yield neighbouring samples of the same image, as lists of at most `_GROUP_SIZE`."""
    for _, group in groupby(_iter_samples(dataset, config), key=lambda sample: sample.image_path):
        while samples := list(islice(group, _GROUP_SIZE)):
            yield samples


def _check_samples(dataset: Dataset, config: EvaluationConfig) -> int:
    """Return the number of samples to evaluate. Raises DataError where an id repeats, or a prediction has no sample."""
    predictions = None if config.predictions is None else read_predictions(config.predictions)
    ids: set[str] = set()
    samples = _iter_samples(dataset, config) if predictions is None else (sample for sample in dataset if not sample.turns)
    for sample in samples:
        if sample.id in ids:
            raise DataError(
                f"two samples of {config.dataset}:{config.split} have the id {sample.id!r}: give them different ones"
            )
        ids.add(sample.id)
    if not ids:
        raise DataError(f"{config.dataset}:{config.split} has no expressions with masks: there is nothing to evaluate")
    for name, prediction in (predictions or {}).items():
        if name not in ids:
            raise DataError(f"{prediction.location}: no sample of {config.dataset}:{config.split} has the id {name!r}")
    return min(len(ids), config.limit or len(ids))


# Running ------------------------------------------------------------------------------------------------------------


def _run(dataset: Dataset, config: EvaluationConfig, out: Path, total: int, *, processes: int, models: Sam4Mllm | None) -> None:
    """Evaluate the samples of this process that are not in its part file yet, and rename the file when it is complete."""
    share = ProcessShare.from_environment()
    part = out / f"{share.file}.part"
    if (out / share.file).exists():
        return
    images = share.select(_iter_images(dataset, config))
    with part.open("a+b") as file:
        done, first = _resume(file, images)
        if first:
            options: dict[str, Any] = {"unit": "sample", "mininterval": 1, "position": share.local_rank}
            own = -(-total // share.count)  # about as many
            bar = tqdm(total=own, initial=done, desc="evaluate", disable=None, **options)
            predicted = predict_records(chain([first], images), config, processes=processes, models=models)
            for records in _write_records(file, predicted, config):
                bar.update(len(records))
            bar.close()
    part.replace(out / share.file)


def _write_records(
    file: BinaryIO, predicted: Iterator[list[SampleRecord]], config: EvaluationConfig
) -> Iterator[list[SampleRecord]]:
    """Write each image's records, then yield them."""
    last = time.monotonic()
    for records in predicted:
        file.write("".join(record.to_json(config.scoring_protocol) + "\n" for record in records).encode())
        file.flush()
        if time.monotonic() - last > _SYNC_SECONDS:
            os.fsync(file.fileno())
            last = time.monotonic()
        yield records
    file.flush()
    os.fsync(file.fileno())


def _resume(file: BinaryIO, images: Iterator[list[Sample]]) -> tuple[int, list[Sample] | None]:
    """Cut the lines of an incomplete image off the file.

    Returns:
        The number of samples that remain, and the samples of the first image that is to be evaluated.

    Raises:
        DataError: The file's samples are not the dataset's.
    """
    file.seek(0)
    lines = _read_whole_lines(file)
    done = end = 0
    for samples in images:
        image_lines = lines[done : done + len(samples)]
        for sample, (name, _) in zip(samples, image_lines, strict=False):
            if name != sample.id:
                raise DataError(f"{file.name} has {name!r} where the dataset has {sample.id!r}: choose another folder")
        if len(image_lines) < len(samples):
            file.truncate(end)
            return done, samples
        done, end = done + len(samples), image_lines[-1][1]
    file.truncate(end)
    return done, None


def _read_whole_lines(file: BinaryIO) -> list[tuple[str, int]]:
    """Return the sample id of each line and the offset of its end, up to the first line that is torn."""
    lines: list[tuple[str, int]] = []
    for line in file:
        try:
            if not line.endswith(b"\n"):
                break
            lines.append((SampleRecord.from_json(line).id, (lines[-1][1] if lines else 0) + len(line)))
        except (ValueError, KeyError, TypeError):
            break
    return lines


@contextmanager
def _limit_threads(config: EvaluationConfig) -> Iterator[None]:
    """Compute on the config's number of threads, as the processes of a shared run do, and restore the number afterwards."""
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
