"""What is understood without a chat model: German, near misses, questions, hints that fit, and what a request without object
leaves. Tables, one row per shape of message; then the graph with the embedded pair on examples/scene.png."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from PIL import Image

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.agents.chat import NoChatModel, build_chat_graph
from sam4mllm_tool.agents.german_requests import translate_german
from sam4mllm_tool.agents.hints import CAPABILITIES, choose_hint
from sam4mllm_tool.agents.image_questions import ImageQuestion, parse_question
from sam4mllm_tool.agents.intent_parser import parse_request
from sam4mllm_tool.agents.plain_requests import is_cutout_of_result, read_message, wants_cutout
from sam4mllm_tool.tools import Sam4MllmToolkit
from sam4mllm_tool.tools.image_store import IMAGE_DETAILS_KEY, IMAGE_IDS_KEY, ImageStore
from sam4mllm_tool.types import Box
from tests.example_scene import (
    ABSENT_NAME,
    ALL,
    ANY_MEMBER,
    EXAMPLE_IMAGE,
    EXPRESSION,
    GERMAN_NAMES,
    GROUP,
    MEMBER,
    MISSPELT,
    NOUN,
    OBJECTS,
    OTHER,
    PLURAL,
)
from tests.tool_suites import load_embedded_models

ROOT = Path(__file__).parents[2]

GERMAN = {
    "markiere den roten Ring": "segment the red ring",
    "Markiere bitte den roten Ring!": "segment the red ring",
    "zeige mir alle Sterne": "segment all stars",
    "zeig mir das blaue Quadrat": "segment the blue square",
    "kannst du den Stern finden?": "segment the star",
    "könntest du mir bitte das Herz zeigen?": "segment the heart",
    "wähle das gelbe Dreieck aus": "segment the yellow triangle",
    "finde die Giraffe": "segment die Giraffe",  # a model that knows German reads it
    "wo ist der Stern?": "where is the star",
    "schneide den Ring aus": "cut out the ring",
    "Schneide bitte alle Ringe aus.": "cut out all rings",
    "schneide ihn aus": "cut it out",
    "wie viele Ringe gibt es?": "how many rings",
    "wie viele sind es?": "how many",
    "wie groß ist er?": "how big is it",
    "wie groß ist der Stern?": "how big is the star",
    "was ist das?": "what is this",
    "gibt es ein Kreuz?": "is there a cross",
    "nein, der andere": "no, the other one",
    "nein, den blauen": "no, the blue one",
    "auch den orangen Kreis": "also the orange circle",
    "ohne den grünen": "without the green one",
    "nur den dritten": "only the third",
    "zeige nur den zweiten": "only the second",
    "entferne den zweiten": "remove the second",
    "lass den roten weg": "remove the red one",
    "größer": "bigger",
    "der rote Ring": "the red ring",
    "alles Blaue": "everything blue",
    "markiere das Messer hinter der braunen Katze": "segment the knife behind the brown cat",
    "alle Messer": "all knives",
    "die Becher": "the mugs",
    "den Becher": "the mug",
    "wie viele Löffel siehst du?": "how many spoons",
    "der Henkel der gestreiften Tasse": "the handle of the striped mug",
    "die Räder des Busses": "the wheels of the bus",
    "das Fenster des Hauses": "the window of the house",
    "die Brille auf dem Tisch": "the pair of glasses on the table",
    "der zweite Ring von links": "the second ring from the left",
    "den Ring ganz links": "the ring furthest to the left",
    "segmentiere den Ring unter dem orangen Kreis": "segment the ring below the orange circle",
    "alle Ringe außer dem grünen": "all rings except the green one",
    "klick auf 120 80": "click 120 80",
    "klicke 120, 80 daneben": "click 120, 80 off",
    "auch wenn es regnet": None,
    "segment the red ring": None,
    "no, the other one": None,
    "the one before": None,
    "find the die in the cup": None,
}


@pytest.mark.parametrize(("message", "english"), GERMAN.items(), ids=GERMAN)
def test_plain_german_is_translated(message: str, english: str | None) -> None:
    assert translate_german(message) == english


CORRECTED = {
    "segmnet the red ring": "segment the red ring",
    "fnid the star": "find the star",
    "mrak the star": "mark the star",
    "remvoe the star": "remove the star",
    "segment the rde rign": "segment the red ring",
    "find the bleu sqaure": "find the blue square",
    "find the yelow triangel": "find the yellow triangle",
    "the purpel croos": "the purple cross",
    "all satrs": "all stars",
    "the pink umbrela": "the pink umbrella",
    "the mushrom on the table": "the mushroom on the table",
    "all sissors": "all scissors",
    "the lagre crecsent": "the large crescent",
    # words that are English themselves stay
    "the ballroom": "the ballroom",
    "find the king": "find the king",
    "find the wing on the string": "find the wing on the string",
    "show me the stairs": "show me the stairs",
    "find the hat": "find the hat",
    "segment the mug behind the laptop": "segment the mug behind the laptop",
    "fine, thanks": "fine, thanks",
    "thanks": "thanks",
    "thinks": "thinks",
}


@pytest.mark.parametrize(("message", "corrected"), CORRECTED.items(), ids=CORRECTED)
def test_near_misses_of_verbs_colours_and_shapes_are_corrected_and_said(message: str, corrected: str) -> None:
    read = read_message(message)
    assert read.text == corrected
    assert ("Did you mean" in read.note) == (message != corrected)
    assert read_message(message, literally=True).text == message


REWORDED = {
    "everything blue": "all blue objects",
    "segment everything that is blue": "segment all blue objects",
    "alles Blaue": "all blue objects",
    "select all blue ones": "select all blue objects",
    "delete the second": "remove the second",
    "get rid of the star": "remove the star",
    "give me the star": "segment the star",
    "give me teh star": "segment the star",
    "give me a hand": "give me a hand",
}


@pytest.mark.parametrize(("message", "text"), REWORDED.items(), ids=REWORDED)
def test_other_words_for_the_same_are_understood(message: str, text: str) -> None:
    assert read_message(message).text == text


QUESTIONS = {
    "what is this?": ImageQuestion("describe"),
    "what's that": ImageQuestion("describe"),
    "what colour is it?": ImageQuestion("describe"),
    "is that right?": ImageQuestion("describe"),
    "describe it": ImageQuestion("describe"),
    "how many?": ImageQuestion("count"),
    "how many are there?": ImageQuestion("count"),
    "how many rings are there?": ImageQuestion("count", "all rings"),
    "count the red rings": ImageQuestion("count", "all red rings"),
    "how big is it?": ImageQuestion("size"),
    "what's its area?": ImageQuestion("size"),
    "what is its area in pixels?": ImageQuestion("size"),
    "how big is the star": ImageQuestion("size", "the star"),
    "is there a star?": ImageQuestion("exists", "the star"),
    "are there any stars in the picture?": ImageQuestion("exists", "all stars"),
    "do you see the cat?": ImageQuestion("exists", "the cat"),
    "is there another way?": None,
    "how do I save?": None,
    "how big is the star, and what colour?": None,
    "segment the ring": None,
    "thanks": None,
}


@pytest.mark.parametrize(("message", "question"), QUESTIONS.items(), ids=QUESTIONS)
def test_questions_are_read(message: str, question: ImageQuestion | None) -> None:
    assert parse_question(message) == question


CUTOUTS = {
    "cut out the ring": True,
    "please cut the ring out of the picture": True,
    "schneide den Ring aus": True,
    "extract the star": True,
    "cut it out": True,
    "segment the ring": False,
    "find the paper with the cut": False,
    "cut": False,
}


@pytest.mark.parametrize(("message", "expected"), CUTOUTS.items(), ids=CUTOUTS)
def test_cut_out_is_told_from_other_requests(message: str, expected: bool) -> None:
    assert wants_cutout(message) == expected


def test_cutting_it_out_is_no_request_for_an_object_named_it() -> None:
    assert is_cutout_of_result("cut it out, please")
    assert is_cutout_of_result("schneide sie aus")
    assert not is_cutout_of_result("cut out the ring")
    assert parse_request("cut it out") is None


HINTS = {
    "thanks a lot!": "You are welcome.",
    "hello": "Hello.",
    "yes": "Good.",
    "segment it": "Name what is meant",
    "everything": "Name a kind or a colour",
    "make it blue": "don't edit images",
    "blur the background": "don't edit images",
    "segment the ring and tell me its area": "One request at a time",
    "why is it red?": "Without a chat model I answer",
    "найди кольцо": "plain English and German",
    "the ring\nand the star": "That is long",
    "xyzzy": CAPABILITIES,
}


@pytest.mark.parametrize(("message", "hint"), HINTS.items(), ids=HINTS)
def test_hints_differ_by_what_was_said(message: str, hint: str) -> None:
    assert choose_hint(message).startswith(hint) or hint in choose_hint(message)


# The graph ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models() -> Sam4Mllm:
    return load_embedded_models()


class Talk:
    """A conversation without a chat model about examples/scene.png."""

    def __init__(self, models: Sam4Mllm) -> None:
        store = ImageStore()
        with Image.open(EXAMPLE_IMAGE) as image:
            self._image_id = store.put(image.convert("RGB"))
        self._graph = build_chat_graph(NoChatModel(), Sam4MllmToolkit(sam4mllm=models, image_store=store), InMemorySaver())
        self._details: dict[str, Any] = {self._image_id: {"width": 512, "height": 512, "name": "scene.png"}}

    def say(self, text: str) -> list[BaseMessage]:
        """Send a message, and return the messages of its turn."""
        images = {IMAGE_IDS_KEY: [self._image_id], IMAGE_DETAILS_KEY: self._details} if self._details else {}
        self._details = {}
        message = HumanMessage(text, additional_kwargs=images)
        thread: Any = {"configurable": {"thread_id": "one"}}
        messages = self._graph.invoke({"messages": [message]}, thread)["messages"]
        start = max(index for index, each in enumerate(messages) if isinstance(each, HumanMessage))
        return list(messages[start:])


def boxes_of(turn: list[BaseMessage]) -> list[list[float]]:
    (message,) = (message for message in turn if isinstance(message, ToolMessage))
    return [fields["box"] for fields in message.artifact["objects"]]


@pytest.mark.slow
def test_questions_are_answered_from_results(models: Sam4Mllm) -> None:
    talk = Talk(models)
    counted = talk.say(f"how many {PLURAL} are there?")
    assert counted[-1].text.startswith(f'"{ALL}": {len(GROUP)}.\n')
    assert len(boxes_of(counted)) == len(GROUP)
    sizes = talk.say("how big is it?")
    assert [message.type for message in sizes] == ["human", "ai"], "no tool is called"
    assert sizes[-1].text.count("pixels") == len(GROUP)
    described = talk.say("was ist das?")
    assert described[1].tool_calls[0]["name"] == "describe_image_region"  # type: ignore[attr-defined]
    assert NOUN in described[-1].text
    assert "img-" not in described[-1].text
    assert talk.say(f"is there a {MEMBER.removeprefix('the ')}?")[-1].text.startswith("Yes.")
    assert talk.say(f"is there a {ABSENT_NAME.removeprefix('the ')}?")[-1].text.startswith("No.")


def test_a_correction_is_said_before_it_is_served_and_repeating_the_words_takes_them_literally(models: Sam4Mllm) -> None:
    talk = Talk(models)
    turn = talk.say(f"segmnet {MISSPELT}")
    assert f'Did you mean "segment {MEMBER}"?' in turn[1].text
    (box,) = boxes_of(turn)
    assert Box(*box).iou(Box(*OBJECTS[MEMBER.removeprefix("the ")])) > 0.7
    again = talk.say(f"segmnet {MISSPELT}")
    assert "Did you mean" not in again[1].text
    assert [message.type for message in again] == ["human", "ai"], "its own words are no request"


@pytest.mark.slow
def test_german_words_and_english_ones_come_to_the_same(models: Sam4Mllm) -> None:
    german, english = Talk(models), Talk(models)
    for in_german, in_english in (
        (f"markiere {GERMAN_NAMES[EXPRESSION]}", f"segment {EXPRESSION}"),
        ("nein, der andere", "no, the other one"),
        (f"auch {GERMAN_NAMES[OTHER]}", f"also {OTHER}"),
    ):
        assert boxes_of(german.say(in_german)) == boxes_of(english.say(in_english))


def test_a_request_without_object_leaves_the_last_result_and_has_no_other_one(models: Sam4Mllm) -> None:
    talk = Talk(models)
    (first,) = boxes_of(talk.say(f"segment {OTHER}"))
    assert "no such object" in talk.say(f"segment {ABSENT_NAME}")[-1].text
    refused = talk.say("no, the other one")
    assert [message.type for message in refused] == ["human", "ai"]
    assert f'no "{ABSENT_NAME}" that it could be other than' in refused[-1].text
    assert first in boxes_of(talk.say(f"also {MEMBER}")), "the result before stays and is refined"


def test_before_any_result_there_is_nothing_to_be_other_than(models: Sam4Mllm) -> None:
    assert "nothing yet that it could be other than" in Talk(models).say("no, the other one")[-1].text


@pytest.mark.slow
def test_a_singular_that_fits_several_objects_is_asked_back_with_numbers_that_choose(models: Sam4Mllm) -> None:
    talk = Talk(models)
    (first,) = boxes_of(turn := talk.say(f"segment {ANY_MEMBER}"))
    assert f'"{ANY_MEMBER}" fits {len(GROUP)} objects: which one is meant?' in turn[-1].text
    (second,) = boxes_of(talk.say("2"))
    assert second != first
    assert second in boxes_of(both := talk.say("also 2"))
    assert len(boxes_of(both)) == 2
    assert "which one is meant" not in talk.say(ALL)[-1].text
    assert "which one is meant" not in talk.say(MEMBER)[-1].text


@pytest.mark.slow
def test_several_expressions_in_one_request_are_segmented_one_by_one(models: Sam4Mllm) -> None:
    talk = Talk(models)
    assert len(boxes_of(talk.say(f"segment {MEMBER} and {OTHER}"))) == 2
    assert len(boxes_of(talk.say(GERMAN_NAMES[f"{ALL} but not {GROUP[3]}"]))) == len(GROUP) - 1
