"""Compare two finished runs over the same samples by paired bootstrap."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation.bootstrap import PairedDifference, bootstrap_differences
from sam4mllm_tool.evaluation.metrics import PROTOCOLS
from sam4mllm_tool.evaluation.records import SampleRecord, read_order, read_records, select_scored
from sam4mllm_tool.evaluation.summary import compute_statistics

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs.

    Attributes:
        orders: What the first run and the second evaluated, as in their metrics.json.
        samples: The number of samples, the same in both.
        differences: By metric.
    """

    orders: tuple[Mapping[str, Any], Mapping[str, Any]]
    samples: int
    differences: Mapping[str, PairedDifference]


def compare(first: Path, second: Path) -> Comparison:
    """Compare two folders that `evaluate` wrote, by the samples' ids and true masks: the same data may have two names.

    Raises:
        DataError: A run isn't finished, or the runs have different protocols or samples.
    """
    orders = read_order(first), read_order(second)
    described = [f"{folder} is {_describe(order)}" for folder, order in zip((first, second), orders, strict=True)]
    if orders[0]["protocol"] != orders[1]["protocol"]:
        raise DataError(f"these runs can't be compared: {', '.join(described)}")
    first_records, second_records = (
        {record.id: record for record in select_scored(read_records(folder))} for folder in (first, second)
    )
    if unshared := [
        name for name in {**first_records, **second_records} if (name in first_records) != (name in second_records)
    ]:
        folder = first if unshared[0] in first_records else second
        raise DataError(
            f"these runs can't be compared: samples that are in one run only: {len(unshared):,}, such as {unshared[0]!r} in "
            f"{folder}; {', '.join(described)}"
        )
    if differing := [name for name in first_records if _truth(first_records[name]) != _truth(second_records[name])]:
        raise DataError(
            f"these runs can't be compared: samples that differ in their truth: {len(differing):,}, such as {differing[0]!r}; "
            f"{', '.join(described)}"
        )
    protocol = PROTOCOLS[orders[0]["protocol"]]
    first_statistics, second_statistics = (
        compute_statistics([records[name] for name in first_records], protocol) for records in (first_records, second_records)
    )
    return Comparison(orders, len(first_records), bootstrap_differences(first_statistics, second_statistics))


def _describe(order: Mapping[str, Any]) -> str:
    return f"{order['dataset']}:{order['split']} under {order['protocol']}"


def _truth(record: SampleRecord) -> tuple[int, str]:
    return record.counts.truth, record.size
