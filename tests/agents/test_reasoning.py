"""The reasoning agent: with the embedded pair, and with a scripted MLLM where what it says decides what happens."""

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph.state import CompiledStateGraph
from PIL import Image

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.agents import reasoning
from sam4mllm_tool.agents.reasoning import build_reasoning_graph
from sam4mllm_tool.agents.rephraser import parse_rephrasings
from sam4mllm_tool.errors import ExpressionError, ImageError
from sam4mllm_tool.images.load import ImagePolicy
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import EMBEDDED
from sam4mllm_tool.reasoning import Attempt, ReasoningConfig, ReasoningResult, choose_best, next_step
from sam4mllm_tool.reasoning.budget import Budget
from sam4mllm_tool.reasoning.decision import END_REASONS
from sam4mllm_tool.tools.image_store import ImageStore
from sam4mllm_tool.types import (
    Box,
    FreeText,
    Labels,
    ObjectPrompt,
    Question,
    Reply,
    Segmentation,
    SegmentedObject,
    Size,
    Tokens,
)
from tests.agents.scripted_model import ScriptedChatModel
from tests.embedded_world import iter_cases
from tests.tool_suites import load_embedded_models

DIALECT = replace(EMBEDDED, ask_again_text="That can't be read: {reason}.")
"""The dialect of a model that can read overlays."""
SIZE = Size(192, 192)
LEFT, RIGHT = Box(20.5, 60.5, 60.5, 100.5), Box(120.5, 60.5, 160.5, 100.5)
NOISE = Image.effect_noise(SIZE, 40).convert("RGB")

ReplyFunction = Callable[[Question], Reply]


def reply_boxes(*boxes: Box, likely: float = 0.9) -> Reply:
    return Reply(EMBEDDED.format_boxes(boxes, SIZE), log_probability=math.log(likely))


def classify_question(question: Question) -> str:
    """Return what a question asks about."""
    text = question.turns[-1].text
    for kind, start in (("whether", "Is the object"), ("points", "Is this point"), ("other", "Not the object")):
        if text.startswith(start):
            return kind
    return "boxes"


def is_about_points(question: Question) -> bool:
    return classify_question(question) == "points"


def reply_label(probability: float) -> Reply:
    return Reply("yes" if probability > 0.5 else "no", ((probability, 1 - probability),))


def script_replies(
    boxes: Reply | Callable[[str], Reply], whether: Callable[[str], float], other: Reply | None = None
) -> ReplyFunction:
    """Script an MLLM: the boxes it names, the probability that a box is meant, its other boxes; yes to every point."""

    def reply(question: Question) -> Reply:
        text = question.turns[-1].text
        match classify_question(question):
            case "whether":
                return reply_label(whether(text))
            case "points":
                return reply_label(0.95)
            case "other":
                return other or reply_boxes()
        return boxes(text) if callable(boxes) else boxes

    return reply


class CountingMLLM(ScriptedMLLM):
    """Counts rounds and tokens, reports tokens, and moves a clock of its own."""

    def __init__(self, replies: ReplyFunction, *, image_tokens: int = 100, seconds: Callable[[], float] = lambda: 1.0) -> None:
        super().__init__(replies)
        self.rounds, self.tokens, self.now = 0, 0, 0.0
        self._image_tokens, self._seconds = image_tokens, seconds

    def reply(self, image: Image.Image, questions: Sequence[Question]) -> list[Reply]:
        self.rounds += 1
        self.now += self._seconds()
        replies = []
        for question, reply in zip(questions, super().reply(image, questions), strict=True):
            words = sum(len(turn.text.split()) for turn in question.turns)
            written = len(reply.text.split()) if isinstance(question.answer, FreeText) else 1
            tokens = Tokens(self._image_tokens + words, written)
            self.tokens += sum(tokens)
            replies.append(Reply(reply.text, reply.label_probabilities, reply.log_probability, tokens))
        return replies

    def clock(self) -> float:
        return self.now


