"""Build the report of an evaluation: its figures, by kind of expression and size of object too, charts and samples."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.errors import count_noun
from sam4mllm_tool.evaluation.metrics import PROTOCOLS, EvaluationProtocol
from sam4mllm_tool.evaluation.plots import can_plot, plot_histogram, plot_intervals, plot_reliability
from sam4mllm_tool.evaluation.records import SampleRecord, select_scored
from sam4mllm_tool.evaluation.report_rendering import ReportSection, ReportTable, write_sections
from sam4mllm_tool.evaluation.sample_images import SampleImages, draw_samples, select_samples

__all__ = ["MEANS_PER_SAMPLE", "format_figure", "format_heading", "format_unit", "write_report"]

MEANS_PER_SAMPLE = ("model calls", "point answers", "tokens")
"""Metrics that are means per sample, not shares in [0, 1]."""
_OF_TARGETS = ("cIoU",)
"""Metrics that say nothing of a group in which no sample has a target, though they are defined."""
_DRAWN_SAMPLES = 6
_LEFT_OUT = ("mIoU", "Pr@0.6", "Pr@0.7", "Pr@0.8")  # of the tables by kind and size; metrics.json has all
_COMMON = ("box Acc@0.5", "point accuracy", "model calls")
_COST_NOTES = (
    "Box Acc@0.5: share of the samples with one object whose first box has an IoU of at least 0.5 with the true one. Point "
    "accuracy: share of all point answers that are right; right box: of those whose box has an IoU of at least 0.5 with a true "
    "one; kept: of those that SAM was prompted with. ECE: expected calibration error, 15 bins. Seconds per sample are in "
    "timings.json, the only file that differs from run to run.",
)
_VALUE = "value [95 % interval]"
_CALIBRATION_NOTE = (
    "A point answer is right where it agrees with the truth at the point; an object where its mask has an IoU of at least 0.5 "
    "with a true object that is matched with no other."
)


def write_report(out: Path, metrics: Mapping[str, Any], records: Sequence[SampleRecord], samples: Iterable[Sample]) -> None:
    """Write report.md, report.html and pictures/.

    Args:
        out: The folder of the evaluation.
        metrics: The content of metrics.json.
        records: All records of the evaluation.
        samples: The dataset, in which the samples to draw are looked up.
    """
    protocol, scored = PROTOCOLS[metrics["protocol"]], select_scored(records)
    selected = select_samples(scored, protocol, _DRAWN_SAMPLES)
    drawn = draw_samples([{"prediction": record} for group in selected.values() for record in group], samples, protocol)
    images_by_id = {image.id: image for image in drawn}
    images = {
        name: [images_by_id[record.id] for record in group if record.id in images_by_id] for name, group in selected.items()
    }
    write_sections(out, format_heading(metrics["order"]), _build_sections(metrics, scored, protocol, images))


def format_heading(order: Mapping[str, Any]) -> str:
    """Return what was evaluated, in a line."""
    dataset = f"{order['dataset']}:{order['split']}"
    if "predictions" in order:
        return f"{dataset}, predictions of {order['predictions']['file']}"
    models = order["models"]
    abstaining = f", abstaining below {models['abstain']:g}" if models.get("abstain") else ""
    refined = models.get("closer", True) or order["method"] != "adaptive"
    unrefined = "" if refined else ", without crop refinement"
    return f"{dataset}, {models['mllm']} with {models['segmenter']}, {order['method']}{abstaining}{unrefined}"


def format_figure(name: str, figures: Mapping[str, Any]) -> str:
    """Return a metric and its interval as text, shares in percent; a dash where the metric is absent."""
    if name not in figures:
        return "-"
    scale = 1 if name in MEANS_PER_SAMPLE else 100
    low, high = figures["intervals"][name]
    return f"{scale * figures[name]:.1f} [{scale * low:.1f}, {scale * high:.1f}]"


def format_unit(name: str) -> str:
    """Return the unit of what `format_figure` writes."""
    return "per sample" if name in MEANS_PER_SAMPLE else "%"


# Sections -----------------------------------------------------------------------------------------------------------


def _build_sections(
    metrics: Mapping[str, Any],
    records: Sequence[SampleRecord],
    protocol: EvaluationProtocol,
    images: Mapping[str, Sequence[SampleImages]],
) -> list[ReportSection]:
    others = [name for name in metrics["intervals"] if name not in protocol.keys]
    cost_rows = [(name, format_figure(name, metrics), format_unit(name)) for name in others]
    titles = {"worst": "Worst samples", "median": "Median samples"}
    return [
        _build_figures(metrics, records, protocol),
        ReportSection("Boxes, points, calls", _COST_NOTES, ReportTable(("", _VALUE, "unit"), cost_rows)),
        _build_groups(
            "By kind of expression", metrics["by_kind"], protocol, _targeted(records, lambda record: record.kind or "all")
        ),
        _build_groups(
            "By size of object",
            metrics["by_size"],
            protocol,
            _targeted(records, lambda record: record.size),
            notes=("small: below 1 % of the image, medium: to 10 %, large: above; none: no target.",),
        ),
        _build_calibration(metrics),
        *(ReportSection(titles[name], images=group, name=name) for name, group in images.items() if group),
    ]


def _build_figures(metrics: Mapping[str, Any], records: Sequence[SampleRecord], protocol: EvaluationProtocol) -> ReportSection:
    keys = [key for key in protocol.keys if key in metrics]
    notes = [
        f"Protocol {protocol.name}: {protocol.source}.",
        f"{count_noun(metrics['samples'], 'sample')}. 95 % bootstrap intervals over samples, {metrics['resamples']:,} draws.",
        *_build_warnings(metrics),
    ]
    table = ReportTable(("", _VALUE, "unit"), [(key, format_figure(key, metrics), format_unit(key)) for key in keys])
    charts = []
    if can_plot():
        rows = [(key, metrics[key], tuple(metrics["intervals"][key])) for key in keys]
        ious = [protocol.score(record.counts).iou for record in records]
        charts = [plot_intervals(rows, "metrics, %, with 95 % intervals"), plot_histogram(ious, "samples by IoU, %")]
    return ReportSection("Figures", notes, table, charts)


def _build_warnings(metrics: Mapping[str, Any]) -> list[str]:
    warnings = [f"Warning: {warning}." for warning in metrics.get("warnings", ())]
    if count := metrics["misses"]["count"]:
        kinds = ", ".join(f"{number:,} {error}" for error, number in metrics["misses"]["by_error"].items())
        verbs = ("has", "counts as a miss") if count == 1 else ("have", "count as misses")
        warnings.append(f"{count_noun(count, 'sample')} {verbs[0]} no prediction and {verbs[1]}: {kinds}.")
    if dropped := metrics["dropped"]:
        warnings.append(f"{count_noun(len(dropped), 'sample')} can't be scored: the truth can't be read, such as {dropped[0]}.")
    warnings += [f"The dataset's reader: {line}." for line in metrics["read"]["counts"]]
    return warnings


def _targeted(records: Sequence[SampleRecord], group: Callable[[SampleRecord], str]) -> set[str]:
    """Return the groups in which some sample has a target."""
    return {group(record) for record in records if record.counts.targeted}


def _build_groups(
    title: str, groups: Mapping[str, Any], protocol: EvaluationProtocol, targeted: set[str], notes: Sequence[str] = ()
) -> ReportSection:
    names = [*(key for key in protocol.keys if key not in _LEFT_OUT), *_COMMON]
    names = [name for name in names if any(name in figures for figures in groups.values())]
    rows = [
        (
            key,
            f"{figures['samples']:,}",
            *("-" if name in _OF_TARGETS and key not in targeted else format_figure(name, figures) for name in names),
        )
        for key, figures in groups.items()
    ]
    charts = []
    if can_plot():
        plotted = [
            (f"{key} ({figures['samples']:,})", figures["gIoU"], tuple(figures["intervals"]["gIoU"]))
            for key, figures in groups.items()
            if "gIoU" in figures
        ]
        charts = [plot_intervals(plotted, f"gIoU, %, {title.lower()}")]
    return ReportSection(
        title, notes, ReportTable(("", "samples", *(f"{name}, {format_unit(name)}" for name in names)), rows), charts
    )


def _build_calibration(metrics: Mapping[str, Any]) -> ReportSection:
    curves = metrics["calibration"]
    rows = [
        (f"{name} answers", f"{curve['answers']:,}", format_figure(f"{name} ECE", metrics)) for name, curve in curves.items()
    ]
    charts = [
        plot_reliability(curve["bins"], f"{name} answers that are right, %")
        for name, curve in curves.items()
        if curve["bins"] and can_plot()
    ]
    table = ReportTable(("", "with a confidence", "ECE, % [95 % interval]"), rows)
    return ReportSection("Calibration", [_CALIBRATION_NOTE], table, charts)
