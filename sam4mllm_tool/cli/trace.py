"""`sam4mllm trace show | replay | accept | export`: a thin skin, which imports what it needs when it runs.

Exit codes: 0 done; 1 a replay differs, or some traces could not be exported; 2 what was asked can't be done.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam4mllm_tool.trace.schema import Runs, Trace

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Registers `trace` on the parser's subcommands."""
    trace = commands.add_parser("trace", help="a recorded run: show it, run it again, accept it, train on it")
    kinds = trace.add_subparsers(required=True, metavar="WHAT")
    show = _add(kinds, "show", _show, "write a page of HTML that shows all of it and needs nothing else")
    show.add_argument("--out", metavar="PAGE", type=Path, help="default: FILE's name with .html")
    _add(kinds, "replay", _replay, "run it again without any model; exit code 1 where the result is not the recorded one")
    accept = _add(kinds, "accept", _accept, "say whether its answer is right, or what would be")
    said = accept.add_mutually_exclusive_group()
    said.add_argument("--reject", action="store_true", help="it is wrong: it becomes no lesson")
    said.add_argument("--forget", action="store_true", help="take back what was said")
    said.add_argument("--none", action="store_true", help="right would be that there is no such object")
    said.add_argument(
        "--correct", metavar="MASK", type=Path, nargs="+", help="right would be these: a picture an object, white on black"
    )
    accept.add_argument("--comment", metavar="TEXT", help="a word about it, kept in the file")
    export = kinds.add_parser("export", help="write what was accepted as JSONL that 'data build' and 'train' read")
    export.add_argument("files", metavar="FILE", type=Path, nargs="+", help="traces")
    export.add_argument("--out", metavar="FILE", type=Path, required=True, help="the JSONL; pictures/ is written beside it")
    export.add_argument("--unjudged", action="store_true", help="also those about which nobody has said anything")
    export.set_defaults(run=_export)


def _add(kinds: Any, name: str, run: Any, told: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(name, help=told)
    parser.add_argument("file", metavar="FILE", type=Path, help="a trace, as 'sam4mllm segment --trace FILE' writes it")
    parser.set_defaults(run=run)
    return parser


def _show(arguments: argparse.Namespace) -> None:
    from sam4mllm_tool.trace.files import load
    from sam4mllm_tool.trace.page import write_page

    print(f"wrote {write_page(load(arguments.file), arguments.out or _page_name(arguments.file))}")


def _page_name(path: Path) -> Path:
    name = path.name.removesuffix(".gz").removesuffix(".json")
    return path.with_name(f"{name}.html")


def _replay(arguments: argparse.Namespace) -> int:
    from sam4mllm_tool.trace.files import load
    from sam4mllm_tool.trace.replaying import replay

    trace = load(arguments.file)
    again = replay(trace)
    if again.difference:
        print(f"differs: {' '.join(again.difference.split())}")
        return 1
    asked, prompts = len(list(trace.exchanges)), len(list(trace.found))
    print(f"the same result: {_outcome(trace)}, from {asked} replies and {prompts} prompts, without any model")
    return 0


def _outcome(trace: "Trace") -> str:
    if trace.result is None:
        return f"{trace.error.type}" if trace.error else "none"
    count = len(trace.result["objects"])
    return f"{count} object{'s' if count > 1 else ''}" if count else "there is no such object"


def _accept(arguments: argparse.Namespace) -> None:
    from sam4mllm_tool.trace.files import load, save
    from sam4mllm_tool.trace.schema import Verdict

    trace = load(arguments.file)
    right = () if arguments.none else _masks(arguments.correct, trace) if arguments.correct else None
    accepted = None if arguments.forget else not arguments.reject
    comment = trace.verdict.comment if arguments.comment is None else arguments.comment
    save(replace(trace, verdict=Verdict(accepted, comment, right)), arguments.file)
    said = {None: "not judged", True: "accepted", False: "rejected"}[accepted]
    print(f"{arguments.file}: {said}{', with what is right' if right is not None else ''}")


def _masks(paths: Sequence[Path], trace: "Trace") -> "tuple[Runs, ...]":
    """Of pictures of the same size: an object is where they are lighter than half."""
    import numpy as np

    from sam4mllm_tool.images.load import load_image
    from sam4mllm_tool.trace.schema import Runs, TraceError

    found = []
    for path in paths:
        image = load_image(path)
        if image.size != trace.picture.size:
            sizes = f"{image.width} x {image.height} pixels, the trace's picture {' x '.join(map(str, trace.picture.size))}"
            raise TraceError(f"{path} is {sizes}")
        mask = np.asarray(image.convert("L")) > 127
        if not mask.any():
            raise TraceError(f"{path} is black: there is no object in it; 'there is no such object' is --none")
        found.append(Runs.of(mask))
    return tuple(found)


def _export(arguments: argparse.Namespace) -> int:
    from sam4mllm_tool.trace.conversation_export import export

    lessons = export(arguments.files, arguments.out, unjudged=arguments.unjudged)
    for fault in lessons.faults:
        print(f"left out: {' '.join(fault.split())}", file=sys.stderr)
    over = f", {lessons.passed_over} passed over" if lessons.passed_over else ""
    print(f"wrote {arguments.out}: {lessons.written} lessons about {lessons.pictures} pictures{over}")
    return 1 if lessons.faults else 0
