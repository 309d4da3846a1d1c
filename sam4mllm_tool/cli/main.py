"""The command: `sam4mllm segment | chat | data | train | export | evaluate | doctor`. A thin skin over the commands.

Exit codes: 0 done ("no such object" is an answer too), 1 the models failed, 2 what was asked cannot be done (a bad picture,
spec or argument). Errors are one line on stderr; results alone go to stdout.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sam4mllm_tool import __version__
from sam4mllm_tool.cli import chat as chat_command
from sam4mllm_tool.cli import data as data_command
from sam4mllm_tool.cli import data_build
from sam4mllm_tool.cli import evaluate as evaluation_command
from sam4mllm_tool.cli import trace as trace_command
from sam4mllm_tool.cli import train as training_command
from sam4mllm_tool.cli.evaluate import probability
from sam4mllm_tool.errors import BackendError, ReplyError, Sam4MllmError
from sam4mllm_tool.pipeline.sam4mllm import METHODS

_MOST = 10**9
"""Of scenes, and of a seed."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that can't write a letter gets its escape, as \u043a
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        code = int(arguments.run(arguments) or 0)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of stdout went away, as `head` does; nothing is left to be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Sam4MllmError, OSError) as error:
        print(f"sam4mllm: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, ReplyError | BackendError) else 2


def _parser() -> _Parser:
    parser = _Parser(prog="sam4mllm", description="Say what you mean, get the exact pixels.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_segment(commands)
    chat_command.add_commands(commands)
    _add_data(commands)
    training_command.add_commands(commands)
    evaluation_command.add_commands(commands)
    trace_command.add_commands(commands)
    doctor = commands.add_parser("doctor", help="what is installed, which models and backends work, on which device")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_segment(commands: Any) -> None:
    segment = commands.add_parser("segment", help="segment what an expression means in a picture")
    segment.add_argument("image", metavar="IMAGE", help="the picture: a path or a data URI")
    segment.add_argument("expression", metavar="EXPRESSION", help="what to segment, as in 'the red ring'")
    segment.add_argument(
        "--mllm", metavar="SPEC", help="embedded, a folder or a hub id, +ADAPTER (default: $SAM4MLLM_MLLM or embedded)"
    )
    segment.add_argument(
        "--segmenter", metavar="SPEC", help="embedded, a folder or a hub id (default: $SAM4MLLM_SEGMENTER or embedded)"
    )
    segment.add_argument("--method", choices=METHODS, default="pqpp", help="default: %(default)s")
    segment.add_argument(
        "--abstain",
        metavar="P",
        type=probability,
        default=0.0,
        help="leave out objects of a confidence below P; with --method adaptive, which asks for it (default: 0)",
    )
    segment.add_argument(
        "--closer",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with --method adaptive, mask small objects from close by, which shows the segmenter three views of each",
    )
    segment.add_argument("--dialect", metavar="NAME", help="how the MLLM is spoken to (default: its dialect.json, else plain)")
    segment.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1 and so on (default: the first CUDA device, else the CPU)"
    )
    segment.add_argument("--out", metavar="DIR", type=Path, help="write mask.png, overlay.png and result.json here")
    segment.add_argument("--trace", metavar="FILE", type=Path, help="record the whole run here, for 'sam4mllm trace'")
    segment.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")
    segment.set_defaults(run=_segment)


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="make, read, check and convert data sets; build training lessons from them")
    kinds = data.add_subparsers(required=True, metavar="WHAT")
    scenes = kinds.add_parser("scenes", help="draw scenes with expressions and exact masks")
    scenes.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the pictures and scenes.jsonl")
    scenes.add_argument("--count", metavar="N", type=_at_least(1), required=True, help="how many scenes")
    scenes.add_argument("--seed", metavar="S", type=_at_least(0), default=0, help="seed of the first (default: %(default)s)")
    scenes.set_defaults(run=_scenes)
    data_command.add_commands(kinds)
    data_build.add_build(kinds)


def _at_least(least: int) -> Any:
    def whole_number(text: str) -> int:
        if not text.isdecimal() or len(text) > 20 or not least <= int(text) <= _MOST:
            got = text if len(text) <= 40 else f"{text[:40]}..."
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {_MOST:,}, got {got!r}")
        return int(text)

    return whole_number


def _segment(arguments: argparse.Namespace) -> None:
    from sam4mllm_tool.images.export import make_folder, summary, write_outputs
    from sam4mllm_tool.images.load import load_image
    from sam4mllm_tool.protocol.dialogues import validate_expression

    # What costs nothing to check is checked before any model is loaded.
    image, expression = load_image(arguments.image), validate_expression(arguments.expression)
    if arguments.out:
        make_folder(arguments.out)
    if arguments.trace:
        make_folder(arguments.trace.parent)

    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
    from sam4mllm_tool.trace import recorded

    models = Sam4Mllm.load(
        arguments.mllm,
        arguments.segmenter,
        dialect=arguments.dialect,
        device=arguments.device,
        abstain=arguments.abstain,
        closer=arguments.closer,
    )
    with recorded(models, arguments.trace) as overheard:
        result = overheard.segment(image, expression, method=arguments.method)
    written = write_outputs(arguments.out, image, result) if arguments.out else []
    written += [arguments.trace] if arguments.trace else []
    if arguments.json:
        print(json.dumps(result.to_dict()))
        return
    print(summary(result))
    for path in written:
        print(f"wrote {path}")


def _scenes(arguments: argparse.Namespace) -> None:
    from sam4mllm_tool.embedded.files import write_scenes

    print(f"wrote {write_scenes(arguments.out, arguments.count, arguments.seed)}")


def _doctor(_: argparse.Namespace) -> int:
    from sam4mllm_tool.cli.doctor import report

    lines, healthy = report()
    print("\n".join(lines))
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
