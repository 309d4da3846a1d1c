"""Write comparisons of speed as Markdown tables and as JSON."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from tests.benchmarks.forward_counter import STAGES
from tests.benchmarks.speed_comparison import Comparison, Run

__all__ = ["format_query", "format_scaling", "to_json"]


def format_query(comparison: Comparison, *, counts_alone: bool = False) -> str:
    """Return the table of one query: the reference loop, ours and the floor, a figure a row; on request counts alone."""
    runs = {"reference loop": comparison.reference, "ours": comparison.ours}
    columns = {name: _list_figures(run) for name, run in runs.items() if run is not None}
    if (floor := comparison.floor) is not None:
        columns["floor"] = {
            "seconds": f"{floor.seconds:.2f}",
            "image processor": "1",
            "vision tower": "1",
            "language model": str(floor.passes),
            "prefills (their tokens)": f"1 ({floor.tokens:,})",
            "passes over one token": f"{floor.decodes:,}",
            "tokens computed": f"{floor.tokens:,}",
            "SAM encoder": "1",
            "mask decoder": "1",
            "10^12 operations": f"{floor.flops / 1e12:.3f}",
        }
    names = dict.fromkeys(name for column in columns.values() for name in column)
    if counts_alone:
        names = {name: None for name in names if not re.search("seconds|memory|operations", name)}
    rows = ([name, *(column.get(name, "") for column in columns.values())] for name in names)
    return _format_table([comparison.title, *columns], rows)


def format_scaling(comparisons: Iterable[Comparison]) -> str:
    """Return the table of several cases, a case a row."""
    header = [
        "",
        "reference loop, s",
        "ours, s",
        "times faster",
        "CPU s: reference",
        "ours",
        "vision tower",
        "prefilled tokens",
        "language model passes",
    ]
    rows = []
    for comparison in comparisons:
        ours, reference = comparison.ours, comparison.reference
        seconds = ["", f"{ours.median:.2f}", ""]
        if reference is not None:
            seconds = [f"{reference.median:.2f}", f"{ours.median:.2f}", f"{reference.median / ours.median:.1f}"]
        seconds += ["" if reference is None else f"{reference.cpu_seconds:.2f}", f"{ours.cpu_seconds:.2f}"]
        work = [ours.work.runs["vision tower"], ours.work.prefilled, len(ours.work.passes)]
        rows.append([comparison.title, *seconds, *(f"{count:,}" for count in work)])
    return _format_table(header, rows)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the figures as plain JSON."""
    runs = {"ours": comparison.ours, "reference": comparison.reference}
    return {
        "title": comparison.title,
        **{name: _describe(run) for name, run in runs.items() if run is not None},
        "floor": None if comparison.floor is None else asdict(comparison.floor),
        "differences": comparison.differences,
    }


def _list_figures(run: Run) -> dict[str, str]:
    work = run.work
    return {
        "seconds": f"{run.median:.2f}",
        "CPU seconds": f"{run.cpu_seconds:.2f}",
        **{f"seconds in the {stage}": f"{work.seconds[stage]:.2f}" for stage in STAGES},
        **{stage: f"{work.runs[stage]:,}" for stage in STAGES},
        "prefills (their tokens)": f"{len(work.prefills):,} ({work.prefilled:,})",
        "passes over one token": f"{work.decodes:,}",
        "tokens computed": f"{work.computed:,}",
        "tokens reused by prefills": f"{work.reused:,}",
        "peak memory, GB": f"{run.peak_bytes / 1e9:.2f}",
    }


def _describe(run: Run) -> dict[str, Any]:
    work = run.work
    counts = {"prefills": len(work.prefills), "prefilled": work.prefilled, "decodes": work.decodes}
    counts |= {"computed": work.computed, "reused": work.reused}
    stages = {"runs": work.runs, "stage_seconds": work.seconds}
    return {
        "seconds": run.seconds,
        "median_s": run.median,
        "cpu_s": run.cpu_seconds,
        "peak_bytes": run.peak_bytes,
        **stages,
        **counts,
    }


def _format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
