"""The pipeline with a scripted MLLM and a segmenter that follows its prompts to the letter."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import huggingface_hub.constants
import numpy as np
import pytest
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError
from PIL import Image as PILImage
from pycocotools import mask as coco

from sam4mllm_tool.errors import (
    BackendError,
    EmptyMaskError,
    ExpressionError,
    ImageError,
    OverBudgetError,
    ReplyError,
    SpecError,
)
from sam4mllm_tool.geometry.crops import Crop
from sam4mllm_tool.models import checkpoints
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline import RunContext, run_context, sam4mllm
from sam4mllm_tool.pipeline.requests import Flow, MLLMRequest, Request, Response, RunHook, on_crop
from sam4mllm_tool.pipeline.sam4mllm import METHODS, Method, Sam4Mllm, find_dialect
from sam4mllm_tool.protocol import EMBEDDED, JOINT, PLAIN, PQPP, RELEASED, Dialect, Exchange, Grid, Thresholds, replay
from sam4mllm_tool.types import (
    Box,
    FreeText,
    Image,
    MaskCandidate,
    ObjectPrompt,
    Question,
    Reply,
    Segmentation,
    SegmentedObject,
    Size,
    Tokens,
    Turn,
)

IMAGE = PILImage.new("RGB", (100, 80), "grey")
ANSWER: Any = SimpleNamespace(headers={}, request=None)  # of the hub; its library for this changes with its version
BOX, OTHER = "[100,100,500,600]", "[600,100,900,900]"
ONE_BY_ONE = dataclasses.replace(RELEASED, points="each")


class CountingMLLM(ScriptedMLLM):
    """Also keeps how many questions each call brought, and about which picture."""

    def __init__(self, replies: Sequence[Reply | str] | Callable[[Question], Reply | str]) -> None:
        super().__init__(replies)
        self.calls: list[tuple[Image, int]] = []

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        self.calls.append((image, len(questions)))
        return super().reply(image, questions)


class PreparingSegmenter(BoxSegmenter):
    """Also keeps which images it was to prepare."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[Image] = []

    def prepare(self, image: Image) -> None:
        self.prepared.append(image)


def knows(question: Question) -> Reply | str:
    """A model that knows where a few things are, and that only the left half of each box is on them."""
    text = question.turns[-1].text
    if not text.startswith("Check"):
        expression = text.split('"')[1]
        points = " on (150,150) (160,160) off (480,480)" if "points" in text else ""
        return {"a cat": BOX + points, "cats": f"{BOX}{points} {OTHER}{points}", "gibberish": "hmm"}.get(
            expression, "No object found."
        )
    left, right = (int(corner.split(",")[i]) for corner in [text.split("[")[1]] for i in (0, 2))
    listed = [int(point.split(",")[0]) for point in text.split("(")[1:]]
    on = [x < (left + right) / 2 for x in listed]
    return Reply("".join("Yes" if yes else "No" for yes in on), tuple((0.95, 0.05) if yes else (0.05, 0.95) for yes in on))


def scripted(*replies: Reply | str, retries: int = 2, sampler: Grid = Grid(2, 2)) -> tuple[Sam4Mllm, ScriptedMLLM]:
    mllm = ScriptedMLLM(replies)
    return Sam4Mllm(mllm, BoxSegmenter(), dialect=RELEASED, sampler=sampler, retries=retries), mllm


def alike(one: Segmentation, other: Segmentation) -> bool:
    """Everything but the seconds."""
    return without_seconds(one) == without_seconds(other)


def without_seconds(result: Segmentation) -> dict[str, object]:
    return {key: value for key, value in result.to_dict().items() if key != "seconds"}


# One expression -----------------------------------------------------------------------------------------------------


def test_an_expression_becomes_a_mask() -> None:
    result = Sam4Mllm(ScriptedMLLM(knows), BoxSegmenter(), dialect=RELEASED).segment(IMAGE, "a cat")
    (found,) = result.objects
    assert (result.expression, result.size) == ("a cat", Size(100, 80))
    assert found.prompt.box == pytest.approx((10.05, 8.04, 50.05, 48.04))
    assert len(found.prompt.points) == 25
    assert (found.confidence, found.agreement) == (None, pytest.approx(0.95))
    # Points lie at a tenth, three tenths, ... of the box; the middle column is off it, so that x < 26 is nearest to "on".
    expected = np.zeros((80, 100), bool)
    expected[8:48, 10:26] = True
    assert np.array_equal(result.mask, expected)
    assert result.notes == ()


def test_the_box_method_prompts_with_the_box_alone_and_ppg_with_the_models_points() -> None:
    models = Sam4Mllm(ScriptedMLLM(knows), BoxSegmenter(), dialect=RELEASED)
    assert models.segment(IMAGE, "a cat", method="box").objects[0].prompt.points == ()
    assert [p.label for p in models.segment(IMAGE, "a cat", method="ppg").objects[0].prompt.points] == [1, 1, 0]


@pytest.mark.parametrize("method", METHODS)
def test_no_such_object_is_an_answer_and_asks_no_segmenter(method: Method) -> None:
    segmenter = BoxSegmenter()
    result = Sam4Mllm(ScriptedMLLM(knows), segmenter, dialect=RELEASED).segment(IMAGE, "a dog", method=method)
    assert (result.objects, result.notes, segmenter.calls) == ((), (), [])
    assert not result.mask.any()
    assert result.mask.shape == (80, 100)
    assert result.turns[-1].text == "No object found."


