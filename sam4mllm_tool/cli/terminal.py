"""The terminal of a conversation: reads lines, runs slash commands, prints what happens.

In an interactive terminal it has a prompt, a line history and dim text; through a pipe it prints plain text alone. All
output passes through `Terminal.print`, which removes control characters: it comes from files, models and users.
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

from sam4mllm_tool.cli.conversation import ChatEvent, ChatImage, ChatThread
from sam4mllm_tool.cli.result_files import ResultFiles, choose_free_folder
from sam4mllm_tool.errors import Sam4MllmError, quote_text
from sam4mllm_tool.geometry.boxes import format_box

__all__ = ["HELP", "Terminal"]

HELP = """\
segment the red ring     also: cut out, find, mask, select, show me ..., where is ...
no, the other one        refines the result; also: the left one, without the handle, bigger
click 120 80             the object is at this point; click 120 80 off: it is not; in pixels from the top left
/image PATH              opens another image; requests are about the image opened last
/images                  lists the images, the current one last
/undo                    takes back the last request
/save [DIR]              writes the result to a folder: overlay.png, mask.png, result.json
/help, /quit             Ctrl-C stops a request, Ctrl-D leaves
"""
_NO_IMAGE = "no image yet; /image PATH opens one"
_MAX_LINE = 100_000
"""Characters of a line of input."""
_MAX_STEP_LINES = 6
"""Lines printed for one step."""


class Terminal:
    """Runs a conversation until it ends.

    Args:
        conversation: The conversation to run.
        runner: Owner of the event loop that the conversation belongs to.
        files: Where the newest result is written.
    """

    def __init__(self, conversation: ChatThread, runner: asyncio.Runner, files: ResultFiles) -> None:
        self._conversation, self._runner, self._files = conversation, runner, files
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")  # bytes that are not text must not end the conversation
        self._interactive = sys.stdin.isatty()
        plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._dim, self._end = ("", "") if plain else ("\x1b[2m", "\x1b[0m")

    def run(self) -> None:
        """Read and answer line by line. An error is printed as a line, and the conversation continues."""
        for line in self._lines():
            try:
                if line in ("/quit", "/exit", "/q"):
                    return
                if line.startswith("/"):
                    self._run_command(line)
                else:
                    self._runner.run(self._send(line))
            except (Sam4MllmError, OSError) as error:
                self.print(" ".join(str(error).split()))
            except KeyboardInterrupt:
                self._runner.run(self._conversation.recover())
                self.print("stopped; earlier requests stand")

    def begin(self, image: str | None) -> None:
        """Resume the conversation where it was left, and open the image if one was given."""
        recovered = self._runner.run(self._conversation.recover())
        count = self._runner.run(self._conversation.count_requests())
        if count:
            left_out = ", leaving out one that was interrupted" if recovered else ""
            self.print(f"continuing after {count} request{'s' if count > 1 else ''}{left_out}")
        if image is not None:
            self.open(image)
        elif images := self._runner.run(self._conversation.images()):
            self.print(_describe_image(images[-1]))
        else:
            self.print(_NO_IMAGE)
        if self._interactive:
            self.print('try "segment ..." or "where is ...", then "no, the other one"; /help lists the commands', dim=True)

    def print(self, text: str, *, dim: bool = False) -> None:
        """Print lines without control characters."""
        safe = "\n".join("".join(c if c.isprintable() else " " for c in line).rstrip() for line in text.splitlines())
        print(f"{self._dim}{safe}{self._end}" if dim else safe, flush=True)

    def _lines(self) -> Iterator[str]:
        """Yield the lines of input, stripped, without empty ones."""
        if self._interactive:
            with suppress(ImportError):
                import readline  # noqa: F401  # gives input() a history
        while True:
            try:
                line = input("> ") if self._interactive else sys.stdin.readline(_MAX_LINE)
            except KeyboardInterrupt:  # clears the line
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

    async def _send(self, text: str) -> None:
        result: Mapping[str, Any] | None = None
        async for event in self._conversation.send(text):
            if event.kind == "result":
                result = event.content
            else:
                self._print_event(event)
        if result is not None:
            self._write(result)

    def _print_event(self, event: ChatEvent) -> None:
        if event.kind == "text":
            self.print(event.content)
            return
        for line in describe_step(event.content):
            self.print(f"  {line}", dim=True)

    def _write(self, result: Mapping[str, Any]) -> None:
        overlay = self._files.write(self._conversation.image_of(result), result)[0]
        if result["objects"]:
            self.print(f"see {overlay}", dim=True)

    # Commands -----------------------------------------------------------------------------------------------------------

    def _run_command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        match name, rest.strip():
            case "/help", "":
                self.print(HELP)
            case "/undo", "":
                self._undo()
            case "/images", "":
                self._list_images()
            case "/image", path if path:
                self.open(_unquote(path))
            case "/image", _:
                self.print("/image takes the path of an image, as in /image cat.jpg")
            case "/save", folder:
                self._save(_unquote(folder))
            case (("/help" | "/undo" | "/images" | "/quit"), _):
                self.print(f"{name} takes no argument")
            case _:
                self.print(f"no such command: {quote_text(name)}; /help lists them")

    def open(self, source: str) -> None:
        """Open an image: a path, a data URI or the id of an earlier one."""
        image = self._runner.run(self._conversation.open(source))
        self.print(_describe_image(image))

    def _list_images(self) -> None:
        images = self._runner.run(self._conversation.images())
        for image in images:
            self.print(f"{'*' if image is images[-1] else ' '} {image.id}  {_describe_image(image)}")
        if not images:
            self.print(_NO_IMAGE)

    def _undo(self) -> None:
        request = self._runner.run(self._conversation.undo())
        if request is None:
            self.print("there is nothing to undo")
            return
        self.print(f"took back {quote_text(request)}")
        result = self._runner.run(self._conversation.last_result())
        if result is None:
            self._files.clear()
        else:
            self._write(result)

    def _save(self, folder: str) -> None:
        result = self._runner.run(self._conversation.last_result())
        if result is None:
            self.print("there is no result to save yet")
            return
        target = Path(folder).expanduser() if folder else choose_free_folder(self._files.folder)
        for path in ResultFiles(target).write(self._conversation.image_of(result), result):
            self.print(f"wrote {path}")


def _unquote(text: str) -> str:
    """Read a path in quotation marks as a shell does; without them, keep it as it is, blanks included."""
    if text[:1] in ("'", '"') and text[-1:] == text[:1]:
        with suppress(ValueError):
            return " ".join(shlex.split(text))
    return text


def _describe_image(image: ChatImage) -> str:
    lost = "" if image.kept else ", no longer kept: open it again"
    return f"{image.name}, {image.width} x {image.height} pixels{lost}"


def describe_step(progress: Any) -> list[str]:
    """Describe a tool's progress in a few lines; return none for a kind of event that is not known here."""
    match progress:
        case {"event": "boxes", "boxes": list(boxes)}:
            return _shorten([f"box {format_box(box)}" for box in boxes]) or ["no box"]
        case {"event": "points", "points": list(points)} if points:
            on = sum(point["label"] for point in points)
            return [f"points {on} on it, {len(points) - on} off it"]
        case {"event": "mask", "objects": list(objects)}:
            return _shorten([f"mask of {item['pixels']:,} pixels, score {item['score']:.2f}" for item in objects])
    return []


def _shorten(lines: list[str]) -> list[str]:
    rest = len(lines) - _MAX_STEP_LINES + 1
    return lines if rest <= 1 else [*lines[: _MAX_STEP_LINES - 1], f"and {rest} more"]
