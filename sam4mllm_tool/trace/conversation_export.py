"""Export accepted traces as training data: JSONL (data/jsonl.py) with the images beside it.

One line for each trace that a person accepted, with the objects of the result or of the correction; "there is no such object"
is training data too. Rejected traces are never exported.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import ExpressionError, count_noun, quote_text
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.trace.files import encode_png, load, seal, write_file
from sam4mllm_tool.trace.schema import RunLengthMask, Trace, TraceError, read_result

__all__ = ["ExportReport", "export", "sample_line"]

IMAGE_FOLDER = "pictures"
"""Beside the JSONL file."""


@dataclass
class ExportReport:
    """What became of the traces.

    Args:
        written: Number of lines.
        pictures: Number of image files.
        skipped: Which traces were passed over, and why: not accepted, or older than another of the same image and expression.
        faults: Why other traces can't be used.
    """

    written: int = 0
    pictures: int = 0
    skipped: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def passed_over(self) -> int:
        """Number of traces that were passed over."""
        return len(self.skipped)


def export(paths: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str], *, unjudged: bool = False) -> ExportReport:
    """Write accepted traces as JSONL; the file appears once it is whole, and each image once.

    Of two traces about the same expression and image the one recorded last is taken. A trace that can't be used is named in
    `faults`, and the others are exported.

    Args:
        paths: Trace files.
        out: The JSONL file; the folder `pictures` is written beside it.
        unjudged: Whether to export also traces that nobody has judged.

    Raises:
        TraceError: No trace is left, in which case nothing is written, or the files can't be written, or `out` holds something
            else than exported traces.
    """
    _require_own_file(Path(out))
    report, latest = ExportReport(), dict[tuple[str, str], tuple[Trace, dict[str, Any]]]()
    for path in map(Path, paths):
        try:
            trace = load(path)
            if trace.verdict.accepted is False or (trace.verdict.accepted is None and not unjudged):
                reason = "rejected" if trace.verdict.accepted is False else "not judged"
                report.skipped.append(f"{quote_text(str(path))}: {reason}")
                continue
            line = sample_line(trace, path)
        except TraceError as error:
            report.faults.append(str(error))
            continue
        key = (trace.image.sha256, line["expression"])
        before = latest.get(key)
        if before is None or before[0].began <= trace.began:
            latest[key] = (trace, line)
        if before is not None:
            newer, older = (line, before[1]) if latest[key][1] is line else (before[1], line)
            places = quote_text(older["trace"]), quote_text(newer["trace"])
            report.skipped.append(f"{places[0]}: older than {places[1]}, about the same image and expression")
    if not latest:
        advice = "accept some with 'sam4mllm trace accept FILE'"
        reason = f"; {report.faults[0]}" if report.faults else f"; {report.skipped[0]}: {advice}" if report.skipped else ""
        raise TraceError(
            f"of {count_noun(report.passed_over + len(report.faults), 'trace')} none is accepted and usable{reason}"
        )
    _write(Path(out), list(latest.values()), report)
    return report


def sample_line(trace: Trace, path: Path) -> dict[str, Any]:
    """Return the trace's line of the JSONL; it names the trace's file, `path`.

    Raises:
        TraceError: The trace can't be trained on; the message says why.
    """
    place = quote_text(str(path))
    if trace.altered and trace.verdict.objects is None:
        raise TraceError(f"{place}: the file was changed after it was recorded: its seal doesn't fit")
    if trace.image.pixels is None:
        raise TraceError(f"{place}: the trace was saved without its image")
    return {
        "image": f"{IMAGE_FOLDER}/{_image_name(trace)}",
        "expression": _read_expression(trace, place),
        "objects": [{"mask": {"size": list(mask.size), "counts": mask.counts}} for mask in _read_masks(trace, place)],
        "id": f"trace-{seal(trace)[:16]}",
        "trace": str(path),
    }


def _read_expression(trace: Trace, place: str) -> str:
    expression = trace.expression if trace.result is None else trace.result.get("expression")
    try:
        return validate_expression(expression)
    except ExpressionError as error:
        raise TraceError(f"{place}: {error}") from error


def _read_masks(trace: Trace, place: str) -> tuple[RunLengthMask, ...]:
    masks = trace.verdict.objects
    if masks is None:
        if trace.result is None:
            raise TraceError(f"{place}: the run has no result; give the correct one with 'sam4mllm trace accept --correct'")
        masks = tuple(segmented.mask for segmented in read_result(trace.result).objects)
    if empty := [number for number, mask in enumerate(masks, start=1) if not mask.mask().any()]:
        raise TraceError(f"{place}: the mask of object {empty[0]} is empty")
    return masks


def _image_name(trace: Trace) -> str:
    return f"{trace.image.sha256[:32]}.png"


def _require_own_file(out: Path) -> None:
    """Raise TraceError if the file holds something else than exported traces, which would be lost."""
    try:
        lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
        is_own = all("trace" in parse_json(line) for line in lines)
    except (OSError, ValueError, TypeError):
        is_own = False
    if not is_own:
        reason = "it is a folder; add a file name" if out.is_dir() else "it holds something else; choose another name"
        raise TraceError(f"the training data can't be written to {quote_text(str(out))}: {reason}")


def _write(out: Path, samples: list[tuple[Trace, dict[str, Any]]], report: ExportReport) -> None:
    for name, trace in {_image_name(trace): trace for trace, _ in samples}.items():
        assert trace.image.pixels is not None  # sample_line refuses a trace without
        write_file(out.parent / IMAGE_FOLDER / name, encode_png(trace.image.pixels), "the training data")
        report.pictures += 1
    lines = "".join(f"{json.dumps(line)}\n" for _, line in samples)
    write_file(out, lines.encode("ascii"), "the training data")
    report.written = len(samples)
