"""MLLMs behind servers that speak OpenAI's chat API, on loopback: one over the embedded weights, and ones that misbehave."""

import asyncio
import logging
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("openai")

from sam4mllm_tool.errors import BackendError, ExpressionError, OverBudgetError, SpecError
from sam4mllm_tool.images import load_image
from sam4mllm_tool.models.mllm import load_mllm
from sam4mllm_tool.models.mllm.image_payload import MAX_PIXELS
from sam4mllm_tool.models.mllm.openai_compatible import OpenAICompatibleMLLM, ServerOptions
from sam4mllm_tool.models.mllm.server_keys import ask_for_key, find_key
from sam4mllm_tool.pipeline import Sam4Mllm
from sam4mllm_tool.protocol import DIALECTS, PLAIN, Grid
from sam4mllm_tool.protocol.dialects import find_by_model_name
from sam4mllm_tool.reasoning.budget import Budget, Meter
from sam4mllm_tool.trace import Recorder, replay
from sam4mllm_tool.types import Box, FreeText, Image, Labels, Point, Question, Reply, Size, Tokens, Turn, Usage
from tests.example_scene import EXAMPLE_IMAGE, EXPRESSION
from tests.openai_servers import Exchange, LoopbackServer, Response, answer_with_weights, build_completion, read_image, serve
from tests.results import assert_equal_but_for_rounding

YES_NO = ("Yes", "No")
KEY = "sk-0123456789secret"
FIRST = (Turn("user", "Where is the mug?"), Turn("assistant", "[1,2,3,4]"))
BOXES = Question((Turn("user", "Where is the mug?"),), FreeText(64))
POINTS = [Question((*FIRST, Turn("user", f"Is point {number} on it?")), Labels(1, YES_NO)) for number in range(4)]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAM4MLLM_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def connect(server: LoopbackServer, **options: float) -> OpenAICompatibleMLLM:
    return OpenAICompatibleMLLM("m", server.url, options=ServerOptions(**{"retries": 0, **options}))


# Over real weights -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights() -> Iterator[LoopbackServer]:
    with serve(answer_with_weights(), models=["pair"]) as server:
        yield server


@pytest.fixture(scope="module")
def local() -> Sam4Mllm:
    return Sam4Mllm.load("embedded", "embedded", sampler=Grid(2, 2))


@pytest.fixture(scope="module")
def remote(weights: LoopbackServer, local: Sam4Mllm) -> Sam4Mllm:
    mllm = load_mllm(f"openai:pair@{weights.url}", dialect=local.dialect)
    return Sam4Mllm(mllm, local.segmenter, dialect=local.dialect, calibration=local.calibration, config=local.config)


@pytest.mark.parametrize("method", ["pqpp", "box", "ppg"])
def test_a_server_over_the_same_weights_gives_the_same_boxes_and_point_answers(
    remote: Sam4Mllm, local: Sam4Mllm, method: str
) -> None:
    image = load_image(EXAMPLE_IMAGE)
    expected, segmented = (models.segment(image, EXPRESSION, method=method) for models in (local, remote))
    assert [each.prompt.box for each in segmented.objects] == [each.prompt.box for each in expected.objects] != []
    assert np.array_equal(segmented.mask, expected.mask)
    answers, expected_answers = segmented.point_answers, expected.point_answers
    assert [answer.point.label for answer in answers] == [answer.point.label for answer in expected_answers]
    for answer, other in zip(answers, expected_answers, strict=True):
        if method == "pqpp":
            assert answer.point.confidence == pytest.approx(other.point.confidence, abs=1e-2)
    assert segmented.usage.tokens is not None


async def test_async_answers_are_the_same(remote: Sam4Mllm) -> None:
    image = load_image(EXAMPLE_IMAGE)
    expected, segmented = remote.segment(image, EXPRESSION), await remote.asegment(image, EXPRESSION)
    assert segmented.point_answers
    assert_equal_but_for_rounding(segmented, expected)


def test_the_free_text_has_the_probability_that_the_local_model_gives(remote: Sam4Mllm, local: Sam4Mllm) -> None:
    image, question = load_image(EXAMPLE_IMAGE), local.dialect.ask_boxes(EXPRESSION)
    (reply,), (expected,) = (models.mllm.reply(image, [question]) for models in (remote, local))
    assert reply.text == expected.text
    assert reply.log_probability == pytest.approx(expected.log_probability, abs=0.02)


def test_all_questions_about_an_image_begin_with_the_same_bytes(weights: LoopbackServer, remote: Sam4Mllm) -> None:
    weights.exchanges.clear()
    remote.segment(load_image(EXAMPLE_IMAGE), EXPRESSION)
    assert len(weights.chats) == 5
    assert len({str(exchange.body["messages"][0]) for exchange in weights.chats}) == 1
    content = weights.chats[0].body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"], "the image first"


# What a server can do --------------------------------------------------------------------------------------------------


def yes_or_no(_: Exchange) -> dict[str, object]:
    """Answer any question with Yes, three to one."""
    return build_completion("Yes", probabilities=[{"Yes": 0.6, " No": 0.15, "No": 0.05, "Maybe": 0.2}])