def graph_of(mllm: ScriptedMLLM, chat: list[Any] | None = None, **settings: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
    models = Sam4Mllm(mllm, settings.pop("segmenter", BoxSegmenter()), dialect=settings.pop("dialect", DIALECT))
    settings = {"policy": ImagePolicy(), "image_store": ImageStore(), **settings}
    return build_reasoning_graph(models, None if chat is None else ScriptedChatModel(answers=chat), **settings)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("images") / "image.png"
    NOISE.save(path)
    return str(path)


def run_graph(
    graph: CompiledStateGraph[Any, Any, Any, Any], image: str, **others: Any
) -> tuple[ReasoningResult, list[dict[str, Any]]]:
    """Run the graph; return the answer and the events on the way."""
    events, state = [], {}
    given = {"image": image, "expression": "the opener", **others}
    for mode, part in graph.stream(given, stream_mode=["custom", "values"]):
        if mode == "custom":
            events.append(part)
        else:
            state = part
    assert json.loads(json.dumps(events)) == events, "events are plain JSON"
    return ReasoningResult.from_dict(json.loads(json.dumps(state["answer"]))), events


def list_event_names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


def box_of(reasoned: ReasoningResult) -> Box:
    assert reasoned.segmentation is not None
    (segmented,) = reasoned.segmentation.objects
    return segmented.prompt.box


def believe_box(box: Box, yes: float = 0.99, no: float = 0.05) -> Callable[[str], float]:
    """Return the probability `yes` for this box and `no` for any other."""
    written = EMBEDDED.encode_box(box, SIZE)
    return lambda text: yes if written in text else no


# Sure and doubted answers ----------------------------------------------------------------------------------


def test_a_sure_answer_takes_two_rounds(image: str) -> None:
    mllm = CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(LEFT)))
    reasoned, events = run_graph(graph_of(mllm), image)
    assert list_event_names(events) == ["look", "chosen"]
    assert reasoned.ended == "confident"
    assert reasoned.confidence == pytest.approx(0.99)
    assert box_of(reasoned) == pytest.approx(LEFT, abs=1)
    assert mllm.rounds == reasoned.spent.rounds == 2


def test_a_sure_no_such_object_takes_one_round(image: str) -> None:
    mllm = CountingMLLM(script_replies(reply_boxes(likely=0.97), believe_box(LEFT)))
    reasoned, events = run_graph(graph_of(mllm), image)
    assert list_event_names(events) == ["look", "chosen"]
    assert reasoned.segmentation is not None
    assert reasoned.segmentation.objects == ()
    assert reasoned.segmentation.confidence == pytest.approx(0.97)
    assert mllm.rounds == 1


def test_a_wrong_box_is_replaced_by_one_that_the_model_verifies(image: str) -> None:
    mllm = CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(RIGHT), reply_boxes(RIGHT)))
    reasoned, events = run_graph(graph_of(mllm, config=ReasoningConfig(steps=("verify", "other"))), image)
    assert list_event_names(events) == ["look", "verify", "other", "chosen"]
    assert box_of(reasoned) == pytest.approx(RIGHT, abs=1)
    assert [attempt.step for attempt in reasoned.attempts] == ["look", "other"]
    assert reasoned.ended == "confident"


def test_overlays_are_shown_only_to_models_that_can_read_them(image: str) -> None:
    for overlay, expected in ((None, 0), (True, 1), (False, 0)):
        graph = graph_of(
            CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(RIGHT), reply_boxes(RIGHT))),
            dialect=EMBEDDED,
            config=ReasoningConfig(overlay=overlay),
        )
        _, events = run_graph(graph, image)
        assert list_event_names(events).count("verify") == expected


def test_the_step_verify_shows_the_model_its_own_answer(image: str) -> None:
    shown = []

    class Shown(CountingMLLM):
        def reply(self, image: Image.Image, questions: Sequence[Question]) -> list[Reply]:
            shown.append((classify_question(questions[0]), image.copy()))
            return super().reply(image, questions)

    run_graph(graph_of(Shown(script_replies(reply_boxes(LEFT), believe_box(RIGHT), reply_boxes()))), image)
    whole, drawn = shown[0][1], next(image for kind, image in shown if kind == "whether")
    assert whole.size == drawn.size
    changed = np.argwhere((np.asarray(whole) != np.asarray(drawn)).any(-1))
    assert changed.size
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    assert left >= LEFT.x1 - 15
    assert right <= LEFT.x2 + 15
    assert top >= 0
    assert bottom <= LEFT.y2 + 15


