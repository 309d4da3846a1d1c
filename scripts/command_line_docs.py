"""Writes every command's help page into docs/command_line.md, below its marker. `make help-pages` runs it; a test compares."""

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from typer.main import get_command

from sam4mllm_tool.cli.main import app, main

PAGE = Path(__file__).parents[1] / "docs" / "command_line.md"
MARKER = "<!-- below: the help pages, written by make help-pages -->\n"
WIDTH = 100


def render() -> str:
    """Return the page with the help pages as they are now."""
    intro = PAGE.read_text(encoding="utf-8").partition(MARKER)[0]
    return intro + MARKER + "".join(map(_render_help, _list_commands(get_command(app))))


def _list_commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, groups before their commands, in the order of the help page."""
    yield path
    for name in command.list_commands(None) if hasattr(command, "commands") else ():
        yield from _list_commands(command.commands[name], (*path, name))


def _render_help(path: tuple[str, ...]) -> str:
    output = io.StringIO()
    with patch.dict(os.environ, {"COLUMNS": str(WIDTH), "TERM": "dumb"}), redirect_stdout(output):
        main([*path, "--help"])
    return f"\n## {' '.join(('sam4mllm', *path))}\n\n```text\n{output.getvalue().strip()}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
