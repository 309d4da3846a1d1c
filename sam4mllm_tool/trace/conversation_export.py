"""Accepted traces as training data: own JSONL (data/jsonl.py) with the pictures beside it.

A line for each trace that a person accepted, with the objects of the answer or those that corrected it; "there is no such
object" is a lesson too. What was rejected never becomes one.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import ExpressionError, quote_text
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.trace.files import load, picture_png, seal
from sam4mllm_tool.trace.schema import Runs, Trace, TraceError
from sam4mllm_tool.trace.verdicts import read_answer

__all__ = ["Lessons", "export", "lesson"]

PICTURES = "pictures"
"""The folder beside the file."""


@dataclass
class Lessons:
    """What became of the traces. written: lines. passed_over: not accepted, or told twice. faults: why others can't be used."""

    written: int = 0
    pictures: int = 0
    passed_over: int = 0
    faults: list[str] = field(default_factory=list)


def export(paths: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str], *, unjudged: bool = False) -> Lessons:
    """Writes `out` and the pictures, one each however many lines are about it; `out` appears once it is whole.

    unjudged: also traces that nobody has judged. Of two about the same expression and picture the one recorded last is
    taken. A trace that can't be used is told in `faults` and the others go on. Raises TraceError where no line is left, in
    which case nothing is written, or where the folder can't be.
    """
    lessons, chosen = Lessons(), dict[tuple[str, str], tuple[str, Trace, dict[str, Any]]]()
    for path in map(Path, paths):
        try:
            trace = load(path)
            if trace.verdict.accepted is False or (trace.verdict.accepted is None and not unjudged):
                lessons.passed_over += 1
                continue
            line = lesson(trace, path)
        except TraceError as error:
            lessons.faults.append(str(error))
            continue
        key = (trace.picture.sha256, line["expression"])
        lessons.passed_over += key in chosen
        if key not in chosen or chosen[key][0] <= trace.began:
            chosen[key] = (trace.began, trace, line)
    if not chosen:
        why = f"; {lessons.faults[0]}" if lessons.faults else ": accept some with 'sam4mllm trace accept FILE'"
        raise TraceError(f"of {lessons.passed_over + len(lessons.faults)} traces none is accepted and usable{why}")
    _write(Path(out), [(trace, line) for _, trace, line in chosen.values()], lessons)
    return lessons


def lesson(trace: Trace, path: Path) -> dict[str, Any]:
    """The line of a trace, which names the file. Raises TraceError saying why there is none."""
    where = quote_text(str(path))
    if trace.altered and trace.verdict.objects is None:
        raise TraceError(f"{where}: the file was changed after it was recorded: its seal doesn't fit")
    if trace.picture.image is None:
        raise TraceError(f"{where}: the trace was saved without its picture")
    return {
        "image": f"{PICTURES}/{_name(trace)}",
        "expression": _expression(trace, where),
        "objects": [{"mask": {"size": list(runs.size), "counts": runs.counts}} for runs in _objects(trace, where)],
        "id": f"trace-{seal(trace)[:16]}",
        "trace": str(path),
    }


def _expression(trace: Trace, where: str) -> str:
    told = trace.expression if trace.result is None else trace.result.get("expression")
    try:
        return validate_expression(told)
    except ExpressionError as error:
        raise TraceError(f"{where}: {error}") from error


def _objects(trace: Trace, where: str) -> tuple[Runs, ...]:
    objects = trace.verdict.objects
    if objects is None:
        if trace.result is None:
            raise TraceError(f"{where}: the run has no result; say what is right with 'sam4mllm trace accept --correct'")
        objects = tuple(thing.mask for thing in read_answer(trace.result).objects)
    if empty := [number for number, runs in enumerate(objects, start=1) if not runs.mask().any()]:
        raise TraceError(f"{where}: the mask of object {empty[0]} is empty")
    return objects


def _name(trace: Trace) -> str:
    return f"{trace.picture.sha256[:32]}.png"


def _write(out: Path, chosen: list[tuple[Trace, Mapping[str, Any]]], lessons: Lessons) -> None:
    try:
        (out.parent / PICTURES).mkdir(parents=True, exist_ok=True)
        for name, trace in {_name(trace): trace for trace, _ in chosen}.items():
            assert trace.picture.image is not None  # else it has no lesson
            _replace(out.parent / PICTURES / name, picture_png(trace.picture.image))
            lessons.pictures += 1
        lines = [json.dumps(line) for _, line in chosen]
        _replace(out, "".join(f"{line}\n" for line in lines).encode("ascii"))
        lessons.written = len(lines)
    except OSError as error:
        raise TraceError(f"the lessons can't be written to {quote_text(str(out))}: {error.strerror or error}") from error


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