def test_a_box_in_a_crop_is_mapped_back_to_the_image(image: str) -> None:
    """Nothing in the whole image; a box in the middle of its top right quarter."""
    middle, calls = Box(80.5, 80.5, 110.5, 110.5), []

    def boxes(_: str) -> Reply:
        calls.append(1)
        return reply_boxes(middle) if len(calls) == 3 else reply_boxes(likely=0.4)

    reasoned, events = run_graph(graph_of(CountingMLLM(script_replies(boxes, lambda _: 0.9))), image)
    assert list_event_names(events) == ["look", "zoom", "chosen"]
    side = round(0.6 * 192)
    left = 192 - side
    expected = [left + middle.x1 * side / 192, middle.y1 * side / 192, left + middle.x2 * side / 192, middle.y2 * side / 192]
    assert box_of(reasoned) == pytest.approx(expected, abs=1.5)


def test_a_large_box_is_not_zoomed_into(image: str) -> None:
    large = Box(20.5, 20.5, 160.5, 160.5)
    mllm = CountingMLLM(script_replies(reply_boxes(large), lambda _: 0.6))
    reasoned, _ = run_graph(graph_of(mllm, config=ReasoningConfig(steps=("zoom",))), image)
    assert mllm.rounds == 2
    assert box_of(reasoned) == pytest.approx(large, abs=1)


def test_it_abstains_below_the_threshold(image: str) -> None:
    mllm = CountingMLLM(script_replies(reply_boxes(LEFT), lambda _: 0.45, reply_boxes(RIGHT)))
    reasoned, events = run_graph(graph_of(mllm, config=ReasoningConfig(abstain=0.7, sure=0.9), budget=Budget(20)), image)
    assert reasoned.ended == "abstained"
    assert reasoned.segmentation is None
    assert reasoned.confidence is not None
    assert reasoned.confidence < 0.7
    assert any(attempt.boxes for attempt in reasoned.attempts), "the attempts are reported all the same"
    assert events[-1]["ended"] == "abstained"


def test_a_model_without_probabilities_is_not_doubted(image: str) -> None:
    def reply(question: Question) -> Reply:
        return Reply("yes") if isinstance(question.answer, Labels) else Reply(reply_boxes(LEFT).text)

    reasoned, events = run_graph(graph_of(CountingMLLM(reply)), image)
    assert list_event_names(events) == ["look", "chosen"]
    assert reasoned.ended == "unverified"
    assert reasoned.confidence is None, "unknown, never invented"
    assert "never verified: the MLLM gives no probabilities" in reasoned.reason
    assert box_of(reasoned) == pytest.approx(LEFT, abs=1)


def test_unreadable_replies_end_in_an_abstention_with_a_note(image: str) -> None:
    reasoned, _ = run_graph(graph_of(CountingMLLM(lambda _: Reply("[1 2")), budget=Budget(30)), image)
    assert reasoned.ended == "abstained"
    assert reasoned.segmentation is None
    assert "cut off" in reasoned.attempts[0].note


def test_refining_masks_on_crops_asks_no_question(image: str) -> None:
    rounds, segmenter_calls = {}, {}
    for closer in (True, False):
        mllm, segmenter = CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(LEFT))), BoxSegmenter()
        run_graph(graph_of(mllm, config=ReasoningConfig(refine_crops=closer), segmenter=segmenter), image)
        rounds[closer], segmenter_calls[closer] = mllm.rounds, len(segmenter.calls)
    assert rounds[True] == rounds[False]
    assert segmenter_calls[True] == segmenter_calls[False] + 2, "the first crop would enlarge nothing"


# Rephrasing ----------------------------------------------------------------------------------------------------------

REPHRASE = ReasoningConfig(steps=("rephrase",))


def test_boxes_of_a_rephrased_expression_are_verified_by_the_original(image: str) -> None:
    mllm = CountingMLLM(
        script_replies(lambda text: reply_boxes(RIGHT) if "bottle" in text else reply_boxes(LEFT), believe_box(RIGHT))
    )
    graph = graph_of(mllm, ["1. a tool\n2) the bottle on the table\n"], config=REPHRASE, budget=Budget(20))
    reasoned, events = run_graph(graph, image)
    assert list_event_names(events) == ["look", "rephrase", "rephrase", "chosen"]
    assert events[1]["wordings"] == ["a tool", "the bottle on the table"]
    assert box_of(reasoned) == pytest.approx(RIGHT, abs=1)
    assert reasoned.segmentation is not None
    assert reasoned.segmentation.expression == "the opener"
    questions = [question.turns[-1].text for question in mllm.questions if classify_question(question) == "whether"]
    assert all("the opener" in text for text in questions)


