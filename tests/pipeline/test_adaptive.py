"""The method `adaptive` with a scripted MLLM: what it asks, when it looks for another box, and how sure it says it is."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool.images.export import summary
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.calibration import Calibration, Scaling
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import PLAIN, PQPP, Dialect, Grid, Verified, replay
from sam4mllm_tool.types import ObjectPrompt, Question, Reply, Segmentation, SegmentedObject, Size

IMAGE = Image.new("RGB", (200, 200))
LEFT, RIGHT, LOW = "[100,100,400,400]", "[600,100,900,400]", "[100,600,400,900]"


def sure(yes: float) -> Reply:
    return Reply("Yes" if yes >= 0.5 else "No", ((yes, 1 - yes),))


class Script:
    """Names `boxes`, believes each box as `meant` says, answers yes about points, names `others` when asked for another."""

    def __init__(self, boxes: str | Reply, meant: Mapping[str, float] | None = None, others: str = "none") -> None:
        self.boxes, self.meant, self.others = boxes, meant or {}, others

    def __call__(self, question: Question) -> Reply | str:
        text = question.turns[-1].text
        if text.startswith("That answer can't be read"):
            return self.others
        if "Leave out" in text:
            return self.others
        if text.startswith("Find every object"):
            return self.boxes
        if "Is the point" in text:
            return sure(0.97)
        box = re.search(r"\[[\d,]+\]", text)
        assert box is not None
        return sure(self.meant[box[0]])


def adaptive(script: Script, dialect: Dialect = PLAIN, **settings: object) -> tuple[Sam4Mllm, ScriptedMLLM, BoxSegmenter]:
    mllm, segmenter = ScriptedMLLM(script), BoxSegmenter()
    return Sam4Mllm(mllm, segmenter, dialect=dialect, **settings), mllm, segmenter  # type: ignore[arg-type]


def left_corners(models: Sam4Mllm) -> list[tuple[int, int]]:
    result = models.segment(IMAGE, "the mug", method="adaptive")
    return [(round(thing.prompt.box.x1, -1), round(thing.prompt.box.y1, -1)) for thing in result.objects]


def test_an_object_costs_nine_point_questions_and_one_about_the_object_in_two_rounds() -> None:
    models, mllm, segmenter = adaptive(Script(LEFT, {LEFT: 0.9}))
    result = models.segment(IMAGE, "the mug", method="adaptive")
    assert (result.usage.questions, result.usage.rounds) == (1 + 9 + 1, 2)
    assert [len(prompt.points) for prompts in segmenter.calls for prompt in prompts] == [0, 9]
    assert result.objects[0].confidence == result.confidence == pytest.approx(0.9)
    assert [len(question.turns) for question in mllm.questions] == [1, *[3] * 9, 1], "the object's question stands alone"


def test_no_such_object_asks_nothing_more_and_is_as_likely_as_its_text() -> None:
    models, _, segmenter = adaptive(Script(Reply("none", log_probability=-0.1)))
    result = models.segment(IMAGE, "the mug", method="adaptive")
    assert (result.objects, result.usage.questions, segmenter.calls) == ((), 1, [])
    assert result.confidence == pytest.approx(0.9048, abs=1e-4)
    assert adaptive(Script("none"))[0].segment(IMAGE, "the mug", method="adaptive").confidence is None


@pytest.mark.parametrize(
    ("meant", "others", "corners", "questions"),
    [
        pytest.param({LEFT: 0.1, RIGHT: 0.8}, RIGHT, [(120, 20)], 11 + 1 + 10, id="the other is likelier"),
        pytest.param({LEFT: 0.1, RIGHT: 0.05}, RIGHT, [(20, 20)], 11 + 1 + 10, id="the other is less likely"),
        pytest.param({LEFT: 0.1}, "none", [(20, 20)], 11 + 1, id="there is no other"),
        pytest.param({LEFT: 0.1}, LEFT, [(20, 20)], 11 + 1, id="the other is the same"),
        pytest.param({LEFT: 0.1}, "[1,2", [(20, 20)], 11 + 3, id="the other cannot be read, however often"),
        pytest.param({LEFT: 0.9}, RIGHT, [(20, 20)], 11, id="a box that is believed is not doubted"),
    ],
)
def test_a_doubted_box_is_asked_for_again(
    meant: dict[str, float], others: str, corners: list[tuple[int, int]], questions: int
) -> None:
    models, mllm, _ = adaptive(Script(LEFT, meant, others))
    assert left_corners(models) == corners
    assert len(mllm.questions) == questions


@pytest.mark.parametrize(
    ("meant", "others", "corners"),
    [
        pytest.param({LEFT: 0.9, RIGHT: 0.9}, "none", [(20, 20), (120, 20)], id="both stay"),
        pytest.param({LEFT: 0.9, RIGHT: 0.02}, "none", [(20, 20)], id="one that is denied goes"),
        pytest.param({LEFT: 0.02, RIGHT: 0.03}, "none", [(20, 20), (120, 20)], id="not all of them go"),
        pytest.param({LEFT: 0.9, RIGHT: 0.9, LOW: 0.9}, LOW, [(20, 20), (120, 20), (20, 120)], id="a forgotten one comes"),
        pytest.param({LEFT: 0.9, RIGHT: 0.9, LOW: 0.6}, LOW, [(20, 20), (120, 20)], id="one that is not believed does not"),
    ],
)
def test_several_objects_are_completed(meant: dict[str, float], others: str, corners: list[tuple[int, int]]) -> None:
    assert left_corners(adaptive(Script(f"{LEFT} {RIGHT}", meant, others))[0]) == corners


def test_confidences_are_calibrated_and_objects_below_a_chosen_one_are_left_out() -> None:
    script = Script(LEFT, {LEFT: 0.7})
    calibration = Calibration(objects=Scaling(1, -3))
    models, _, _ = adaptive(script, calibration=calibration)
    (thing,) = models.segment(IMAGE, "the mug", method="adaptive").objects
    assert thing.confidence == pytest.approx(0.104, abs=1e-3)
    for abstain, count in ((0.1, 1), (0.2, 0)):
        result = adaptive(script, calibration=calibration, abstain=abstain)[0].segment(IMAGE, "the mug", method="adaptive")
        assert len(result.objects) == count
        assert any(note.startswith("left out the object at (20") for note in result.notes) == (count == 0)
    with pytest.raises(ValueError, match="from 0 to 1, got 2"):
        adaptive(script, abstain=2)


def test_a_dialect_without_words_for_it_goes_on_without_a_second_opinion() -> None:
    models, mllm, _ = adaptive(Script(LEFT), dialect=replace(PLAIN, ask_whether_text="", ask_other_text=""))
    result = models.segment(IMAGE, "the mug", method="adaptive")
    assert len(mllm.questions) == 10
    assert result.objects[0].confidence is None, "nobody asked"
    assert result.objects[0].agreement == pytest.approx(0.97)


@pytest.mark.parametrize(("word", "corners"), [("Yes", [(20, 20)]), ("No", [(120, 20)])])
def test_a_model_without_probabilities_is_doubted_where_it_says_no(word: str, corners: list[tuple[int, int]]) -> None:
    def answer(question: Question) -> str:
        text = question.turns[-1].text
        if text.startswith("Find"):
            return RIGHT if "Leave out" in text else LEFT
        return word if LEFT in text and text.startswith("Is the object") else "Yes"

    models = Sam4Mllm(ScriptedMLLM(answer), BoxSegmenter(), dialect=PLAIN)
    assert left_corners(models) == corners
    assert models.segment(IMAGE, "the mug", method="adaptive").confidence is None


def test_points_that_contradict_the_box_are_doubt() -> None:
    script = Script(LEFT, {LEFT: 0.9, RIGHT: 0.95}, RIGHT)
    no = sure(0.02)
    mllm = ScriptedMLLM(
        lambda question: (
            no if "Is the point" in question.turns[-1].text and LEFT in question.turns[-1].text else script(question)
        )
    )
    result = Sam4Mllm(mllm, BoxSegmenter(), dialect=PLAIN).segment(IMAGE, "the mug", method="adaptive")
    assert round(result.objects[0].prompt.box.x1) == 120
    assert result.notes == ("took another object than the one at (20, 20) to (80, 80), which was doubted",)


def test_no_more_points_are_asked_about_than_the_budget() -> None:
    models, mllm, _ = adaptive(Script(f"{LEFT} {RIGHT}", {LEFT: 0.9, RIGHT: 0.9}), max_points=12)
    result = models.segment(IMAGE, "the mugs", method="adaptive")
    assert [len(thing.prompt.points) for thing in result.objects] == [9, 3]
    models, mllm, _ = adaptive(Script(f"{LEFT} {RIGHT}", {LEFT: 0.9, RIGHT: 0.9}), max_points=9)
    result = models.segment(IMAGE, "the mugs", method="adaptive")
    assert [len(thing.prompt.points) for thing in result.objects] == [9, 0]
    assert [thing.confidence for thing in result.objects] == [pytest.approx(0.9)] * 2
    assert result.notes[0] == "asked about no more than 9 points; objects beyond have their box alone"
    assert sum("Is the point" in question.turns[-1].text for question in mllm.questions) == 9
    with pytest.raises(ValueError, match="from 0 on, got -1"):
        adaptive(Script(LEFT), max_points=-1)


def test_others_that_are_one_object_come_in_once() -> None:
    twice = f"{LOW} [101,601,401,901]"
    models, _, _ = adaptive(Script(f"{LEFT} {RIGHT}", {LEFT: 0.9, RIGHT: 0.9, LOW: 0.9}, twice))
    assert left_corners(models) == [(20, 20), (120, 20), (20, 120)]


def test_what_is_told_is_what_was_said() -> None:
    models, mllm, _ = adaptive(Script(LEFT, {LEFT: 0.1, RIGHT: 0.9}, RIGHT))
    result = models.segment(IMAGE, "the mug", method="adaptive")
    asked = [question.turns[-1].text for question in mllm.questions]
    assert [turn.text for turn in result.turns if turn.role == "user" and turn.text not in asked] == []
    told = [turn.text for turn in result.turns if turn.role == "assistant"]
    assert told.count(RIGHT) == sum("Leave out" in turn.text for turn in result.turns)


def test_where_all_is_left_out_the_answer_is_not_sure_enough() -> None:
    models, _, _ = adaptive(Script(f"{LEFT} {RIGHT}", {LEFT: 0.5, RIGHT: 0.6}), abstain=0.7)
    result = models.segment(IMAGE, "the mugs", method="adaptive")
    assert (result.objects, result.confidence, result.abstained) == ((), None, True)
    assert "not sure enough" in summary(result)
    assert "no such object" not in summary(result)
    assert Segmentation.from_dict(result.to_dict()).abstained
    models, _, _ = adaptive(Script(f"{LEFT} {RIGHT}", {LEFT: 0.95, RIGHT: 0.5}), abstain=0.7)
    assert models.segment(IMAGE, "the mugs", method="adaptive").confidence == pytest.approx(0.95)


def test_a_checked_dialogue_is_rebuilt_from_its_replies() -> None:
    boxes = Reply(LEFT)
    start = PQPP.start("the mug", Size(200, 200), dialect=PLAIN, sampler=Grid(2, 1)).answer([boxes])
    replies = [sure(0.9), sure(0.1), sure(0.8)]
    done = replay(Verified(start), [replies])
    assert done.match_probabilities == (0.8,)
    assert [(point.label, point.confidence) for point in done.prompts[0].points] == [(1, 0.9)]
    assert [exchange.reply for exchange in done.history] == [boxes, *replies]
    assert done.pending == ()


def test_points_that_cannot_be_read_leave_the_second_opinion() -> None:
    script = Script(LEFT, {LEFT: 0.9})
    mllm = ScriptedMLLM(lambda question: "perhaps" if "Is the point" in question.turns[-1].text else script(question))
    result = Sam4Mllm(mllm, BoxSegmenter(), dialect=PLAIN, retries=0).segment(IMAGE, "the mug", method="adaptive")
    assert result.objects[0].prompt.points == ()
    assert result.objects[0].confidence == pytest.approx(0.9)
    assert result.notes[0].startswith("went on without unreadable points")


class Narrow(BoxSegmenter):
    """Sees nothing right of 50 pixels."""

    def segment(self, image: Image.Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        things = super().segment(image, prompts)
        return [replace(thing, mask=thing.mask & (np.arange(image.width) < 50)) for thing in things]


def test_a_rough_box_gives_way_to_its_masks_own_before_it_is_asked_whether_that_is_meant() -> None:
    half = "[100,100,250,400]"
    mllm = ScriptedMLLM(Script(LEFT, {half: 0.9, LEFT: 0.1}))
    (thing,) = Sam4Mllm(mllm, Narrow(), dialect=PLAIN).segment(IMAGE, "the mug", method="adaptive").objects
    points = [question.turns[-1].text for question in mllm.questions if "Is the point" in question.turns[-1].text]
    assert len(points) == 9
    assert all(LEFT in text for text in points), "points are asked about in the box that was named"
    assert thing.confidence == pytest.approx(0.9), "of the better box"
    assert thing.prompt.box == pytest.approx((20, 20, 50, 80), abs=0.2)


@pytest.mark.parametrize(("refine_crops", "crops"), [(True, 3), (False, 0)])
def test_small_objects_are_refined_in_crops_unless_that_is_off(refine_crops: bool, crops: int) -> None:
    small = "[100,100,200,200]"
    models, mllm, segmenter = adaptive(Script(small, {small: 0.9}), refine_crops=refine_crops)
    result = models.segment(IMAGE, "the mug", method="adaptive")
    assert len(segmenter.calls) == 2 + crops
    assert len(mllm.questions) == 11, "it asks the MLLM nothing"
    (thing,) = result.objects
    assert thing.confidence == pytest.approx(0.9)
    assert np.array_equal(np.argwhere(thing.mask).min(0), (20, 20))
    assert np.array_equal(np.argwhere(thing.mask).max(0), (39, 39))


def test_an_object_that_is_named_twice_is_told_once() -> None:
    nearly = "[110,100,400,400]"
    models, _, _ = adaptive(Script(f"{LEFT} {nearly} {RIGHT}", {LEFT: 0.8, nearly: 0.9, RIGHT: 0.9}))
    result = models.segment(IMAGE, "the mugs", method="adaptive")
    assert [round(thing.prompt.box.x1) for thing in result.objects] == [22, 120], "the likelier of the two"
    assert "left out the object at (20, 20) to (80, 80), which was named twice" in result.notes


def test_another_box_is_none_where_a_rough_one_gave_way_to_it() -> None:
    half = "[100,100,250,400]"
    mllm = ScriptedMLLM(Script(LEFT, {half: 0.3}, others=half))
    models = Sam4Mllm(mllm, Narrow(), dialect=PLAIN)
    assert len(models.segment(IMAGE, "the mug", method="adaptive").objects) == 1
    assert half in next(question.turns[-1].text for question in mllm.questions if "Leave out" in question.turns[-1].text)
