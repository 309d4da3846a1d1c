"""The words that messages share."""

import ast
from pathlib import Path

import pytest

import sam4mllm_tool
from sam4mllm_tool.errors import count_noun
from sam4mllm_tool.text import first_line, remove_errno, suggest_name


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ("object",), "0 objects"),
        (1, ("object",), "1 object"),
        (2, ("object",), "2 objects"),
        (1_200, ("image",), "1,200 images"),
        (1, ("reply", "replies"), "1 reply"),
        (0, ("reply", "replies"), "0 replies"),
    ],
)
def test_a_count_has_the_right_plural(count: int, words: tuple[str, ...], text: str) -> None:
    assert count_noun(count, *words) == text


@pytest.mark.parametrize(
    ("word", "suggested"),
    [
        pytest.param("PQPP", "pqpp", id="other case"),
        pytest.param("adaptiv", "adaptive", id="a letter missing"),
        pytest.param("adap", "adaptive", id="abbreviated"),
        pytest.param("p", None, id="begins two"),
        pytest.param("zebra", None, id="like none"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_a_misspelt_name_is_suggested(word: str, suggested: str | None) -> None:
    expected = f"; did you mean {suggested!r}?" if suggested else ""
    assert suggest_name(word, ("pqpp", "ppg", "box", "adaptive")) == expected


def test_errors_become_one_line_without_a_number() -> None:
    assert remove_errno(str(FileExistsError(17, "File exists", "out"))) == "File exists: 'out'"
    assert first_line(OSError(-2, "Name not known\nmore")) == "Name not known"
    assert first_line(ValueError()) == "ValueError"


@pytest.mark.slow
def test_progress_bars_appear_on_terminals_only() -> None:
    """tqdm with disable=None shows nothing where stderr is no terminal."""
    bars = [
        (path.name, node)
        for path in Path(sam4mllm_tool.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tqdm"
    ]
    assert len(bars) > 5
    for name, bar in bars:
        disable = [keyword.value for keyword in bar.keywords if keyword.arg == "disable"]
        assert [ast.unparse(value) for value in disable] == ["None"], name
