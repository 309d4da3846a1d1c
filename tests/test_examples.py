"""The examples and the Python code of README and docs run as they stand."""

import re
import runpy
from pathlib import Path

import pytest

from tests.agents.scripted_model import ScriptedChatModel, call

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
READ_FIRST = ("README", "quickstart")
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}", marks=() if page.stem in READ_FIRST else pytest.mark.slow)
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL), 1)
]
"""Blocks marked `py` instead of `python` need what can't be had here: the weights of real models, a server that runs."""
WITH_WEIGHTS = re.compile(
    r'\b(?:(?:Sam4Mllm|TransformersMLLM)\.load|load_segmenter|load_mllm|init_chat_model)\("|\bClient\("http'
)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    assert "box" in capsys.readouterr().out


def test_readme_shows_python_and_langchain() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "Sam4Mllm.load()" in readme
    assert "SegmentTool(" in readme
    assert len(readme.splitlines()) <= 120


def create_chat_model() -> ScriptedChatModel:
    """Return the `model` of documented code that begins with "your chat model": it calls one tool, and then answers."""
    return ScriptedChatModel(answers=[call("segment_image", expression="all rings"), "There are two rings."])


@pytest.mark.parametrize("block", BLOCKS)
def test_documented_code_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "a documented block", "exec"), {"model": create_chat_model()})


def test_documented_code_is_left_unrun_only_where_it_needs_weights_or_a_server() -> None:
    for page in PAGES:
        for block in re.findall(r"```py\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            assert WITH_WEIGHTS.search(block), f"{page.name}: mark the block as python, so that it runs:\n{block}"
