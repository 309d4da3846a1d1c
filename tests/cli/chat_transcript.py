"""The conversation that docs/chat.md shows, replayed through a pipe. `python -m tests.cli.chat_transcript` rewrites it."""

import contextlib
import io
import re
import sys
import tempfile
from pathlib import Path

from sam4mllm_tool.cli.main import main

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "chat.md"
_BLOCK = re.compile(r"(?<=```text\n\$ )(?P<command>sam4mllm chat[^\n]*)\n(?P<transcript>.*?)(?=```)", re.DOTALL)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_MARK = "/mark"
"""Sent before each line. It is not a command, and the refusal shows where the answer to the line begins."""


def documented_transcripts() -> list[tuple[str, str]]:
    """Return the command and the text of each transcript on the page."""
    return [(block["command"], block["transcript"]) for block in _BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]


def replay(command: str, transcript: str, folder: Path) -> str:
    """Run the command in `folder` with the lines that follow "> " in the transcript; return the transcript of today."""
    (folder / "scene.png").write_bytes((ROOT / "examples" / "scene.png").read_bytes())
    lines = [line.removeprefix("> ") for line in transcript.splitlines() if line.startswith("> ")]
    before, answers = answer_lines(command, lines, folder)
    return before + "".join(f"> {line}\n{answer}" for line, answer in zip(lines, answers, strict=True))


def answer_lines(command: str, lines: list[str], folder: Path) -> tuple[str, list[str]]:
    """Run the command in `folder` with lines through a pipe; return what it prints before the first and after each of them."""
    output, stdin = io.StringIO(), sys.stdin
    with contextlib.chdir(folder), contextlib.redirect_stdout(output):
        sys.stdin = io.StringIO("".join(f"{_MARK}\n{line}\n" for line in lines))
        try:
            assert main(command.split()[1:]) == 0
        finally:
            sys.stdin = stdin
    before, *answers = output.getvalue().split(f"no such command: '{_MARK}'; /help lists them\n")
    return before, answers


def are_similar(first: str, second: str) -> bool:
    """Whether the texts are equal, with numbers that differ by at most 5 % or 4: other machines round otherwise."""
    pairs = zip(*(map(float, _NUMBER.findall(text.replace(",", ""))) for text in (first, second)), strict=False)
    near = all(abs(a - b) <= max(4, 0.05 * max(a, b)) for a, b in pairs)
    return near and _NUMBER.sub("#", first.replace(",", "")) == _NUMBER.sub("#", second.replace(",", ""))


def rewrite_page() -> None:
    """Replace each transcript on the page by that of today."""
    page = PAGE.read_text(encoding="utf-8")
    for command, transcript in documented_transcripts():
        with tempfile.TemporaryDirectory() as folder:
            page = page.replace(transcript, replay(command, transcript, Path(folder)))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    rewrite_page()
