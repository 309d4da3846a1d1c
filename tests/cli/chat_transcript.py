"""The conversation that docs/chat.md shows, held through a pipe: `python -m tests.cli.chat_transcript` writes it anew."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "chat.md"
_BLOCK = re.compile(r"(?<=```text\n\$ )(?P<command>sam4mllm chat[^\n]*)\n(?P<talk>.*?)(?=```)", re.DOTALL)

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_MARK = "/mark"
"""Sent before each line; the answer to it, which is no command, tells where the answer to the line begins."""


def shown() -> list[tuple[str, str]]:
    """The command and the conversation of each transcript on the page."""
    return [(block["command"], block["talk"]) for block in _BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]


def hold(command: str, talk: str, folder: Path) -> str:
    """The conversation as it goes today, with the lines that the talk has after "> "."""
    (folder / "scene.png").write_bytes((ROOT / "examples" / "scene.png").read_bytes())
    arguments = [sys.executable, "-m", "sam4mllm_tool", *command.split()[1:]]
    lines = [line.removeprefix("> ") for line in talk.splitlines() if line.startswith("> ")]
    given = "".join(f"{_MARK}\n{line}\n" for line in lines)
    process = subprocess.run(arguments, cwd=folder, input=given, capture_output=True, text=True, check=True, timeout=300)
    before, *answers = process.stdout.split(f"no such command: '{_MARK}'; /help lists them\n")
    return before + "".join(f"> {line}\n{answer}" for line, answer in zip(lines, answers, strict=True))


def alike(one: str, other: str) -> bool:
    """Whether two conversations say the same, numbers apart by at most 5 % or 4: other machines round otherwise."""
    ones, others = (list(map(float, _NUMBER.findall(text.replace(",", "")))) for text in (one, other))
    near = all(abs(a - b) <= max(4, 0.05 * max(a, b)) for a, b in zip(ones, others, strict=False))
    return near and _NUMBER.sub("#", one.replace(",", "")) == _NUMBER.sub("#", other.replace(",", ""))


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for command, talk in shown():
        with tempfile.TemporaryDirectory() as folder:
            page = page.replace(talk, hold(command, talk, Path(folder)))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
