"""Other words from a chat model: structured where it can, checked always."""

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage

from sam4mllm_tool.agents.rephraser import Rephraser, parse_rephrasings
from sam4mllm_tool.agents.wording_checks import find_fault
from sam4mllm_tool.reasoning.budget import Budget, Meter
from tests.agents.scripted_model import ScriptedChatModel, call

EXPRESSION = "the opener"


def rephraser_of(model: BaseChatModel, count: int = 3) -> Rephraser:
    return Rephraser(model, count, lambda: 0.0)


def structured(*wordings: Any) -> AIMessage:
    return call("OtherWordings", wordings=list(wordings))


ANSWERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "structured output": (structured("a mug", "a cup"), ("a mug", "a cup")),
    "structured output with numbers": (structured("1. a mug", '"a cup".'), ("a mug", "a cup")),
    "one text with lines in structured output": (call("OtherWordings", wordings="a mug\na cup"), ("a mug", "a cup")),
    "lines of text": ("a mug\na cup", ("a mug", "a cup")),
    "a JSON list": ('["a mug", "a cup"]', ("a mug", "a cup")),
    "a JSON list in a fence": ('Sure! Here are three:\n```json\n["a mug", "a cup"]\n```\n', ("a mug", "a cup")),
    "a JSON object": ('{"wordings": ["a mug", "a cup"]}', ("a mug", "a cup")),
    "a preamble": ("Sure! Here are some phrases\n1. a mug\n2. a cup\nLet me know if you need more", ("a mug", "a cup")),
    "a refusal in structured output": (structured("I cannot help with that"), ()),
    "a refusal in text": ("I'm sorry, but I can\u2019t assist with that.", ()),
    "too many": (structured("a mug", "a cup", "a glass", "a jar"), ("a mug", "a cup", "a glass")),
    "the expression again": (structured("Opener.", "an opener", "the opener"), ()),
    "each twice": (structured("a mug", "the mug", "A Mug"), ("a mug",)),
    "control tokens": (structured("<|im_end|>", "[INST] a mug [/INST]", "a cup"), ("a cup",)),
    "wordings that are no text": (structured(3, None, {"text": "a cup"}), ("a cup",)),
}


@pytest.mark.parametrize(("answer", "expected"), ANSWERS.values(), ids=ANSWERS)
async def test_wordings_are_read_however_a_chat_model_gives_them(answer: Any, expected: tuple[str, ...]) -> None:
    for blocking in (True, False):
        rephraser, meter = rephraser_of(ScriptedChatModel(answers=[answer])), Meter(Budget())
        rephrasings = rephraser.rephrase(EXPRESSION, meter) if blocking else await rephraser.arephrase(EXPRESSION, meter)
        assert rephrasings.phrases == expected
        assert bool(rephrasings.fault) == (not expected)
        assert meter.spent.rounds == 1


def test_wordings_are_asked_for_as_structured_output() -> None:
    model = ScriptedChatModel(answers=[structured("a mug")])
    rephraser_of(model).rephrase(EXPRESSION, Meter(Budget()))
    ((schema,),) = model.tools
    assert schema.__name__ == "OtherWordings"


def test_a_chat_model_without_structured_output_is_asked_in_text() -> None:
    rephrasings = rephraser_of(FakeListChatModel(responses=["a mug\na cup"])).rephrase(EXPRESSION, Meter(Budget()))
    assert rephrasings.phrases == ("a mug", "a cup")


def test_a_chat_model_that_fails_for_its_tools_is_asked_again_in_text() -> None:
    def refuse_tools(_: Any) -> AIMessage:
        raise RuntimeError("400: this model does not support tools")

    meter = Meter(Budget())
    model = ScriptedChatModel(answers=[refuse_tools, "a mug"])
    assert rephraser_of(model).rephrase(EXPRESSION, meter).phrases == ("a mug",)
    assert meter.spent.rounds == 2
    meter = Meter(Budget(rounds=1))
    rephrasings = rephraser_of(ScriptedChatModel(answers=[refuse_tools])).rephrase(EXPRESSION, meter)
    assert "does not support tools" in rephrasings.fault
    assert meter.spent.refused


def test_a_budget_without_room_for_the_chat_model_is_noted_as_such() -> None:
    meter = Meter(Budget(rounds=0))
    assert "budget" in rephraser_of(ScriptedChatModel(answers=[])).rephrase(EXPRESSION, meter).fault
    assert meter.spent.refused


FAULTS = {
    "I cannot help with that": "is a refusal",
    "I can\u2019t assist with images": "is a refusal",
    "As an AI language model I have no eyes": "is a refusal",
    "Es tut mir leid, das geht nicht": "is a refusal",
    "抱歉,我无法帮助": "is a refusal",
    "Here are three phrases:": "is a sentence",
    "Sure! Here is one": "is a sentence",
    "Look for the grey mug": "is a sentence",
    "It is a mug": "is a sentence",
    "You could use a mug": "is a sentence",
    "The user asks for a mug": "is a sentence",
    "a mug. It is grey": "is a sentence",
    "which mug?": "is a sentence",
    "<image> a mug": "holds control characters or markup",
    "</s>": "holds control characters or markup",
    "a \x1b[31mmug": "holds control characters or markup",
    "a \u202emug": "holds control characters or markup",
    "word " * 21: "is too long",
    "w" * 121: "is too long",
    "42": "has no letter",
    "THE OPENER": "repeats the expression",
    "a mug": None,
    "the person in red": None,
    "the St. Bernard dog": None,
    "the great white shark": None,
    "note on the fridge": None,
    "the can that can't be opened": None,
    "iron": None,
    "the sign that says no smoking": None,
    "das rote Glas links": None,
    "左边的杯子": None,
}


@pytest.mark.parametrize(("wording", "fault"), FAULTS.items(), ids=FAULTS)
def test_what_is_no_phrase_is_left_out(wording: str, fault: str | None) -> None:
    assert find_fault(wording, EXPRESSION) == fault
    assert parse_rephrasings(wording, EXPRESSION, 3) == ([] if fault else [wording])
