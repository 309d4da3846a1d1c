"""Refinement without LangChain: what words mean, what clicks do, what is kept and what is refused."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.embedded.scenes import draw_scene
from sam4mllm_tool.errors import ExpressionError
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.interactive import Found, Refined, RefineError, read_instruction, refine, start
from sam4mllm_tool.interactive.alternatives import at_click, deepest, distances, erase, holds, in_the_middle
from sam4mllm_tool.interactive.references import combine, many_of, plural
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.requests import Transcript
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

SCENE = draw_scene(240062)
"""A white triangle, a red ring, a white ring."""
TRIANGLE, RED_RING, WHITE_RING = range(3)
PICTURE = PILImage.fromarray(SCENE.image)
SIZE = Size(256, 256)


@pytest.fixture(scope="module")
def models() -> Sam4Mllm:
    return Sam4Mllm.load()


@pytest.fixture(scope="module")
def white(models: Sam4Mllm) -> Found:
    return start(models.segment(PICTURE, "the white ring"))


def refined(models: Sam4Mllm, found: Found, *, picture: PILImage.Image = PICTURE, **how: Any) -> Refined:
    return models.run(picture, refine(models.flows, found, Transcript(), **how))


def click(index: int, label: int) -> PointPrompt:
    """In the middle of what there is of an object."""
    mask = SCENE.mask(index)
    x, y = deepest(SegmentedObject(mask, ObjectPrompt(SCENE.objects[index].box), 1.0))
    return PointPrompt(x, y, 1 if label else 0)


def shows(found: Found, *indices: int) -> bool:
    return len(found.objects) == len(indices) and all(
        any(mask_iou(thing.mask, SCENE.mask(index)) > 0.8 for thing in found.objects) for index in indices
    )


# What words mean ------------------------------------------------------------------------------------------------------

INSTRUCTIONS = {
    "the words of the issue": ("no, the other one", "other", ""),
    "a plain no": ("No!", "other", ""),
    "said to be wrong": ("that's wrong", "other", ""),
    "wrong, and what is wanted": ("No, not that one, the other ring", "other", ""),
    "another": ("another one, please".replace(", please", ""), "other", ""),
    "not this": ("not this one", "other", ""),
    "the next": ("next", "other", ""),
    "one more by its place": ("also the left one", "also", "the left one"),
    "one more by and": ("and the blue star", "also", "the blue star"),
    "one more by too": ("the left one too", "also", "the left one"),
    "both": ("both of them", "also_other", ""),
    "the other as well": ("also the other one", "also_other", ""),
    "a part taken out": ("without the handle", "without", "the handle"),
    "one of several taken out": ("no, not the red one", "without", "the red one"),
    "a part left out": ("Leave out the background.", "without", "the background"),
    "all but one": ("all but the green one", "without", "the green one"),
    "a wish that begins with but": ("but the green one", "describe", "but the green one"),
    "bigger": ("bigger", "bigger", ""),
    "said to be too small": ("it's too small", "bigger", ""),
    "the whole of it": ("the whole mug", "bigger", ""),
    "smaller": ("make it smaller", "smaller", ""),
    "a part alone": ("just the part", "smaller", ""),
    "back": ("go back", "back", ""),
    "the one before": ("no, the first one was right", "back", ""),
    "a new description": ("no, i meant the blue one", "describe", "the blue one"),
    "one of them": ("only the left one", "describe", "the left one"),
    "words that begin like a no": ("nothing but notes", "describe", "nothing but notes"),
    "a name that holds other words": ("the motherboard", "describe", "the motherboard"),
    "another language": ("das rote", "describe", "das rote"),
}


@pytest.mark.parametrize(("text", "action", "what"), INSTRUCTIONS.values(), ids=INSTRUCTIONS)
def test_an_instruction_is_read_by_the_table(text: str, action: str, what: str) -> None:
    read = read_instruction(text)
    assert (read.action, read.what) == (action, what)


@pytest.mark.parametrize("text", ["", "  ", None, 3, "x" * 3000], ids=repr)
def test_an_instruction_that_says_nothing_is_refused(text: object) -> None:
    with pytest.raises(ExpressionError):
        read_instruction(text)


COMBINED = {
    "a colour takes the colour's place": ("the blue one", "the small red ring", "the small blue ring"),
    "a place is added": ("the left one", "the red ring", "the leftmost red ring"),
    "a place takes a place's place": ("the right one", "the leftmost red ring", "the rightmost red ring"),
    "an ordinal takes its tail along": ("the second one from the left", "the red ring", "the second red ring from the left"),
    "a size": ("the big one", "the red ring", "the big red ring"),
    "where it is": ("the one on the table", "the mug", "the mug on the table"),
    "where it is, alone": ("behind the tree", "the mug", "the mug behind the tree"),
    "a place alone": ("left", "the mug", "the leftmost mug"),
    "it": ("it", "the mug", "the mug"),
    "a noun of its own": ("the blue star", "the red ring", "the blue star"),
    "one of several": ("the left one", "all rings", "the leftmost ring"),
    "some of several": ("the left ones", "all rings", "the leftmost rings"),
    "one of several with es": ("the green one", "all small crosses", "the small green cross"),
    "one of several people": ("the right one", "the people in the boat", "the rightmost person"),
    "one of a noun in s": ("the left one", "the bus", "the leftmost bus"),
    "nothing to lean on": ("the left one", "all", "the left one"),
}


@pytest.mark.parametrize(("what", "old", "expected"), COMBINED.values(), ids=COMBINED)
def test_words_that_lean_on_earlier_ones_are_completed(what: str, old: str, expected: str) -> None:
    assert combine(what, old) == expected


def test_several_are_told_from_one() -> None:
    assert [plural(text) for text in ("all crosses", "every ring", "the cups", "the cat and the dog")] == [True] * 4
    assert [plural(text) for text in ("the ring", "the red cross", "the cup left of the cats", "")] == [False] * 4
    assert many_of("the second red cross from the left") == "all red crosses"
    assert [many_of(f"the {one}") for one in ("berry", "toy", "box", "bus", "person")] == [
        "all berries",
        "all toys",
        "all boxes",
        "all buses",
        "all people",
    ]


# Words at work ---------------------------------------------------------------------------------------------------------


def test_the_other_one_is_found_and_the_one_before_comes_back(models: Sam4Mllm, white: Found) -> None:
    ring = replace(white, expression="the ring")
    other = refined(models, ring, instruction="no, the other one")
    assert shows(other.found, RED_RING)
    assert [prompt.box for prompt in other.found.rejected] == [white.objects[0].prompt.box]
    assert "another 'the ring' than the one at" in other.understood[0]
    back = refined(models, other.found, instruction="no, the one before")
    assert shows(back.found, WHITE_RING)
    with pytest.raises(RefineError, match="no other 'the ring' can be found; the result stays") as error:
        refined(models, replace(other.found, rejected=white_and_red(white, other.found)), instruction="the other one")
    assert "Left out so far" in str(error.value)


def white_and_red(white: Found, red: Found) -> tuple[ObjectPrompt, ...]:
    return tuple(thing.prompt for found in (white, red) for thing in found.objects)


def test_the_other_one_is_found_without_words_for_it(models: Sam4Mllm, white: Found) -> None:
    silent = Sam4Mllm(models.mllm, models.segmenter, dialect=replace(models.dialect, ask_other_text=""))
    assert shows(refined(silent, replace(white, expression="the ring"), instruction="no, the other one").found, RED_RING)


def test_words_add_and_take_out_objects(models: Sam4Mllm, white: Found) -> None:
    both = refined(models, white, instruction="also the red one").found
    assert shows(both, WHITE_RING, RED_RING)
    assert both.expression == "the white ring and the red ring"
    one = refined(models, both, instruction="not the white ring").found
    assert shows(one, RED_RING)
    assert one.instructions == ("also the red one", "not the white ring")
    with pytest.raises(RefineError, match="holds already"):
        refined(models, both, instruction="also the red ring")
    with pytest.raises(RefineError, match="can be found in the result, which stays"):
        refined(models, both, instruction="without the white triangle")


CRESCENTS = draw_scene(300034)
"""Four crescents, one of them purple."""


@pytest.mark.parametrize(("instruction", "gone"), [("without the left one", "leftmost"), ("all but the purple one", "purple")])
def test_one_of_several_is_taken_out_and_the_others_stay(models: Sam4Mllm, instruction: str, gone: str) -> None:
    picture = PILImage.fromarray(CRESCENTS.image)
    indices = [index for index, thing in enumerate(CRESCENTS.objects) if thing.shape == "crescent"]
    leftmost = min(indices, key=lambda index: CRESCENTS.objects[index].box.x1)
    purple = next(index for index in indices if CRESCENTS.objects[index].colour == "purple")
    found = start(models.segment(picture, "all crescents"))
    assert len(found.objects) == len(indices) == 4
    left = refined(models, found, picture=picture, instruction=instruction).found
    wanted = set(indices) - {leftmost if gone == "leftmost" else purple}
    held = {index for index in indices if any(mask_iou(thing.mask, CRESCENTS.mask(index)) > 0.6 for thing in left.objects)}
    assert (held, len(left.objects)) == (wanted, 3)


def test_a_part_is_cut_out() -> None:
    """The MLLM says where the handle is; the segmenter follows boxes to the letter."""

    def knows(question: Question) -> str:
        if isinstance(question.answer, Labels):
            return "Yes" * question.answer.count
        asked = question.turns[-1].text
        return "[500,000,999,500]" if "handle" in asked else "[000,000,999,999]" if "mug" in asked else "no such object"

    scripted = Sam4Mllm(ScriptedMLLM(knows), BoxSegmenter(), dialect=JOINT)
    picture = PILImage.new("RGB", (100, 100))
    mug = start(scripted.segment(picture, "the mug"))
    left = refined(scripted, mug, picture=picture, instruction="without the handle").found
    (thing,) = left.objects
    assert not thing.mask[:45, 55:].any()
    assert thing.mask[60:95].all()
    assert thing.mask[:45, :45].all()
    with pytest.raises(RefineError, match="no 'the lid' can be found"):
        refined(scripted, mug, picture=picture, instruction="without the lid")


def test_a_new_description_takes_up_the_old_one_and_says_so(models: Sam4Mllm, white: Found) -> None:
    red = refined(models, white, instruction="no, the red one")
    assert shows(red.found, RED_RING)
    assert red.understood == ("a new description, 'the red ring'",)
    same = refined(models, red.found, instruction="the red one")
    assert "which is what was found before" in same.understood[0]
    with pytest.raises(RefineError, match="there is no 'the purple ring'"):
        refined(models, white, instruction="the purple one")


@pytest.mark.parametrize(("word", "sign"), [("bigger", 1), ("smaller", -1)])
def test_a_mask_of_another_size_is_taken_or_refused(models: Sam4Mllm, white: Found, word: str, sign: int) -> None:
    before = int(white.objects[0].mask.sum())
    try:
        (thing,) = refined(models, white, instruction=word).found.objects
    except RefineError as error:
        assert f"no {word} mask" in str(error)  # noqa: PT017
    else:
        assert sign * (int(thing.mask.sum()) - before) > 0


# Clicks ----------------------------------------------------------------------------------------------------------------


def test_a_click_on_another_object_takes_it_instead_or_adds_it(models: Sam4Mllm, white: Found) -> None:
    instead = refined(models, white, clicks=[click(TRIANGLE, 1)])
    assert shows(instead.found, TRIANGLE)
    assert "another object, taken instead" in instead.understood[0]
    assert instead.found.rejected == (white.objects[0].prompt,)
    added = refined(models, white, instruction="also this", clicks=[click(TRIANGLE, 1)])
    assert shows(added.found, WHITE_RING, TRIANGLE)
    several = refined(models, replace(white, expression="all white shapes"), clicks=[click(TRIANGLE, 1)])
    assert shows(several.found, WHITE_RING, TRIANGLE), "words for several mean that it is one more"


def test_a_click_with_nothing_found_finds(models: Sam4Mllm) -> None:
    nothing = Found("the dog", SIZE, ())
    assert shows(refined(models, nothing, clicks=[click(TRIANGLE, 1)]).found, TRIANGLE)


def test_a_click_off_an_object_leaves_it_out_and_it_is_kept(models: Sam4Mllm, white: Found) -> None:
    both = refined(models, white, instruction="also the red one").found
    left = refined(models, both, clicks=[click(RED_RING, 0)]).found
    assert shows(left, WHITE_RING)
    assert len(left.rejected) == 1


def test_clicks_that_the_masks_agree_with_change_nothing(models: Sam4Mllm, white: Found) -> None:
    same = refined(models, white, clicks=[click(WHITE_RING, 1), click(TRIANGLE, 0)])
    assert same.found.objects == white.objects
    assert len(same.found.clicks) == 2
    assert all("agree" in line for line in same.understood)
    assert same.talk.said == [], "no model was asked"


def test_a_hole_that_was_filled_is_opened_by_a_click(models: Sam4Mllm, white: Found) -> None:
    box = SCENE.objects[WHITE_RING].box
    middle = PointPrompt((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2, 0)
    filled = white.objects[0].mask | (distances(middle, (256, 256)) < 30)
    wrong = replace(white, objects=(replace(white.objects[0], mask=filled),))
    assert holds(wrong.objects[0].mask, middle)
    after = refined(models, wrong, clicks=[middle]).found
    assert shows(after, WHITE_RING)
    assert not holds(after.objects[0].mask, middle)


def test_every_click_is_honoured_or_refused(models: Sam4Mllm, white: Found) -> None:
    """Clicks anywhere, three after one another: each mask agrees with the last of them at least."""
    rng = np.random.default_rng(0)
    for _ in range(12):
        found = white
        for _ in range(3):
            x, y, label = *rng.uniform(1, 255, 2), int(rng.integers(2))
            one = PointPrompt(float(x), float(y), 1 if label else 0)
            try:
                found = refined(models, found, clicks=[one]).found
            except RefineError:
                continue
            assert any(holds(thing.mask, one) for thing in found.objects) == bool(label)
            assert found.clicks[-1] == one


REFUSED = {
    "outside": ([PointPrompt(300, 10, 1)], "outside the picture of 256 x 256 pixels"),
    "before the edge": ([PointPrompt(-1, 10, 1)], "outside the picture"),
    "yes and no at once": ([PointPrompt(10, 10, 1), PointPrompt(10.5, 10, 0)], "contradict one another.*leave one of them out"),
}


@pytest.mark.parametrize(("clicks", "message"), REFUSED.values(), ids=REFUSED)
def test_clicks_that_cannot_be_are_refused(models: Sam4Mllm, white: Found, clicks: list[PointPrompt], message: str) -> None:
    with pytest.raises(RefineError, match=message):
        refined(models, white, clicks=clicks)


def test_a_click_against_an_earlier_one_is_refused_unless_those_are_forgotten(models: Sam4Mllm, white: Found) -> None:
    yes, no = click(TRIANGLE, 1), click(TRIANGLE, 0)
    triangle = refined(models, white, clicks=[yes]).found
    with pytest.raises(RefineError, match="forget_clicks=true"):
        refined(models, triangle, clicks=[no])
    after = refined(models, triangle, clicks=[no], forget_clicks=True).found
    assert not any(holds(thing.mask, no) for thing in after.objects)
    assert after.clicks == (no,)


def test_nothing_to_refine_by_is_refused(models: Sam4Mllm, white: Found) -> None:
    with pytest.raises(RefineError, match="give an instruction"):
        refined(models, white)


# What is kept, and the parts ---------------------------------------------------------------------------------------------


def test_a_result_is_rebuilt_from_its_json(models: Sam4Mllm, white: Found) -> None:
    red = refined(models, white, clicks=[click(RED_RING, 1)])
    kept = json.loads(json.dumps((red.segmentation(models.flows).to_dict(), red.found.state())))
    again = Found.read(*kept)
    assert again.state() == red.found.state()
    assert len(json.dumps(kept[1])) < 6000
    for one, other in zip(again.objects, red.found.objects, strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert one.prompt == other.prompt
    for broken in ({}, {**kept[1], "clicks": [{"x": 1}]}, {**kept[1], "rejected": 3}):
        with pytest.raises(RefineError, match="can't be read back"):
            Found.read(kept[0], broken)


async def test_awaiting_gives_the_same(models: Sam4Mllm, white: Found) -> None:
    one = refined(models, white, instruction="the red one").found
    other = (await models.arun(PICTURE, refine(models.flows, white, Transcript(), instruction="the red one"))).found
    assert np.array_equal(one.objects[0].mask, other.objects[0].mask)
    with pytest.raises(RefineError):
        await models.arun(PICTURE, refine(models.flows, white, Transcript()))


def test_a_click_anywhere_on_an_object_finds_it(models: Sam4Mllm) -> None:
    for index in range(3):
        found = models.run(PICTURE, at_click(models.flows, click(index, 1), SIZE))
        assert found is not None
        assert mask_iou(found.mask, SCENE.mask(index)) > 0.8


def test_what_is_painted_over_looks_like_its_surroundings() -> None:
    pixels = np.full((60, 80, 3), 90, np.uint8)
    mask: Mask = np.zeros((60, 80), np.bool_)
    mask[20:40, 0:30] = True
    pixels[mask] = (250, 0, 0)
    assert np.ptp(np.array(erase(PILImage.fromarray(pixels), [mask]))) == 0
    everything = np.ones((60, 80), np.bool_)
    assert erase(PILImage.fromarray(pixels), [everything]).size == (80, 60), "no surroundings at all"
    assert np.array_equal(np.array(erase(PILImage.fromarray(pixels), [~everything])), pixels)


@pytest.mark.parametrize("side", [40, 400], ids=["small", "looked at in steps"])
def test_depth_is_told_by_the_distance_from_the_edge(side: int) -> None:
    mask: Mask = np.zeros((side, side), np.bool_)
    mask[side // 4 : side * 3 // 4, side // 4 : side * 3 // 4] = True
    x, y = deepest(SegmentedObject(mask, ObjectPrompt(Box(0, 0, side, side)), 1.0))
    assert max(abs(x - side / 2), abs(y - side / 2)) <= side / 10
    assert in_the_middle(mask, PointPrompt(side / 2, side / 2, 0))
    assert not in_the_middle(mask, PointPrompt(side / 4 + side / 20, side / 2, 0))
    empty = SegmentedObject(~np.ones_like(mask), ObjectPrompt(Box(0, 0, 10, 20)), 0.0)
    assert deepest(empty) == Point(5, 10)


def test_an_unreadable_second_answer_is_no_other_object(models: Sam4Mllm, white: Found) -> None:
    mute: Dialect = replace(EMBEDDED, ask_other_text="")
    scripted = Sam4Mllm(ScriptedMLLM(lambda _: "[1 2"), models.segmenter, dialect=mute)
    with pytest.raises(RefineError, match="no other"):
        refined(scripted, white, instruction="the other one")


def test_what_was_rejected_is_painted_over_for_the_question_alone() -> None:
    picture = PILImage.new("RGB", (100, 100), (10, 10, 10))
    picture.paste((250, 250, 250), (20, 20, 50, 50))
    asked: list[tuple[str, int]] = []

    class Looks(ScriptedMLLM):
        def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
            asked.extend((one.turns[0].text, image.getpixel((35, 35))[0]) for one in questions)
            return super().reply(image, questions)

    dialect = replace(PLAIN, ask_other_text="", ask_whether_text="")
    mllm = Looks(lambda question: "[600,600,900,900]" if isinstance(question.answer, FreeText) else "Yes")
    models = Sam4Mllm(mllm, BoxSegmenter(), dialect=dialect)
    mask = np.zeros((100, 100), np.bool_)
    mask[20:50, 20:50] = True
    thing = SegmentedObject(mask, ObjectPrompt(Box(20, 20, 50, 50)), 0.9)
    found = Found("the square", Size(100, 100), (thing,))
    refined = models.run(picture, refine(models.flows, found, Transcript(), instruction="no, the other one"))
    assert [round(side) for side in refined.found.objects[0].prompt.box] == [60, 60, 90, 90]
    assert asked[0][1] == 10, "painted over in the colour around it"
    assert {bright for _, bright in asked[1:]} == {250}, "points are asked about on the picture itself"
