"""Compute metrics.json and timings.json from records: overall, by kind of expression, by object size, with intervals."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sam4mllm_tool.errors import count_noun
from sam4mllm_tool.evaluation.bootstrap import RESAMPLES, Floats, Statistic, bootstrap_intervals, ratio
from sam4mllm_tool.evaluation.calibration_error import (
    Graded,
    compute_reliability,
    expected_calibration_error,
    grade_none,
    grade_objects,
    grade_points,
)
from sam4mllm_tool.evaluation.metrics import EvaluationProtocol, compute_metrics
from sam4mllm_tool.evaluation.records import SIZES, SampleRecord, select_scored

__all__ = ["TIMINGS_FILE", "compute_statistics", "count_warnings", "summarize_records", "summarize_timings"]

TIMINGS_FILE = "timings.json"
SEED = 0
_MAX_LISTED = 10


def summarize_records(
    records: Sequence[SampleRecord], protocol: EvaluationProtocol, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of metrics.json: the protocol's metrics by name, then everything else but timings.

    Args:
        records: One per sample.
        protocol: How they are scored.
        extra: Added to the result unchanged.
    """
    scored = select_scored(records)
    groups: dict[str, dict[str, list[SampleRecord]]] = {"by_kind": {}, "by_size": {size: [] for size in SIZES}}
    for record in scored:
        groups["by_kind"].setdefault(record.kind or "all", []).append(record)
        groups["by_size"][record.size].append(record)
    groups["by_kind"] = dict(sorted(groups["by_kind"].items()))
    return {
        **_summarize_group(scored, protocol),
        "protocol": protocol.name,
        "protocol_source": protocol.source,
        "resamples": RESAMPLES,
        "misses": _summarize_misses(scored),
        "dropped": [f"{record.id}: {record.dropped}" for record in records if record.dropped is not None],
        "cost": _sum_cost(scored),
        "calibration": {name: _summarize_calibration(scored, grade) for name, grade in _GRADES.items()},
        **{
            name: {key: _summarize_group(group, protocol) for key, group in parts.items() if group}
            for name, parts in groups.items()
        },
        **extra,
    }


def compute_statistics(records: Sequence[SampleRecord], protocol: EvaluationProtocol) -> dict[str, Statistic]:
    """Return the protocol's metrics and those of boxes, points, confidences and cost, by name."""
    statistics = compute_metrics(protocol, [record.counts for record in records])
    statistics["box Acc@0.5"] = _share([[] if record.box_hit is None else [record.box_hit] for record in records])
    statistics["point accuracy"] = _share([_point_hits(record) for record in records])
    statistics["point accuracy, right box"] = _share([_point_hits(record, right_box=True) for record in records])
    statistics["point accuracy, kept"] = _share([_point_hits(record, kept=True) for record in records])
    for name, grade in _GRADES.items():
        statistics[f"{name} ECE"] = expected_calibration_error([grade(record) for record in records])
    statistics["model calls"] = _mean([record.questions for record in records])
    statistics["point answers"] = _mean([None if record.questions is None else len(record.points) for record in records])
    statistics["tokens"] = _mean([record.tokens for record in records])
    return statistics


def count_warnings(records: Sequence[SampleRecord]) -> list[str]:
    """Return each warning of the samples' results with the number of samples that have it, the most frequent first."""
    counts = Counter(warning for record in records for warning in record.warnings)
    samples = count_noun(len(records), "sample")
    return [f"{count:,} of {samples}: {warning}" for warning, count in counts.most_common()]


def summarize_timings(records: Sequence[SampleRecord]) -> dict[str, Any]:
    """Return mean, median and 95th percentile of the seconds per sample, by step and in total ("all")."""
    timed = [record.seconds for record in records if record.seconds]
    names = dict.fromkeys(step for seconds in timed for step in seconds)
    steps = {step: np.array([seconds.get(step, 0.0) for seconds in timed]) for step in names}
    if steps:
        steps["all"] = np.sum(list(steps.values()), axis=0)
    return {
        step: {"mean": float(values.mean()), "median": float(np.median(values)), "p95": float(np.quantile(values, 0.95))}
        for step, values in steps.items()
    }


def _summarize_group(records: Sequence[SampleRecord], protocol: EvaluationProtocol) -> dict[str, Any]:
    """Return the defined metrics by name, their intervals and the number of samples."""
    statistics = compute_statistics(records, protocol)
    values = {name: statistic.value for name, statistic in statistics.items()}
    return {
        **{name: value for name, value in values.items() if value is not None},
        "intervals": {name: list(interval) for name, interval in bootstrap_intervals(statistics, seed=SEED).items()},
        "samples": len(records),
    }


def _summarize_misses(records: Sequence[SampleRecord]) -> dict[str, Any]:
    """Count the samples without a prediction, by the error's type."""
    missed = [record for record in records if record.error is not None]
    return {
        "count": len(missed),
        "by_error": dict(Counter((record.error or "").partition(":")[0][:100] for record in missed).most_common()),
        "first": [f"{record.id}: {record.error}" for record in missed[:_MAX_LISTED]],
    }


def _sum_cost(records: Sequence[SampleRecord]) -> dict[str, Any]:
    """Sum the cost over samples; None where no backend reported it."""
    questions = [record.questions for record in records if record.questions is not None]
    tokens = [record.tokens for record in records if record.tokens is not None]
    return {
        "model_calls": sum(questions) if questions else None,
        "tokens": sum(tokens) if tokens else None,
        "point_answers": sum(len(record.points) for record in records),
    }


def _point_hits(record: SampleRecord, *, right_box: bool = False, kept: bool = False) -> list[bool]:
    """Return whether each point answer is right, where the truth is known; optionally only of right boxes or kept points."""
    return [
        answer.label == answer.truth
        for answer in record.points
        if answer.truth is not None and answer.right_box >= right_box and answer.kept >= kept
    ]


def _grade_objects_and_none(record: SampleRecord) -> list[Graded]:
    return [*grade_objects(record), *grade_none(record)]


_GRADES: Mapping[str, Callable[[SampleRecord], list[Graded]]] = {"point": grade_points, "object": _grade_objects_and_none}


def _summarize_calibration(records: Sequence[SampleRecord], grade: Callable[[SampleRecord], list[Graded]]) -> dict[str, Any]:
    answers = [graded for record in records for graded in grade(record)]
    return {"answers": len(answers), "bins": [asdict(reliability_bin) for reliability_bin in compute_reliability(answers)]}


def _share(hits: Sequence[Sequence[bool]]) -> Statistic:
    """Return the share of answers that is right; each sample may have any number of answers."""
    return ratio(_floats([sum(answers) for answers in hits]), _floats([len(answers) for answers in hits]))


def _mean(values: Sequence[float | None]) -> Statistic:
    """Return the mean over the samples where the value is known."""
    return ratio(_floats([value or 0 for value in values]), _floats([value is not None for value in values]))


def _floats(values: Sequence[float]) -> Floats:
    return np.array(values, np.float64)
