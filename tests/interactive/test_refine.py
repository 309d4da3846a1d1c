"""Refinement with the embedded pair and without LangChain: what words and clicks change, what stays and what is refused."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.interactive import (
    InteractiveState,
    RefineError,
    RefinementResult,
    find_choices,
    list_choices,
    refine,
)
from sam4mllm_tool.interactive.mask_geometry import click_distances, deepest_point, is_central_click, mask_contains
from sam4mllm_tool.interactive.other_objects import erase_masks, segment_at_click
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import EMBEDDED, JOINT, PLAIN, Dialect
from sam4mllm_tool.types import (
    Box,
    FreeText,
    Image,
    Labels,
    Mask,
    ObjectPrompt,
    Point,
    PointPrompt,
    Question,
    Reply,
    SegmentedObject,
    Size,
)
from tests.grouped_scenes import FOUR, PAIR

SCENE, IMAGE = PAIR.scene, PAIR.image
FIRST, SECOND = PAIR.group
OTHER = PAIR.single
FIRST_NAME, SECOND_NAME, OTHER_NAME = map(PAIR.name, (FIRST, SECOND, OTHER))
FIRST_BY_COLOUR = PAIR.colour_name(FIRST)
UNUSED_BY_COLOUR = f"the {PAIR.unused_colour} one"
SIZE = Size(256, 256)


@pytest.fixture(scope="module")
def models() -> Sam4Mllm:
    return Sam4Mllm.load()


@pytest.fixture(scope="module")
def second(models: Sam4Mllm) -> InteractiveState:
    return InteractiveState.from_segmentation(models.segment(IMAGE, SECOND_NAME))


def refine_state(
    models: Sam4Mllm, state: InteractiveState, *, image: PILImage.Image = IMAGE, **arguments: Any
) -> RefinementResult:
    run = models.start_run(state.size)
    return models.run(image, refine(run, state, **arguments), run)


def called(state: InteractiveState, expression: str) -> InteractiveState:
    """The same objects, segmented by another expression."""
    return InteractiveState.create(expression, state.size, [replace(each, expression=expression) for each in state.objects])


def click_on(index: int, label: int) -> PointPrompt:
    """A click on the deepest point of what is visible of an object of the scene."""
    mask = SCENE.mask(index)
    x, y = deepest_point(SegmentedObject(mask, ObjectPrompt(SCENE.objects[index].box), 1.0))
    return PointPrompt(x, y, 1 if label else 0)


def shows(state: InteractiveState, *indices: int) -> bool:
    """Whether the state's objects are exactly these objects of the scene."""
    return len(state.objects) == len(indices) and all(
        any(mask_iou(segmented.mask, SCENE.mask(index)) > 0.8 for segmented in state.objects) for index in indices
    )


# Instructions ---------------------------------------------------------------------------------------------------------


def test_the_other_object_is_taken_and_the_one_before_comes_back(models: Sam4Mllm, second: InteractiveState) -> None:
    other = refine_state(models, called(second, PAIR.singular), instruction="no, the other one")
    assert shows(other.state, FIRST)
    assert [prompt.box for prompt in other.state.rejected] == [second.objects[0].prompt.box]
    assert f"another '{PAIR.singular}' than the one at" in other.understood[0]
    back = refine_state(models, other.state, instruction="no, the one before")
    assert shows(back.state, SECOND)
    with pytest.raises(RefineError, match=rf"no other '{PAIR.singular}' can be found; the result stays.*Left out so far"):
        refine_state(models, other.state, instruction="the other one")


def test_the_other_object_is_taken_with_a_dialect_that_cannot_ask_for_it(models: Sam4Mllm, second: InteractiveState) -> None:
    silent = Sam4Mllm(models.mllm, models.segmenter, dialect=replace(models.dialect, ask_other_text=""))
    other = refine_state(silent, called(second, PAIR.singular), instruction="no, the other one")
    assert shows(other.state, FIRST)