def test_probabilities_are_those_of_the_words_alone_in_all_spellings() -> None:
    with serve(yes_or_no) as server:
        (reply,) = connect(server).reply(square(), POINTS[:1])
    assert reply.text == "Yes"
    assert reply.label_probabilities == (pytest.approx((0.75, 0.25)),)
    assert reply.tokens == Tokens(100, 2)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([{"\n": 0.9, "Yes": 0.1}, {"No": 0.8, "Yes": 0.2}], (0.2, 0.8)),
        ([{"**": 0.9, "x": 0.1}, {"yes": 0.9, "YES": 0.05, "no": 0.05}], (0.95, 0.05)),
        ([{"Y": 0.5, "N": 0.5}], (0.5, 0.5)),
        ([{"Yes,": 0.7, "Not": 0.2, "No.": 0.1}], (0.875, 0.125)),
        ([{"Yes": 0.999}], (1.0, 0.0)),
        ([{"The": 0.9, "Yes": 0.005, "No": 0.001}], None),
        ([{"Maybe": 0.9}], None),
    ],
    ids=[
        "a line break first",
        "markup first",
        "halves of words",
        "marks after words",
        "no beyond the list",
        "prose",
        "neither",
    ],
)
def test_where_the_probabilities_of_a_word_are_read(
    probabilities: list[dict[str, float]], expected: tuple[float, float] | None
) -> None:
    with serve(lambda _: build_completion("Yes", probabilities=probabilities)) as server:
        (reply,) = connect(server).reply(square(), POINTS[:1])
    assert reply.label_probabilities == (None if expected is None else (pytest.approx(expected),))
    assert reply.text == ("No" if expected == (0.2, 0.8) else "Yes")


VOCABULARY = {"Yes": 10, " Yes": 11, "No": 12, " No": 13, "Maybe": 14}


def vllm(exchange: Exchange) -> dict[str, object]:
    """Report the probabilities of the requested tokens alone, as vLLM does."""
    if exchange.path == "/tokenize":
        return {"tokens": [VOCABULARY[exchange.body["prompt"]]], "count": 1, "max_model_len": 4096}
    shares = {"Yes": 1 - 1e-6, " Yes": 1e-9, "No": 9e-7, " No": 1e-8, "Maybe": 5e-8}
    wanted = exchange.body.get("logprob_token_ids")
    reported = {text: share for text, share in shares.items() if wanted and VOCABULARY[text] in wanted}
    return build_completion("Yes", probabilities=[reported or {"Yes": 1 - 1e-6}])


def test_vllm_reports_the_probability_of_a_word_however_small() -> None:
    with serve(vllm, models=["m"], owner="vllm") as server:
        mllm = connect(server)
        mllm.check()
        before = len(server.exchanges)
        (reply,) = mllm.reply(square(), POINTS[:1])
    assert reply.label_probabilities == ((pytest.approx(1 - 9.1e-7, abs=1e-8), pytest.approx(9.1e-7, rel=0.01)),)
    assert server.exchanges[-1].body["logprob_token_ids"] == [10, 11, 12, 13]
    assert len(server.exchanges) == before + 1, "the tokens were learnt once"


@pytest.mark.parametrize("fault", ["no such path", "another answer", "refused"])
def test_a_vllm_that_can_not_do_so_is_asked_for_the_most_probable_tokens(fault: str) -> None:
    def answer(exchange: Exchange) -> Response | dict[str, object]:
        if exchange.path == "/tokenize" and fault != "refused":
            return (404, "not found", {}) if fault == "no such path" else {"tokens": []}
        if "logprob_token_ids" in exchange.body:
            return 400, {"error": {"message": "Extra inputs are not permitted: logprob_token_ids"}}, {}
        return vllm(exchange) if exchange.path == "/tokenize" else yes_or_no(exchange)

    with serve(answer, models=["m"], owner="vllm") as server:
        mllm = connect(server)
        mllm.check()
        (reply,) = mllm.reply(square(), POINTS[:1])
    assert reply.label_probabilities == (pytest.approx((0.75, 0.25)),)


def test_an_odd_answer_without_probabilities_falls_back_alone() -> None:
    """As one that a proxy's cache gave, or a moderation step; the others of its round, and all later ones, are scored."""

    odd = iter([True])

    def answer(exchange: Exchange) -> dict[str, object]:
        return build_completion("Yes") if "point 1" in exchange.last_text and next(odd, False) else yes_or_no(exchange)

    with serve(answer, models=["m"]) as server:
        mllm = connect(server, concurrency=1)
        mllm.check()
        replies = mllm.reply(square(), POINTS)
        again = mllm.reply(square(), POINTS)
    assert [reply.label_probabilities is None for reply in replies] == [False, True, False, False]
    assert replies[1].text == "Yes"
    assert all(reply.label_probabilities is not None for reply in again)


def test_probabilities_that_stop_are_given_up_and_taken_up_again_where_they_return() -> None:
    gives = True

    def answer(exchange: Exchange) -> dict[str, object]:
        return yes_or_no(exchange) if gives else build_completion("1. Yes\n2. No\n3. No\n4. Yes")

    with serve(answer) as server:
        mllm = connect(server)
        mllm.reply(square(), POINTS)
        gives = False
        mllm.reply(square(), POINTS)
        assert not mllm.gives_probabilities
        before = len(server.exchanges)
        mllm.reply(square(), POINTS)
        assert len(server.exchanges) == before + 1, "all in one numbered question"
        gives = True
        mllm.reply(square(), [BOXES])
        (reply,) = mllm.reply(square(), POINTS[:1])
    assert reply.label_probabilities is not None


