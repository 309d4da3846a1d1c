"""The report for people: report.md with pictures/ beside it, and report.html, which stands alone.

Both say the same from the same tables; nothing in them is timed, so that two runs of an order give the same bytes.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.evaluation.metrics import PROTOCOLS, Protocol
from sam4mllm_tool.evaluation.plots import histogram, interval_plot, reliability_plot
from sam4mllm_tool.evaluation.records import Record
from sam4mllm_tool.evaluation.sample_images import Drawn, choose, draw
from sam4mllm_tool.evaluation.summary import scored

__all__ = ["PLAIN_NUMBERS", "figure", "heading", "write_report"]

PLAIN_NUMBERS = ("model calls", "point answers", "tokens")
"""Figures that are no shares, but means per sample."""
_DRAWN = 6
_LEFT_OUT = ("mIoU", "Pr@0.6", "Pr@0.7", "Pr@0.8")  # of the tables by kind and size; metrics.json has all
_COMMON = ("box Acc@0.5", "point accuracy", "model calls")
_STYLE = """body{font-family:system-ui,sans-serif;color:#18181c;background:#fafaf8;max-width:900px;margin:2rem auto;
padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:.3rem .8rem;border-bottom:1px solid #dcdcda;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
svg{display:inline-block;vertical-align:top;margin:1rem 0;max-width:100%;height:auto}
img{max-width:100%;display:block}
figure{margin:1.5rem 0}figcaption,p.note{color:#55555c}code{background:#eeeeec;padding:0 .2rem}"""


@dataclass(frozen=True)
class _Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.head, ["---", *["---:"] * (len(self.head) - 1)], *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

    def html(self) -> str:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.head)
        rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in self.rows)
        return f"<table>\n<tr>{head}</tr>\n{rows}</table>"


@dataclass(frozen=True)
class _Section:
    """A part of the report. plots: SVG, for the HTML alone."""

    title: str
    notes: Sequence[str] = ()
    table: _Table | None = None
    plots: Sequence[str] = ()
    pictures: Sequence[Drawn] = ()


def write_report(out: Path, metrics: Mapping[str, Any], records: Sequence[Record], samples: Iterable[Sample]) -> None:
    """Writes report.md, report.html and pictures/. samples: the data set's, where the drawn ones are looked for."""
    protocol, counted = PROTOCOLS[metrics["protocol"]], scored(records)
    chosen = choose(counted, protocol, _DRAWN)
    drawn = {one.id: one for one in draw([one for some in chosen.values() for one in some], samples, protocol)}
    pictures = {name: [drawn[one.id] for one in some if one.id in drawn] for name, some in chosen.items()}
    sections = _sections(metrics, counted, protocol, pictures)
    (out / "pictures").mkdir(exist_ok=True)
    for name, some in pictures.items():
        for number, one in enumerate(some, start=1):
            (out / "pictures" / f"{name}-{number}.png").write_bytes(one.png)
    files = {one.id: f"pictures/{name}-{number}.png" for name, some in pictures.items() for number, one in enumerate(some, 1)}
    title = heading(metrics["order"])
    _write(out / "report.md", _markdown(title, sections, files))
    _write(out / "report.html", _html(title, sections))


def heading(order: Mapping[str, Any]) -> str:
    """What was evaluated, in a line."""
    what = f"{order['dataset']}:{order['split']}"
    if "predictions" in order:
        return f"{what}, predictions of {order['predictions']['file']}"
    models = order["models"]
    abstaining = f", abstaining below {models['abstain']:g}" if models.get("abstain") else ""
    far = ", no masks from close by" if order["method"] == "adaptive" and not models.get("closer", True) else ""
    return f"{what}, {models['mllm']} with {models['segmenter']}, {order['method']}{abstaining}{far}"


def figure(name: str, figures: Mapping[str, Any]) -> str:
    """A value with its interval as text, shares in percent; a dash where it is absent."""
    if name not in figures:
        return "-"
    scale = 1 if name in PLAIN_NUMBERS else 100
    low, high = figures["intervals"][name]
    return f"{scale * figures[name]:.1f} [{scale * low:.1f}, {scale * high:.1f}]"