def test_instructions_add_and_take_out_objects(models: Sam4Mllm, second: InteractiveState) -> None:
    both = refine_state(models, second, instruction=f"also {FIRST_BY_COLOUR}").state
    assert shows(both, SECOND, FIRST)
    assert both.expression == f"{SECOND_NAME} and {FIRST_NAME}"
    first = refine_state(models, both, instruction=f"not {SECOND_NAME}").state
    assert shows(first, FIRST)
    assert first.instructions == (f"also {FIRST_BY_COLOUR}", f"not {SECOND_NAME}")
    with pytest.raises(RefineError, match="holds already"):
        refine_state(models, both, instruction=f"also {FIRST_NAME}")
    with pytest.raises(RefineError, match="can be found in the result, which stays"):
        refine_state(models, both, instruction=f"without {OTHER_NAME}")


@pytest.mark.parametrize(
    ("instruction", "dropped"),
    [
        pytest.param("without the left one", FOUR.group[0], id="by its place"),
        pytest.param(f"all but {FOUR.colour_name(FOUR.group[3])}", FOUR.group[3], id="by its colour"),
    ],
)
def test_one_of_several_objects_is_taken_out(models: Sam4Mllm, instruction: str, dropped: int) -> None:
    state = InteractiveState.from_segmentation(models.segment(FOUR.image, FOUR.plural))
    assert len(state.objects) == 4
    objects = refine_state(models, state, image=FOUR.image, instruction=instruction).state.objects
    expected = set(FOUR.group) - {dropped}
    masks = {index: FOUR.scene.mask(index) for index in FOUR.group}
    remaining = {index for index, mask in masks.items() if any(mask_iou(each.mask, mask) > 0.6 for each in objects)}
    assert (remaining, len(objects)) == (expected, 3)


def test_a_part_is_cut_out() -> None:
    def reply(question: Question) -> str:
        """Locate the mug and its handle; the segmenter fills boxes exactly."""
        if isinstance(question.answer, Labels):
            return "Yes" * question.answer.count
        text = question.turns[-1].text
        return "[500,000,999,500]" if "handle" in text else "[000,000,999,999]" if "mug" in text else "no such object"

    scripted = Sam4Mllm(ScriptedMLLM(reply), BoxSegmenter(), dialect=JOINT)
    image = PILImage.new("RGB", (100, 100))
    mug = InteractiveState.from_segmentation(scripted.segment(image, "the mug"))
    (segmented,) = refine_state(scripted, mug, image=image, instruction="without the handle").state.objects
    assert not segmented.mask[:45, 55:].any()
    assert segmented.mask[60:95].all()
    assert segmented.mask[:45, :45].all()
    with pytest.raises(RefineError, match="no 'the lid' can be found"):
        refine_state(scripted, mug, image=image, instruction="without the lid")


def test_a_new_description_is_completed_and_reported(models: Sam4Mllm, second: InteractiveState) -> None:
    first = refine_state(models, second, instruction=f"no, {FIRST_BY_COLOUR}")
    assert shows(first.state, FIRST)
    assert first.understood == (f"a new description, '{FIRST_NAME}'",)
    same = refine_state(models, first.state, instruction=FIRST_BY_COLOUR)
    assert "which is the result already" in same.understood[0]
    with pytest.raises(RefineError, match=f"there is no '{PAIR.unused_name}'"):
        refine_state(models, second, instruction=UNUSED_BY_COLOUR)


@pytest.mark.parametrize(("word", "box"), [("bigger", Box(15, 15, 65, 65)), ("smaller", Box(24, 24, 56, 56))])
def test_a_mask_of_another_size_is_taken(word: str, box: Box) -> None:
    """The segmenter fills boxes exactly and offers no candidates, so that a scaled box decides."""
    scripted = Sam4Mllm(ScriptedMLLM(lambda _: "no such object"), BoxSegmenter(), dialect=PLAIN)
    mask = np.zeros((100, 100), np.bool_)
    mask[20:60, 20:60] = True
    square = SegmentedObject(mask, ObjectPrompt(Box(20, 20, 60, 60)), 0.9)
    state = InteractiveState.create("the square", Size(100, 100), [square])
    refined = refine_state(scripted, state, image=PILImage.new("RGB", (100, 100)), instruction=word)
    (segmented,) = refined.state.objects
    assert segmented.prompt.box == box
    assert (segmented.mask.sum() > mask.sum()) == (word == "bigger")
    assert refined.understood == (f"a {word} mask of the same object",)