def test_several_objects_are_prompted_in_one_call() -> None:
    segmenter = BoxSegmenter()
    result = Sam4Mllm(ScriptedMLLM(knows), segmenter, dialect=RELEASED).segment(IMAGE, "cats")
    assert len(result.objects) == 2
    assert [len(prompts) for prompts in segmenter.calls] == [2]
    assert np.array_equal(result.mask, result.objects[0].mask | result.objects[1].mask)


def test_questions_models_and_seconds_are_told() -> None:
    models = Sam4Mllm(ScriptedMLLM(knows, name="m"), BoxSegmenter(name="s"), dialect=ONE_BY_ONE)
    usage = models.segment(IMAGE, "cats").usage
    assert (usage.mllm, usage.segmenter, usage.questions) == ("m", "s", 1 + 2 * 25)
    assert set(usage.seconds) == {"mllm", "segmenter"}
    assert all(seconds > 0 for seconds in usage.seconds.values())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("expression", ["cats", "a dog"])
def test_a_result_is_plain_json_whose_masks_pycocotools_reads(method: Method, expression: str) -> None:
    result = Sam4Mllm(ScriptedMLLM(knows), BoxSegmenter(), dialect=RELEASED).segment(IMAGE, expression, method=method)
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told == result.to_dict(), "nothing that JSON would change, such as tuples"
    assert told["size"] == {"width": 100, "height": 80}
    for item, found in zip(told["objects"], result.objects, strict=True):
        assert np.array_equal(coco.decode(item["mask"]).astype(bool), found.mask)
        assert item["box"] == list(found.prompt.box)
        assert [(p["x"], p["y"], p["label"], p["confidence"]) for p in item["points"]] == [
            (p.x, p.y, p.label, p.confidence) for p in found.prompt.points
        ]
    assert [turn["role"] for turn in told["turns"]][:3] == ["system", "user", "assistant"]


# Replies that break the format --------------------------------------------------------------------------------------


def test_an_unreadable_box_is_asked_for_again_up_to_the_bound() -> None:
    models, mllm = scripted("hmm", "[1,2", BOX)
    result = models.segment(IMAGE, "a cat", method="box")
    assert len(result.objects) == 1
    assert result.usage.questions == 3
    assert len(set(mllm.questions)) == 1, "the released adapter was trained on no correction: the same question each time"
    assert [note.split(":")[0] for note in result.notes] == ["asked again", "asked again"]