def _sections(
    metrics: Mapping[str, Any], records: Sequence[Record], protocol: Protocol, pictures: Mapping[str, Sequence[Drawn]]
) -> list[_Section]:
    ious = [protocol.score(record.counts).iou for record in records]
    keys = [key for key in protocol.keys if key in metrics]
    plots = [
        interval_plot(
            [(key, metrics[key], tuple(metrics["intervals"][key])) for key in keys], "figures, %, with 95 % intervals"
        ),
        histogram(ious, "samples by IoU, %"),
    ]
    about = [
        f"Protocol {protocol.name}: {protocol.source}.",
        f"{metrics['samples']:,} samples. 95 % bootstrap intervals over samples, {metrics['resamples']:,} resamples.",
        *_warnings(metrics),
    ]
    others = [name for name in metrics["intervals"] if name not in protocol.keys]
    sections = [
        _Section(
            "Figures", about, _Table(("%", "value [95 % interval]"), [(key, figure(key, metrics)) for key in keys]), plots
        ),
        _Section(
            "Boxes, points, calls",
            _COST_NOTES,
            _Table(("% (calls, answers, tokens: per sample)", "value"), [(name, figure(name, metrics)) for name in others]),
        ),
    ]
    for title, part in (("By kind of expression", "by_kind"), ("By size of object", "by_size")):
        sections.append(_grouped(title, metrics[part], protocol))
    sections.append(_calibration(metrics))
    told = {"worst": "Worst samples", "median": "Median samples"}
    sections += [_Section(told[name], pictures=some) for name, some in pictures.items() if some]
    return sections


_COST_NOTES = (
    "Box Acc@0.5: samples of one object whose first box has an IoU of at least 0.5 with the true one. Point accuracy: of all "
    "answers about points; right box: of those asked about a box that fits a true one; kept: of those that Segment Anything "
    "was prompted with. ECE: expected calibration error, 15 bins. Seconds per sample are in timings.json, which alone differs "
    "from run to run.",
)


def _warnings(metrics: Mapping[str, Any]) -> list[str]:
    told = []
    if count := metrics["misses"]["count"]:
        kinds = ", ".join(f"{number:,} {error}" for error, number in metrics["misses"]["by_error"].items())
        told.append(f"{count:,} samples have no prediction and count as misses: {kinds}.")
    if metrics["dropped"]:
        told.append(f"{len(metrics['dropped']):,} samples can't be scored, their truth is broken: {metrics['dropped'][0]}.")
    told += [f"The reader of the data set: {line}." for line in metrics["read"]["counts"]]
    return told


def _grouped(title: str, groups: Mapping[str, Any], protocol: Protocol) -> _Section:
    names = [*(key for key in protocol.keys if key not in _LEFT_OUT), *_COMMON]
    names = [name for name in names if any(name in figures for figures in groups.values())]
    rows = [(key, f"{figures['samples']:,}", *(figure(name, figures) for name in names)) for key, figures in groups.items()]
    note = "small: below 1 % of the picture, medium: to 10 %, large: above; none: no target." if "size" in title else ""
    first = "gIoU"
    plotted = [
        (f"{key} ({figures['samples']:,})", figures[first], tuple(figures["intervals"][first]))
        for key, figures in groups.items()
        if first in figures
    ]
    plots = [interval_plot(plotted, f"{first}, %, {title.lower()}")]
    return _Section(title, [note] if note else [], _Table(("", "samples", *names), rows), plots)


def _calibration(metrics: Mapping[str, Any]) -> _Section:
    rows, plots = [], []
    for name, told in metrics["calibration"].items():
        rows.append((f"{name} answers", f"{told['answers']:,}", figure(f"{name} ECE", metrics)))
        if told["bins"]:
            plots.append(reliability_plot(told["bins"], f"{name} answers that are right, %"))
    note = (
        "A point answer is right where it agrees with the truth at the point; an object where its mask has an IoU of at "
        "least 0.5 with a true object that no other has."
    )
    return _Section("Calibration", [note], _Table(("", "with a confidence", "ECE, % [95 % interval]"), rows), plots)


def _markdown(title: str, sections: Sequence[_Section], files: Mapping[str, str]) -> str:
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", *section.notes]
        parts += [section.table.markdown()] if section.table else []
        parts += [f"![{_plain(one.title)}]({files[one.id]})\n\n`{one.id}`: {_plain(one.title)}" for one in section.pictures]
    return "\n\n".join(parts) + "\n"


def _html(title: str, sections: Sequence[_Section]) -> str:
    parts = [f"<h1>{escape(title)}</h1>"]
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        parts += [f'<p class="note">{escape(note)}</p>' for note in section.notes]
        parts += [section.table.html()] if section.table else []
        parts += section.plots
        for one in section.pictures:
            image = base64.b64encode(one.png).decode()
            caption = f"<code>{escape(one.id)}</code> {escape(one.title)}"
            parts.append(
                f'<figure><img alt="{escape(one.title)}" src="data:image/png;base64,{image}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'


def _plain(text: str) -> str:
    """Without what Markdown would take for its own."""
    return "".join(" " if letter in "[]<>`|\n" else letter for letter in text)


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(text.encode("utf-8", "backslashreplace"))
    beside.replace(path)
