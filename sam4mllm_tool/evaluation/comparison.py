"""Two finished runs over the same samples: what differs, and whether it could be chance, by paired bootstrap."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation.bootstrap import Difference, differences
from sam4mllm_tool.evaluation.metrics import PROTOCOLS
from sam4mllm_tool.evaluation.records import Record, read_records
from sam4mllm_tool.evaluation.summary import METRICS_FILE, all_statistics, scored

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """orders: of the first run and the second. samples: how many both have. differences: by figure, second less first."""

    orders: tuple[Mapping[str, Any], Mapping[str, Any]]
    samples: int
    differences: Mapping[str, Difference]


def compare(first: Path, second: Path) -> Comparison:
    """Two folders that `evaluate` wrote.

    Raises DataError where one isn't finished, or where they are of different data sets, splits, protocols or samples: such
    figures don't compare.
    """
    orders = _order(first), _order(second)
    told = [f"{folder} is {order['dataset']}:{order['split']} under {order['protocol']}" for folder, order in
            zip((first, second), orders, strict=True)]  # fmt: skip
    if any(orders[0][key] != orders[1][key] for key in ("dataset", "split", "protocol")):
        raise DataError(f"these runs don't compare: {told[0]}, {told[1]}")
    ours, theirs = ({record.id: record for record in scored(read_records(folder))} for folder in (first, second))
    if alone := [name for name in {**ours, **theirs} if (name in ours) != (name in theirs)]:
        where = first if alone[0] in ours else second
        raise DataError(f"these runs don't compare: {len(alone):,} samples are in one alone, {alone[0]!r} in {where}")
    if other := [name for name in ours if _truth(ours[name]) != _truth(theirs[name])]:
        raise DataError(f"these runs don't compare: {len(other):,} samples differ in their truth, {other[0]!r} for one")
    protocol = PROTOCOLS[orders[0]["protocol"]]
    groups = [all_statistics([run[name] for name in ours], protocol) for run in (ours, theirs)]
    return Comparison(orders, len(ours), differences(*groups))


def _truth(record: Record) -> tuple[int, str]:
    return record.counts.truth, record.size


def _order(folder: Path) -> Mapping[str, Any]:
    path = folder / METRICS_FILE
    try:
        order: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["order"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} can't be read ({error}): expected the folder of a finished evaluation") from error
    return order