@pytest.mark.parametrize("dialect", [PLAIN, JOINT], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("greedy", [False, True], ids=["sampling", "greedy"])
def test_where_the_dialect_has_words_for_it_an_unreadable_reply_is_corrected(dialect: Dialect, greedy: bool) -> None:
    mllm = ScriptedMLLM(["hmm", "[500,500,100,100]", BOX], greedy=greedy)
    result = Sam4Mllm(mllm, BoxSegmenter(), dialect=dialect).segment(IMAGE, "a cat", method="box")
    assert len(result.objects) == 1
    first, second, third = mllm.questions
    assert second.turns[:-1] == (*first.turns, Turn("assistant", "hmm"))
    assert third.turns[:-1] == (*second.turns, Turn("assistant", "[500,500,100,100]"))
    assert f"expected boxes or {dialect.none_text!r}" in second.turns[-1].text
    assert "the box [500,500,100,100] is empty" in third.turns[-1].text
    assert {question.answer for question in mllm.questions} == {first.answer}
    assert result.turns == (*third.turns, Turn("assistant", BOX))


def test_a_model_that_repeats_itself_is_not_asked_the_same_again() -> None:
    mllm = ScriptedMLLM([BOX, "hmm"], greedy=True)
    result = Sam4Mllm(mllm, BoxSegmenter(), dialect=RELEASED).segment(IMAGE, "a cat")
    assert result.objects[0].prompt.points == ()
    assert [note.split(":")[0] for note in result.notes] == ["went on without unreadable points"]
    mllm = ScriptedMLLM(["hmm", BOX], greedy=True)
    with pytest.raises(ReplyError):
        Sam4Mllm(mllm, BoxSegmenter(), dialect=RELEASED).segment(IMAGE, "a cat")
    assert mllm.replies_left == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_box_that_stays_unreadable_is_a_reply_error_with_both_sides(method: Method) -> None:
    models, mllm = scripted(*["hmm"] * 6)
    with pytest.raises(ReplyError) as caught:
        models.segment(IMAGE, "a cat", method=method)
    assert caught.value.reply == Reply("hmm")
    assert caught.value.question == mllm.questions[-1]
    assert mllm.replies_left == (0 if method == "ppg" else 3), "PPG falls back on asking for the box alone, as often again"


def test_the_bound_counts_each_round_for_itself() -> None:
    models, mllm = scripted("hmm", "hmm", BOX, "hmm", "hmm", "YesNoYesNo")
    assert len(models.segment(IMAGE, "a cat").objects[0].prompt.points) == 4
    assert mllm.replies_left == 0


def test_without_retries_nothing_is_asked_again() -> None:
    models, mllm = scripted("hmm", BOX, retries=0)
    with pytest.raises(ReplyError):
        models.segment(IMAGE, "a cat")
    assert mllm.replies_left == 1


def test_points_that_stay_unreadable_leave_the_box_alone_and_a_note() -> None:
    models, _ = scripted(BOX, "hmm", "YesYes", "who knows")
    result = models.segment(IMAGE, "a cat")
    assert result.objects[0].prompt.points == ()
    assert result.objects[0].confidence is None
    assert [note.split(":")[0] for note in result.notes] == ["asked again", "asked again", "went on without unreadable points"]


def test_of_points_asked_one_by_one_only_the_unreadable_are_dropped() -> None:
    mllm = ScriptedMLLM([BOX, "Yes", "hmm", "No", "Yes", "who knows", "hmm"])
    models = Sam4Mllm(mllm, BoxSegmenter(), dialect=ONE_BY_ONE, sampler=Grid(2, 2))
    assert [p.label for p in models.segment(IMAGE, "a cat").objects[0].prompt.points] == [1, 0, 1]


def test_of_points_asked_one_by_one_only_the_unreadable_are_asked_again() -> None:
    mllm = ScriptedMLLM([BOX, "Yes", "hmm", "No", "perhaps", "hm", "No", "Yes"])
    models = Sam4Mllm(mllm, BoxSegmenter(), dialect=PLAIN, sampler=Grid(2, 2))
    result = models.segment(IMAGE, "a cat")
    assert [p.label for p in result.objects[0].prompt.points] == [1, 1, 0, 0]
    _, _, second, _, fourth, *again, last = mllm.questions
    assert [question.turns[:-2] for question in again] == [second.turns, fourth.turns]
    assert last.turns[:-2] == again[0].turns
    assert result.usage.questions == 8
    assert [note.split(":")[0] for note in result.notes] == ["asked again 2 questions", "asked again"]


def test_ppg_without_readable_points_falls_back_on_the_box() -> None:
    models, mllm = scripted(*[f"{BOX} on (120,120)"] * 3, BOX)
    result = models.segment(IMAGE, "a cat", method="ppg")
    assert result.objects[0].prompt == ObjectPrompt(result.objects[0].prompt.box)
    assert "points" not in mllm.questions[-1].turns[-1].text
    assert "went on without unreadable points" in result.notes[-1]
    told = [turn.text for turn in result.turns if turn.role == "assistant"]
    assert told == [f"{BOX} on (120,120)"] * 3 + [BOX], "what was said before the fallback is told too"


@pytest.mark.parametrize("dialect", [RELEASED, ONE_BY_ONE, PLAIN, JOINT], ids=["released", "each", "plain", "joint"])
def test_turns_are_all_that_was_said(dialect: Dialect) -> None:
    """In any order of good and bad replies: as many answers as questions, each after its question, in the order said."""
    replies = ["hmm", BOX, *["Yes", "hmm", "No", "YesYesNoNo", "No", "maybe", "Yes"] * 2]
    mllm = ScriptedMLLM(replies)
    result = Sam4Mllm(mllm, BoxSegmenter(), dialect=dialect, sampler=Grid(2, 2)).segment(IMAGE, "a cat")
    said = list(zip(mllm.questions, replies, strict=False))
    assert len(said) == result.usage.questions
    told = list(zip(result.turns, result.turns[1:], strict=False))
    places = [told.index((question.turns[-1], Turn("assistant", reply))) for question, reply in said]
    assert places == sorted(places)
    assert [turn for turn in result.turns if turn.role == "assistant"][-1].text == said[-1][1]


async def test_the_dialogue_can_be_replayed_although_something_was_asked_again() -> None:
    """Its history keeps its own questions, each with the reply that was read in the end."""
    dialogue = PQPP.start("a cat", Size(100, 80), dialect=PLAIN, sampler=Grid(2, 1))
    models = Sam4Mllm(ScriptedMLLM(["hmm", BOX, "Yes", "No"]), BoxSegmenter(), dialect=PLAIN)
    after = models.run(IMAGE, models.start_run(Size(*IMAGE.size)).run_dialogue(dialogue))
    assert after.history[0] == Exchange(dialogue.pending[0], Reply(BOX))
    *_, first, second = after.history
    assert replay(dialogue, [[after.history[0].reply], [first.reply, second.reply]]) == after


NO = Reply("NoNoNoNo", ((0.01, 0.99),) * 4)


def test_an_empty_mask_is_an_error_that_names_expression_box_and_segmenter() -> None:
    models, _ = scripted(BOX, NO)
    with pytest.raises(EmptyMaskError, match=r"'a cat' is in the box \(10, 8\) to \(50, 48\), and boxes found no pixel there"):
        models.segment(IMAGE, "a cat")
    models, _ = scripted(BOX, NO)
    (error,) = models.segment_group(IMAGE, ["a cat"])
    assert isinstance(error, EmptyMaskError)


def test_of_several_objects_one_with_an_empty_mask_is_left_out() -> None:
    models, _ = scripted(f"{BOX} [600,600,900,900]", NO, Reply("YesYesYesYes", YES))
    result = models.segment(IMAGE, "cats")
    assert [segmented.mask.any() for segmented in result.objects] == [True]
    assert result.notes == ("left out the object at (10, 8) to (50, 48): its mask is empty",)


def test_thresholds_reach_the_dialogue() -> None:
    unsure = Reply("YesYesNoNo", ((0.8, 0.2), (0.7, 0.3), (0.2, 0.8), (0.05, 0.95)))
    for thresholds, kept in ((Thresholds(), 2), (Thresholds(0.5, 0.5), 4), (Thresholds(1, 1), 0)):
        models = Sam4Mllm(
            ScriptedMLLM([BOX, unsure]), BoxSegmenter(), dialect=RELEASED, sampler=Grid(2, 2), thresholds=thresholds
        )
        assert len(models.segment(IMAGE, "a cat").objects[0].prompt.points) == kept


# Backends that break their contract ---------------------------------------------------------------------------------


class ForgetfulSegmenter(BoxSegmenter):
    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        return super().segment(image, prompts)[1:]


class ForgetfulMLLM(ScriptedMLLM):
    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        return super().reply(image, questions)[1:]


@pytest.mark.parametrize("expressions", [["cats"], ["cats", "a cat"]])
def test_a_backend_that_gives_too_few_results_is_named(expressions: list[str]) -> None:
    short_of_masks = Sam4Mllm(ScriptedMLLM(knows), ForgetfulSegmenter(), dialect=RELEASED)
    short_of_words = Sam4Mllm(ForgetfulMLLM(knows), BoxSegmenter(), dialect=RELEASED)
    for models, message in ((short_of_masks, "boxes gave .* masks"), (short_of_words, "scripted gave .* replies")):
        with pytest.raises(BackendError, match=message):
            models.segment_group(IMAGE, expressions)
        with pytest.raises(BackendError, match=message):
            models.segment(IMAGE, expressions[0])


class SurplusMLLM(ScriptedMLLM):
    """Gives every reply twice."""

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        return [reply for reply in super().reply(image, questions) for _ in range(2)]


class SurplusSegmenter(BoxSegmenter):
    """Gives every object twice."""

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        return [found for found in super().segment(image, prompts) for _ in range(2)]


@pytest.mark.parametrize("expressions", [["a cat"], ["cats", "a cat"]])
async def test_a_backend_that_gives_too_many_results_is_named(expressions: list[str]) -> None:
    surplus_masks = Sam4Mllm(ScriptedMLLM(knows), SurplusSegmenter(), dialect=RELEASED)
    surplus_words = Sam4Mllm(SurplusMLLM(knows), BoxSegmenter(), dialect=RELEASED)
    for models, message in ((surplus_masks, "boxes gave .* masks"), (surplus_words, "scripted gave .* replies")):
        await assert_backend_error(models, message, expressions)


async def assert_backend_error(models: Sam4Mllm, message: str, expressions: Sequence[str] = ("a cat",)) -> None:
    """By every driver."""
    with pytest.raises(BackendError, match=message):
        models.segment(IMAGE, expressions[0])
    with pytest.raises(BackendError, match=message):
        await models.asegment(IMAGE, expressions[0])
    with pytest.raises(BackendError, match=message):
        models.segment_group(IMAGE, expressions)


YES: Any = ((0.95, 0.05),) * 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(((math.nan, math.nan),) * 4, r"\(nan, nan\): expected numbers in \[0, 1\]", id="not a number"),
        pytest.param((*YES[:3], (math.inf, 0.0)), r"\(inf, 0.0\)", id="infinite"),
        pytest.param((*YES[:3], (1.5, -0.5)), r"\(1.5, -0.5\)", id="outside of 0 to 1"),
        pytest.param((*YES[:3], (0.9, 0.9)), r"\(0.9, 0.9\): .* sum to 1", id="sums to more than 1"),
        pytest.param((*YES[:3], ("0.9", "0.1")), r"\('0.9', '0.1'\)", id="text"),
        pytest.param(((1.0,),) * 4, r"\(1.0,\): expected one for each of \('Yes', 'No'\)", id="one column"),
        pytest.param(((0.5, 0.3, 0.2),) * 4, r"\(0.5, 0.3, 0.2\): expected one for each", id="three columns"),
        pytest.param((0.9, 0.1, 0.9, 0.1), r"0.9: expected one for each", id="no rows but numbers"),
        pytest.param(YES[:3], r"expected 4 rows", id="a row too few"),
        pytest.param(YES + YES[:1], r"expected 4 rows", id="a row too many"),
    ],
)
async def test_label_probabilities_that_can_be_none_are_the_backends_fault(rows: Any, message: str) -> None:
    """Of a model's own words, as many as asked for or not, the dialect is the judge; probabilities are the backend's."""

    def replies(question: Question) -> Reply | str:
        return Reply("YesYesYesYes", rows) if question.turns[-1].text.startswith("Check") else BOX

    models = Sam4Mllm(ScriptedMLLM(replies), BoxSegmenter(), dialect=RELEASED, sampler=Grid(2, 2))
    await assert_backend_error(models, f"^scripted gave reply 1 .*{message}")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        pytest.param(Reply(BOX, log_probability=1000.0), "the log-probability 1000.0", id="a log-probability above 0"),
        pytest.param(Reply(BOX, log_probability=math.nan), "the log-probability nan", id="no log-probability"),
        pytest.param(Reply(BOX, log_probability=-math.inf), "the log-probability -inf", id="an infinite log-probability"),
        pytest.param(Reply(BOX, YES), "where free text was asked for", id="label probabilities of free text"),
        pytest.param(Reply(BOX, tokens=Tokens(-1, 3)), r"the tokens .*read=-1", id="a negative number of tokens"),
        pytest.param(Reply(cast(Any, None)), "the text None", id="no text"),
        pytest.param(cast(Any, 7), "gave 7 among its replies: expected a Reply", id="no reply"),
    ],
)
async def test_a_reply_that_breaks_the_contract_is_the_backends_fault(reply: Reply, message: str) -> None:
    await assert_backend_error(Sam4Mllm(ScriptedMLLM(lambda _: reply), BoxSegmenter(), dialect=RELEASED), message)