JUNK = {
    "nothing": "",
    "blank lines": "\n \n\t\n",
    "the same again": "The Opener\n- the opener",
    "a title alone": "Here are some phrases:",
    "a novel": "word " * 500,
    "no letters": "...\n1.\n---\n42",
    "control codes": "\x1b[31mred\x1b[0m\x07",
    "an error": RuntimeError("429 too many requests"),
    "blocks without text": AIMessage([{"type": "reasoning", "reasoning": "hm"}]),
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
async def test_a_run_survives_junk_from_the_chat_model(junk: Any, image: str) -> None:
    def answer(_: Any) -> Any:
        if isinstance(junk, Exception):
            raise junk
        return junk

    for blocking in (True, False):
        graph = graph_of(CountingMLLM(script_replies(reply_boxes(LEFT), lambda _: 0.7)), [answer], config=REPHRASE)
        if blocking:
            reasoned, events = run_graph(graph, image)
            assert events[1]["event"] == "rephrase"
            assert events[1]["wordings"] == []
            assert ("429" in json.dumps(events[1])) == isinstance(junk, Exception)
        else:
            reasoned = ReasoningResult.from_dict((await graph.ainvoke({"image": image, "expression": "the opener"}))["answer"])
        assert reasoned.ended == "exhausted"
        assert box_of(reasoned) == pytest.approx(LEFT, abs=1)


def test_the_default_budget_leaves_room_for_other_wordings(image: str) -> None:
    """The model doubts its box in the whole image and in a crop; a wording of the chat model's leads to the right one."""
    mllm = CountingMLLM(
        script_replies(lambda text: reply_boxes(RIGHT) if "bottle" in text else reply_boxes(LEFT), believe_box(RIGHT, no=0.4))
    )
    reasoned, events = run_graph(graph_of(mllm, ["the bottle on the table"]), image)
    assert list_event_names(events)[-3:] == ["rephrase", "rephrase", "chosen"]
    assert box_of(reasoned) == pytest.approx(RIGHT, abs=1)
    assert reasoned.ended == "confident"
    assert reasoned.spent.rounds <= Budget().rounds


@pytest.mark.parametrize("refusal", ["I cannot help with that", "Sure! Here are some:", "[\"I'm sorry, I can't assist\"]"])
def test_a_refusal_of_the_chat_model_is_asked_about_by_nobody(refusal: str, image: str) -> None:
    mllm = CountingMLLM(script_replies(lambda text: reply_boxes(LEFT) if "opener" in text else reply_boxes(), lambda _: 0.015))
    reasoned, events = run_graph(graph_of(mllm, [refusal], config=REPHRASE, budget=Budget(20)), image)
    assert all("the opener" in question.turns[-1].text for question in mllm.questions if not is_about_points(question))
    assert events[1]["wordings"] == []
    assert "no usable wording" in events[1]["fault"]
    assert reasoned.ended != "confident", "that there is none only follows from the denied box"


WORDINGS = {
    "plain lines": ("a mug\na cup", ["a mug", "a cup"]),
    "numbers and bullets": ("1. a mug\n2) a cup\n- a glass\n• a jar", ["a mug", "a cup", "a glass"]),
    "quotes": ("\"a mug\"\n'a cup'\n`a glass`", ["a mug", "a cup", "a glass"]),
    "an introduction": ("Sure! Here you are:\n\na mug", ["a mug"]),
    "twice": ("a mug\nA Mug\na cup", ["a mug", "a cup"]),
    "a number that belongs": ("2 mugs", ["2 mugs"]),
}


@pytest.mark.parametrize(("text", "expected"), WORDINGS.values(), ids=WORDINGS)
def test_phrases_are_parsed_from_text(text: str, expected: list[str]) -> None:
    assert parse_rephrasings(text, "the opener", 3) == expected


# The budget -----------------------------------------------------------------------------------------------------------


def any_answer(rng: random.Random) -> ReplyFunction:
    """Answer at random, unreadable replies included."""

    def boxes() -> Reply:
        corners = [sorted(rng.sample(range(192), 2)) for _ in range(4)]
        random_boxes = [Box(a, c, b + 1, d + 1) for (a, b), (c, d) in zip(corners[::2], corners[1::2], strict=True)]
        return rng.choice(
            (
                reply_boxes(),
                reply_boxes(random_boxes[0]),
                reply_boxes(*random_boxes),
                reply_boxes(LEFT, likely=0.3),
                Reply("hmm"),
                Reply("[1 2"),
            )
        )

    def reply(question: Question) -> Reply:
        if isinstance(question.answer, Labels):
            return rng.choice((reply_label(rng.random()), reply_label(rng.random()), Reply("perhaps")))
        return boxes()

    return reply


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**9),
    rounds=st.integers(0, 14),
    tokens=st.none() | st.integers(0, 30_000),
    seconds=st.none() | st.floats(1, 25),
    chatty=st.booleans(),
)
@pytest.mark.slow
def test_no_budget_is_ever_exceeded(seed: int, rounds: int, tokens: int | None, seconds: float | None, chatty: bool) -> None:
    """Rounds and tokens hold in any case; seconds as long as no call takes twice as long as any before it."""
    rng = random.Random(seed)
    mllm = CountingMLLM(any_answer(rng), image_tokens=rng.randint(1, 4000), seconds=lambda: rng.uniform(0.5, 1))
    store = ImageStore()
    chat = [lambda _: mllm.__dict__.update(now=mllm.now + 0.9, rounds=mllm.rounds + 1) or "a mug\na cup"] if chatty else None
    graph = graph_of(mllm, chat, budget=Budget(rounds, tokens, seconds), clock=mllm.clock, image_store=store)
    reasoned, events = run_graph(graph, store.put(NOISE))
    assert mllm.rounds <= rounds
    assert tokens is None or mllm.tokens <= tokens
    assert seconds is None or mllm.now <= seconds
    assert reasoned.spent.rounds == mllm.rounds
    assert reasoned.spent.tokens >= mllm.tokens
    assert reasoned.spent.seconds == pytest.approx(mllm.now)
    assert list_event_names(events)[-1] == "chosen"
    assert reasoned.ended in END_REASONS
    if reasoned.ended == "exhausted":
        assert reasoned.confidence is not None, "an answer that nobody verified isn't what all attempts came to"
    if reasoned.spent.refused or not reasoned.attempts:
        assert reasoned.ended in ("confident", "budget")