def test_one_empty_answer_does_not_end_the_probabilities() -> None:
    answers = iter([build_completion("", probabilities=[]), build_completion("Yes", probabilities=[{"Yes": 0.9, "No": 0.1}])])
    with serve(lambda _: next(answers)) as server:
        mllm = connect(server)
        (empty,), (reply,) = (mllm.reply(square(), [question]) for question in (BOXES, POINTS[0]))
    assert empty == Reply("", tokens=Tokens(100, 2)), "its probability is unknown"
    assert reply.label_probabilities == (pytest.approx((0.9, 0.1)),)


def test_several_labels_of_one_answer_are_scored_one_by_one() -> None:
    tokens = [{"No": 0.9, "Yes": 0.1}, {"Yes": 0.8, "No": 0.2}, {" ": 1.0}, {"No": 0.6, "Yes": 0.4}]
    question = Question((*FIRST, Turn("user", "Which of the three?")), Labels(3, YES_NO))
    with serve(lambda _: build_completion("NoYes No", probabilities=tokens)) as server:
        (reply,) = connect(server).reply(square(), [question])
    assert reply.text == "NoYesNo"
    assert reply.label_probabilities == tuple(map(pytest.approx, [(0.1, 0.9), (0.8, 0.2), (0.4, 0.6)]))


def test_a_wrong_number_of_labels_is_left_to_the_dialect_to_refuse() -> None:
    question = Question((*FIRST, Turn("user", "Which of the three?")), Labels(3, YES_NO))
    with serve(lambda _: build_completion("NoYes", probabilities=[{"No": 1.0}, {"Yes": 1.0}])) as server:
        (reply,) = connect(server).reply(square(), [question])
    assert reply == Reply("NoYes", tokens=Tokens(100, 2))


def refuse(*names: str) -> Callable[[Exchange], Response | dict[str, object]]:
    """Return a server's function that accepts none of these parameters, and says which."""

    def answer(exchange: Exchange) -> Response | dict[str, object]:
        for name in names:
            if name in exchange.body:
                return 400, {"error": {"message": f"Unsupported parameter: '{name}'"}}, {}
        return yes_or_no(exchange)

    return answer


@pytest.mark.parametrize(
    "names",
    [
        ("structured_outputs",),
        ("chat_template_kwargs", "structured_outputs"),
        ("temperature", "max_tokens", "structured_outputs", "chat_template_kwargs"),
    ],
)
def test_what_a_server_refuses_is_left_out_from_then_on(names: tuple[str, ...]) -> None:
    with serve(refuse(*names), models=["m"]) as server:
        mllm = connect(server)
        mllm.check()
        refused = len(server.exchanges)
        (reply,) = mllm.reply(square(), POINTS[:1])
    assert reply.label_probabilities == (pytest.approx((0.75, 0.25)),)
    assert len(server.exchanges) == refused + 1, "nothing is tried again"
    assert not set(names) & set(server.exchanges[-1].body)
    assert mllm.greedy == ("temperature" not in names)


NO_LOGPROBS = (403, {"error": {"message": "You are not allowed to request logprobs from this model", "code": None}}, {})
"""OpenAI's answer for models that reason."""


def test_a_parameter_that_the_model_may_not_be_asked_for_is_left_out_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve(
        lambda each: NO_LOGPROBS if "logprobs" in each.body else numbered("1. Yes\n2. No")(each), models=["m"]
    ) as server:
        mllm = load_mllm(f"openai:m@{server.url}")
        connected = len(server.exchanges)
        replies = mllm.reply(square(), POINTS[:2])
    assert [reply.text for reply in replies] == ["Yes", "No"]
    assert all(reply.label_probabilities is None for reply in replies)
    assert len(server.exchanges) == connected + 1


def test_a_refusal_of_permission_that_names_no_parameter_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answer: Response = (403, {"error": {"message": "Country not supported"}}, {})
    message = r"doesn't allow the request for 'm' \(403\): Country not supported$"
    with serve(lambda _: answer, models=["m"]) as server, pytest.raises(SpecError, match=message):
        load_mllm(f"openai:m@{server.url}")
    assert len(server.exchanges) == 2, "the list of models, and one question"