async def test_a_backend_that_returns_no_list_is_named() -> None:
    class SilentMLLM(ScriptedMLLM):
        def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:  # noqa: ARG002
            return cast(Any, None)  # type: ignore[no-any-return]

    models = Sam4Mllm(SilentMLLM([], name="silent"), BoxSegmenter(), dialect=RELEASED)
    await assert_backend_error(models, "^silent gave None where a list of 1 replies was asked for")


class AlteredSegmenter(BoxSegmenter):
    """A segmenter whose objects are altered before they are returned."""

    def __init__(self, alter: Callable[[SegmentedObject], SegmentedObject]) -> None:
        super().__init__()
        self._alter = alter

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        return [self._alter(found) for found in super().segment(image, prompts)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"score": math.nan}, "the score nan", id="a score that is not a number"),
        pytest.param({"score": 1.02}, "the score 1.02: expected one in", id="a score above 1"),
        pytest.param({"score": None}, "the score None", id="no score"),
        pytest.param({"confidence": math.nan}, "the confidence nan", id="a confidence that is not a number"),
        pytest.param({"mask": np.zeros((100, 80), bool)}, r"a mask of \(100, 80\) bool: expected \(80, 100\)", id="turned"),
        pytest.param({"mask": np.zeros((1, 80, 100), bool)}, r"a mask of \(1, 80, 100\) bool", id="an axis too many"),
        pytest.param({"mask": np.zeros((80, 100), np.float32)}, "a mask of .* float32: expected .* bool", id="logits"),
        pytest.param({"mask": [[True]]}, "a mask that is a list", id="a list"),
        pytest.param(
            {"alternatives": (MaskCandidate(np.zeros((8, 8), bool), 0.5),)}, r"alternative .* mask of \(8, 8\)", id="other size"
        ),
        pytest.param(
            {"alternatives": (MaskCandidate(np.zeros((80, 100), bool), -0.1),)}, "alternative .* score -0.1", id="other score"
        ),
    ],
)
async def test_an_object_that_breaks_the_contract_is_the_backends_fault(changes: dict[str, Any], message: str) -> None:
    segmenter = AlteredSegmenter(lambda found: dataclasses.replace(found, **changes))
    await assert_backend_error(Sam4Mllm(ScriptedMLLM(knows), segmenter, dialect=RELEASED), f"^boxes gave .*{message}")


