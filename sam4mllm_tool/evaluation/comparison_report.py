"""The report of a comparison: the differences, and the samples that differ most, with the truth and both predictions."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.errors import Sam4MllmError, count_noun
from sam4mllm_tool.evaluation.comparison import Comparison
from sam4mllm_tool.evaluation.config import EvaluationConfig
from sam4mllm_tool.evaluation.metrics import PROTOCOLS, EvaluationProtocol
from sam4mllm_tool.evaluation.records import SampleRecord, read_records, select_scored
from sam4mllm_tool.evaluation.report import MEANS_PER_SAMPLE, format_heading, format_unit
from sam4mllm_tool.evaluation.report_rendering import ReportSection, ReportTable, write_sections
from sam4mllm_tool.evaluation.sample_images import draw_samples, hash_id

__all__ = ["write_comparison_report"]

_DRAWN_SAMPLES = 6
_TITLES = {"losses": "Samples that B loses most on", "gains": "Samples that B gains most on"}

_Pair = Mapping[str, SampleRecord]


def write_comparison_report(out: Path, comparison: Comparison, first: Path, second: Path) -> None:
    """Write report.md, report.html and pictures/ into a folder, which must exist.

    Args:
        out: The folder.
        comparison: Of the two runs.
        first: The first run's folder, A.
        second: The second run's folder, B.

    Raises:
        DataError: A run can't be read.
        OSError: The folder can't be written.
    """
    order = comparison.orders[0]
    protocol = PROTOCOLS[order["protocol"]]
    pairs = _select_pairs(first, second, protocol)
    notes = [
        f"A, {first}: {format_heading(comparison.orders[0])}.",
        f"B, {second}: {format_heading(comparison.orders[1])}.",
        f"{count_noun(comparison.samples, 'sample')}, protocol {protocol.name}, 95 % intervals by paired bootstrap.",
    ]
    figures = ReportSection("Figures", notes, _build_table(comparison))
    try:
        samples: Iterable[Sample] = _open_samples(order)
        sections = [
            ReportSection(_TITLES[name], images=draw_samples(group, samples, protocol), name=name)
            for name, group in pairs.items()
            if group
        ]
    except (Sam4MllmError, OSError, TypeError) as error:
        reason = f"The images can't be shown, because the dataset can't be read from {order.get('root')}: {error}"
        sections = [ReportSection("Samples", [reason])]
    write_sections(out, f"Two runs on {order['dataset']}:{order['split']}", [figures, *sections])


def _build_table(comparison: Comparison) -> ReportTable:
    rows = []
    for name, figure in comparison.differences.items():
        scale = 1 if name in MEANS_PER_SAMPLE else 100
        low, high = (scale * end for end in figure.interval)
        values = (f"{scale * figure.first:.2f}", f"{scale * figure.second:.2f}")
        difference = f"{scale * figure.difference:+.2f} [{low:+.2f}, {high:+.2f}]"
        rows.append((name, *values, difference, f"{figure.p:.3g}", format_unit(name)))
    return ReportTable(("", "A", "B", "B - A [95 % interval]", "p", "unit"), rows)


def _select_pairs(first: Path, second: Path, protocol: EvaluationProtocol) -> dict[str, Sequence[_Pair]]:
    """Return the samples whose IoU differs most, by direction."""
    records = [{record.id: record for record in select_scored(read_records(folder))} for folder in (first, second)]
    pairs = [{"A": record, "B": records[1][name]} for name, record in records[0].items()]

    def gain(pair: _Pair) -> float:
        return protocol.score(pair["B"].counts).iou - protocol.score(pair["A"].counts).iou

    ranked = sorted(pairs, key=lambda pair: (gain(pair), hash_id(pair["A"].id)))
    losses = [pair for pair in ranked[:_DRAWN_SAMPLES] if gain(pair) < 0]
    gains = [pair for pair in ranked[::-1][:_DRAWN_SAMPLES] if gain(pair) > 0]
    return {"losses": losses, "gains": gains}


def _open_samples(order: Mapping[str, Any]) -> Iterable[Sample]:
    config = EvaluationConfig(order["dataset"], Path(order["root"]), split=order["split"], options=order.get("options", {}))
    return config.open()