def test_all_names_of_the_switch_for_thinking_are_sent() -> None:
    with serve(yes_or_no) as server:
        connect(server).reply(square(), POINTS[:1])
    assert server.exchanges[0].body["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}


def test_a_server_that_gives_fewer_alternatives_is_asked_for_fewer() -> None:
    def answer(exchange: Exchange) -> Response | dict[str, object]:
        if exchange.body["top_logprobs"] > 5:
            return 400, {"error": {"message": "top_logprobs must be at most 5"}}, {}
        return yes_or_no(exchange)

    with serve(answer) as server:
        (reply,) = connect(server).reply(square(), POINTS[:1])
    assert reply.label_probabilities is not None


def test_a_refusal_of_the_question_itself_changes_nothing_for_the_next() -> None:
    def answer(exchange: Exchange) -> Response | dict[str, object]:
        if "Where" in exchange.last_text:
            return 400, {"error": {"message": "the prompt is too long"}}, {}
        return yes_or_no(exchange)

    with serve(answer) as server:
        mllm = connect(server)
        with pytest.raises(BackendError, match=r"failed to answer for 'm' \(400\): the prompt is too long"):
            mllm.reply(square(), [BOXES])
        (reply,) = mllm.reply(square(), POINTS[:1])
    assert reply.label_probabilities is not None
    assert mllm.greedy


def numbered(answer: str) -> Callable[[Exchange], str]:
    """Return the function of a server without probabilities that answers a numbered question so, and others with No."""
    return lambda exchange: answer if "on a line of its own" in exchange.last_text else "No"


@pytest.mark.parametrize(
    ("answer", "expected", "more"),
    [
        ("1. Yes\n2. No\n3. No\n4. Yes", "Yes No No Yes", 0),
        ("4. Yes\n2. Yes\n3. No\n1. No", "No Yes No Yes", 0),
        ("Sure!\n**1.** Yes\n**2.** no\n3) YES\n4: No", "Yes No Yes No", 0),
        ('{"1": "Yes", "2": "No", "3": "Yes", "4": "Yes"}', "Yes No Yes Yes", 0),
        ("Yes, No, Yes, Yes", "Yes No Yes Yes", 0),
        ("1. Yes\n2. Yes\n3. Y", "Yes Yes No No", 2),
        ("1. Yes\n1. No\n2. Yes\n3. Yes\n4. Yes", "No Yes Yes Yes", 1),
        ("Yes, No", "No No No No", 4),
        ("I can't see the points.", "No No No No", 4),
        ("", "No No No No", 4),
        ("5. Yes\n6. Yes", "No No No No", 4),
    ],
    ids=[
        "in order",
        "in another order",
        "marks",
        "JSON",
        "words alone",
        "cut off",
        "one number twice",
        "too few words",
        "prose",
        "empty",
        "wrong numbers",
    ],
)
def test_without_probabilities_all_points_are_one_question(answer: str, expected: str, more: int) -> None:
    with serve(numbered(answer)) as server:
        mllm = connect(server)
        mllm.reply(square(), [BOXES])
        replies = mllm.reply(square(), POINTS)
    assert not mllm.gives_probabilities
    assert [reply.text for reply in replies] == expected.split()
    assert all(reply.label_probabilities is None for reply in replies), "never invented"
    assert len(server.exchanges) == 2 + more, "what can't be read is asked alone"
    assert server.exchanges[1].last_text.endswith("\n4. Is point 3 on it?"), "the points last"


def test_what_numbered_questions_share_is_written_once() -> None:
    box, points = Box(10, 10, 50, 50), [Point(12, 12), Point(30, 40)]
    with serve(numbered("1. Yes\n2. No")) as server:
        mllm = connect(server)
        mllm.reply(square(), [BOXES])
        replies = mllm.reply(square(), PLAIN.ask_points(FIRST, box, points, Size(*square().size)))
    head, shared, *ends = server.exchanges[-1].last_text.split("\n")
    assert "on a line of its own" in head
    assert shared.startswith("Look at the object in the bounding box below.")
    assert [end.partition("(")[0] for end in ends] == ["1. The point: ", "2. The point: "]
    assert [reply.text for reply in replies] == ["Yes", "No"]


def test_a_server_that_never_answers_by_numbers_is_asked_so_once() -> None:
    with serve(numbered("I can't.")) as server:
        mllm = connect(server)
        for _ in range(3):
            mllm.reply(square(), POINTS)
    assert sum("on a line of its own" in exchange.last_text for exchange in server.exchanges) == 1


def test_votes_estimate_a_probability_only_where_they_are_wanted() -> None:
    drawn = iter(["Yes", "Yes", "No", "hm", "Yes"])

    def answer(exchange: Exchange) -> str:
        return next(drawn) if exchange.body["temperature"] == 1 else "No"

    with serve(answer) as server:
        (unsure,) = connect(server).reply(square(), POINTS[:1])
        (reply,) = connect(server, votes=5, concurrency=1).reply(square(), POINTS[:1])
    assert unsure == Reply("No", tokens=Tokens(100, 2))
    assert reply.label_probabilities == ((0.75, 0.25),)
    assert reply.text == "Yes"


# Thoughts and answers that are cut off ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reasoning", "expected"),
    [
        ("<think>it is at [9,9,99,99]</think>\n[1,2,30,40]", None, "[1,2,30,40]"),
        ("it is at [9,9,99,99]</think>[1,2,30,40]", None, "[1,2,30,40]"),
        ("[1,2,30,40]", "it is at [9,9,99,99]", "[1,2,30,40]"),
        ("<think>it is at [9,9,99,99]", None, ""),
        (None, "it is at [9,9,99,99]", ""),
        ("\n[1,2,30,40]", None, "\n[1,2,30,40]"),
    ],
    ids=["marked", "opened by the template", "in a field of its own", "without an end", "only a thought", "no thought"],
)
def test_a_thought_is_no_answer(text: str | None, reasoning: str | None, expected: str) -> None:
    with serve(lambda _: build_completion(text, reasoning_content=reasoning, probabilities=[{"[": 0.5}])) as server:
        (reply,) = connect(server).reply(square(), [BOXES])
    assert reply.text == expected
    is_plain = reasoning is None and expected == text
    assert (reply.log_probability is not None) == is_plain, "the thought's probability is not the answer's"