def test_a_mask_of_a_crop_has_the_size_of_the_crop() -> None:
    whole = AlteredSegmenter(lambda found: dataclasses.replace(found, mask=np.zeros((80, 100), bool)))
    crop = Crop(0, 0, 50, 40, Size(100, 80), longest=50)
    prompts = [ObjectPrompt(Box(10, 10, 40, 30))]
    for segmenter, refused in ((BoxSegmenter(), False), (whole, True)):
        models = Sam4Mllm(ScriptedMLLM([]), segmenter)
        flow = on_crop(crop, models.start_run(crop.output_size).segment_prompts(prompts))
        if refused:
            with pytest.raises(BackendError, match=r"a mask of \(80, 100\) bool: expected \(40, 50\) bool"):
                models.run(IMAGE, flow)
        else:
            assert models.run(IMAGE, flow)[0].mask.shape == (40, 50)


def test_probabilities_that_were_rounded_pass() -> None:
    rounded = Reply("YesYesNoNo", cast(Any, ((0.9, 0.1004), (1, 0), np.float32([0.1, 0.9]).tolist(), [np.float64(0), 1.0])))
    models, _ = scripted(Reply(BOX, log_probability=1e-9, tokens=Tokens(5, 0)), rounded)
    assert len(models.segment(IMAGE, "a cat").objects) == 1


def test_masks_that_would_fill_the_memory_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = BoxSegmenter()
    models = Sam4Mllm(ScriptedMLLM(knows), segmenter, dialect=RELEASED)
    monkeypatch.setattr(run_context, "MAX_MASK_BYTES", 2 * 100 * 80 - 1)
    with pytest.raises(BackendError, match=r"2 objects on an image of 100 x 80 pixels would take more than .* GiB: make"):
        models.segment(IMAGE, "cats")
    assert segmenter.calls == []
    assert models.segment(IMAGE, "a cat").objects
    monkeypatch.setattr(run_context, "MAX_MASK_BYTES", 2 * 100 * 80)
    assert models.segment(IMAGE, "cats").objects


# Sync, async, many --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
async def test_sync_async_and_many_give_equal_results(method: Method) -> None:
    models = Sam4Mllm(ScriptedMLLM(knows), BoxSegmenter(), dialect=ONE_BY_ONE)
    expressions = ["a cat", "a dog", "cats", "a cat"]
    one_by_one = [models.segment(IMAGE, text, method=method) for text in expressions]
    waited_for = [await models.asegment(IMAGE, text, method=method) for text in expressions]
    many = models.segment_many([(IMAGE, text) for text in expressions], method=method)
    for one, other, third in zip(one_by_one, waited_for, many, strict=True):
        assert alike(one, other)
        assert alike(one, third)
        assert np.array_equal(one.mask, third.mask)


async def test_async_asks_again_and_falls_back_as_sync_does() -> None:
    replies = ["hmm", BOX, "hmm", "hmm", "hmm"]
    waited_for = await scripted(*replies)[0].asegment(IMAGE, "a cat")
    assert alike(scripted(*replies)[0].segment(IMAGE, "a cat"), waited_for)
    with pytest.raises(ReplyError):
        await scripted("hmm", "hmm", "hmm")[0].asegment(IMAGE, "a cat")


def test_expressions_of_one_picture_share_their_calls() -> None:
    mllm, segmenter = CountingMLLM(knows), BoxSegmenter()
    models = Sam4Mllm(mllm, segmenter, dialect=ONE_BY_ONE)
    other = IMAGE.copy()
    pairs = [(IMAGE, "a cat"), (IMAGE, "a dog"), (IMAGE, "cats"), (other, "a cat"), (IMAGE, "a cat")]
    results = models.segment_many(pairs)
    assert [count for _, count in mllm.calls] == [3, 1, 1, 75, 25, 25]
    assert len({id(image) for image, _ in mllm.calls}) == 3, "a picture is loaded once a run"
    assert [len(prompts) for prompts in segmenter.calls] == [3, 1, 1]
    assert [result.usage.questions for result in results] == [26, 1, 51, 26, 26]
    assert [len(result.objects) for result in results] == [1, 0, 2, 1, 1]