def test_a_spent_budget_ends_with_the_answer_so_far(image: str) -> None:
    for rounds, ended, boxes in ((0, "budget", 0), (1, "budget", 1), (2, "budget", 1)):
        reasoned, _ = run_graph(
            graph_of(CountingMLLM(script_replies(reply_boxes(LEFT), lambda _: 0.6))), image, budget={"rounds": rounds}
        )
        assert reasoned.ended == ended
        assert (reasoned.segmentation is not None) == (boxes > 0)
        assert sum(len(attempt.boxes) for attempt in reasoned.attempts) == boxes
        assert reasoned.spent.rounds == rounds


def test_an_answer_that_the_budget_left_unverified_says_so(image: str) -> None:
    mllm = CountingMLLM(script_replies(reply_boxes(LEFT), lambda _: 0.003))
    reasoned, _ = run_graph(graph_of(mllm), image, budget={"rounds": 1})
    assert reasoned.ended == "budget"
    assert reasoned.confidence is None
    assert box_of(reasoned) == pytest.approx(LEFT, abs=1)
    assert "never verified; the budget doesn't allow what is left to try" in reasoned.reason


def test_a_budget_without_room_for_a_first_question_ends_with_the_budget(image: str) -> None:
    mllm = CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(LEFT)))
    reasoned, events = run_graph(graph_of(mllm), image, budget={"tokens": 500})
    assert mllm.rounds == 0
    assert reasoned.ended == "budget"
    assert reasoned.reason == events[-1]["reason"] == "the budget doesn't reach to a first answer"
    assert reasoned.as_segmentation().abstained, "not sure enough, which isn't 'no such object'"


def test_a_spent_budget_gives_no_answer_that_is_too_improbable(image: str) -> None:
    mllm = CountingMLLM(script_replies(reply_boxes(LEFT), lambda _: 0.6))
    reasoned, _ = run_graph(graph_of(mllm, config=ReasoningConfig(abstain=0.7)), image, budget={"rounds": 2})
    assert (reasoned.ended, reasoned.segmentation) == ("budget", None)