def test_a_model_that_can_not_be_kept_from_thinking_gets_room_for_it() -> None:
    def answer(exchange: Exchange) -> dict[str, object]:
        if exchange.body["max_tokens"] < 1000:
            return build_completion("<think>hm", finish_reason="length")
        return build_completion("<think>hm</think>Yes")

    with serve(answer, models=["m"]) as server:
        mllm = connect(server)
        mllm.check()
        before = len(server.exchanges)
        (reply,) = mllm.reply(square(), POINTS[:1])
    assert reply.text == "Yes"
    assert reply.label_probabilities is None
    assert len(server.exchanges) == before + 1, "it was learnt once"


def test_an_answer_that_is_cut_off_is_returned_as_far_as_it_goes() -> None:
    with serve(lambda _: build_completion('```json\n[{"bbox_2d": [1, 2, 3', finish_reason="length")) as server:
        (reply,) = connect(server).reply(square(), [BOXES])
    assert reply.text == '```json\n[{"bbox_2d": [1, 2, 3'


# Images ----------------------------------------------------------------------------------------------------------------


def square(width: int = 96, height: int = 96) -> Image:
    return PIL.Image.new("RGB", (width, height), "navy")


def noise(width: int, height: int) -> Image:
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("dialect", "size", "sent"),
    [
        ("plain", (640, 480), (640, 480)),
        ("plain", (4000, 3000), (1156, 867)),
        ("plain", (200, 10), (560, 28)),
        ("qwen2_5_vl", (640, 480), (644, 476)),
        ("qwen2_5_vl", (4000, 3000), (1148, 840)),
        ("qwen2_5_vl", (20, 20), (56, 56)),
        ("claude", (4000, 3000), (1156, 867)),
        ("claude", (4000, 400), (1568, 156)),
        ("gpt", (4000, 3000), (1024, 768)),
        ("gpt", (4000, 400), (2048, 204)),
        ("gpt", (640, 480), (640, 480)),
    ],
)
def test_an_image_is_sent_in_the_size_that_the_family_counts_in(
    dialect: str, size: tuple[int, int], sent: tuple[int, int]
) -> None:
    with serve(yes_or_no) as server:
        mllm = OpenAICompatibleMLLM("m", server.url, dialect=DIALECTS[dialect])
        mllm.reply(square(*size), POINTS[:1])
        image = read_image(server.exchanges[0])
    assert image is not None
    assert image.size == sent
    assert (mllm.resizing is not None) == (dialect != "plain")


def test_the_option_max_pixels_bounds_what_is_sent() -> None:
    with serve(yes_or_no, models=["m"]) as server:
        load_mllm(f"openai:m@{server.url}", max_pixels=10_000).reply(square(400, 100), POINTS[:1])
        image = read_image(server.exchanges[-1])
    assert image is not None
    assert image.size == (200, 50)


@pytest.mark.parametrize("max_pixels", [MAX_PIXELS, 100_000])
@pytest.mark.parametrize("size", [Size(1000, 700), Size(4000, 3000)])
@pytest.mark.parametrize(("model", "key"), [("qwen2.5vl:7b", "bbox_2d"), ("claude-sonnet-5", "box"), ("gpt-5", "box")])
def test_pixel_frames_are_exact(model: str, key: str, size: Size, max_pixels: int) -> None:
    """Boxes in pixels of the image as it was sent come back on the original."""

    def answer(exchange: Exchange) -> str:
        image = read_image(exchange)
        assert image is not None
        assert image.width * image.height <= max_pixels, "every image, however much the family takes"
        return f'[{{"{key}": [0, 0, {image.width}, {image.height / 2}]}}]'

    with serve(answer) as server:
        mllm = OpenAICompatibleMLLM(model, server.url, options=ServerOptions(max_pixels=max_pixels))
        family = find_by_model_name(model)
        assert family is not None
        dialect = family.for_model(mllm.resizing)
        question = dialect.ask_boxes("the upper half")
        (reply,) = mllm.reply(square(*size), [question])
        (box,) = dialect.parse_boxes(question, reply, size)
    assert box == pytest.approx((0, 0, size.width, size.height / 2))


@pytest.mark.parametrize(("image", "kind"), [(square(), "png"), (noise(1000, 1000), "jpeg")], ids=["drawn", "noise"])
def test_an_image_is_sent_without_loss_unless_it_is_large(image: Image, kind: str) -> None:
    with serve(yes_or_no) as server:
        connect(server).reply(image, POINTS[:1])
        (exchange,) = server.exchanges
    assert f"data:image/{kind};base64," in str(exchange.body)
    if kind == "png":
        assert np.array_equal(np.asarray(read_image(exchange)), np.asarray(image))
    else:
        assert len(str(exchange.body)) < np.asarray(image).nbytes * 4 / 3, "smaller than noise without loss"