def test_equal_paths_are_one_picture(tmp_path: Path) -> None:
    IMAGE.save(tmp_path / "a.png")
    mllm = CountingMLLM(knows)
    pairs = [(tmp_path / "a.png", "a cat"), (Path(str(tmp_path / "a.png")), "cats"), (str(tmp_path / "a.png"), "a cat")]
    Sam4Mllm(mllm, BoxSegmenter(), dialect=RELEASED).segment_many(pairs, method="box")
    assert [count for _, count in mllm.calls] == [2, 1]


def test_arrays_and_bytes_are_pictures_of_many_too(tmp_path: Path) -> None:
    array = np.asarray(IMAGE)
    IMAGE.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    mllm = CountingMLLM(knows)
    models = Sam4Mllm(mllm, BoxSegmenter(), dialect=RELEASED)
    results = models.segment_many([(array, "a cat"), (array, "cats"), (content, "a cat"), (content, "a dog")], method="box")
    assert [count for _, count in mllm.calls] == [2, 2]
    assert alike(results[0], results[2])


def test_one_bad_expression_leaves_the_others_their_results() -> None:
    models = Sam4Mllm(ScriptedMLLM(knows), BoxSegmenter(), dialect=RELEASED)
    cat, empty, unreadable, cats, long = models.segment_group(IMAGE, ["a cat", " ", "gibberish", "cats", "x" * 10_000])
    assert isinstance(empty, ExpressionError)
    assert isinstance(long, ExpressionError)
    assert isinstance(unreadable, ReplyError)
    assert isinstance(cat, Segmentation)
    assert alike(cat, models.segment(IMAGE, "a cat"))
    assert isinstance(cats, Segmentation)
    assert alike(cats, models.segment(IMAGE, "cats"))


def test_many_raises_for_the_first_bad_pair() -> None:
    models = Sam4Mllm(ScriptedMLLM(knows), BoxSegmenter(), dialect=RELEASED)
    with pytest.raises(ExpressionError, match="empty"):
        models.segment_many([(IMAGE, "a cat"), (IMAGE, ""), (IMAGE, "gibberish")])
    with pytest.raises(ImageError, match="does not exist"):
        models.segment_many([(Path("nowhere.png"), "a cat")])
    assert models.segment_many([]) == []
    assert models.segment_group(IMAGE, []) == []


def test_an_unknown_method_is_refused_however_it_is_asked_for() -> None:
    models = Sam4Mllm(ScriptedMLLM(knows), BoxSegmenter(), dialect=RELEASED)
    for call in (models.segment, models.segment_group):
        with pytest.raises(ValueError, match="no such method: 'PQPP'; there are pqpp, ppg, box"):
            call(IMAGE, "a cat", method="PQPP")  # type: ignore[operator]


# Which dialect ------------------------------------------------------------------------------------------------------


def test_a_dialect_is_found_by_name_or_beside_the_adapter_or_the_model(tmp_path: Path) -> None:
    base, adapter, bare = (tmp_path / name for name in ("base", "my+adapter", "bare"))
    for folder in (base, adapter, bare):
        folder.mkdir()
    (base / "dialect.json").write_text(RELEASED.to_json())
    (adapter / "dialect.json").write_text(EMBEDDED.to_json())
    assert find_dialect(str(base)) == RELEASED
    assert find_dialect(f"{base}+{adapter}") == EMBEDDED, "the adapter decides"
    assert find_dialect(f"{base}+{bare}") == RELEASED
    assert find_dialect(str(adapter)) == EMBEDDED, "a plus in a folder's name"
    assert find_dialect(str(bare)) == find_dialect(str(tmp_path / "nowhere")) == PLAIN
    assert find_dialect(str(base), "embedded") == EMBEDDED


def test_a_dialect_file_is_found_from_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "dialect.json").write_text(RELEASED.to_json())
    assert find_dialect("~") == RELEASED


def test_a_dialect_comes_with_a_model_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the hub's cache, as it lies there after a download, and without one for want of a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("model", "lora", "bare"):
        (tmp_path / f"models--owner--{name}" / "snapshots" / "1").mkdir(parents=True)
        (tmp_path / f"models--owner--{name}" / "refs").mkdir()
        (tmp_path / f"models--owner--{name}" / "refs" / "main").write_text("1")
    for name, dialect in (("model", RELEASED), ("lora", EMBEDDED)):
        (tmp_path / f"models--owner--{name}" / "snapshots" / "1" / "dialect.json").write_text(dialect.to_json())
    assert find_dialect("owner/model") == RELEASED
    assert find_dialect("owner/model+owner/lora") == EMBEDDED, "the adapter decides"
    assert find_dialect("owner/model+owner/bare") == RELEASED
    assert find_dialect("owner/bare") == find_dialect("owner/never-seen") == PLAIN


@pytest.mark.parametrize(
    ("error", "found"),
    [
        pytest.param(RemoteEntryNotFoundError("no such file", response=ANSWER), True, id="no such file"),
        pytest.param(RepositoryNotFoundError("no such model", response=ANSWER), False, id="no model"),
        pytest.param(ConnectionError("no route"), False, id="no network"),
    ],
)
def test_plain_is_spoken_only_where_the_hub_has_no_dialect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, found: bool
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(checkpoints, "model_info", (lambda *_, **__: None) if found else fails)
    monkeypatch.setattr(checkpoints, "hf_hub_download", fails)
    if found:
        assert find_dialect("owner/name") == PLAIN
    else:
        with pytest.raises(SpecError, match="'owner/name'"):
            find_dialect("owner/name")


