"""Render the sections of a report: as report.md with images in pictures/ beside it, and as report.html, a single file.

They hold no timings, so that two runs of the same order give the same bytes.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2

from sam4mllm_tool.atomic_io import write_bytes
from sam4mllm_tool.evaluation.plots import can_plot
from sam4mllm_tool.evaluation.sample_images import ImagePanel, SampleImages

__all__ = ["ReportSection", "ReportTable", "write_sections"]

IMAGE_FOLDER = "pictures"


@dataclass(frozen=True)
class ReportTable:
    """The cells of a table, as text. A cell "94.7 [93.1, 96.0]" is a value and its interval."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class ReportSection:
    """A part of the report. charts: SVG elements, for report.html only. name: begins the names of the images' files."""

    title: str
    notes: Sequence[str] = ()
    table: ReportTable | None = None
    charts: Sequence[str] = ()
    images: Sequence[SampleImages] = ()
    name: str = ""


def write_sections(out: Path, title: str, sections: Sequence[ReportSection]) -> None:
    """Write report.md, report.html and pictures/ into a folder, which must exist."""
    (out / IMAGE_FOLDER).mkdir(exist_ok=True)
    for section in sections:
        for number, sample in enumerate(section.images, start=1):
            for panel in sample.panels:
                if panel.png is not None:
                    (out / _image_file(section, number, panel)).write_bytes(panel.png)
    _write(out / "report.md", _render_markdown(title, sections))
    _write(out / "report.html", _html_template().render(title=title, sections=sections, charts=can_plot()))


def _image_file(section: ReportSection, number: int, panel: ImagePanel) -> str:
    return f"{IMAGE_FOLDER}/{section.name}-{number}-{panel.name}.png"


@cache
def _html_template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sam4mllm_tool.evaluation"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    return environment.get_template("report.html")


def _render_markdown(title: str, sections: Sequence[ReportSection]) -> str:
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", *section.notes]
        parts += [_markdown_table(section.table)] if section.table else []
        for number, sample in enumerate(section.images, start=1):
            parts += [f"`{sample.id}`: {_plain(sample.expression)}", _markdown_panels(section, number, sample)]
    return "\n\n".join(parts) + "\n"


def _markdown_panels(section: ReportSection, number: int, sample: SampleImages) -> str:
    cells = [
        f"![{_plain(panel.caption)}]({_image_file(section, number, panel)})" if panel.png is not None else ""
        for panel in sample.panels
    ]
    return _markdown_table(ReportTable([_plain(panel.caption) for panel in sample.panels], [cells]))


def _markdown_table(table: ReportTable) -> str:
    lines = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Replace the characters that have a meaning in Markdown."""
    return "".join(" " if letter in "[]<>`|\n" else letter for letter in text)


def _write(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "backslashreplace"))  # expressions may hold lone surrogates
