"""From records to figures: overall, by kind of expression and by size of object, each with its interval, and calibration."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sam4mllm_tool.evaluation.bootstrap import RESAMPLES, Floats, Statistic, intervals, ratio
from sam4mllm_tool.evaluation.metrics import Protocol, statistics
from sam4mllm_tool.evaluation.records import SIZES, Record
from sam4mllm_tool.evaluation.reliability import Graded, calibration_error, reliability

__all__ = ["METRICS_FILE", "TIMINGS_FILE", "all_statistics", "scored", "summarise", "timings"]

METRICS_FILE = "metrics.json"
TIMINGS_FILE = "timings.json"
SEED = 0
_MOST_TOLD = 10


def scored(records: Sequence[Record]) -> list[Record]:
    """Those that count: all but the ones whose truth can't be read."""
    return [record for record in records if record.dropped is None]


def summarise(records: Sequence[Record], protocol: Protocol, about: Mapping[str, Any]) -> dict[str, Any]:
    """What metrics.json holds: the protocol's figures by their names, then what else is known, none of it timed.

    about: is added as it is.
    """
    counted = scored(records)
    parts: dict[str, dict[str, list[Record]]] = {"by_kind": {}, "by_size": {size: [] for size in SIZES}}
    for record in counted:
        parts["by_kind"].setdefault(record.kind or "all", []).append(record)
        parts["by_size"][record.size].append(record)
    parts["by_kind"] = dict(sorted(parts["by_kind"].items()))
    return {
        **_figures(counted, protocol),
        "protocol": protocol.name,
        "protocol_source": protocol.source,
        "resamples": RESAMPLES,
        "misses": _misses(counted),
        "dropped": [f"{record.id}: {record.dropped}" for record in records if record.dropped is not None],
        "cost": _cost(counted),
        "calibration": {name: _calibration(counted, answers) for name, answers in _GRADED.items()},
        **{name: {key: _figures(some, protocol) for key, some in groups.items() if some} for name, groups in parts.items()},
        **about,
    }


def all_statistics(records: Sequence[Record], protocol: Protocol) -> dict[str, Statistic]:
    """The protocol's figures, and those of boxes, points and confidences."""
    found = statistics(protocol, [record.counts for record in records])
    found["box Acc@0.5"] = _share(records, lambda one: [] if one.box_hit is None else [one.box_hit])
    found["point accuracy"] = _share(records, _right_points)
    found["point accuracy, right box"] = _share(records, lambda one: _right_points(one, right_box=True))
    found["point accuracy, kept"] = _share(records, lambda one: _right_points(one, kept=True))
    for name, answers in _GRADED.items():
        found[f"{name} ECE"] = calibration_error([answers(record) for record in records])
    found["model calls"] = _mean([record.questions for record in records])
    found["point answers"] = _mean([None if record.questions is None else len(record.points) for record in records])
    found["tokens"] = _mean([record.tokens for record in records])
    return found


def timings(records: Sequence[Record]) -> dict[str, Any]:
    """Seconds per sample, by step and together: mean, median, 95th percentile."""
    told = [record.seconds for record in records if record.seconds]
    steps = {step: np.array([one.get(step, 0.0) for one in told]) for step in dict.fromkeys(key for one in told for key in one)}
    if steps:
        steps["all"] = np.sum(list(steps.values()), axis=0)
    return {
        step: {"mean": float(values.mean()), "median": float(np.median(values)), "p95": float(np.quantile(values, 0.95))}
        for step, values in steps.items()
    }


def _figures(records: Sequence[Record], protocol: Protocol) -> dict[str, Any]:
    """Values by name, those of no samples left out; their intervals; the number of samples."""
    found = all_statistics(records, protocol)
    values = {name: statistic.value for name, statistic in found.items()}
    return {
        **{name: value for name, value in values.items() if value is not None},
        "intervals": {name: list(interval) for name, interval in intervals(found, seed=SEED).items()},
        "samples": len(records),
    }


def _misses(records: Sequence[Record]) -> dict[str, Any]:
    """Samples without a prediction, by the first words of why."""
    failed = [record for record in records if record.error is not None]
    return {
        "count": len(failed),
        "by_error": dict(Counter((record.error or "").partition(":")[0][:100] for record in failed).most_common()),
        "first": [f"{record.id}: {record.error}" for record in failed[:_MOST_TOLD]],
    }


def _cost(records: Sequence[Record]) -> dict[str, Any]:
    """Sums over samples; None where no backend told."""
    questions = [record.questions for record in records if record.questions is not None]
    tokens = [record.tokens for record in records if record.tokens is not None]
    return {
        "model_calls": sum(questions) if questions else None,
        "tokens": sum(tokens) if tokens else None,
        "point_answers": sum(len(record.points) for record in records),
    }


def _right_points(record: Record, *, right_box: bool = False, kept: bool = False) -> list[bool]:
    return [
        point.label == point.truth
        for point in record.points
        if point.truth is not None and point.right_box >= right_box and point.kept >= kept
    ]


def _graded_points(record: Record) -> list[Graded]:
    return [
        (point.confidence, point.label == point.truth)
        for point in record.points
        if point.confidence is not None and point.truth is not None
    ]


def _graded_objects(record: Record) -> list[Graded]:
    """An answer that there is no such object is graded as an object is."""
    if not record.objects and record.counts.stated_none:
        return [] if record.confidence is None else [(record.confidence, not record.counts.targeted)]
    return [(one.confidence, one.right) for one in record.objects if one.confidence is not None]


_GRADED: Mapping[str, Callable[[Record], list[Graded]]] = {"point": _graded_points, "object": _graded_objects}


def _calibration(records: Sequence[Record], answers: Callable[[Record], list[Graded]]) -> dict[str, Any]:
    graded = [one for record in records for one in answers(record)]
    return {"answers": len(graded), "bins": [asdict(one) for one in reliability(graded)]}


def _share(records: Sequence[Record], rights: Callable[[Record], Sequence[bool]]) -> Statistic:
    """The share of answers that is right; a sample may have any number of them."""
    told = [rights(record) for record in records]
    return ratio(_floats([sum(one) for one in told]), _floats([len(one) for one in told]))


def _mean(values: Sequence[float | None]) -> Statistic:
    """The mean over the samples where it is known."""
    return ratio(_floats([value or 0 for value in values]), _floats([value is not None for value in values]))


def _floats(values: Sequence[float]) -> Floats:
    return np.array(values, np.float64)
