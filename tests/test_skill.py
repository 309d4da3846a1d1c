"""The skill's commands are accepted by the command line as they stand; the first one runs."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from typer.main import get_command

from sam4mllm_tool.cli.main import app
from tests.conftest import Run

ROOT = Path(__file__).parent.parent
SKILL = (ROOT / "skills" / "sam4mllm" / "SKILL.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line) for block in re.findall(r"```bash\n(.*?)```", SKILL, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_command_line_takes_every_command_of_the_skill(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert words[0] == "sam4mllm"
    group = get_command(app)
    command = group.commands[words[1]]  # type: ignore[attr-defined]
    with typer.Context(group) as parent:
        command.make_context(words[1], words[2:], parent=parent)  # raises for an unknown option or value


def test_the_first_segmentation_of_the_skill_writes_what_it_says(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    words = next(words for words in COMMANDS if words[1] == "segment")
    code, out, _ = run(*words[1:])
    assert code == 0
    assert "1 object" in out
    for name in re.findall(r"`out/([\w.]+)`", SKILL):
        assert (tmp_path / "out" / name).is_file(), name


def test_the_skill_says_when_it_is_to_be_used() -> None:
    head = yaml.safe_load(SKILL.split("---")[1])
    assert head["name"] == "sam4mllm"
    assert "Use it to" in head["description"]
    assert len(head["description"]) <= 1024