# Failures while it runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_when_it_says(status: int) -> None:
    left = iter([True, False])

    def answer(exchange: Exchange) -> Response | dict[str, object]:
        if next(left):
            return status, {"error": {"message": "busy"}}, {"Retry-After": "0.05"}
        return yes_or_no(exchange)

    with serve(answer) as server:
        (reply,) = connect(server, retries=1).reply(square(), POINTS[:1])
    assert reply.text == "Yes"
    assert len(server.exchanges) == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((429, {"error": {"message": "quota used up"}}, {}), r"because of a limit \(429\): quota used up; try later"),
        ((500, {"error": "out of memory"}, {}), r"failed to answer for 'm' \(500\): out of memory"),
        ((502, "<html>bad gateway</html>", {}), r"\(502\): the server gave no reason"),
        ((401, {"error": {"message": "no"}}, {}), r"wants a key \(401\): set SAM4MLLM_API_KEY or OPENAI_API_KEY"),
        ((403, {"error": {"message": "Invalid API key"}}, {}), r"wants a key \(403\): set SAM4MLLM_API_KEY or OPENAI_API_KEY"),
        ((403, "Forbidden", {}), r"doesn't allow the request for 'm' \(403\): .*; if it wants a key, set SAM4MLLM_API_KEY or"),
        ((200, "<html>hello</html>", {}), "gave no answer of an OpenAI-compatible API"),
        ((200, {"choices": []}, {}), "gave no answer of an OpenAI-compatible API"),
        ((200, {"hello": "world"}, {}), "gave no answer of an OpenAI-compatible API"),
        ((200, '{"choices": [{"mess', {"Content-Type": "application/json"}), "gave no answer of an OpenAI-compatible API"),
    ],
    ids=["limit", "error", "gateway", "key", "wrong key", "forbidden", "HTML", "no choice", "other JSON", "half a JSON"],
)
def test_a_failure_is_one_line(answer: Response, message: str) -> None:
    with serve(lambda _: answer) as server, pytest.raises(BackendError, match=message) as caught:
        connect(server).reply(square(), POINTS)
    assert "\n" not in str(caught.value)
    assert server.url in str(caught.value)


def test_a_server_that_hangs_is_given_up_after_the_timeout() -> None:
    end = threading.Event()
    with serve(lambda _: (end.wait(10), "Yes")[1]) as server:
        with pytest.raises(BackendError, match=r"gave no answer within 0.2 s"):
            connect(server, timeout_s=0.2).reply(square(), POINTS)
        end.set()


def test_a_server_that_went_away_is_one_line() -> None:
    with serve(yes_or_no) as server:
        mllm = connect(server)
    with pytest.raises(BackendError, match=r"can't be reached \(.*\): start it, or correct the URL"):
        mllm.reply(square(), POINTS)


async def test_cancelling_closes_the_requests_and_starts_no_more() -> None:
    begun, end = threading.Event(), threading.Event()

    def answer(exchange: Exchange) -> dict[str, object]:
        begun.set()
        end.wait(10)
        return yes_or_no(exchange)

    with serve(answer) as server:
        mllm = connect(server, concurrency=2)
        task = asyncio.create_task(mllm.areply(square(), POINTS))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        end.set()
        (reply,) = await mllm.areply(square(), POINTS[:1])  # later requests find the limit free
    assert reply.text == "Yes"
    assert len(server.exchanges) <= 3


def test_points_are_asked_concurrently_within_the_limit() -> None:
    lock, all_three = threading.Lock(), threading.Barrier(3, timeout=10)
    running, most = 0, 0

    def answer(exchange: Exchange) -> dict[str, object]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        all_three.wait()
        with lock:
            running -= 1
        return yes_or_no(exchange)

    questions = [Question((*FIRST, Turn("user", f"{number}?")), Labels(1, YES_NO)) for number in range(9)]
    with serve(answer) as server:
        replies = connect(server, concurrency=3).reply(square(), questions)
    assert len(replies) == 9
    assert most == 3


def test_replies_keep_the_order_of_the_questions_however_late_they_come() -> None:
    def answer(exchange: Exchange) -> dict[str, object]:
        number = int(re.findall(r"\d", exchange.last_text)[-1])
        time.sleep(0.02 * (4 - number))
        word = YES_NO[number % 2]
        return build_completion(word, probabilities=[{word: 0.9}])

    with serve(answer) as server:
        replies = connect(server).reply(square(), POINTS)
    assert [reply.text for reply in replies] == ["Yes", "No", "Yes", "No"]


@pytest.mark.parametrize("token", ["<|im_end|>", "<end_of_turn>", "[/INST]", "</s>", "<image>", "<__media__>"])
def test_control_tokens_are_refused(token: str) -> None:
    with serve(yes_or_no) as server, pytest.raises(ExpressionError, match="control token"):
        connect(server).reply(square(), [PLAIN.ask_boxes(f"the mug{token}")])
    assert server.exchanges == []


def test_the_own_dialects_use_no_control_tokens() -> None:
    with serve(yes_or_no) as server:
        mllm = connect(server)
        for dialect in DIALECTS.values():
            mllm.reply(square(), [dialect.ask_boxes("the mug")])


# Loading ---------------------------------------------------------------------------------------------------------------


def with_vision(exchange: Exchange) -> Response | dict[str, object]:
    return yes_or_no(exchange)


def without_vision(exchange: Exchange) -> Response | dict[str, object]:
    if exchange.has_image:
        return 400, {"error": {"message": "image input is not supported"}}, {}
    return yes_or_no(exchange)


def wrong_model(exchange: Exchange) -> Response | dict[str, object]:
    return 404, {"error": {"message": f"The model `{exchange.body['model']}` does not exist."}}, {}


def no_model(_: Exchange) -> Response | dict[str, object]:
    return 404, {"error": {"message": "The model `m` does not exist."}}, {}


def no_api(_: Exchange) -> Response | dict[str, object]:
    return 404, "not found", {}


def keyed(exchange: Exchange) -> Response | dict[str, object]:
    if exchange.headers.get("authorization") != "Bearer right":
        return 401, {"error": {"message": f"Incorrect API key provided: {exchange.headers.get('authorization')}"}}, {}
    return yes_or_no(exchange)


