"""The terminal of a conversation: reads lines, runs slash commands, prints what happens.

In an interactive terminal it has a prompt, a line history and dim text; through a pipe it prints plain text alone. All
output passes through `Terminal.print`, which removes control characters: it comes from files, models and users.
"""

import asyncio
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sam4mllm_tool.agents.plain_requests import is_cutout_of_result
from sam4mllm_tool.cli.chat_commands import HELP, read_command, suggest_command, unquote_path
from sam4mllm_tool.cli.conversation import ChatEvent, ChatImage, ChatThread
from sam4mllm_tool.cli.result_files import ResultFiles
from sam4mllm_tool.errors import Sam4MllmError, count_noun, quote_text
from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.images.output_formats import OUTPUT_FORMATS

__all__ = ["Terminal", "describe_step"]

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
        self._shown_warnings: set[tuple[str, str]] = set()  # by image id
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")  # bytes that are not text must not end the conversation
        self._interactive = sys.stdin.isatty()
        plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._dim, self._end = ("", "") if plain else ("\x1b[2m", "\x1b[0m")

    def run(self) -> None:
        """Read and answer line by line. An error is printed as a line, and the conversation continues."""
        for line in map(read_command, self._lines()):
            try:
                if line in ("/quit", "/exit", "/q"):
                    return
                if line.startswith("/"):
                    self._run_command(line)
                elif is_cutout_of_result(line):
                    self._cut_out()
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
            self.print(f"continuing after {count_noun(count, 'request')}{left_out}")
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
                self._print_event(event, str(result["picture"]) if result else "")
        if result is None:
            return
        if result["objects"] or result.get("understood"):
            await self._write(str(result["picture"]), result)
        elif last := await self._conversation.last_result(str(result["picture"])):
            self.print(f"the result stays: {quote_text(last['expression'])}", dim=True)

    def _print_event(self, event: ChatEvent, image_id: str) -> None:
        if event.kind == "text":
            self.print(self._without_shown_warnings(event.content, image_id))
            return
        for line in describe_step(event.content):
            self.print(f"  {line}", dim=True)

    def _without_shown_warnings(self, text: str, image_id: str) -> str:
        """Leave out the warnings of a result that were printed before: they are about the image."""
        lines = []
        for line in text.splitlines():
            warning = (image_id, line.strip())
            if line.startswith("  warning: ") and warning in self._shown_warnings:
                continue
            if line.startswith("  warning: "):
                self._shown_warnings.add(warning)
            lines.append(line)
        return "\n".join(lines)

    async def _write(self, image_id: str, result: Mapping[str, Any]) -> None:
        """Write the files of an image's result, and say which are new."""
        cutout = await self._conversation.is_cutout(image_id)
        folder = await self._folder_of(image_id)
        for line in self._files.write(folder, self._conversation.image_of(result), result, cutout=cutout):
            self.print(line, dim=True)

    async def _folder_of(self, image_id: str) -> Path:
        names = {image.id: image.file_name for image in await self._conversation.images()}
        return self._files.assign_folder(image_id, names.get(image_id, ""))

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
                self.open(unquote_path(path))
            case "/image", _:
                self.print("/image takes the path of an image, as in /image cat.jpg")
            case "/save", folder:
                self._save(unquote_path(folder))
            case "/export", formats:
                self._export(formats.replace(",", " ").split())
            case (("/help" | "/undo" | "/images" | "/quit"), _):
                self.print(f"{name} takes no argument")
            case _:
                self.print(suggest_command(name))

    def open(self, source: str) -> None:
        """Open an image: a path, a data URI or the id of an earlier one."""
        image = self._runner.run(self._conversation.open(source))
        self._files.assign_folder(image.id, image.file_name, source)
        self.print(_describe_image(image))

    def _list_images(self) -> None:
        images = self._runner.run(self._conversation.images())
        for image in images:
            self.print(f"{'*' if image is images[-1] else ' '} {image.id}  {_describe_image(image)}")
        if not images:
            self.print(_NO_IMAGE)

    def _undo(self) -> None:
        change = self._runner.run(self._conversation.undo())
        if change is None:
            self.print("there is nothing to undo")
            return
        self.print(f"closed {change.image_name}" if change.image_name else f"took back {quote_text(change.text)}")
        for image_id in change.image_ids:
            self._runner.run(self._restore_files(image_id))
        if images := self._runner.run(self._conversation.images()) if change.image_name else []:
            self.print(f"requests are about {_describe_image(images[-1])} again")

    async def _restore_files(self, image_id: str) -> None:
        """Make the files of an image show its newest result, or remove them where it has none any more."""
        folder, result = await self._folder_of(image_id), await self._conversation.last_result(image_id)
        if result is None:
            removed = ", ".join(path.name for path in self._files.clear(folder))
            if removed:
                self.print(f"removed from {folder}: {removed}", dim=True)
            return
        cutout = await self._conversation.is_cutout(image_id)
        if not cutout:
            self._files.clear(folder, "cutout.png")
        self._files.write(folder, self._conversation.image_of(result), result, cutout=cutout)
        self.print(f"{folder / 'overlay.png'} shows {quote_text(result['expression'])} again", dim=True)

    def _save(self, name: str) -> None:
        if Path(name).suffix.lower() in (".png", ".jpg", ".jpeg", ".json"):
            self.print(f"/save takes the name of a folder, as in /save {Path(name).stem}")
            return
        image_id, result = self._last_result()
        if result is None:
            self.print("there is no result to save yet")
            return
        cutout = self._runner.run(self._conversation.is_cutout(image_id))
        folder = self._runner.run(self._folder_of(image_id))
        target = self._files.save(folder, name, self._conversation.image_of(result), result, cutout=cutout)
        self.print(f"saved to {target}")

    def _export(self, formats: Sequence[str]) -> None:
        """Write the newest result in other formats; list the formats where none is given."""
        if not formats:
            for name, output_format in OUTPUT_FORMATS.items():
                self.print(f"{name:15} {output_format.description}")
            return
        image_id, result = self._last_result()
        if result is None:
            self.print("there is no result to export yet")
            return
        names = {image.id: image.file_name for image in self._runner.run(self._conversation.images())}
        folder = self._runner.run(self._folder_of(image_id))
        image = self._conversation.image_of(result)
        for path in self._files.export(folder, names.get(image_id, ""), image, result, formats):
            self.print(f"wrote {path}")

    def _cut_out(self) -> None:
        """Write the cut-out of the newest result."""
        image_id, result = self._last_result()
        if result is None:
            self.print('there is no result to cut out yet: name an object first, as in "cut out the red mug"')
            return
        folder = self._runner.run(self._folder_of(image_id))
        for line in self._files.write(folder, self._conversation.image_of(result), result, cutout=True)[1:]:
            self.print(line)

    def _last_result(self) -> tuple[str, dict[str, Any] | None]:
        """Return the current image's id and its newest result."""
        images = self._runner.run(self._conversation.images())
        image_id = images[-1].id if images else ""
        return image_id, self._runner.run(self._conversation.last_result(image_id))


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