def test_an_image_that_the_model_does_not_know_leaves_the_answer_unverified(image: str) -> None:
    class EverydayScenesMLLM(CountingMLLM):
        def check_image(self, _: Image.Image) -> str:
            return "knows drawn scenes only"

    for boxes in (reply_boxes(LEFT), reply_boxes(likely=0.97)):
        reasoned, _ = run_graph(graph_of(EverydayScenesMLLM(script_replies(boxes, believe_box(LEFT)))), image)
        assert (reasoned.ended, reasoned.confidence) == ("unverified", None)
        assert reasoned.segmentation is not None
        assert reasoned.segmentation.confidence is None
        assert [segmented.confidence for segmented in reasoned.segmentation.objects] in ([], [None])
        assert reasoned.segmentation.warnings == ("knows drawn scenes only",)
        assert reasoned.warnings == ("knows drawn scenes only",)
        assert "never verified: probabilities mean nothing here, as the warning says" in reasoned.reason


def test_objects_without_a_pixel_are_no_answer(image: str) -> None:
    class EmptySegmenter(BoxSegmenter):
        def segment(self, image: Image.Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
            return [replace(each, mask=np.zeros_like(each.mask)) for each in super().segment(image, prompts)]

    mllm = CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(LEFT)))
    reasoned, _ = run_graph(graph_of(mllm, segmenter=EmptySegmenter(), budget=Budget(20)), image)
    assert reasoned.segmentation is None
    assert "gives no pixel in" in reasoned.reason


def test_with_too_few_tokens_for_points_the_box_is_still_verified(image: str) -> None:
    mllm = CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(LEFT)))
    reasoned, _ = run_graph(graph_of(mllm), image, budget={"tokens": 5000})
    assert reasoned.ended == "confident", "4,096 are set aside for the first look, and there is room for the rest"
    mllm = CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(LEFT)), image_tokens=1800)
    reasoned, _ = run_graph(graph_of(mllm), image, budget={"tokens": 5000})
    assert [classify_question(question) for question in mllm.questions] == ["boxes", "whether"]
    assert reasoned.attempts[0].result is not None
    assert "the budget doesn't reach" in " ".join(reasoned.attempts[0].result.notes)
    assert box_of(reasoned) == pytest.approx(LEFT, abs=1)


def test_a_caller_can_lower_the_budget_but_not_raise_it(image: str) -> None:
    for limits, max_rounds in (({"rounds": 100}, 3), ({"rounds": 1}, 1), ({}, 3), (None, 3)):
        mllm = CountingMLLM(script_replies(reply_boxes(LEFT), lambda _: 0.6))
        run_graph(graph_of(mllm, budget=Budget(rounds=3)), image, budget=limits)
        assert mllm.rounds <= max_rounds


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no image": ({"image": None}, ImageError, "no image, got 'None': give `image`"),
    "an image as a number": ({"image": 5}, ImageError, "no image, got '5'"),
    "no expression": ({"expression": None}, ExpressionError, "expected"),
    "an empty expression": ({"expression": " "}, ExpressionError, "empty"),
    "a long expression": ({"expression": "x" * 3000}, ExpressionError, "3,000"),
    "no such image": ({"image": "img-0123456789ab"}, LookupError, "no longer kept"),
    "a URL": ({"image": "https://example.com/a.png"}, ImageError, "turned off"),
    "a budget of something else": ({"budget": {"money": 3}}, ValueError, "money"),
    "a negative budget": ({"budget": {"rounds": -1}}, ValueError, "rounds"),
    "a budget in words": ({"budget": {"seconds": "ten"}}, ValueError, "seconds"),
}


@pytest.mark.parametrize(("wrong", "error", "named"), WRONG.values(), ids=WRONG)
async def test_bad_input_is_an_error_that_names_the_fault(
    wrong: dict[str, Any], error: type[Exception], named: str, image: str
) -> None:
    graph = graph_of(CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(LEFT))))
    given = {name: value for name, value in {"image": image, "expression": "the opener", **wrong}.items() if value is not None}
    with pytest.raises(error, match=named):
        graph.invoke(given)
    with pytest.raises(error, match=named):
        await graph.ainvoke(given)


