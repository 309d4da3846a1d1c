"""What is tried next, why a run ends, and how both are put in words."""

import numpy as np
import pytest

from sam4mllm_tool.reasoning import Attempt, ReasoningConfig, ReasoningResult, Spent, attempts, choose_best, next_step
from sam4mllm_tool.reasoning.decision import EndReason, reserved_rounds
from sam4mllm_tool.reasoning.explanation import explain_step
from sam4mllm_tool.reasoning.reasoning_result import build_reasoning_result
from sam4mllm_tool.types import Box, ObjectPrompt, Segmentation, SegmentedObject, Size

SIZE = Size(9, 9)
CONFIG = ReasoningConfig(steps=("zoom",))


def attempt_of(*checks: tuple[float, ...], step: str = "look", none: float | None = None, expression: str = "x") -> Attempt:
    segmented = SegmentedObject(np.ones((9, 9), bool), ObjectPrompt(Box(0, 0, 9, 9)), 0.9)
    return Attempt(step, expression, Segmentation(expression, SIZE, (segmented,) * len(checks)), checks, none)


UNREADABLE = Attempt("look", "x", note="cut off")
ENDS: dict[str, tuple[list[Attempt], bool, str]] = {
    "an unverified answer, cut by the budget": ([attempt_of(())], True, "budget"),
    "an unverified answer, and nobody can verify it": ([attempt_of(())], False, "unverified"),
    "no attempt at all": ([], True, "budget"),
    "a doubtful answer, all tried": ([attempt_of((0.6,))], False, "exhausted"),
    "a doubtful answer, and something was refused": ([attempt_of((0.6,))], True, "budget"),
    "a sure answer, although something was refused": ([attempt_of((0.99,))], True, "confident"),
    "nothing could be read": ([UNREADABLE], False, "abstained"),
    "nothing could be read, and something was refused": ([UNREADABLE], True, "budget"),
}


@pytest.mark.parametrize(("tried", "refused", "ended"), ENDS.values(), ids=ENDS)
def test_nothing_left_to_try_is_told_from_nothing_left_that_the_budget_allows(
    tried: list[Attempt], refused: bool, ended: str
) -> None:
    assert next_step(tried, ["look", "zoom"], CONFIG, lambda _: True, refused=refused) == ended


def test_rounds_are_kept_for_other_wordings_that_come_later() -> None:
    config, tried = ReasoningConfig(steps=("zoom", "rephrase")), [attempt_of((0.6,))]
    for left, expected in ((4, "zoom"), (3, "rephrase"), (2, "zoom"), (0, "budget")):
        assert next_step(tried, ["look"], config, lambda rounds, left=left: rounds <= left) == expected
    assert reserved_rounds("zoom", ["look"], config, lambda _: True) == 3
    assert reserved_rounds("rephrase", ["look"], config, lambda _: True) == 0
    assert reserved_rounds("zoom", ["look", "rephrase"], config, lambda _: True) == 0
    assert reserved_rounds("zoom", ["look"], CONFIG, lambda _: True) == 0


def test_other_words_that_name_nothing_do_not_state_that_there_is_nothing() -> None:
    tried = [attempt_of((0.015,)), attempt_of(step="rephrase", none=0.99, expression="I cannot help with that")]
    best = choose_best(tried)
    assert best.is_none
    assert best.is_inferred
    assert not best.is_sure(ReasoningConfig())


REASONS: dict[str, tuple[list[Attempt], EndReason, str]] = {
    "a sure object": (
        [attempt_of((0.99,))],
        "confident",
        "the MLLM was asked whether the 1 object is what was meant, confidence 99%",
    ),
    "several checks": (
        [attempt_of((0.9, 0.9), (0.9, 0.9))],
        "exhausted",
        "the MLLM was asked 2 times whether the 2 objects are what was meant, confidence 90%; "
        "nothing is left to try, and this is the most probable answer",
    ),
    "an object of a later attempt": (
        [attempt_of((0.1,)), attempt_of((0.99,), step="other")],
        "confident",
        "the MLLM was asked whether the 1 object, which attempt 2 (other) gave, is what was meant, confidence 99%",
    ),
    "none": ([attempt_of(none=0.97)], "confident", "the MLLM says that there is no such object, confidence 97%"),
    "none, inferred": (
        [attempt_of((0.2,))],
        "exhausted",
        "the MLLM takes back every object that it named, so there is no such object, confidence 80%; "
        "nothing is left to try, and this is the most probable answer",
    ),
    "abstained": (
        [attempt_of((0.5,))],
        "abstained",
        "not sure enough to answer: the MLLM was asked whether the 1 object is what was meant, confidence 50%, "
        "and nothing is left to try",
    ),
    "unreadable": ([UNREADABLE], "abstained", "no attempt gave an answer: cut off"),
    "never verified": (
        [attempt_of(())],
        "budget",
        "the MLLM names 1 object, never verified; the budget doesn't allow what is left to try",
    ),
}


@pytest.mark.parametrize(("tried", "ended", "expected"), REASONS.values(), ids=REASONS)
def test_the_reason_of_an_answer_is_in_plain_words(tried: list[Attempt], ended: EndReason, expected: str) -> None:
    assert build_reasoning_result("x", SIZE, tried, ended, Spent()).reason == expected


def test_a_step_says_what_it_added_and_what_it_changed() -> None:
    first, second = attempt_of((0.6,)), attempt_of((0.9,), step="other")
    assert explain_step("look", [], [first]) == "asked for it on the whole image: attempt 1, 1 object, confidence 60%"
    assert explain_step("zoom", [first], [first]) == "asked again in a crop: nothing new"
    zoomed = first.with_checks([0.9])
    assert explain_step("zoom", [first], [zoomed, second]) == (
        "asked again in a crop: attempt 1, 1 object, confidence 79%; attempt 2, 1 object, confidence 90%"
    )


def test_the_answer_is_had_as_a_segmentation() -> None:
    result = build_reasoning_result("x", SIZE, [attempt_of((0.99,))], "confident", Spent())
    segmentation = result.as_segmentation()
    assert (len(segmentation.objects), segmentation.confidence, segmentation.notes[-1]) == (1, 0.99, result.reason)
    none = build_reasoning_result("x", SIZE, [attempt_of(none=0.97)], "confident", Spent()).as_segmentation()
    assert (none.objects, none.abstained, none.confidence) == ((), False, 0.97)
    unsure = build_reasoning_result("x", SIZE, [attempt_of((0.5,))], "abstained", Spent()).as_segmentation()
    assert (unsure.objects, unsure.abstained, unsure.confidence) == ((), True, None)


def test_results_of_earlier_versions_are_read() -> None:
    fields = build_reasoning_result("x", SIZE, [attempt_of((0.5,))], "abstained", Spent()).to_dict()
    fields["spent"].pop("refused")
    for name in ("expression", "size", "reason"):
        fields.pop(name)
    result = ReasoningResult.from_dict(fields)
    assert (result.expression, result.size) == ("x", None)
    assert result.as_segmentation().size == SIZE
    fields["tried"] = []
    with pytest.raises(ValueError, match="how large the image is"):
        ReasoningResult.from_dict(fields).as_segmentation()


def test_names_that_moved_are_found_at_their_old_place() -> None:
    for name, moved in (("choose_best", choose_best), ("next_step", next_step), ("ReasoningResult", ReasoningResult)):
        with pytest.warns(DeprecationWarning, match=name):
            assert getattr(attempts, name) is moved