def deaf(_: Exchange) -> Response | dict[str, object]:
    """Leave the image out, as a server of a text model may."""
    return build_completion("Yes", tokens=20)


def page(_: Exchange) -> Response | dict[str, object]:
    return 200, "<html>welcome</html>", {}


@pytest.mark.parametrize(
    ("answer", "models", "message"),
    [
        (without_vision, ["m"], r"the model 'm' takes no images: choose a vision model.*image input is not supported"),
        (deaf, ["m"], r"the model 'm' takes no images: .*the server leaves images out"),
        (wrong_model, ["mm", "other"], r"has no model 'm'; it has 'mm', 'other'"),
        (no_model, None, r"has no model 'm': The model `m` does not exist"),
        (no_api, None, r"is no OpenAI-compatible API \(404\): correct the URL, which mostly ends in /v1"),
        (page, None, r"gave no answer of an OpenAI-compatible API: correct the URL"),
        (keyed, None, r"wants a key \(401\): set SAM4MLLM_API_KEY or OPENAI_API_KEY in the environment"),
    ],
    ids=["no vision", "image left out", "not listed", "unknown model", "no API", "a web page", "no key"],
)
def test_what_is_wrong_is_said_at_load_in_one_line(
    answer: Callable[[Exchange], Response | dict[str, object]], models: list[str] | None, message: str
) -> None:
    with serve(answer, models=models) as server, pytest.raises(SpecError, match=message) as caught:
        load_mllm(f"openai:m@{server.url}")
    assert "\n" not in str(caught.value)


def test_a_server_that_is_down_is_said_at_load() -> None:
    with serve(yes_or_no) as server:
        pass
    with pytest.raises(
        SpecError, match=rf"the server at {server.url} can't be reached \(Connection refused\): start it, or correct"
    ):
        load_mllm(f"openai:m@{server.url}")


def test_a_server_that_lists_no_models_or_other_names_is_asked_all_the_same() -> None:
    for models in (["m:latest"], []):
        with serve(with_vision, models=models) as server:
            mllm = load_mllm(f"openai:m@{server.url}")
            assert mllm.name == f"openai:m@{server.url}"
    answers: Callable[[Exchange], object] = lambda each: no_api(each) if each.path.endswith("models") else yes_or_no(each)  # noqa: E731
    with serve(answers) as server:
        load_mllm(f"openai:m@{server.url}")


@pytest.mark.parametrize("name", ["SAM4MLLM_API_KEY", "OPENAI_API_KEY"])
def test_the_key_comes_from_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(keyed) as server:
        monkeypatch.setenv(name, "wrong")
        with pytest.raises(SpecError, match=rf"refused the key in {name} \(401\): set a valid one"):
            load_mllm(f"openai:m@{server.url}")
        monkeypatch.setenv(name, "right")
        monkeypatch.setenv("OPENAI_API_KEY", "right" if name == "OPENAI_API_KEY" else "other")
        load_mllm(f"openai:m@{server.url}")