def test_paths_are_opened_only_where_the_policy_allows_it(image: str) -> None:
    graph = build_reasoning_graph(
        Sam4Mllm(CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(LEFT))), BoxSegmenter(), dialect=EMBEDDED)
    )
    with pytest.raises(ImageError, match="paths are turned off"):
        graph.invoke({"image": image, "expression": "the opener"})


# State ----------------------------------------------------------------------------------------------------------------


def test_the_state_is_plain_json_without_an_image(image: str) -> None:
    graph = graph_of(CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(RIGHT), reply_boxes(RIGHT))))
    for state in graph.stream({"image": image, "expression": "the opener"}, stream_mode="values"):
        assert json.loads(json.dumps(state)) == state
        assert len(json.dumps(state)) < 50_000


def test_each_request_of_a_thread_starts_afresh(image: str) -> None:
    graph = graph_of(CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(LEFT))), checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    for _ in range(3):
        output = graph.invoke({"image": image, "expression": "the opener", "budget": {"rounds": 2}}, config)
        reasoned = ReasoningResult.from_dict(output["answer"])
        assert reasoned.spent.rounds == 2
        assert len(reasoned.attempts) == 1


async def test_async_gives_the_same(image: str) -> None:
    for whether in (believe_box(LEFT), believe_box(RIGHT), lambda _: 0.6):
        answers, events = [], []
        for blocking in (True, False):
            mllm = CountingMLLM(script_replies(reply_boxes(LEFT), whether, reply_boxes(RIGHT)))
            graph = graph_of(mllm, ["a mug"], clock=mllm.clock)
            given = {"image": image, "expression": "the opener"}
            if blocking:
                answers.append(graph.invoke(given)["answer"])
                events.append(list(graph_of(mllm, ["a mug"], clock=mllm.clock).stream(given, stream_mode="custom")))
            else:
                answers.append((await graph.ainvoke(given))["answer"])
                other = graph_of(mllm, ["a mug"], clock=mllm.clock)
                events.append([part async for part in other.astream(given, stream_mode="custom")])
        assert drop_seconds(answers[0]) == drop_seconds(answers[1])
        assert events[0] == events[1]


# The best answer -------------------------------------------------------------------------------------------------------------


def attempt_with_checks(*checks: float, none: float | None = None) -> Attempt:
    segmented = SegmentedObject(np.zeros((9, 9), bool), ObjectPrompt(Box(0, 0, 9, 9)), 0.9)
    result = Segmentation("x", Size(9, 9), (segmented,) * len(checks))
    return Attempt("look", "x", result, tuple((check,) for check in checks), none)


BEST_ANSWERS = {
    "a single box": ([attempt_with_checks(0.9)], (0, False, 0.9)),
    "the likelier of two": ([attempt_with_checks(0.6), attempt_with_checks(0.8)], (1, False, 0.8)),
    "a box that is rather not meant": ([attempt_with_checks(0.2)], (None, True, 0.8)),
    "none, in its own words": ([attempt_with_checks(none=0.9)], (0, True, 0.9)),
    "none, and then a likely box": ([attempt_with_checks(none=0.6), attempt_with_checks(0.9)], (1, False, 0.9)),
    "none, and then an unlikely box": ([attempt_with_checks(none=0.9), attempt_with_checks(0.2)], (0, True, 0.72)),
    "of several the less likely are left out": ([attempt_with_checks(0.9, 0.8, 0.2)], (0, False, 0.8)),
    "nothing could be read": ([Attempt("look", "x", note="cut off")], (None, False, None)),
}


@pytest.mark.parametrize(("tried", "expected"), BEST_ANSWERS.values(), ids=BEST_ANSWERS)
def test_the_best_answer_follows_from_the_attempts(
    tried: list[Attempt], expected: tuple[int | None, bool, float | None]
) -> None:
    best = choose_best(tried)
    assert (best.attempt, best.is_none) == expected[:2]
    assert best.confidence == (None if expected[2] is None else pytest.approx(expected[2]))


def test_a_step_over_budget_is_skipped_for_a_cheaper_one() -> None:
    settings = ReasoningConfig(steps=("rephrase", "verify"))
    assert next_step([attempt_with_checks(0.6)], ["look"], settings, lambda rounds: rounds <= 1) == "verify"
    assert next_step([attempt_with_checks(0.6)], ["look"], settings, lambda rounds: rounds <= 0) == "budget"
    assert next_step([attempt_with_checks(0.6)], ["look", "verify", "rephrase"], settings, lambda _: False) == "exhausted"