def test_no_mask_of_another_size_is_a_refusal() -> None:
    scripted = Sam4Mllm(ScriptedMLLM(lambda _: "no such object"), BoxSegmenter(), dialect=PLAIN)
    whole = SegmentedObject(np.ones((50, 50), np.bool_), ObjectPrompt(Box(0, 0, 50, 50)), 0.9)
    state = InteractiveState.create("the wall", Size(50, 50), [whole])
    with pytest.raises(RefineError, match="no bigger mask"):
        refine_state(scripted, state, image=PILImage.new("RGB", (50, 50)), instruction="bigger")


# Clicks ---------------------------------------------------------------------------------------------------------------


def test_a_click_on_another_object_takes_it_or_adds_it(models: Sam4Mllm, second: InteractiveState) -> None:
    clicks = [click_on(OTHER, 1)]
    taken = refine_state(models, second, clicks=clicks)
    assert shows(taken.state, OTHER)
    assert "another object, taken instead" in taken.understood[0]
    assert [candidate.prompt for candidate in taken.state.rejected] == [second.objects[0].prompt]
    added = refine_state(models, second, instruction="also this", clicks=clicks)
    assert shows(added.state, SECOND, OTHER)
    plural = refine_state(models, called(second, PAIR.plural), clicks=clicks)
    assert shows(plural.state, SECOND, OTHER), "a plural expression may mean one object more"


def test_a_click_segments_an_object_where_there_was_none(models: Sam4Mllm) -> None:
    empty = InteractiveState("the dog", SIZE, ())
    assert shows(refine_state(models, empty, clicks=[click_on(OTHER, 1)]).state, OTHER)


def test_a_click_off_an_object_rejects_it(models: Sam4Mllm, second: InteractiveState) -> None:
    both = refine_state(models, second, instruction=f"also {FIRST_BY_COLOUR}").state
    remaining = refine_state(models, both, clicks=[click_on(FIRST, 0)]).state
    assert shows(remaining, SECOND)
    assert len(remaining.rejected) == 1


def test_clicks_that_the_masks_agree_with_change_nothing(models: Sam4Mllm, second: InteractiveState) -> None:
    same = refine_state(models, second, clicks=[click_on(SECOND, 1), click_on(OTHER, 0)])
    assert same.state.objects == second.objects
    assert len(same.state.clicks) == 2
    assert all("agree" in words for words in same.understood)
    assert same.segmentation.usage.questions == 0


