"""Boxes, points and labels in real replies of every shape: what is read from them, and what is refused."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol import DIALECTS, EMBEDDED, PLAIN, RELEASED, Dialect, Pointing
from sam4mllm_tool.protocol.reply_parser import MAX_OBJECTS
from sam4mllm_tool.types import Box, FreeText, Labels, ObjectPrompt, Point, PointPrompt, Question, Reply, Size, Turn

EXACT = [dialect for dialect in DIALECTS.values() if dialect.replies == "exact"]
EVERY_DIALECT = pytest.mark.parametrize("dialect", EXACT, ids=lambda dialect: dialect.name)
QUESTION = Question((Turn("user", "where is it?"),), FreeText(64))
SIZE = Size(1000, 1000)
"""In an image of this size a step of 0..999 is a pixel, and is read as its center."""

# Boxes and points ---------------------------------------------------------------------------------------------------

BOX_A, BOX_B = Box(281.5, 251.5, 863.5, 999.5), Box(10.5, 20.5, 30.5, 40.5)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param("[281,251,863,999]", [BOX_A], id="one box"),
        pytest.param("\n[281,251,863,999]", [BOX_A], id="newline at the start, as the released data has it"),
        pytest.param("[281,251,863,999] [010,020,030,040]", [BOX_A, BOX_B], id="several boxes"),
        pytest.param("[281,251,863,999][10,20,30,40]", [BOX_A, BOX_B], id="nothing between them"),
        pytest.param("The mug on the left is at [281,251,863,999].", [BOX_A], id="prose around"),
        pytest.param("[ 281, 251 , 863 999 ]", [BOX_A], id="spaces"),
        pytest.param('```json\n[{"bbox_2d": [281, 251, 863, 999], "label": "a mug"}]\n```', [BOX_A], id="fenced JSON"),
        pytest.param("[[281, 251, 863, 999], [10, 20, 30, 40]]", [BOX_A, BOX_B], id="a list of lists"),
        pytest.param('{"boxes": [ [281,251,863,999]\n]}', [BOX_A], id="a list in an object"),
        pytest.param("[281,251,863,1000]", [BOX_A], id="the far edge named as such"),
        pytest.param("[281,251,863,999] [10,20,30,40] [281,251,863,999]", [BOX_A, BOX_B], id="a box named twice is one box"),
        pytest.param("[281,251,863,999] " * 200, [BOX_A], id="one box repeated"),
        pytest.param("(1) [281,251,863,999] (2) [10,20,30,40]", [BOX_A, BOX_B], id="numbered"),
        pytest.param("[281,251,863,999] on (300,300) off ()", [BOX_A], id="points that were not asked for"),
        pytest.param("No object found.", [], id="none"),
        pytest.param("\nNo object found.", [], id="none after a newline"),
        pytest.param("no object found", [], id="none in lower case"),
        pytest.param("NO OBJECT FOUND!!", [], id="none in capitals"),
        pytest.param("Sorry - no object   found in this image", [], id="none in prose"),
        pytest.param("No object found, unless you mean [10,20,30,40]", [BOX_B], id="a box counts more than the words"),
    ],
)
def test_boxes_are_parsed_from(reply: str, expected: list[Box]) -> None:
    assert list(RELEASED.parse_boxes(QUESTION, Reply(reply), SIZE)) == expected


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param("", "expected boxes", id="empty reply"),
        pytest.param(" \n ", "expected boxes", id="blank reply"),
        pytest.param("I see a dog and a cat.", "expected boxes", id="prose alone"),
        pytest.param("No objection, found it", "expected boxes", id="words that begin like none"),
        pytest.param("281,251,863,999", "expected boxes", id="no brackets"),
        pytest.param("[281,251,863", "cut off", id="cut off in a box"),
        pytest.param("[281,251,863,999] [2", "cut off", id="cut off in the second box"),
        pytest.param("[281,251,863,999] [", "cut off", id="cut off at a bracket"),
        pytest.param('```json\n[{"bbox_2d": [10, 20, 30, 40], "la', "cut off", id="JSON cut off"),
        pytest.param('[{"bbox_2d": [10, 20, 30, 40]}, {"bbox_2d', "cut off", id="JSON cut off between boxes"),
        pytest.param("[863,251,281,999]", "is empty", id="inverted"),
        pytest.param("[281,251,281,999]", "is empty", id="no width"),
        pytest.param("[1,2,3,4,5]", "expected 4 numbers", id="five numbers"),
        pytest.param("[1,2,3]", "expected 4 numbers", id="three numbers"),
        pytest.param("[]", "expected 4 numbers", id="no numbers"),
        pytest.param("[281,251,863,1001]", "0 to 999", id="out of the frame"),
        pytest.param("[10,20,30,40] [281,251,1863,999]", "0 to 999", id="one of two partly out of the frame"),
        pytest.param("[-5,251,863,999]", "not four numbers", id="negative"),
        pytest.param("[0.28,0.25,0.86,1.0]", "in fractions of the image: expected numbers of 0 to 999", id="fractions"),
        pytest.param("[x1,y1,x2,y2]", "not four numbers", id="the instructions' own words"),
        pytest.param(f"[1,2,3,{'9' * 5000}]", "0 to 999", id="a number too long for int()"),
        pytest.param(
            "".join(f"[0,0,{n},9]" for n in range(1, MAX_OBJECTS + 2)), "at most 100", id="more boxes than any answer"
        ),
    ],
)
def test_no_box_is_guessed_from(reply: str, reason: str) -> None:
    with pytest.raises(ReplyError, match=re.escape(reason)) as caught:
        RELEASED.parse_boxes(QUESTION, Reply(reply), SIZE)
    assert (caught.value.question, caught.value.reply) == (QUESTION, Reply(reply))
    assert len(str(caught.value)) < 600, "the message stays readable"


def test_as_many_boxes_as_an_answer_may_have_are_read() -> None:
    text = "".join(f"[0,0,{n},9]" for n in range(1, MAX_OBJECTS + 1))
    assert len(RELEASED.parse_boxes(QUESTION, Reply(text + text), SIZE)) == MAX_OBJECTS == 100


@pytest.mark.parametrize(
    ("reply", "none"),
    [
        pytest.param("none", True, id="the word"),
        pytest.param("There is none.", True, id="the word in prose"),
        pytest.param("Nonetheless I looked.", False, id="a word that begins like it"),
        pytest.param("It is at the cannonenplatz.", False, id="a word that holds it"),
    ],
)
def test_none_counts_as_a_whole_word_alone(reply: str, none: bool) -> None:
    if none:
        assert PLAIN.parse_boxes(QUESTION, Reply(reply), SIZE) == ()
    else:
        with pytest.raises(ReplyError):
            PLAIN.parse_boxes(QUESTION, Reply(reply), SIZE)


@pytest.mark.parametrize(
    ("reply", "labels"),
    [
        pytest.param("[10,20,30,40] on (11,21) (12,22) off (29,39)", [1, 1, 0], id="as the question says"),
        pytest.param("\n[10,20,30,40]\nOn: (11,21), (12,22)\nOff: (29,39)", [1, 1, 0], id="lines and capitals"),
        pytest.param("The one on top, off centre: [10,20,30,40] on (11,21) (12,22) off (29,39)", [1, 1, 0], id="on in prose"),
        pytest.param("[10,20,30,40] off (29,39) on (11,21) (12,22)", [0, 1, 1], id="the other way round"),
        pytest.param("[10,20,30,40] (11,21) (12,22) off (29,39)", [1, 1, 0], id="the first ones are on"),
    ],
)
def test_prompts_are_parsed_from(reply: str, labels: list[int]) -> None:
    (prompt,) = RELEASED.parse_prompts(QUESTION, Reply(reply), SIZE)
    assert prompt.box == BOX_B
    assert [point.label for point in prompt.points] == labels
    assert {(p.x, p.y) for p in prompt.points} == {(11.5, 21.5), (12.5, 22.5), (29.5, 39.5)}


@pytest.mark.parametrize("reply", ["[10,20,30,40] on (11,21,31)", "[10,20,30,40] on (11)", "[10,20,30,40] on (1100,21)"])
def test_a_malformed_point_is_an_error_in_a_prompt(reply: str) -> None:
    with pytest.raises(ReplyError, match="expected 2 numbers of 0 to 999"):
        RELEASED.parse_prompts(QUESTION, Reply(reply), SIZE)


POINTING = dataclasses.replace(RELEASED, ask_pointing_text="point to {expression}")


@pytest.mark.parametrize(
    ("reply", "points"),
    [
        pytest.param("(10,20) (30,40)", [(10.5, 20.5), (30.5, 40.5)], id="points"),
        pytest.param("on (10,20), off (30,40)", [(10.5, 20.5), (30.5, 40.5)], id="words between them"),
        pytest.param("(10,20) (30,40) (10,20)", [(10.5, 20.5), (30.5, 40.5)], id="one twice"),
        pytest.param("<think>(1,2)?</think>(10,20)", [(10.5, 20.5)], id="after a thought"),
        pytest.param("No object found.", [], id="none"),
        pytest.param("".join(f"({n},0)" for n in range(100)), [(n + 0.5, 0.5) for n in range(100)], id="a hundred"),
    ],
)
def test_points_alone_are_parsed_from(reply: str, points: list[tuple[float, float]]) -> None:
    assert POINTING.parse_points(QUESTION, Reply(reply), SIZE) == tuple(points)
    (question,) = Pointing.start("the ring", SIZE, dialect=POINTING).pending
    assert question.turns[-1].text == "point to the ring"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param("(10,20) [1,2,3,4]", "expected points, got the box [1,2,3,4]", id="a box"),
        pytest.param("on off", "expected points or 'No object found", id="no points"),
        pytest.param("(10,20,30)", "expected 2 numbers", id="three numbers"),
        pytest.param("".join(f"({n},0)" for n in range(101)), "expected at most 100 points, got 101", id="too many"),
    ],
)
def test_no_point_is_guessed_from(reply: str, reason: str) -> None:
    with pytest.raises(ReplyError, match=re.escape(reason)):
        POINTING.parse_points(QUESTION, Reply(reply), SIZE)


SHARES = st.floats(0, 1)
POINTS = st.lists(st.tuples(SHARES, SHARES, st.sampled_from([0, 1])), max_size=5)


@EVERY_DIALECT
@given(st.builds(Size, st.integers(1, 6000), st.integers(1, 6000)), st.tuples(SHARES, SHARES, SHARES, SHARES), POINTS)
def test_a_prompt_is_read_back_with_points_on_the_object_first(
    dialect: Dialect, size: Size, corners: tuple[float, ...], shares: list[tuple[float, float, int]]
) -> None:
    (x1, x2), (y1, y2) = sorted(corners[:2]), sorted(corners[2:])
    box = Box(x1 * size.width, y1 * size.height, x2 * size.width, y2 * size.height)
    points = [PointPrompt(x * size.width, y * size.height, label) for x, y, label in shares]
    text = dialect.format_prompts([ObjectPrompt(box, tuple(points))], size)
    (parsed,) = dialect.parse_prompts(QUESTION, Reply(text), size)
    expected = sorted(points, key=lambda point: -point.label)
    assert parsed.box == dialect.snap_box(box, size)
    assert list(parsed.points) == [PointPrompt(*dialect.snap_point(Point(p.x, p.y), size), p.label) for p in expected]


# Labels -------------------------------------------------------------------------------------------------------------


def labels_question(count: int) -> Question:
    return Question((Turn("user", "is each point on it?"),), Labels(count, ("Yes", "No")))


@pytest.mark.parametrize(
    ("reply", "labels"),
    [
        pytest.param("NoNoYes", [0, 0, 1], id="one word after another, as the released adapter"),
        pytest.param("\nNoNoYes", [0, 0, 1], id="after a newline"),
        pytest.param("no, no, yes.", [0, 0, 1], id="commas and lower case"),
        pytest.param("1. No\n2. No\n3. Yes", [0, 0, 1], id="a list"),
        pytest.param("(1,2): **No**; (3,4): NO; (5,6): Yes, nothing hides it", [0, 0, 1], id="prose around"),
        pytest.param("I know not, but say NoNoYes", [0, 0, 1], id="words that hold the words"),
        pytest.param("<think>Yes, yes? No.</think>\n\nNoNoYes", [0, 0, 1], id="after a thought"),
    ],
)
def test_labels_are_parsed_from(reply: str, labels: list[int]) -> None:
    assert RELEASED.parse_labels(labels_question(3), Reply(reply)) == tuple((label, None) for label in labels)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param("", id="empty reply"),
        pytest.param("NoNo", id="one too few"),
        pytest.param("NoNoYesYes", id="one too many"),
        pytest.param("not", id="a word that begins like one"),
        pytest.param("Nobody knows, yesterday neither", id="words that hold the words"),
        pytest.param("NoNoYesterday", id="a run that ends in another word"),
        pytest.param("On, off, on", id="other words"),
    ],
)
def test_labels_of_another_count_are_an_error(reply: str) -> None:
    with pytest.raises(ReplyError, match="expected 3 answers of Yes or No"):
        RELEASED.parse_labels(labels_question(3), Reply(reply))


def test_probabilities_decide_and_become_the_confidence() -> None:
    reply = Reply("NoNoNo", ((0.9, 0.1), (0.2, 0.8), (0.5, 0.5)))
    assert RELEASED.parse_labels(labels_question(3), reply) == ((1, 0.9), (0, 0.8), (1, 0.5))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_probabilities_of_another_count_are_an_error_whatever_the_text(count: int) -> None:
    with pytest.raises(ReplyError, match=f"expected 3 answers, got {count}"):
        RELEASED.parse_labels(labels_question(3), Reply("NoNoYes", ((0.9, 0.1),) * count))


def test_the_longer_word_is_read_where_one_begins_the_other() -> None:
    dialect = dataclasses.replace(EMBEDDED, yes="in", no="in front")
    question = Question(QUESTION.turns, Labels(1, ("in", "in front")))
    assert dialect.parse_labels(question, Reply("in front")) == ((0, None),)
    assert dialect.parse_labels(question, Reply("In.")) == ((1, None),)


def test_labels_are_parsed_for_questions_that_expect_labels_alone() -> None:
    with pytest.raises(ValueError, match="expects labels"):
        RELEASED.parse_labels(QUESTION, Reply("Yes"))


HOSTILE_REPEATS = 200_000


@pytest.mark.parametrize(
    ("yes", "no", "text"),
    [
        pytest.param("Yes", "No", "No" * HOSTILE_REPEATS + "where", id="a run that ends in another word"),
        pytest.param("Yes", "No", "No " * HOSTILE_REPEATS, id="many words"),
        pytest.param("ja", "jaja", "ja" * HOSTILE_REPEATS + "x", id="a word that is twice the other"),
        pytest.param("a b", "b a", "a b " * HOSTILE_REPEATS + "a", id="words of two words"),
    ],
)
def test_hostile_repetitions_are_refused_without_backtracking(yes: str, no: str, text: str) -> None:
    dialect = dataclasses.replace(RELEASED, yes=yes, no=no)
    with pytest.raises(ReplyError, match="expected 3 answers"):
        dialect.parse_labels(labels_question(3), Reply(text))
