"""Numbers that a result lists can be said: exactly those objects go, stay or come back, and nothing is guessed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.interactive import InteractiveState, RefineError, RefinementResult, read_instruction, refine
from sam4mllm_tool.interactive.interactive_objects import ObjectCandidate
from sam4mllm_tool.interactive.number_listing import list_choices, list_left_out
from sam4mllm_tool.interactive.number_references import parse_numbers
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import PLAIN
from sam4mllm_tool.types import Box, ObjectPrompt, SegmentedObject, Size

SIZE = Size(240, 30)
IMAGE = PILImage.new("RGB", SIZE)
SILENT = Sam4Mllm(ScriptedMLLM(lambda _: "none"), BoxSegmenter(), dialect=PLAIN)
"""Finds nothing, so that only numbers can decide; the segmenter fills boxes exactly."""


def square(position: int) -> SegmentedObject:
    box = Box(20 * position + 2, 5, 20 * position + 18, 25)
    mask = np.zeros((SIZE.height, SIZE.width), np.bool_)
    mask[5:25, int(box.x1) : int(box.x2)] = True
    return SegmentedObject(mask, ObjectPrompt(box), 0.9)


def row(*positions: int, expression: str = "all rings") -> InteractiveState:
    """A result that shows squares at these positions, numbered in this order."""
    return InteractiveState.create(expression, SIZE, [square(position) for position in positions])


def say(state: InteractiveState, instruction: str) -> RefinementResult:
    run = SILENT.start_run(state.size)
    return SILENT.run(IMAGE, refine(run, state, instruction=instruction), run)


def positions(state: InteractiveState) -> list[int]:
    return [int(segmented.box.x1 // 20) for segmented in state.objects]


SAID: dict[str, tuple[str, list[int]]] = {
    "a number goes": ("remove 3", [0, 1, 3]),
    "an ordinal goes": ("remove the third", [0, 1, 3]),
    "an ordinal with its noun goes": ("remove the third ring", [0, 1, 3]),
    "several go": ("without 1, 2 and 4", [2]),
    "the last goes": ("leave out the last one", [0, 1, 2]),
    "all but one stay": ("all but the second", [0, 2, 3]),
    "called wrong": ("number 2 is wrong", [0, 2, 3]),
    "not it": ("no, not the 2nd one", [0, 2, 3]),
    "a number stays": ("keep only the first", [0]),
    "two stay": ("keep 1 and 2", [0, 1]),
    "only": ("only the second", [1]),
    "a range stays": ("keep 2-4", [1, 2, 3]),
    "the first two stay": ("just the first two", [0, 1]),
    "the last two stay": ("keep the last 2 rings", [2, 3]),
    "second to last": ("keep the second to last", [2]),
    "a bare number": ("3", [2]),
    "a bare number after no": ("no, number two", [1]),
    "counted from the right": ("remove the first from the right", [0, 1, 2]),
    "German, one goes": ("entferne 3", [0, 1, 3]),
    "German, one stays": ("nur das zweite", [1]),
    "German, two stay": ("behalte 1 und 2", [0, 1]),
    "German, the last goes": ("ohne das letzte bitte", [0, 1, 2]),
    "German, all but one": ("alle außer der ersten", [1, 2, 3]),
    "everything goes": ("remove everything", []),
}


@pytest.mark.parametrize(("instruction", "expected"), SAID.values(), ids=SAID)
def test_listed_numbers_can_be_said(instruction: str, expected: list[int]) -> None:
    refined = say(row(0, 1, 2, 3), instruction)
    assert positions(refined.state) == expected
    assert refined.is_changed
    assert [segmented.number for segmented in refined.state.objects] == list(range(1, len(expected) + 1))


REFUSED = {
    "a number that isn't listed": ("remove 7", "there is no number 7; the result stays: the result has 1, 2, 3 and 4"),
    "an ordinal that isn't listed": ("keep the sixth", "there is no number 6"),
    "zero": ("remove 0", "'0' isn't clear"),
    "more than there are": ("keep the first nine", "there are not 9"),
    "how many or which": ("remove two", "'two' isn't clear.*such as 'remove 2'"),
    "which of them": ("remove one", "'one' isn't clear"),
    "one and not another": ("not 2 but 3", "isn't clear"),
    "one or another": ("2 or 3", "isn't clear"),
    "added though it is there": ("add back 2", "number 2 is in the result already"),
    "nothing to add back": ("add it back", "nothing was left out"),
    "both of four": ("remove both", "'both' isn't clear.*the result has 1, 2, 3 and 4"),
    "both of them of four": ("without both of them", "'both of them' isn't clear.*the result has 1, 2, 3 and 4"),
    "both of four kept": ("keep both", "'both' isn't clear.*the result has 1, 2, 3 and 4"),
    "another noun": ("remove the third star", "no 'the third star' can be found in the result"),
}


@pytest.mark.parametrize(("instruction", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_understood_is_refused_with_the_numbers_that_there_are(instruction: str, message: str) -> None:
    with pytest.raises(RefineError, match=message):
        say(row(0, 1, 2, 3), instruction)


def test_both_means_exactly_two_objects() -> None:
    assert positions(say(row(0, 1), "remove both").state) == []
    assert positions(say(row(0, 1), "keep both").state) == [0, 1]
    for state in (row(0), row(0, 1, 2)):
        with pytest.raises(RefineError, match="'both' isn't clear"):
            say(state, "remove both")


def test_both_rings_are_refused_where_four_are_found() -> None:
    boxes = [square(each).prompt.box for each in range(4)]
    model = ScriptedMLLM(lambda _: PLAIN.format_boxes(boxes, SIZE))
    tool = Sam4Mllm(model, BoxSegmenter(), dialect=PLAIN)
    run = tool.start_run(SIZE)
    with pytest.raises(RefineError, match="'both rings' isn't clear"):
        tool.run(IMAGE, refine(run, row(0, 1, 2, 3), instruction="remove both rings"), run)


@st.composite
def numbered_states(draw: st.DrawFn) -> tuple[InteractiveState, list[int]]:
    """A state of 1 to 8 objects, some of them left out before, and some of the numbers that it shows."""
    order = draw(st.permutations(range(draw(st.integers(2, 8)))))
    state = row(*order)
    removed = draw(st.integers(0, len(order) - 1))
    if removed:
        state = say(state, f"remove {' and '.join(str(number) for number in range(1, removed + 1))}").state
    numbers = draw(st.lists(st.integers(1, len(state.objects)), min_size=1, unique=True))
    return state, numbers


@settings(max_examples=60, deadline=None)
@given(numbered_states(), st.sampled_from([", ", " and ", ",", " und "]))
def test_exactly_the_named_numbers_go_or_stay(drawn: tuple[InteractiveState, list[int]], separator: str) -> None:
    state, numbers = drawn
    shown = positions(state)
    named = [shown[number - 1] for number in numbers]
    words = separator.join(map(str, numbers))
    removed, kept = say(state, f"remove {words}").state, say(state, f"keep {words}").state
    assert positions(removed) == [position for position in shown if position not in named]
    assert positions(kept) == [position for position in shown if position in named]
    assert positions(state) == shown, "the state before stays as it was"
    for refined in (removed, kept):
        assert {int(candidate.box.x1 // 20) for candidate in refined.rejected}.isdisjoint(positions(refined))
        everything = [*positions(refined), *(int(candidate.box.x1 // 20) for candidate in refined.rejected)]
        assert sorted(everything) == sorted([*shown, *(int(candidate.box.x1 // 20) for candidate in state.rejected)])


@settings(max_examples=40, deadline=None)
@given(numbered_states())
@pytest.mark.slow
def test_what_was_left_out_comes_back_by_its_number(drawn: tuple[InteractiveState, list[int]]) -> None:
    state, numbers = drawn
    removed = say(state, f"remove {' and '.join(map(str, numbers))}").state
    for number, candidate in list(removed.numbered.items())[len(removed.objects) :]:
        back = say(removed, f"add back {number}").state
        assert positions(back) == [*positions(removed), int(candidate.box.x1 // 20)]
    assert sorted(positions(say(removed, "add them back").state)) == sorted(positions(state))


@settings(max_examples=40, deadline=None)
@given(numbered_states())
def test_undo_gives_the_result_before_and_the_one_before_that(drawn: tuple[InteractiveState, list[int]]) -> None:
    state, numbers = drawn
    first = say(state, f"keep {numbers[0]}")
    second = say(first.state, "remove 1")
    assert positions(say(second.state, "undo").state) == positions(first.state)
    if first.is_changed:
        twice = say(say(second.state, "undo").state, "the one before").state
        assert positions(twice) == positions(state)


@pytest.mark.parametrize("back", ["undo", "the one before"])
def test_a_choice_that_was_taken_and_given_back_is_listed_once(back: str) -> None:
    state = replace(row(0, expression="the ring"), choices=(ObjectCandidate(square(1).prompt, "the ring"),))
    other = say(state, "no, the other one").state
    again = say(other, back).state
    assert (positions(other), positions(again), len(again.numbered)) == ([1], [0], 2)
    assert positions(say(again, "no, the other one").state) == [1]


def test_a_refinement_that_changes_nothing_says_so_and_is_skipped_by_undo() -> None:
    state = say(row(0, 1), "remove 1").state
    same = say(state, "keep 1")
    assert not same.is_changed
    assert "which is the result already" in same.understood[0]
    assert positions(say(same.state, "undo").state) == [0, 1]


def test_the_other_one_after_nothing_has_nothing_to_be_other_than() -> None:
    with pytest.raises(RefineError, match="there is no object that another one could replace"):
        say(row(), "no, the other one")


def test_an_ordinal_with_a_noun_counts_the_objects_of_that_noun() -> None:
    rings = row(0, 1, 2)
    mixed = replace(rings, step=1).add_objects([square(5), square(4)], "the orange circles")
    assert positions(say(mixed, "remove the first circle").state) == [0, 1, 2, 4]
    assert positions(say(mixed, "keep the second ring").state) == [1]
    with pytest.raises(RefineError, match="there is no number 4 that is a ring"):
        say(mixed, "remove ring 4")


def test_a_listing_says_what_can_be_said() -> None:
    state = say(row(0, 1, 2), "remove 1").state
    assert list_left_out(state) == ["left out: 3 at (2, 5) to (18, 25); say 'add back 3' to have it again"]
    assert list_choices(state) == []
    assert list_left_out(row(0)) == []


PARSED: dict[str, Any] = {
    "the third": [("ordinal", 3)],
    "rings 1 and 2": [("number", 1), ("number", 2)],
    "#3": [("number", 3)],
    "1, 2, 4": [("number", 1), ("number", 2), ("number", 4)],
    "1 to 3": [("number", 1), ("number", 2), ("number", 3)],
    "die ersten beiden": [("first", 2)],
    "Nr. 3": [("number", 3)],
    "the two rings": None,
    "3 rings": None,
    "the red one": None,
    "two": None,
    "the third red ring": None,
    "": None,
}


@pytest.mark.parametrize(("text", "expected"), PARSED.items(), ids=repr)
def test_numbers_are_read_and_nothing_else(text: str, expected: Any) -> None:
    reference = parse_numbers(text, {"ring", "rings"})
    assert (reference and [(item.kind, item.value) for item in reference.items]) == expected


@settings(max_examples=200)
@given(st.text(alphabet=st.sampled_from("remove keep 123 the and last of but ,-#äß."), min_size=1, max_size=60))
def test_any_text_is_read_as_one_instruction(text: str) -> None:
    if text.strip():
        assert read_instruction(text).action