@pytest.mark.parametrize(
    ("url", "is_sent"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://192.168.1.7:8000/v1", True),
        ("http://gpu-box:8000/v1", True),
        ("http://vllm.internal/v1", True),
        ("https://models.example.org/v1", False),
        ("https://api.openai.com.example.org/v1", False),
        ("https://notopenai.com/v1", False),
        ("http://8.8.8.8/v1", False),
    ],
)
def test_the_openai_key_is_sent_to_openai_and_to_local_servers_alone(
    url: str, is_sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert find_key(url) == (("OPENAI_API_KEY", KEY) if is_sent else ("", ""))
    assert ("OPENAI_API_KEY is sent to OpenAI and to local servers alone" in ask_for_key(url)) == (not is_sent)
    assert "SAM4MLLM_API_KEY" in ask_for_key(url)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    assert find_key(url) == ("OPENAI_API_KEY", KEY), "named by who set the key"
    monkeypatch.setenv("SAM4MLLM_API_KEY", "own")
    assert find_key(url) == ("SAM4MLLM_API_KEY", "own")


def test_the_environment_sets_how_a_server_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TIMEOUT_S", "0.5"), ("RETRIES", "0"), ("CONCURRENCY", "3"), ("VOTES", "2")):
        monkeypatch.setenv(f"SAM4MLLM_SERVER_{name}", value)
    assert ServerOptions.from_environment() == ServerOptions(timeout_s=0.5, retries=0, concurrency=3, votes=2)
    with serve(lambda _: "Yes", models=["m"]) as server:
        (reply,) = load_mllm(f"openai:m@{server.url}").reply(square(), POINTS[:1])
    assert reply.label_probabilities == ((1.0, 0.0),), "by votes"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TIMEOUT_S", "soon", "as a number from 0.001 on, got 'soon'"),
        ("TIMEOUT_S", "0", "as a number from 0.001 on, got '0'"),
        ("TIMEOUT_S", "nan", "as a number from 0.001 on, got 'nan'"),
        ("RETRIES", "1.5", "as a whole number from 0 on, got '1.5'"),
        ("CONCURRENCY", "0", "as a whole number from 1 on, got '0'"),
        ("VOTES", "-1", "as a whole number from 0 on, got '-1'"),
    ],
)
def test_a_bad_value_in_the_environment_is_one_line(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SAM4MLLM_SERVER_{name}", value)
    with pytest.raises(SpecError, match=f"^expected SAM4MLLM_SERVER_{name} {message}$"):
        load_mllm("openai:m@http://localhost:9/v1")


# Secrets ---------------------------------------------------------------------------------------------------------------


def echo_headers(exchange: Exchange) -> Response | dict[str, object]:
    """Send back the headers, as a careless server may; the key first, since messages are cut."""
    return 500, {"error": {"message": f"{exchange.headers.get('authorization')} {exchange.headers}"}}, {}


def echo_body(exchange: Exchange) -> Response | dict[str, object]:
    """Send back the question with its image."""
    return 500, {"error": {"message": str(exchange.body.get("messages"))}}, {}


@pytest.mark.parametrize("echo", [echo_headers, echo_body])
def test_neither_the_key_nor_the_image_is_in_errors_and_logs(
    echo: Callable[[Exchange], Response], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SAM4MLLM_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with serve(echo) as server:
        mllm = connect(server)
        with pytest.raises(BackendError) as caught:
            mllm.reply(noise(64, 64), POINTS)
        with pytest.raises(SpecError) as refused:
            mllm.check()
        sent = str(server.chats[0].body)
    encoded = re.findall(r"base64,([A-Za-z0-9+/=]+)", sent)[0]
    assert server.chats[0].headers["authorization"] == f"Bearer {KEY}"
    logged = "\n".join(f"{record.getMessage()} {record.args}" for record in caplog.records)
    for error in (caught.value, refused.value):
        written = "".join(traceback.format_exception(error)) + repr(error) + repr(mllm) + mllm.name + logged
        assert KEY not in written
        assert encoded[:60] not in written
        assert error.__cause__ is None
        assert error.__context__ is None, "the client's error holds the request"


def test_neither_the_key_nor_the_image_is_in_results_and_traces(
    weights: LoopbackServer, local: Sam4Mllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM4MLLM_API_KEY", KEY)
    mllm = load_mllm(f"openai:pair@{weights.url}", dialect=local.dialect)
    segmentation = Sam4Mllm(mllm, local.segmenter, dialect=local.dialect).segment(
        load_image(EXAMPLE_IMAGE), EXPRESSION, method="box"
    )
    assert KEY not in str(segmentation.to_dict())
    assert "base64" not in str(segmentation.to_dict())
    assert segmentation.usage.mllm == f"openai:pair@{weights.url}"


def test_requests_and_cached_tokens_are_counted_in_the_usage(local: Sam4Mllm) -> None:
    """Four points in one numbered answer, one of which has to be asked alone, and a request that is sent again."""
    busy = iter([True])

    def answer(exchange: Exchange) -> Response | dict[str, object]:
        if next(busy, False):
            return 503, {"error": {"message": "busy"}}, {"Retry-After": "0.01"}
        if "Find every object" in exchange.last_text:
            return build_completion("[100,100,500,500]", tokens=300)
        if "on a line of its own" in exchange.last_text:
            return build_completion("1. Yes\n2. No\n3. No", tokens=400, cached=256)
        return build_completion("Yes", tokens=320, cached=288)

    with serve(answer) as server:
        mllm = connect(server, retries=1)
        models = Sam4Mllm(mllm, local.segmenter, dialect=PLAIN, sampler=Grid(2, 2))
        recorder = Recorder(models)
        usage = recorder.models.segment(load_image(EXAMPLE_IMAGE), EXPRESSION).usage
    assert replay(recorder.traces[-1]).difference == "", "a trace holds the counts"
    assert (usage.questions, usage.rounds) == (5, 2)
    assert usage.requests == len(server.exchanges) == 4
    assert usage.tokens == (300 + 400 + 320, 2 + 2 + 2)
    assert usage.cached_tokens == 256 + 288, "as far as the server reports them"
    assert usage.to_dict()["cached_tokens"] == 544
    assert Usage.from_dict(usage.to_dict()) == usage
    local_usage = local.segment(load_image(EXAMPLE_IMAGE), EXPRESSION, method="box").usage.to_dict()
    assert not {"requests", "cached_tokens"} & set(local_usage), "never invented"


def test_votes_are_requests_too_and_their_tokens_count() -> None:
    with serve(lambda _: "No") as server:
        replies = connect(server, votes=3).reply(square(), POINTS[:1])
    assert replies[0].requests == len(server.exchanges) == 4
    assert replies[0].tokens == Tokens(4 * 100, 4 * 2)


async def test_blocking_and_async_calls_share_one_pool_of_connections() -> None:
    with serve(yes_or_no) as server:
        mllm = connect(server)
        mllm.check()
        for _ in range(2):
            _ = mllm.reply(square(), POINTS[:1])
            _ = await mllm.areply(square(), POINTS[:1])
        assert (len(server.exchanges), server.connections) == (6, 1)


def test_a_budget_of_calls_tokens_and_seconds_holds_a_remote_model(remote: Sam4Mllm) -> None:
    image = load_image(EXAMPLE_IMAGE)
    for budget in (Budget(rounds=1), Budget(tokens=100), Budget(seconds=0.0), Budget(requests=4)):
        limited = remote.with_run_hooks(lambda *_, budget=budget: Meter(budget))
        with pytest.raises(OverBudgetError, match="budget"):
            limited.segment(image, EXPRESSION)
