"""The reasoning agent: with the embedded pair, and with a scripted MLLM where what it says decides what happens."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph.state import CompiledStateGraph
from PIL import Image

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.agents import reasoning
from sam4mllm_tool.agents.reasoning import build_reasoning_graph
from sam4mllm_tool.agents.rephraser import read_wordings
from sam4mllm_tool.embedded.expressions import expressions
from sam4mllm_tool.embedded.scenes import draw_scene
from sam4mllm_tool.errors import ExpressionError, ImageError
from sam4mllm_tool.images.load import ImagePolicy
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import EMBEDDED
from sam4mllm_tool.reasoning.attempts import Attempt, Looking, Reasoned, next_step, stand
from sam4mllm_tool.reasoning.budget import Budget
from sam4mllm_tool.tools.image_store import PictureStore
from sam4mllm_tool.types import Box, FreeText, Labels, Question, Reply, Size, Tokens
from tests.agents.scripted_model import ScriptedChatModel

DIALECT = replace(EMBEDDED, ask_again_text="That can't be read: {reason}.")
"""Of a model that was taught more than this dialogue, and can be shown drawings."""
SIZE = Size(192, 192)
LEFT, RIGHT = Box(20.5, 60.5, 60.5, 100.5), Box(120.5, 60.5, 160.5, 100.5)
PICTURE = Image.effect_noise(SIZE, 40).convert("RGB")

Says = Callable[[Question], Reply]


def told(*boxes: Box, likely: float = 0.9) -> Reply:
    return Reply(EMBEDDED.format_boxes(boxes, SIZE), log_probability=math.log(likely))


def about(question: Question) -> str:
    """What kind of question it is."""
    asked = question.turns[-1].text
    for kind, start in (("whether", "Is the object"), ("points", "Is this point"), ("other", "Not the object")):
        if asked.startswith(start):
            return kind
    return "boxes"


def sure(probability: float) -> Reply:
    return Reply("yes" if probability > 0.5 else "no", ((probability, 1 - probability),))


def says(boxes: Reply | Callable[[str], Reply], whether: Callable[[str], float], other: Reply | None = None) -> Says:
    """An MLLM that names these boxes, thinks so of a box, and says yes to every point."""

    def reply(question: Question) -> Reply:
        text = question.turns[-1].text
        match about(question):
            case "whether":
                return sure(whether(text))
            case "points":
                return sure(0.95)
            case "other":
                return other or told()
        return boxes(text) if callable(boxes) else boxes

    return reply


class Spy(ScriptedMLLM):
    """Counts rounds and tokens, tells the latter, and takes its time on a clock of its own."""

    def __init__(self, replies: Says, *, picture_tokens: int = 100, seconds: Callable[[], float] = lambda: 1.0) -> None:
        super().__init__(replies)
        self.rounds, self.tokens, self.now = 0, 0, 0.0
        self._picture_tokens, self._seconds = picture_tokens, seconds
        self.asked: list[list[Question]] = []

    def reply(self, image: Image.Image, questions: Sequence[Question]) -> list[Reply]:
        self.rounds += 1
        self.now += self._seconds()
        self.asked.append(list(questions))
        replies = []
        for question, reply in zip(questions, super().reply(image, questions), strict=True):
            words = sum(len(turn.text.split()) for turn in question.turns)
            written = len(reply.text.split()) if isinstance(question.answer, FreeText) else 1
            tokens = Tokens(self._picture_tokens + words, written)
            self.tokens += sum(tokens)
            replies.append(Reply(reply.text, reply.label_probabilities, reply.log_probability, tokens))
        return replies

    def clock(self) -> float:
        return self.now


def graph_of(mllm: ScriptedMLLM, chat: list[Any] | None = None, **settings: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
    models = Sam4Mllm(mllm, settings.pop("segmenter", BoxSegmenter()), dialect=settings.pop("dialect", DIALECT))
    settings = {"policy": ImagePolicy(), "pictures": PictureStore(), **settings}
    return build_reasoning_graph(models, None if chat is None else ScriptedChatModel(answers=chat), **settings)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    PICTURE.save(path)
    return str(path)


def ask(graph: CompiledStateGraph[Any, Any, Any, Any], image: str, **others: Any) -> tuple[Reasoned, list[dict[str, Any]]]:
    """The answer, and the events on the way."""
    events, state = [], {}
    asked = {"image": image, "expression": "the thing", **others}
    for mode, part in graph.stream(asked, stream_mode=["custom", "values"]):
        if mode == "custom":
            events.append(part)
        else:
            state = part
    assert json.loads(json.dumps(events)) == events, "events are plain JSON"
    return Reasoned.from_dict(json.loads(json.dumps(state["answer"]))), events


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


def box_of(reasoned: Reasoned) -> Box:
    assert reasoned.segmentation is not None
    (thing,) = reasoned.segmentation.objects
    return thing.prompt.box


def only(box: Box, yes: float = 0.99, no: float = 0.05) -> Callable[[str], float]:
    """Of this box it thinks `yes`, of any other `no`."""
    written = EMBEDDED.encode_box(box, SIZE)
    return lambda text: yes if written in text else no


# Straight through, and looking again ----------------------------------------------------------------------------------


def test_a_sure_answer_takes_two_rounds_and_is_not_doubted(image: str) -> None:
    mllm = Spy(says(told(LEFT), only(LEFT)))
    reasoned, events = ask(graph_of(mllm), image)
    assert names(events) == ["look", "chosen"]
    assert reasoned.ended == "confident"
    assert reasoned.confidence == pytest.approx(0.99)
    assert box_of(reasoned) == pytest.approx(LEFT, abs=1)
    assert mllm.rounds == reasoned.spent.rounds == 2


def test_that_there_is_no_such_object_takes_one_round_where_it_is_sure(image: str) -> None:
    mllm = Spy(says(told(likely=0.97), only(LEFT)))
    reasoned, events = ask(graph_of(mllm), image)
    assert names(events) == ["look", "chosen"]
    assert reasoned.segmentation is not None
    assert reasoned.segmentation.objects == ()
    assert reasoned.segmentation.confidence == pytest.approx(0.97)
    assert mllm.rounds == 1


def test_a_wrong_box_gives_way_to_another_that_the_model_believes(image: str) -> None:
    mllm = Spy(says(told(LEFT), only(RIGHT), told(RIGHT)))
    reasoned, events = ask(graph_of(mllm, looking=Looking(steps=("verify", "other"))), image)
    assert names(events) == ["look", "verify", "other", "chosen"]
    assert box_of(reasoned) == pytest.approx(RIGHT, abs=1)
    assert [attempt.step for attempt in reasoned.tried] == ["look", "other"]
    assert reasoned.ended == "confident"


def test_a_model_that_was_taught_this_dialogue_alone_is_shown_no_drawing_unless_told_otherwise(image: str) -> None:
    for overlay, expected in ((None, 0), (True, 1), (False, 0)):
        graph = graph_of(Spy(says(told(LEFT), only(RIGHT), told(RIGHT))), dialect=EMBEDDED, looking=Looking(overlay=overlay))
        _, events = ask(graph, image)
        assert names(events).count("verify") == expected


def test_the_model_is_shown_its_own_answer(image: str) -> None:
    shown = []

    class Shown(Spy):
        def reply(self, image: Image.Image, questions: Sequence[Question]) -> list[Reply]:
            shown.append((about(questions[0]), image.copy()))
            return super().reply(image, questions)

    ask(graph_of(Shown(says(told(LEFT), only(RIGHT), told()))), image)
    whole, drawn = shown[0][1], next(picture for kind, picture in shown if kind == "whether")
    assert whole.size == drawn.size
    changed = np.argwhere((np.asarray(whole) != np.asarray(drawn)).any(-1))
    assert changed.size
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    assert left >= LEFT.x1 - 15
    assert right <= LEFT.x2 + 15
    assert top >= 0
    assert bottom <= LEFT.y2 + 15


def test_a_part_shows_what_the_whole_did_not_and_it_is_mapped_back(image: str) -> None:
    """Nothing on the whole picture; in the top right quarter, something in the middle of it."""
    middle, seen = Box(80.5, 80.5, 110.5, 110.5), []

    def boxes(_: str) -> Reply:
        seen.append(1)
        return told(middle) if len(seen) == 3 else told(likely=0.4)

    reasoned, events = ask(graph_of(Spy(says(boxes, lambda _: 0.9))), image)
    assert names(events) == ["look", "zoom", "chosen"]
    side = round(0.6 * 192)
    left = 192 - side
    expected = [left + middle.x1 * side / 192, middle.y1 * side / 192, left + middle.x2 * side / 192, middle.y2 * side / 192]
    assert box_of(reasoned) == pytest.approx(expected, abs=1.5)


def test_a_box_that_takes_much_of_the_picture_has_no_part_to_be_looked_into(image: str) -> None:
    large = Box(20.5, 20.5, 160.5, 160.5)
    mllm = Spy(says(told(large), lambda _: 0.6))
    reasoned, _ = ask(graph_of(mllm, looking=Looking(steps=("zoom",))), image)
    assert mllm.rounds == 2
    assert box_of(reasoned) == pytest.approx(large, abs=1)


def test_it_abstains_where_nothing_is_likely_enough(image: str) -> None:
    mllm = Spy(says(told(LEFT), lambda _: 0.45, told(RIGHT)))
    reasoned, events = ask(graph_of(mllm, looking=Looking(abstain=0.7, sure=0.9), budget=Budget(20)), image)
    assert reasoned.ended == "abstained"
    assert reasoned.segmentation is None
    assert reasoned.confidence is not None
    assert reasoned.confidence < 0.7
    assert any(attempt.boxes for attempt in reasoned.tried), "what was seen is told all the same"
    assert events[-1]["ended"] == "abstained"


def test_a_model_without_probabilities_is_taken_at_its_first_word(image: str) -> None:
    def reply(question: Question) -> Reply:
        return Reply("yes") if isinstance(question.answer, Labels) else Reply(told(LEFT).text)

    reasoned, events = ask(graph_of(Spy(reply)), image)
    assert names(events) == ["look", "chosen"]
    assert reasoned.confidence is None, "unknown, never invented"
    assert box_of(reasoned) == pytest.approx(LEFT, abs=1)


def test_unreadable_replies_end_in_no_answer_that_says_so(image: str) -> None:
    reasoned, _ = ask(graph_of(Spy(lambda _: Reply("[1 2"))), image, budget={"rounds": 30})
    assert reasoned.ended == "abstained"
    assert reasoned.segmentation is None
    assert "cut off" in reasoned.tried[0].note


def test_masks_from_close_by_take_no_question(image: str) -> None:
    asked, shown = {}, {}
    for closer in (True, False):
        mllm, segmenter = Spy(says(told(LEFT), only(LEFT))), BoxSegmenter()
        ask(graph_of(mllm, looking=Looking(closer=closer), segmenter=segmenter), image)
        asked[closer], shown[closer] = mllm.rounds, len(segmenter.calls)
    assert asked[True] == asked[False]
    assert shown[True] == shown[False] + 2, "the first view would be no closer"


# Other words ----------------------------------------------------------------------------------------------------------

STEPS = Looking(steps=("rephrase",))


def test_what_a_chat_model_says_otherwise_is_held_against_the_expression(image: str) -> None:
    mllm = Spy(says(lambda text: told(RIGHT) if "bottle" in text else told(LEFT), only(RIGHT)))
    graph = graph_of(mllm, ["1. the opener\n2) the bottle on the table\n"], looking=STEPS, budget=Budget(20))
    reasoned, events = ask(graph, image)
    assert names(events) == ["look", "rephrase", "rephrase", "chosen"]
    assert events[1]["wordings"] == ["the opener", "the bottle on the table"]
    assert box_of(reasoned) == pytest.approx(RIGHT, abs=1)
    assert reasoned.segmentation is not None
    assert reasoned.segmentation.expression == "the thing"
    questions = [question.turns[-1].text for question in mllm.questions if about(question) == "whether"]
    assert all("the thing" in text for text in questions)


JUNK = {
    "nothing": "",
    "blank lines": "\n \n\t\n",
    "the same again": "The Thing\n- the thing",
    "a title alone": "Here are some phrases:",
    "a novel": "word " * 500,
    "no letters": "...\n1.\n---\n42",
    "control codes": "\x1b[31mred\x1b[0m\x07",
    "an error": RuntimeError("429 too many requests"),
    "blocks without text": AIMessage([{"type": "reasoning", "reasoning": "hm"}]),
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
async def test_junk_from_the_chat_model_is_survived(junk: Any, image: str) -> None:
    def answer(_: Any) -> Any:
        if isinstance(junk, Exception):
            raise junk
        return junk

    for blocking in (True, False):
        graph = graph_of(Spy(says(told(LEFT), lambda _: 0.7)), [answer], looking=STEPS)
        if blocking:
            reasoned, events = ask(graph, image)
            assert events[1]["event"] == "rephrase"
            assert events[1]["wordings"] == []
            assert ("429" in json.dumps(events[1])) == isinstance(junk, Exception)
        else:
            reasoned = Reasoned.from_dict((await graph.ainvoke({"image": image, "expression": "the thing"}))["answer"])
        assert reasoned.ended == "exhausted"
        assert box_of(reasoned) == pytest.approx(LEFT, abs=1)


WORDINGS = {
    "plain lines": ("a mug\na cup", ["a mug", "a cup"]),
    "numbers and bullets": ("1. a mug\n2) a cup\n- a glass\n• a jar", ["a mug", "a cup", "a glass"]),
    "quotes": ("\"a mug\"\n'a cup'\n`a glass`", ["a mug", "a cup", "a glass"]),
    "an introduction": ("Sure! Here you are:\n\na mug", ["a mug"]),
    "twice": ("a mug\nA Mug\na cup", ["a mug", "a cup"]),
    "a number that belongs": ("2 mugs", ["2 mugs"]),
}


@pytest.mark.parametrize(("text", "expected"), WORDINGS.values(), ids=WORDINGS)
def test_wordings_are_read_line_by_line(text: str, expected: list[str]) -> None:
    assert read_wordings(text, "the thing", 3) == expected


# The budget -----------------------------------------------------------------------------------------------------------


def any_answer(rng: random.Random) -> Says:
    """Answers as a fool would, unreadable ones too."""

    def boxes() -> Reply:
        corners = [sorted(rng.sample(range(192), 2)) for _ in range(4)]
        some = [Box(a, c, b + 1, d + 1) for (a, b), (c, d) in zip(corners[::2], corners[1::2], strict=True)]
        return rng.choice((told(), told(some[0]), told(*some), told(LEFT, likely=0.3), Reply("hmm"), Reply("[1 2")))

    def reply(question: Question) -> Reply:
        if isinstance(question.answer, Labels):
            return rng.choice((sure(rng.random()), sure(rng.random()), Reply("perhaps")))
        return boxes()

    return reply


@given(
    seed=st.integers(0, 10**9),
    rounds=st.integers(0, 14),
    tokens=st.none() | st.integers(0, 30_000),
    seconds=st.none() | st.floats(1, 25),
    chatty=st.booleans(),
)
def test_no_budget_is_ever_exceeded(seed: int, rounds: int, tokens: int | None, seconds: float | None, chatty: bool) -> None:
    """Of rounds and tokens whatever happens; of seconds as long as no call takes twice as long as any before it."""
    rng = random.Random(seed)
    mllm = Spy(any_answer(rng), picture_tokens=rng.randint(1, 4000), seconds=lambda: rng.uniform(0.5, 1))
    store = PictureStore()
    chat = [lambda _: mllm.__dict__.update(now=mllm.now + 0.9, rounds=mllm.rounds + 1) or "a mug\na cup"] if chatty else None
    graph = graph_of(mllm, chat, budget=Budget(rounds, tokens, seconds), clock=mllm.clock, pictures=store)
    reasoned, events = ask(graph, store.put(PICTURE))
    assert mllm.rounds <= rounds
    assert tokens is None or mllm.tokens <= tokens
    assert seconds is None or mllm.now <= seconds
    assert reasoned.spent.rounds == mllm.rounds
    assert reasoned.spent.tokens >= mllm.tokens
    assert reasoned.spent.seconds == pytest.approx(mllm.now)
    assert names(events)[-1] == "chosen"
    assert reasoned.ended in ("confident", "budget", "abstained", "exhausted")


def test_what_the_budget_cuts_off_is_told_as_far_as_it_came(image: str) -> None:
    for rounds, ended, boxes in ((0, "budget", 0), (1, "exhausted", 1), (2, "budget", 1)):
        reasoned, _ = ask(graph_of(Spy(says(told(LEFT), lambda _: 0.6))), image, budget={"rounds": rounds})
        assert reasoned.ended == ended
        assert (reasoned.segmentation is not None) == (boxes > 0)
        assert sum(len(attempt.boxes) for attempt in reasoned.tried) == boxes
        assert reasoned.spent.rounds == rounds


def test_too_few_tokens_for_points_leave_the_box_and_whether_it_is_meant(image: str) -> None:
    mllm = Spy(says(told(LEFT), only(LEFT)))
    reasoned, _ = ask(graph_of(mllm), image, budget={"tokens": 5000})
    assert reasoned.ended == "confident", "4,096 are set aside for the first look, and there is room for the rest"
    mllm = Spy(says(told(LEFT), only(LEFT)), picture_tokens=1800)
    reasoned, _ = ask(graph_of(mllm), image, budget={"tokens": 5000})
    assert [about(question) for question in mllm.questions] == ["boxes", "whether"]
    assert "the budget doesn't reach" in " ".join(reasoned.tried[0].result["notes"])  # type: ignore[index]
    assert box_of(reasoned) == pytest.approx(LEFT, abs=1)


def test_a_caller_may_ask_for_less_than_the_graph_allows_but_not_for_more(image: str) -> None:
    for asked, most in (({"rounds": 100}, 3), ({"rounds": 1}, 1), ({}, 3), (None, 3)):
        mllm = Spy(says(told(LEFT), lambda _: 0.6))
        ask(graph_of(mllm, budget=Budget(rounds=3)), image, budget=asked)
        assert mllm.rounds <= most


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an empty expression": ({"expression": " "}, ExpressionError, "empty"),
    "a long expression": ({"expression": "x" * 3000}, ExpressionError, "3,000"),
    "no such picture": ({"image": "img-0123456789ab"}, LookupError, "no longer kept"),
    "a URL": ({"image": "https://example.com/a.png"}, ImageError, "turned off"),
    "a budget of something else": ({"budget": {"money": 3}}, ValueError, "money"),
    "a negative budget": ({"budget": {"rounds": -1}}, ValueError, "rounds"),
    "a budget in words": ({"budget": {"seconds": "ten"}}, ValueError, "seconds"),
}


@pytest.mark.parametrize(("wrong", "error", "named"), WRONG.values(), ids=WRONG)
async def test_bad_input_is_refused_in_words(wrong: dict[str, Any], error: type[Exception], named: str, image: str) -> None:
    graph = graph_of(Spy(says(told(LEFT), only(LEFT))))
    asked = {"image": image, "expression": "the thing", **wrong}
    with pytest.raises(error, match=named):
        graph.invoke(asked)
    with pytest.raises(error, match=named):
        await graph.ainvoke(asked)


def test_pictures_by_path_open_where_the_policy_says_so(image: str) -> None:
    graph = build_reasoning_graph(Sam4Mllm(Spy(says(told(LEFT), only(LEFT))), BoxSegmenter(), dialect=EMBEDDED))
    with pytest.raises(ImageError, match="paths are turned off"):
        graph.invoke({"image": image, "expression": "the thing"})


# State ----------------------------------------------------------------------------------------------------------------


def test_the_state_is_plain_json_and_holds_no_picture(image: str) -> None:
    graph = graph_of(Spy(says(told(LEFT), only(RIGHT), told(RIGHT))))
    for state in graph.stream({"image": image, "expression": "the thing"}, stream_mode="values"):
        assert json.loads(json.dumps(state)) == state
        assert len(json.dumps(state)) < 50_000


def test_a_thread_begins_anew_with_each_request(image: str) -> None:
    graph = graph_of(Spy(says(told(LEFT), only(LEFT))), checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    for _ in range(3):
        told_ = graph.invoke({"image": image, "expression": "the thing", "budget": {"rounds": 2}}, config)
        reasoned = Reasoned.from_dict(told_["answer"])
        assert reasoned.spent.rounds == 2
        assert len(reasoned.tried) == 1


async def test_async_gives_the_same(image: str) -> None:
    for whether in (only(LEFT), only(RIGHT), lambda _: 0.6):
        answers, events = [], []
        for blocking in (True, False):
            mllm = Spy(says(told(LEFT), whether, told(RIGHT)))
            graph = graph_of(mllm, ["a mug"], clock=mllm.clock)
            asked = {"image": image, "expression": "the thing"}
            if blocking:
                answers.append(graph.invoke(asked)["answer"])
                events.append(list(graph_of(mllm, ["a mug"], clock=mllm.clock).stream(asked, stream_mode="custom")))
            else:
                answers.append((await graph.ainvoke(asked))["answer"])
                other = graph_of(mllm, ["a mug"], clock=mllm.clock)
                events.append([part async for part in other.astream(asked, stream_mode="custom")])
        assert answers[0] == answers[1]
        assert events[0] == events[1]


# Standing -------------------------------------------------------------------------------------------------------------


def seen(*checks: float, none: float | None = None) -> Attempt:
    thing = {"box": [0, 0, 9, 9]}
    return Attempt("look", "x", {"objects": [thing for _ in checks]}, tuple((one,) for one in checks), none)


STANDINGS = {
    "one box": ([seen(0.9)], (0, False, 0.9)),
    "the likelier of two": ([seen(0.6), seen(0.8)], (1, False, 0.8)),
    "a box that is rather not meant": ([seen(0.2)], (None, True, 0.8)),
    "none, as it said itself": ([seen(none=0.9)], (0, True, 0.9)),
    "none said, and then something seen": ([seen(none=0.6), seen(0.9)], (1, False, 0.9)),
    "none said, and then nothing much seen": ([seen(none=0.9), seen(0.2)], (0, True, 0.72)),
    "of several the less likely are left out": ([seen(0.9, 0.8, 0.2)], (0, False, 0.8)),
    "nothing could be read": ([Attempt("look", "x", note="cut off")], (None, False, None)),
}


@pytest.mark.parametrize(("tried", "expected"), STANDINGS.values(), ids=STANDINGS)
def test_attempts_are_weighed(tried: list[Attempt], expected: tuple[int | None, bool, float | None]) -> None:
    standing = stand(tried)
    assert (standing.best, standing.none) == expected[:2]
    assert standing.confidence == (None if expected[2] is None else pytest.approx(expected[2]))


def test_a_way_that_can_t_be_afforded_gives_way_to_one_that_can() -> None:
    settings = Looking(steps=("rephrase", "verify"))
    assert next_step([seen(0.6)], ["look"], settings, lambda rounds: rounds <= 1) == "verify"
    assert next_step([seen(0.6)], ["look"], settings, lambda rounds: rounds <= 0) == "budget"
    assert next_step([seen(0.6)], ["look", "verify", "rephrase"], settings, lambda _: False) == "exhausted"


def test_attempts_and_answers_are_read_back_from_json(image: str) -> None:
    reasoned, _ = ask(graph_of(Spy(says(told(LEFT), only(RIGHT), told(RIGHT)))), image)
    again = Reasoned.from_dict(json.loads(json.dumps(reasoned.to_dict())))
    assert again.tried == reasoned.tried
    assert again.spent == reasoned.spent
    assert again.segmentation is not None
    assert reasoned.segmentation is not None
    assert np.array_equal(again.segmentation.mask, reasoned.segmentation.mask)


@pytest.mark.parametrize("wrong", [{"sure": 0.4}, {"abstain": -0.1}, {"sure": 1.2}, {"steps": ("guess",)}])
def test_settings_that_can_t_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"abstain|guess"):
        Looking(**wrong)


# For LangGraph's server, and the embedded pair ------------------------------------------------------------------------


def test_langgraph_json_names_graphs_that_are_there() -> None:
    folder = Path(reasoning.__file__).parent
    told_ = json.loads((folder / "langgraph.json").read_text())
    assert set(told_["graphs"]) == {"chat", "reasoning"}
    for place in told_["graphs"].values():
        path, name = place.split(":")
        assert (folder / path).is_file()
        assert f"def {name}(" in (folder / path).read_text()
    for dependency in told_["dependencies"]:
        assert (folder / dependency).is_dir()


def test_the_server_s_graph_is_built_without_loading_a_model() -> None:
    program = (
        "import sys, json; from sam4mllm_tool.agents.reasoning import graph; "
        "print(json.dumps([graph() is graph(), type(graph()).__name__, 'torch' in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [True, "CompiledStateGraph", False]


@pytest.fixture(scope="module")
def embedded() -> Sam4Mllm:
    return Sam4Mllm.load()


def test_the_embedded_pair_finds_what_is_meant(embedded: Sam4Mllm) -> None:
    store = PictureStore()
    graph = build_reasoning_graph(embedded, pictures=store)
    overlaps = []
    for seed in range(700_000, 700_008):
        scene = draw_scene(seed)
        meant = next((one for one in expressions(scene) if one.kind == "implicit"), None)
        if meant is None:
            continue
        told_ = graph.invoke({"image": store.put(Image.fromarray(scene.image)), "expression": meant.text})
        reasoned = Reasoned.from_dict(told_["answer"])
        mask = reasoned.segmentation.mask if reasoned.segmentation else np.zeros((256, 256), bool)
        truth = scene.mask(meant.targets[0])
        overlaps.append((mask & truth).sum() / (mask | truth).sum())
    assert len(overlaps) > 4
    assert np.median(overlaps) > 0.93


RESUMED = """
import json, sys
from langgraph.checkpoint.sqlite import SqliteSaver
from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.agents.reasoning import build_reasoning_graph
from sam4mllm_tool.reasoning.attempts import Looking
from sam4mllm_tool.tools.image_store import PictureStore
database, pictures = sys.argv[1:]
config = {"configurable": {"thread_id": "1"}}
with SqliteSaver.from_conn_string(database) as saver:
    graph = build_reasoning_graph(
        Sam4Mllm.load(),
        checkpointer=saver,
        pictures=PictureStore(folder=pictures),
        looking=Looking(sure=1.0),
        clock=lambda: 0.0,
    )
    print(json.dumps(graph.invoke(None, config)["answer"]))
"""


def test_a_run_goes_on_in_another_process_where_the_first_left_off(embedded: Sam4Mllm, tmp_path: Path) -> None:
    store = PictureStore(folder=tmp_path / "pictures")
    scene = draw_scene(700_003)
    thing = scene.objects[0]
    asked = {"image": store.put(Image.fromarray(scene.image)), "expression": f"the {thing.colour} {thing.shape}"}
    settings: dict[str, Any] = {"pictures": store, "looking": Looking(sure=1.0), "clock": lambda: 0.0}
    whole = build_reasoning_graph(embedded, **settings).invoke(asked)
    config: Any = {"configurable": {"thread_id": "1"}}
    with SqliteSaver.from_conn_string(str(tmp_path / "thread.sqlite")) as saver:
        cut = build_reasoning_graph(embedded, checkpointer=saver, **settings)
        cut.invoke(asked, config, interrupt_after=["look"])
        assert cut.get_state(config).next == ("zoom",)
    arguments = [str(tmp_path / "thread.sqlite"), str(tmp_path / "pictures")]
    run = subprocess.run([sys.executable, "-c", RESUMED, *arguments], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == json.loads(json.dumps(whole["answer"]))