def test_a_dialect_that_the_hub_has_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, name: str) -> str:
        (tmp_path / name).write_text(RELEASED.to_json() if repository == "owner/lora" else "none of it")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoints, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(checkpoints, "hf_hub_download", download)
    assert find_dialect("owner/model+owner/lora") == RELEASED
    with pytest.raises(SpecError, match=r"dialect\.json: not a dialect"):
        find_dialect("owner/model")


def test_a_dialect_that_cannot_be_had_is_a_spec_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no such dialect: 'klingon'; there are claude, embedded, .*, released$"):
        find_dialect("anything", "klingon")
    with pytest.raises(SpecError, match=r"released; did you mean 'embedded'\?"):
        find_dialect("anything", "embeded")
    for content in ("{", "[]", '{"name": 1}'):
        (tmp_path / "dialect.json").write_text(content)
        with pytest.raises(SpecError, match=r"dialect\.json"):
            find_dialect(str(tmp_path))
    (tmp_path / "dialect.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match=r"dialect\.json"):
        find_dialect(str(tmp_path))


# What is shown ------------------------------------------------------------------------------------------------------


class Sized(BoxSegmenter):
    """Remembers how bright each picture was that it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[float] = []

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        self.shown.append(round(float(np.asarray(image).mean()), -2))
        return super().segment(image, prompts)


HALVES = PILImage.new("RGB", (100, 80))
HALVES.paste((200, 200, 200), (50, 0, 100, 80))
LEFT_HALF, RIGHT_HALF = Crop(0, 0, 50, 40, Size(100, 80)), Crop(50, 0, 50, 40, Size(100, 80))


def box_per_crop(models: Sam4Mllm, *crops: Crop | None) -> Flow[list[Box]]:
    """Segments the same box on the whole image (None) or on a crop, one after another."""
    boxes = []
    for crop in crops:
        flow = models.start_run(Size(100, 80)).segment_prompts([ObjectPrompt(Box(10, 10, 40, 40))])
        (segmented,) = yield from (flow if crop is None else on_crop(crop, flow))
        boxes.append(segmented.prompt.box)
    return boxes


async def test_every_driver_shows_the_crop_that_a_request_names() -> None:
    segmenter = Sized()
    models = Sam4Mllm(ScriptedMLLM([]), segmenter)
    crops = (None, RIGHT_HALF, LEFT_HALF, None)
    assert models.run(HALVES, box_per_crop(models, *crops)) == [Box(10, 10, 40, 40)] * 4
    await models.arun(HALVES, box_per_crop(models, *crops))
    assert segmenter.shown == [100, 200, 0, 100] * 2


def test_a_group_shares_a_call_where_the_same_crop_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = Sized()
    models = Sam4Mllm(ScriptedMLLM([]), segmenter)
    crops = {"a": (LEFT_HALF, None), "b": (RIGHT_HALF, None), "c": (LEFT_HALF, RIGHT_HALF), "d": (None, LEFT_HALF)}
    monkeypatch.setattr(sam4mllm, "segment_expression", lambda _run, text, _method: box_per_crop(models, *crops[text]))
    assert models.segment_group(HALVES, list(crops)) == [[Box(10, 10, 40, 40)] * 2] * 4
    assert sorted(segmenter.shown) == [0, 0, 100, 200], "one call for each way of showing the image"


def test_a_flow_on_a_crop_cannot_be_put_on_another_crop() -> None:
    models = Sam4Mllm(ScriptedMLLM([]), BoxSegmenter())
    with pytest.raises(ValueError, match=r"is about the part from \(0, 0\) to \(50, 40\), enlarged already"):
        models.run(HALVES, on_crop(RIGHT_HALF, box_per_crop(models, LEFT_HALF)))


class HookLog(RunHook):
    """Logs what a run does; refuses MLLM requests if it is told to."""

    def __init__(self, *, refuse: bool = False) -> None:
        self.refuse, self.log = refuse, list[str]()

    def before_request(self, request: Request) -> None:
        self.log.append(f"before {type(request).__name__}")
        if self.refuse and isinstance(request, MLLMRequest):
            raise OverBudgetError("nothing is left")

    def after_request(self, request: Request, response: Response) -> None:
        self.log.append(f"after {type(request).__name__}: {len(response.results)} results")

    def after_run(self, result: object, error: BaseException | None) -> None:
        self.log.append(f"end: {result if error is None else type(error).__name__}")


def ask_or_stop() -> Flow[str]:
    try:
        yield MLLMRequest((Question((Turn("user", "?"),), FreeText(1)),))
    except OverBudgetError:
        return "stopped"
    return "went on"


def test_a_refusal_is_thrown_into_the_flow_also_behind_a_crop() -> None:
    models = Sam4Mllm(ScriptedMLLM(["!"]), BoxSegmenter())
    assert models.run(HALVES, on_crop(LEFT_HALF, ask_or_stop()), hooks=[HookLog(refuse=True)]) == "stopped"
    assert models.run(HALVES, on_crop(LEFT_HALF, ask_or_stop())) == "went on"


async def test_hooks_see_requests_responses_and_the_end_under_every_driver() -> None:
    expected = ["before MLLMRequest", "after MLLMRequest: 1 results", "end: went on"]
    models = Sam4Mllm(ScriptedMLLM(["!", "!"]), BoxSegmenter())
    blocking, awaited = HookLog(), HookLog()
    models.run(HALVES, ask_or_stop(), hooks=[blocking])
    await models.arun(HALVES, ask_or_stop(), hooks=[awaited])
    assert blocking.log == awaited.log == expected


def test_every_run_of_a_group_has_a_hook_and_a_context_of_its_own() -> None:
    made: list[tuple[str | None, HookLog]] = []

    def make(_image: Image, context: RunContext) -> RunHook:
        made.append((context.expression, HookLog()))
        return made[-1][1]

    models = Sam4Mllm(ScriptedMLLM(knows), BoxSegmenter(), dialect=RELEASED).with_run_hooks(make)
    models.segment_group(IMAGE, ["a cat", " "], method="box")
    (first, log), (second, failed) = made
    assert (first, second) == ("a cat", " ")
    assert log.log[:2] == ["before MLLMRequest", "after MLLMRequest: 1 results"]
    assert log.log[2:4] == ["before SegmentRequest", "after SegmentRequest: 1 results"]
    assert failed.log == ["end: ExpressionError"]


def test_a_backend_error_ends_every_run_of_a_group() -> None:
    hooks: list[HookLog] = []

    def make(_image: Image, _context: RunContext) -> RunHook:
        hooks.append(HookLog())
        return hooks[-1]

    broken = AlteredSegmenter(lambda segmented: dataclasses.replace(segmented, score=float("nan")))
    models = Sam4Mllm(ScriptedMLLM(knows), broken, dialect=RELEASED).with_run_hooks(make)
    with pytest.raises(BackendError):
        models.segment_group(IMAGE, ["a cat", "a cat"], method="box")
    assert [hook.log[-1] for hook in hooks] == ["end: BackendError"] * 2


def test_point_answers_tell_kept_and_dropped_ones() -> None:
    unsure = Reply("YesYesNoNo", ((0.9, 0.1), (0.6, 0.4), (0.05, 0.95), (0.4, 0.6)))
    models, _ = scripted(BOX, unsure)
    result = models.segment(IMAGE, "a cat")
    assert [(answer.point.label, answer.kept) for answer in result.point_answers] == [
        (1, True),
        (1, False),
        (0, True),
        (0, False),
    ]
    assert len(result.objects[0].prompt.points) == 2
    assert Segmentation.from_dict(result.to_dict()).point_answers == result.point_answers


@pytest.mark.parametrize(("old", "new", "value"), [("budget", "max_points", 9), ("closer", "refine_crops", False)])
def test_settings_of_version_0_1_are_taken_with_a_warning(old: str, new: str, value: Any) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old!r} is now {new!r}"):
        models = Sam4Mllm(ScriptedMLLM([]), BoxSegmenter(), **{old: value})
    assert getattr(models.config, new) == value


class _WarningMLLM(ScriptedMLLM):
    """An MLLM that was not trained for images like this one."""

    def check_image(self, image: Image) -> str | None:
        return f"{self.name} was not trained for images of {image.width} pixels"


@pytest.mark.parametrize("method", METHODS)
def test_an_image_unlike_those_of_the_training_gives_a_warning_and_no_confidence(method: Method) -> None:
    plain = Sam4Mllm(ScriptedMLLM(knows), BoxSegmenter(), dialect=RELEASED).segment(IMAGE, "a cat", method=method)
    models = Sam4Mllm(_WarningMLLM(knows), BoxSegmenter(), dialect=RELEASED)
    result = models.segment(IMAGE, "a cat", method=method)
    (grouped,) = models.segment_group(IMAGE, ["a cat"], method=method)
    assert plain.warnings == ()
    for warned in (result, grouped):
        assert isinstance(warned, Segmentation)
        assert warned.warnings == (f"{models.mllm.name} was not trained for images of 100 pixels",), "once, however many rounds"
        assert (warned.confidence, [segmented.confidence for segmented in warned.objects]) == (None, [None])
        assert np.array_equal(warned.mask, plain.mask)
    assert Segmentation.from_dict(json.loads(json.dumps(result.to_dict()))).warnings == result.warnings


async def test_an_async_run_gives_the_warning_too() -> None:
    models = Sam4Mllm(_WarningMLLM(knows), BoxSegmenter(), dialect=RELEASED)
    assert len((await models.asegment(IMAGE, "a cat")).warnings) == 1


def test_results_before_version_0_3_gave_agreement_as_confidence() -> None:
    written = Sam4Mllm(ScriptedMLLM(knows), BoxSegmenter(), dialect=RELEASED).segment(IMAGE, "a cat").to_dict()
    for key in ("warnings", "abstained"):
        del written[key]
    (segmented,) = written["objects"]
    segmented["confidence"] = segmented.pop("agreement")
    (read,) = Segmentation.from_dict(written).objects
    assert (read.confidence, read.agreement) == (None, pytest.approx(0.95))


@pytest.mark.parametrize("text", ["[0.1, 0.2, 0.5, 0.6]", "[0.0, 0, 1, 1]", "[[0.10,.2,0.5,1]]"])
def test_a_box_in_fractions_of_the_image_is_an_error_that_says_so(text: str) -> None:
    models = Sam4Mllm(ScriptedMLLM([text] * 3), BoxSegmenter(), dialect=RELEASED)
    with pytest.raises(ReplyError, match="seems to be in fractions of the image: expected numbers of 0 to 999"):
        models.segment(IMAGE, "a cat")


async def test_an_image_is_prepared_for_the_segmenter_before_the_mllm_is_asked() -> None:
    segmenter = PreparingSegmenter()
    prepared_when_asked: list[int] = []

    def answer(question: Question) -> Reply | str:
        prepared_when_asked.append(len(segmenter.prepared))
        return knows(question)

    models = Sam4Mllm(ScriptedMLLM(answer), segmenter, dialect=RELEASED)
    models.segment(IMAGE, "a cat")
    await models.asegment(IMAGE, "a cat")
    models.segment_many([(IMAGE, "a cat"), (IMAGE, "cats")])
    assert 0 not in prepared_when_asked
    assert {image.size for image in segmenter.prepared} == {IMAGE.size}
