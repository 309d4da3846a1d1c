"""The command line `sam4mllm`: the application, its exit codes, and its errors, each of which is one line on stderr.

Exit codes: 0 done (a result of no object included), 1 the models failed, 2 the image, a spec or an argument is invalid, 130
interrupted. Results alone go to stdout. Commands import what they need when they run, so that help and shell completion
load no model library.
"""

import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

from sam4mllm_tool import __version__
from sam4mllm_tool.cli.batch import BATCH_EPILOG, batch
from sam4mllm_tool.cli.chat import chat
from sam4mllm_tool.cli.data import data_app
from sam4mllm_tool.cli.doctor import doctor
from sam4mllm_tool.cli.evaluate import EPILOG, evaluate
from sam4mllm_tool.cli.help_page import CommandGroup
from sam4mllm_tool.cli.mcp import mcp
from sam4mllm_tool.cli.options import Command
from sam4mllm_tool.cli.probe import probe
from sam4mllm_tool.cli.quick_loading import own_process
from sam4mllm_tool.cli.reason import reason
from sam4mllm_tool.cli.segment import segment
from sam4mllm_tool.cli.serve import WEB_HELP, serve
from sam4mllm_tool.cli.trace import trace_app
from sam4mllm_tool.cli.train import export, train
from sam4mllm_tool.cli.usage_errors import describe_usage_error
from sam4mllm_tool.errors import BackendError, EmptyMaskError, ModelWarning, ReplyError, Sam4MllmError, quote_text
from sam4mllm_tool.text import remove_errno

__all__ = ["app", "main", "run_command"]

_ORDER = (
    *("segment", "batch", "reason", "chat", "mcp", "serve", "web"),
    *("data", "train", "export", "evaluate", "trace", "probe", "doctor"),
)


class _RootGroup(CommandGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order of their work; Typer lists groups last."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand; end quietly where the reader of stdout has left, as `head` does."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # Typer would make it exit code 1
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be flushed at the end
            return 0
        return result


app = typer.Typer(cls=_RootGroup, context_settings={"help_option_names": ["-h", "--help"]})
_SEGMENT, _TUNE, _INSPECT = "Segment", "Prepare data and tune models", "Measure and inspect"
app.command(cls=Command, rich_help_panel=_SEGMENT)(segment)
app.command(cls=Command, rich_help_panel=_SEGMENT, epilog=BATCH_EPILOG)(batch)
app.command(cls=Command, rich_help_panel=_SEGMENT)(reason)
app.command(cls=Command, rich_help_panel=_SEGMENT)(chat)
app.command(cls=Command, rich_help_panel=_SEGMENT)(mcp)
app.command(cls=Command, rich_help_panel=_SEGMENT)(serve)
app.command("web", cls=Command, rich_help_panel=_SEGMENT, help=WEB_HELP)(serve)
app.add_typer(data_app, name="data", rich_help_panel=_TUNE)
app.command(cls=Command, rich_help_panel=_TUNE)(train)
app.command(cls=Command, rich_help_panel=_TUNE)(export)
app.command(cls=Command, rich_help_panel=_INSPECT, epilog=EPILOG)(evaluate)
app.add_typer(trace_app, name="trace", rich_help_panel=_INSPECT)
app.command(cls=Command, rich_help_panel=_INSPECT)(probe)
app.command(cls=Command, rich_help_panel=_INSPECT)(doctor)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"sam4mllm {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Each command has a help page: sam4mllm COMMAND --help. For example:\n\n"
    'sam4mllm segment photo.jpg "the mug behind the laptop" --mllm llava-hf/llava-v1.6-mistral-7b-hf '
    "--segmenter facebook/sam-vit-huge --out result"
)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Segment what an expression means in an image: say what you mean, get the exact pixels."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; print an error as one line on stderr.

    Args:
        argv: The words after the program's name; those of this process by default.
    """
    if argv is None:
        own_process()
    for stream in (sys.stdout, sys.stderr):  # a terminal that can't write a letter gets its escape, as \u043a
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return run_command(argv)
    except typer.TyperException as error:
        return _fail(2, describe_usage_error(error))
    except typer.Abort:  # the end of stdin where somebody asked for input
        return 130
    except (FileExistsError, NotADirectoryError) as error:  # of a path that should be, or lie in, a folder
        return _fail(
            2, f"sam4mllm: {quote_text(str(error.filename))} is a file, not a folder" if error.filename else str(error)
        )
    except (Sam4MllmError, OSError) as error:
        return _fail(1 if isinstance(error, ReplyError | BackendError | EmptyMaskError) else 2, f"sam4mllm: {error}")


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; raise what it refuses.

    Raises:
        typer.TyperException: The arguments are invalid.
        Sam4MllmError: The image, a spec, the data or a model failed.
    """
    words = None if argv is None else list(argv)
    return int(get_command(app).main(args=words, prog_name="sam4mllm", standalone_mode=False) or 0)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
) -> None:
    """Print a warning of this package as one line; others as Python does."""
    if issubclass(category, ModelWarning):
        print(f"sam4mllm: warning: {' '.join(str(message).split())}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), file=file or sys.stderr, end="")


def _fail(code: int, message: str) -> int:
    print(" ".join(remove_errno(message).split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