def test_a_click_empties_what_was_filled_beside_an_object_in_its_box(models: Sam4Mllm, second: InteractiveState) -> None:
    box = SCENE.objects[SECOND].box
    beside = np.zeros((256, 256), np.bool_)
    beside[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = True
    centre = PointPrompt(*deepest_point(SegmentedObject(beside & ~SCENE.mask(SECOND), ObjectPrompt(box), 1.0)), 0)
    filled = second.objects[0].mask | (click_distances(centre, (256, 256)) < 30)
    wrong = replace(second, objects=(replace(second.objects[0], mask=filled),))
    assert mask_contains(wrong.objects[0].mask, centre)
    refined = refine_state(models, wrong, clicks=[centre]).state
    assert shows(refined, SECOND)
    assert not mask_contains(refined.objects[0].mask, centre)


def test_each_click_is_honoured_or_refused(models: Sam4Mllm, second: InteractiveState) -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        state = second
        for _ in range(3):
            click = PointPrompt(*rng.uniform(1, 255, 2).tolist(), 1 if rng.integers(2) else 0)
            try:
                state = refine_state(models, state, clicks=[click]).state
            except RefineError:
                continue
            assert any(mask_contains(segmented.mask, click) for segmented in state.objects) == bool(click.label)
            assert state.clicks[-1] == click


REFUSED = {
    "outside": ([PointPrompt(300, 10, 1)], "outside the image of 256 x 256 pixels"),
    "before the edge": ([PointPrompt(-1, 10, 1)], "outside the image"),
    "both labels at one place": (
        [PointPrompt(10, 10, 1), PointPrompt(10.5, 10, 0)],
        r"contradict one another: \(10.5, 10\) is off the object and \(10, 10\) on it: leave one of them out",
    ),
}


@pytest.mark.parametrize(("clicks", "message"), REFUSED.values(), ids=REFUSED)
def test_impossible_clicks_are_refused(
    models: Sam4Mllm, second: InteractiveState, clicks: list[PointPrompt], message: str
) -> None:
    with pytest.raises(RefineError, match=message):
        refine_state(models, second, clicks=clicks)


def test_a_click_that_contradicts_an_earlier_one_is_refused_unless_that_is_forgotten(
    models: Sam4Mllm, second: InteractiveState
) -> None:
    on, off = click_on(OTHER, 1), click_on(OTHER, 0)
    taken = refine_state(models, second, clicks=[on]).state
    with pytest.raises(RefineError, match=r"and earlier \(.*forget the earlier clicks"):
        refine_state(models, taken, clicks=[off])
    refined = refine_state(models, taken, clicks=[off], forget_clicks=True).state
    assert not any(mask_contains(segmented.mask, off) for segmented in refined.objects)
    assert refined.clicks == (off,)


def test_nothing_to_refine_by_is_refused(models: Sam4Mllm, second: InteractiveState) -> None:
    with pytest.raises(RefineError, match="give an instruction"):
        refine_state(models, second)


# Choices --------------------------------------------------------------------------------------------------------------


def test_two_objects_that_a_singular_fits_are_offered_by_number(models: Sam4Mllm) -> None:
    state = InteractiveState.from_segmentation(models.segment(IMAGE, PAIR.singular))
    answered, other = PAIR.group if shows(state, FIRST) else PAIR.group[::-1]
    assert shows(state, answered)
    run = models.start_run(SIZE)
    offered = models.run(IMAGE, find_choices(run, state), run)
    assert [round(choice.box.iou(SCENE.objects[other].box)) for choice in offered.choices] == [1]
    assert list_choices(offered)[0].startswith("it could also be 2 at ")
    assert shows(refine_state(models, offered, instruction="2").state, other)
    assert shows(refine_state(models, offered, instruction="no, the other one").state, other)
    assert shows(refine_state(models, offered, instruction="both").state, *PAIR.group)
    run = models.start_run(SIZE)
    sure = InteractiveState.from_segmentation(models.segment(IMAGE, FIRST_NAME))
    assert models.run(IMAGE, find_choices(run, sure), run).choices == ()


# State ----------------------------------------------------------------------------------------------------------------


def test_a_state_is_rebuilt_from_its_json(models: Sam4Mllm, second: InteractiveState) -> None:
    first = refine_state(models, second, clicks=[click_on(FIRST, 1)])
    result, fields = json.loads(json.dumps((first.segmentation.to_dict(), first.state.to_dict())))
    rebuilt = InteractiveState.from_dict(result, fields)
    assert rebuilt.to_dict() == first.state.to_dict()
    assert len(json.dumps(fields)) < 6000
    for read, written in zip(rebuilt.objects, first.state.objects, strict=True):
        assert np.array_equal(read.mask, written.mask)
        assert read.prompt == written.prompt
    for broken in ({}, {**fields, "clicks": [{"x": 1}]}, {**fields, "rejected": 3}):
        with pytest.raises(RefineError, match="can't be read back"):
            InteractiveState.from_dict(result, broken)


async def test_the_async_driver_gives_the_same_result(models: Sam4Mllm, second: InteractiveState) -> None:
    blocking = refine_state(models, second, instruction=FIRST_BY_COLOUR).state
    run = models.start_run(second.size)
    awaited = (await models.arun(IMAGE, refine(run, second, instruction=FIRST_BY_COLOUR), run)).state
    assert np.array_equal(blocking.objects[0].mask, awaited.objects[0].mask)
    with pytest.raises(RefineError):
        await models.arun(IMAGE, refine(run, second), run)


# Alternatives ---------------------------------------------------------------------------------------------------------


def test_a_click_on_an_object_segments_it(models: Sam4Mllm) -> None:
    for index in range(3):
        segmented = models.run(IMAGE, segment_at_click(models.start_run(SIZE), click_on(index, 1)))
        assert segmented is not None
        assert mask_iou(segmented.mask, SCENE.mask(index)) > 0.8


def test_an_erased_object_has_the_colour_of_its_surroundings() -> None:
    pixels = np.full((60, 80, 3), 90, np.uint8)
    mask: Mask = np.zeros((60, 80), np.bool_)
    mask[20:40, 0:30] = True
    pixels[mask] = (250, 0, 0)
    image = PILImage.fromarray(pixels)
    assert np.ptp(np.array(erase_masks(image, [mask]))) == 0
    everything = np.ones((60, 80), np.bool_)
    assert np.unique(np.array(erase_masks(image, [everything]))).tolist() == [127], "without surroundings it is grey"
    assert np.array_equal(np.array(erase_masks(image, [~everything])), pixels)


@pytest.mark.parametrize("side", [40, 400], ids=["small", "measured in steps"])
def test_depth_is_the_distance_from_the_masks_edge(side: int) -> None:
    mask: Mask = np.zeros((side, side), np.bool_)
    mask[side // 4 : side * 3 // 4, side // 4 : side * 3 // 4] = True
    x, y = deepest_point(SegmentedObject(mask, ObjectPrompt(Box(0, 0, side, side)), 1.0))
    assert max(abs(x - side / 2), abs(y - side / 2)) <= side / 10
    assert is_central_click(mask, PointPrompt(side / 2, side / 2, 0))
    assert not is_central_click(mask, PointPrompt(side / 4 + side / 20, side / 2, 0))
    empty = SegmentedObject(np.zeros_like(mask), ObjectPrompt(Box(0, 0, 10, 20)), 0.0)
    assert deepest_point(empty) == Point(5, 10)


def test_an_unreadable_reply_names_no_other_object(models: Sam4Mllm, second: InteractiveState) -> None:
    silent: Dialect = replace(EMBEDDED, ask_other_text="")
    scripted = Sam4Mllm(ScriptedMLLM(lambda _: "[1 2"), models.segmenter, dialect=silent)
    with pytest.raises(RefineError, match="no other"):
        refine_state(scripted, second, instruction="the other one")


def test_rejected_objects_are_erased_for_the_question_about_boxes_only() -> None:
    image = PILImage.new("RGB", (100, 100), (10, 10, 10))
    image.paste((250, 250, 250), (20, 20, 50, 50))
    brightness: list[int] = []

    class RecordingMLLM(ScriptedMLLM):
        def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
            brightness.extend(image.getpixel((35, 35))[0] for _ in questions)
            return super().reply(image, questions)

    dialect = replace(PLAIN, ask_other_text="", ask_whether_text="")
    mllm = RecordingMLLM(lambda question: "[600,600,900,900]" if isinstance(question.answer, FreeText) else "Yes")
    models = Sam4Mllm(mllm, BoxSegmenter(), dialect=dialect)
    mask = np.zeros((100, 100), np.bool_)
    mask[20:50, 20:50] = True
    square = SegmentedObject(mask, ObjectPrompt(Box(20, 20, 50, 50)), 0.9)
    state = InteractiveState.create("the square", Size(100, 100), [square])
    refined = refine_state(models, state, image=image, instruction="no, the other one")
    assert [round(side) for side in refined.state.objects[0].prompt.box] == [60, 60, 90, 90]
    about_boxes, *about_points = brightness
    assert about_boxes == 10, "the square has the colour around it"
    assert set(about_points) == {250}, "points are asked about on the original image"
