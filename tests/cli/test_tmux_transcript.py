"""The long conversation of docs/chat_transcript.md, through a pipe: what each answer comes to."""

import re

import pytest

from tests.cli import tmux_transcript
from tests.cli.chat_transcript import answer_lines, are_similar
from tests.cli.tmux_transcript import SECTIONS, TypedLine, name_objects, write_images

LINES = [line for lines in SECTIONS.values() for line in lines]


def test_there_are_at_least_sixty_requests() -> None:
    assert len(LINES) >= 60


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The answers to all lines, in one conversation."""
    folder = tmp_path_factory.mktemp("transcript")
    write_images(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SAM4MLLM_CHAT_MODEL", raising=False)
        return answer_lines("sam4mllm chat scene.png", [line.text for line in LINES], folder)[1]


def describe_fault(line: TypedLine, answer: str) -> str:
    """Say in what an answer differs from what it must come to; empty where it doesn't."""
    expected = [] if line.objects is None else line.objects.split(", ")
    if line.objects is not None and sorted(name_objects(answer)) != sorted(expected):
        return f"{name_objects(answer)} instead of {expected}"
    return "" if re.search(line.words, answer, re.DOTALL) else f"no {line.words!r}"


@pytest.mark.slow
def test_each_request_of_the_long_conversation_comes_to_what_it_asks_for(answers: list[str]) -> None:
    faults = [
        f"> {line.text}\n{fault} in:\n{answer}"
        for line, answer in zip(LINES, answers, strict=True)
        if (fault := describe_fault(line, answer))
    ]
    assert not faults, "\n\n".join(faults)


@pytest.mark.slow
def test_no_answer_of_the_long_conversation_is_for_developers(answers: list[str]) -> None:
    text = "\n".join(answers)
    for words in ("label 0", "its handle", "own handle", "went on without", "seg-", "Traceback", "Error"):
        assert words not in text, words


@pytest.mark.slow
def test_the_page_shows_the_answers_of_today(answers: list[str]) -> None:
    shown = [answer for _, answer in tmux_transcript.read_page()]
    stale = [
        f"> {line.text}\n{before}\nis today\n{answer}"
        for line, before, answer in zip(LINES, shown, answers, strict=True)
        if not are_similar(before.strip(), answer.strip())
    ]
    assert not stale, "python -m tests.cli.tmux_transcript rewrites the page:\n" + "\n\n".join(stale)


def test_the_page_shows_every_request() -> None:
    shown = [line for line, _ in tmux_transcript.read_page()]
    assert shown == [line.text for line in LINES], "python -m tests.cli.tmux_transcript rewrites the page"
