"""The scripted MLLM, which replaces a model in tests."""

import PIL.Image
import pytest

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.types import MLLM, FreeText, Question, Reply, Turn

IMAGE = PIL.Image.new("RGB", (4, 4))


def question(text: str) -> Question:
    return Question((Turn("user", text),), FreeText(8))


def test_replies_come_in_order_and_questions_are_recorded() -> None:
    mllm: MLLM = ScriptedMLLM(["one", Reply("two", ((0.5, 0.5),)), "three"])
    assert mllm.reply(IMAGE, [question("a"), question("b")]) == [Reply("one"), Reply("two", ((0.5, 0.5),))]
    assert mllm.reply(IMAGE, [question("c")]) == [Reply("three")]
    assert [recorded.turns[0].text for recorded in mllm.questions] == ["a", "b", "c"]  # type: ignore[attr-defined]


async def test_async_calls_use_the_same_script() -> None:
    mllm = ScriptedMLLM(["one", "two"], name="double")
    assert await mllm.areply(IMAGE, [question("a")]) == [Reply("one")]
    assert (mllm.replies_left, mllm.name) == (1, "double")


def test_a_function_answers_each_question() -> None:
    mllm = ScriptedMLLM(lambda received: received.turns[-1].text.upper())
    assert mllm.reply(IMAGE, [question("a"), question("b")]) == [Reply("A"), Reply("B")]


def test_a_script_that_runs_out_names_the_question() -> None:
    mllm = ScriptedMLLM(["one"])
    with pytest.raises(BackendError, match="no reply left for question 2: 'where is it'"):
        mllm.reply(IMAGE, [question("a"), question("where is it")])


def test_a_single_string_is_not_a_script() -> None:
    with pytest.raises(ValueError, match="must be a sequence"):
        ScriptedMLLM("yes")
