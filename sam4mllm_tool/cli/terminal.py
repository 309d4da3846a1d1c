"""The terminal's side of a conversation: reads lines, carries out commands, prints what happens.

With a person before it there is a prompt, a history of lines and a little colour; through a pipe there is the text alone.
Everything that is printed came from files, models or people, so nothing of it steers the terminal.
"""

import asyncio
import io
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sam4mllm_tool.cli.conversation import Conversation, Event, Picture
from sam4mllm_tool.cli.result_files import ResultFiles, free_folder
from sam4mllm_tool.errors import Sam4MllmError, quote_text
from sam4mllm_tool.geometry.boxes import format_box

__all__ = ["HELP", "Terminal"]

HELP = """\
segment the red ring     also: cut out, find, mask, select, show me ..., where is ...
no, the other one        goes on from the result: also the left one, without the handle, bigger
click 120 80             the object is there; with "off" behind it, it is not; in pixels from the top left
/image PATH              another picture; what comes next is about it
/images                  the pictures so far, the current one last
/undo                    back to before the last request
/save [DIR]              keeps the result: overlay.png, mask.png, result.json
/help, /quit             Ctrl-C stops a request, Ctrl-D leaves
"""
_MAX_LINE = 100_000
_MOST_LINES = 6
"""Of one step."""


class Terminal:
    """Runs a conversation until it ends.

    runner: whose loop the conversation belongs to. files: where the newest result is shown.
    """

    def __init__(self, conversation: Conversation, runner: asyncio.Runner, files: ResultFiles) -> None:
        self._conversation, self._runner, self._files = conversation, runner, files
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")  # bytes that are no text are no reason to stop reading
        self._interactive = sys.stdin.isatty()
        plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._dim, self._end = ("", "") if plain else ("\x1b[2m", "\x1b[0m")

    def run(self) -> None:
        """Reads and answers, line by line; what goes wrong is a line, and the conversation goes on."""
        for line in self._lines():
            try:
                if line in ("/quit", "/exit", "/q"):
                    return
                if line.startswith("/"):
                    self._command(line)
                else:
                    self._request(line)
            except (Sam4MllmError, OSError) as error:
                self.print(" ".join(str(error).split()))
            except KeyboardInterrupt:
                self._runner.run(self._conversation.recover())
                self.print("stopped; what came before stands")

    def begin(self, image: str | None) -> None:
        """Takes up the conversation where it was left, and opens the picture if one was given."""
        broken = self._runner.run(self._conversation.recover())
        turns = self._runner.run(self._conversation.turns())
        if turns:
            self.print(f"going on after {turns} request{'s' if turns > 1 else ''}{', one that was cut off left out' * broken}")
        if image is not None:
            self.open(image)
        elif pictures := self._runner.run(self._conversation.pictures()):
            self.print(_described(pictures[-1]))
        else:
            self.print("no picture yet; /image PATH opens one")
        if self._interactive:
            self.print('say "segment ..." or "where is ...", then "no, the other one"; /help lists the commands', dim=True)

    def print(self, text: str, *, dim: bool = False) -> None:
        """Prints lines without what would steer a terminal."""
        safe = "\n".join("".join(c if c.isprintable() else " " for c in line).rstrip() for line in text.splitlines())
        print(f"{self._dim}{safe}{self._end}" if dim else safe, flush=True)

    def _lines(self) -> Iterator[str]:
        """Without the blanks around them, none empty."""
        if self._interactive:
            with suppress(ImportError):
                import readline  # noqa: F401  # input() then has a history
        while True:
            try:
                line = input("> ") if self._interactive else sys.stdin.readline(_MAX_LINE)
            except KeyboardInterrupt:  # at the prompt it clears the line
                print()
                continue
            except EOFError:
                print()
                return
            if not line and not self._interactive:
                return
            if line.strip():
                yield line.strip()

    # Requests -----------------------------------------------------------------------------------------------------------

    def _request(self, text: str) -> None:
        self._runner.run(self._turn(text))

    async def _turn(self, text: str) -> None:
        result: Mapping[str, Any] | None = None
        async for event in self._conversation.say(text):
            if event.kind == "result":
                result = event.told
            else:
                self._show(event)
        if result is not None:
            self._write(result)

    def _write(self, result: Mapping[str, Any]) -> None:
        overlay = self._files.show(self._conversation.picture_of(result), result)[0]
        if result["objects"]:
            self.print(f"see {overlay}", dim=True)

    def _show(self, event: Event) -> None:
        if event.kind == "text":
            self.print(event.told)
            return
        for line in step_lines(event.told):
            self.print(f"  {line}", dim=True)

    # Commands -----------------------------------------------------------------------------------------------------------

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        match name, rest.strip():
            case "/help", "":
                self.print(HELP)
            case "/undo", "":
                self._undo()
            case "/images", "":
                self._list_pictures()
            case "/image", path if path:
                self.open(_unquoted(path))
            case "/image", _:
                self.print("/image takes the path of a picture, as in /image cat.jpg")
            case "/save", folder:
                self._save(_unquoted(folder))
            case (("/help" | "/undo" | "/images" | "/quit"), _):
                self.print(f"{name} takes nothing after it")
            case _:
                self.print(f"no such command: {quote_text(name)}; /help lists them")

    def open(self, source: str) -> None:
        """Makes a picture the one that is spoken about."""
        picture = self._runner.run(self._conversation.open(source))
        self.print(_described(picture))

    def _list_pictures(self) -> None:
        pictures = self._runner.run(self._conversation.pictures())
        for picture in pictures:
            self.print(f"{'*' if picture is pictures[-1] else ' '} {picture.id}  {_described(picture)}")
        if not pictures:
            self.print("no picture yet; /image PATH opens one")

    def _undo(self) -> None:
        words = self._runner.run(self._conversation.undo())
        if words is None:
            self.print("there is nothing to undo")
            return
        self.print(f"took back {quote_text(words)}")
        result = self._runner.run(self._conversation.result())
        if result is None:
            self._files.clear()
        else:
            self._write(result)

    def _save(self, folder: str) -> None:
        result = self._runner.run(self._conversation.result())
        if result is None:
            self.print("there is no result to save yet")
            return
        place = Path(folder).expanduser() if folder else free_folder(self._files.folder)
        for path in ResultFiles(place).show(self._conversation.picture_of(result), result):
            self.print(f"wrote {path}")


def _unquoted(text: str) -> str:
    """A path as a shell would read it, where it is in quotation marks; else as it stands, blanks and all."""
    if text[:1] in ("'", '"') and text[-1:] == text[:1]:
        with suppress(ValueError):
            return " ".join(shlex.split(text))
    return text


def _described(picture: Picture) -> str:
    gone = "" if picture.kept else ", no longer kept: open it again"
    return f"{picture.name}, {picture.width} x {picture.height} pixels{gone}"


def step_lines(told: Any) -> list[str]:
    """A tool's progress (`tools.progress`) in a few words; nothing for what is not known here."""
    match told:
        case {"event": "boxes", "boxes": list(boxes)}:
            return _few([f"box {format_box(box)}" for box in boxes]) or ["no box"]
        case {"event": "points", "points": list(points)} if points:
            on = sum(point["label"] for point in points)
            return [f"points {on} on it, {len(points) - on} off it"]
        case {"event": "mask", "objects": list(objects)}:
            return _few([f"mask of {thing['pixels']:,} pixels, score {thing['score']:.2f}" for thing in objects])
    return []


def _few(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], f"and {len(lines) - _MOST_LINES + 1} more"]