def test_attempts_and_answers_are_read_back_from_json(image: str) -> None:
    reasoned, _ = run_graph(
        graph_of(CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(RIGHT), reply_boxes(RIGHT)))), image
    )
    again = ReasoningResult.from_dict(json.loads(json.dumps(reasoned.to_dict())))
    assert [attempt.to_dict() for attempt in again.attempts] == [attempt.to_dict() for attempt in reasoned.attempts]
    assert again.spent == reasoned.spent
    assert again.segmentation is not None
    assert reasoned.segmentation is not None
    assert np.array_equal(again.segmentation.mask, reasoned.segmentation.mask)


@pytest.mark.parametrize("wrong", [{"sure": 0.4}, {"abstain": -0.1}, {"sure": 1.2}, {"steps": ("guess",)}])
def test_impossible_settings_are_value_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"abstain|guess"):
        ReasoningConfig(**wrong)


# For LangGraph's server, and the embedded pair ------------------------------------------------------------------------


def test_langgraph_json_names_existing_graphs() -> None:
    folder = Path(reasoning.__file__).parent
    config = json.loads((folder / "langgraph.json").read_text())
    assert set(config["graphs"]) == {"chat", "reasoning"}
    for target in config["graphs"].values():
        path, name = target.split(":")
        assert (folder / path).is_file()
        assert f"def {name}(" in (folder / path).read_text()
    for dependency in config["dependencies"]:
        assert (folder / dependency).is_dir()


def test_the_servers_graph_is_built_without_loading_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(Sam4Mllm, "load", lambda: loaded.append("models"))
    monkeypatch.delenv("SAM4MLLM_CHAT_MODEL", raising=False)
    reasoning.graph.cache_clear()
    assert reasoning.graph() is reasoning.graph()
    assert loaded == []


@pytest.fixture(scope="module")
def embedded() -> Sam4Mllm:
    return load_embedded_models()


@pytest.mark.slow
def test_the_embedded_pair_segments_implicit_expressions(embedded: Sam4Mllm) -> None:
    store = ImageStore()
    graph = build_reasoning_graph(embedded, image_store=store)
    overlaps = []
    for scene, meant in islice(iter_cases("implicit", 700_000), 6):
        output = graph.invoke({"image": store.put(Image.fromarray(scene.image)), "expression": meant.text})
        reasoned = ReasoningResult.from_dict(output["answer"])
        mask = reasoned.segmentation.mask if reasoned.segmentation else np.zeros((256, 256), bool)
        truth = scene.mask(meant.targets[0])
        overlaps.append((mask & truth).sum() / (mask | truth).sum())
    assert len(overlaps) > 4
    assert np.median(overlaps) > 0.93


def drop_seconds(value: Any) -> Any:
    """JSON without the times that backends took."""
    if isinstance(value, dict):
        return {name: drop_seconds(item) for name, item in value.items() if name != "seconds"}
    return [drop_seconds(item) for item in value] if isinstance(value, list | tuple) else value


def test_a_run_goes_on_after_a_restart_where_it_was_cut_off(tmp_path: Path) -> None:
    """Nothing is shared with the first run but the database and the folder of images."""
    store = ImageStore(folder=tmp_path / "images")
    given = {"image": store.put(NOISE), "expression": "the opener"}
    thread: Any = {"configurable": {"thread_id": "1"}}

    def create_graph(**settings: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
        folder = ImageStore(folder=tmp_path / "images")
        mllm = CountingMLLM(script_replies(reply_boxes(LEFT), believe_box(RIGHT), reply_boxes(RIGHT)))
        return graph_of(mllm, image_store=folder, clock=lambda: 0.0, **settings)

    whole = create_graph().invoke(given)
    with SqliteSaver.from_conn_string(str(tmp_path / "thread.sqlite")) as saver:
        cut = create_graph(checkpointer=saver)
        cut.invoke(given, thread, interrupt_after=["look"])
        assert cut.get_state(thread).next == ("verify",)
    with SqliteSaver.from_conn_string(str(tmp_path / "thread.sqlite")) as saver:
        resumed = create_graph(checkpointer=saver).invoke(None, thread)
    assert drop_seconds(resumed["answer"]) == drop_seconds(whole["answer"])
