"""The commands `sam4mllm trace show | replay | list | accept | export`. Import what they need when they run.

Exit codes: 0 done; 1 a replay differs, or some traces could not be exported; 2 the request is invalid.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sam4mllm_tool.cli.help_page import CommandGroup
from sam4mllm_tool.cli.options import Command
from sam4mllm_tool.errors import Sam4MllmError, count_noun, quote_text

if TYPE_CHECKING:
    from sam4mllm_tool.trace.schema import RunLengthMask, Trace

__all__ = ["trace_app"]

trace_app = typer.Typer(cls=CommandGroup, help="Show a recorded run, replay it, accept its answer, train on it.")

_PAGE_START = b"<!doctype html>"
_MAX_LISTED = 20
"""Traces that are named one by one where they were passed over."""
TraceArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Trace file, as 'sam4mllm segment --trace FILE' writes it.")
]


@trace_app.command(cls=Command)
def show(
    file: TraceArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="PAGE", help="HTML file to write.", show_default="FILE's name with .html")
    ] = None,
) -> None:
    """Write the whole run as one HTML page that needs no other file."""
    from sam4mllm_tool.trace.files import load
    from sam4mllm_tool.trace.page import write_page

    page = file.with_name(f"{file.name.removesuffix('.gz').removesuffix('.json')}.html")
    _require_replaceable_page(out or page)
    print(f"wrote {write_page(load(file), out or page)}")


def _require_replaceable_page(page: Path) -> None:
    """Refuse to replace a file that is not a page, such as the trace itself."""
    if page.is_dir():
        raise Sam4MllmError(f"the page can't be written to {quote_text(str(page))}: it is a folder; add a file name")
    if page.is_file():
        with page.open("rb") as content:
            start = content.read(len(_PAGE_START))
        if start and start.lower() != _PAGE_START:
            raise Sam4MllmError(
                f"the page can't be written to {quote_text(str(page))}: that file is not a page, and would be lost"
            )


@trace_app.command(cls=Command)
def replay(file: TraceArgument) -> int:
    """Run it again on the recorded replies, without a model.

    Exit code 1 if the result is not the recorded one.
    """
    from sam4mllm_tool.trace.files import load
    from sam4mllm_tool.trace.replaying import replay as replay_trace

    trace = load(file)
    outcome = replay_trace(trace)
    if outcome.difference:
        print(f"differs: {' '.join(outcome.difference.split())}")
        return 1
    replies = count_noun(len(list(trace.exchanges)), "reply", "replies")
    prompts = count_noun(len(list(trace.objects)), "prompt")
    print(f"the same result: {_describe_outcome(trace)}, from {replies} and {prompts}, without any model")
    return 0


def _describe_outcome(trace: "Trace") -> str:
    if trace.result is None:
        return trace.error.type if trace.error else "none"
    count = len(trace.result["objects"])
    if not count and trace.result.get("abstained"):
        return "not sure enough to answer"
    return count_noun(count, "object") if count else "there is no such object"


@trace_app.command("list", cls=Command)
def list_command(
    paths: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of *.trace.json and *.trace.json.gz, or files.")
    ],
) -> int:
    """List traces: verdict, method, objects, mean confidence, image, file and expression.

    Exit code 1 if a trace can't be read.
    """
    from sam4mllm_tool.trace.listing import TraceSummary, list_traces
    from sam4mllm_tool.trace.page import escape_invisible

    for path in paths:
        if not path.exists():
            raise Sam4MllmError(f"there is no folder or file {str(path)!r}")
    rows = [("verdict", "method", "objects", "confidence", "image", "file", "expression")]
    faults = []
    for each in list_traces(paths):
        if not isinstance(each, TraceSummary):
            faults.append(str(each))
            continue
        objects = "-" if each.objects is None else str(each.objects)
        confidence = "-" if each.confidence is None else f"{each.confidence:.0%}"
        expression = " ".join(escape_invisible(each.expression or "-").split())
        rows.append((each.verdict, each.method or "-", objects, confidence, each.image, str(each.path), expression))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows if len(rows) > 1 else ():
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))
    print(count_noun(len(rows) - 1, "trace"))
    for fault in faults:
        print(f"left out: {' '.join(fault.split())}", file=sys.stderr)
    return 1 if faults else 0


@trace_app.command(cls=Command)
def accept(
    file: TraceArgument,
    reject: Annotated[bool, typer.Option("--reject", help="The answer is wrong; it is not exported.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Withdraw the verdict.")] = False,
    none: Annotated[bool, typer.Option("--none", help="The right answer is that there is no such object.")] = False,
    correct: Annotated[
        list[Path],
        typer.Option(
            metavar="MASK...",
            help="The right answer is these masks: one image per object, of the image's size, white on black.",
        ),
    ] = [],  # noqa: B006 - Typer copies it
    verdict: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Verdict that a button of the trace's page downloaded, accepting or rejecting."),
    ] = None,
    comment: Annotated[str | None, typer.Option(metavar="TEXT", help="Comment to keep in the file.")] = None,
) -> None:
    """Accept the answer of a recorded run, or give the right one."""
    from sam4mllm_tool.trace.files import load, save
    from sam4mllm_tool.trace.schema import Verdict
    from sam4mllm_tool.trace.verdict_files import read_verdict

    options = {"--reject": reject, "--forget": forget, "--none": none, "--correct": correct, "--verdict": verdict}
    if len(chosen := [name for name, value in options.items() if value]) > 1:
        raise Sam4MllmError(f"{' and '.join(chosen)} exclude each other; see sam4mllm trace accept --help")
    trace = load(file)
    objects = () if none else _read_masks(correct, trace) if correct else None
    given = read_verdict(verdict, trace) if verdict else Verdict(None if forget else not reject, objects=objects)
    given = replace(given, comment=trace.verdict.comment if comment is None else comment)
    save(replace(trace, verdict=given), file)
    words = {None: "not judged", True: "accepted", False: "rejected"}[given.accepted]
    print(f"{file}: {words}{', with what is right' if given.objects is not None else ''}")


def _read_masks(paths: Sequence[Path], trace: "Trace") -> "tuple[RunLengthMask, ...]":
    """Read one mask per image of the trace's size: the pixels that are lighter than half."""
    import numpy as np

    from sam4mllm_tool.images.load import load_image
    from sam4mllm_tool.trace.schema import RunLengthMask, TraceError

    masks = []
    for path in paths:
        image = load_image(path)
        if image.size != trace.image.size:
            sizes = f"{image.width} x {image.height} pixels, the trace's image {' x '.join(map(str, trace.image.size))}"
            raise TraceError(f"{path} is {sizes}")
        mask = np.asarray(image.convert("L")) > 127
        if not mask.any():
            raise TraceError(f"{path} is black: there is no object in it; 'there is no such object' is --none")
        masks.append(RunLengthMask.of(mask))
    return tuple(masks)


@trace_app.command(cls=Command)
def export(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Trace files.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSONL file to write; its images go to pictures/ beside it.")],
    unjudged: Annotated[bool, typer.Option("--unjudged", help="Export traces without a verdict too.")] = False,
) -> int:
    """Write accepted answers as JSONL, which 'data build' and 'train' read.

    Exit code 1 if a trace could not be exported.
    """
    from sam4mllm_tool.trace.conversation_export import export as export_traces

    exported = export_traces(files, out, unjudged=unjudged)
    for fault in exported.faults:
        print(f"left out: {' '.join(fault.split())}", file=sys.stderr)
    for reason in exported.skipped[:_MAX_LISTED]:
        print(f"passed over: {reason}", file=sys.stderr)
    if len(exported.skipped) > _MAX_LISTED:
        print(f"passed over: {len(exported.skipped) - _MAX_LISTED:,} more", file=sys.stderr)
    samples, images = count_noun(exported.written, "sample"), count_noun(exported.pictures, "image")
    skipped = f", {exported.passed_over} passed over" if exported.passed_over else ""
    print(f"wrote {out}: {samples} about {images}{skipped}")
    return 1 if exported.faults else 0
