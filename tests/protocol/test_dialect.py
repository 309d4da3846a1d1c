"""What is written and what is read: every dialect's numbers and wording, and real replies of every shape."""

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol import DIALECTS, EMBEDDED, PLAIN, RELEASED, Dialect
from sam4mllm_tool.protocol.dialect import MAX_OBJECTS
from sam4mllm_tool.types import Box, FreeText, Labels, ObjectPrompt, Point, PointPrompt, Question, Reply, Size, Turn

EVERY_DIALECT = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
WHERE = Question((Turn("user", "where is it?"),), FreeText(64))
THOUSAND = Size(1000, 1000)
"""Of this size a step of 0..999 is a pixel, and is read as its middle."""

SIZES = st.builds(Size, st.integers(1, 6000), st.integers(1, 6000))
SHARES = st.floats(0, 1)


@st.composite
def places(draw: st.DrawFn) -> tuple[Size, Point]:
    size = draw(SIZES)
    return size, Point(draw(SHARES) * size.width, draw(SHARES) * size.height)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Size, Box]:
    """Boxes in the frame, thinner than any step and at its edges included."""
    size = draw(SIZES)
    (x1, x2), (y1, y2) = (sorted((draw(SHARES), draw(SHARES))) for _ in range(2))
    return size, Box(x1 * size.width, y1 * size.height, x2 * size.width, y2 * size.height)


# Numbers ------------------------------------------------------------------------------------------------------------


@EVERY_DIALECT
@given(boxes())
def test_a_box_is_read_back_as_its_snapped_self_and_written_alike_again(dialect: Dialect, placed: tuple[Size, Box]) -> None:
    size, box = placed
    written = dialect.write_box(box, size)
    (read,) = dialect.read_boxes(WHERE, Reply(written), size)
    assert read == dialect.snap_box(box, size)
    assert dialect.write_box(read, size) == written


@EVERY_DIALECT
@given(boxes())
def test_a_written_box_is_never_empty_and_off_by_at_most_a_step_and_a_half(dialect: Dialect, placed: tuple[Size, Box]) -> None:
    size, box = placed
    read = dialect.snap_box(box, size)
    assert read.x1 < read.x2
    assert read.y1 < read.y2
    for was, now, side in zip(box, read, (*size, *size), strict=True):
        assert abs(was - now) <= 1.5001 * side / dialect.scale  # half a step, and one more where the box was thinner


@EVERY_DIALECT
@given(places())
def test_a_point_snaps_once_within_half_a_step(dialect: Dialect, placed: tuple[Size, Point]) -> None:
    size, point = placed
    snapped = dialect.snap(point, size)
    assert dialect.write_point(snapped, size) == dialect.write_point(point, size)
    assert dialect.snap(snapped, size) == snapped
    for was, now, side in zip(point, snapped, size, strict=True):
        assert abs(was - now) <= 0.5001 * side / dialect.scale
        assert 0 < now < side


@EVERY_DIALECT
@given(boxes(), st.lists(st.tuples(SHARES, SHARES, st.sampled_from([0, 1])), max_size=5))
def test_a_prompt_is_read_back_on_points_first(
    dialect: Dialect, placed: tuple[Size, Box], points: list[tuple[float, float, int]]
) -> None:
    size, box = placed
    asked = [PointPrompt(x * size.width, y * size.height, label) for x, y, label in points]
    (read,) = dialect.read_prompt(WHERE, Reply(dialect.tell_prompt([ObjectPrompt(box, tuple(asked))], size)), size)
    expected = sorted(asked, key=lambda p: -p.label)
    assert read.box == dialect.snap_box(box, size)
    assert list(read.points) == [PointPrompt(*dialect.snap(Point(p.x, p.y), size), p.label) for p in expected]


@pytest.mark.parametrize(
    ("box", "text"),
    [
        pytest.param(Box(0, 0, 640, 480), "[000,000,999,999]", id="the whole picture"),
        pytest.param(Box(180.2, 120.7, 552.9, 480), "[281,251,863,999]", id="rounded down"),
        pytest.param(Box(640, 480, 640, 480), "[998,998,999,999]", id="nothing at the far corner"),
        pytest.param(Box(0, 0, 0, 0), "[000,000,001,001]", id="nothing at the near corner"),
        pytest.param(Box(-50, -1, 700, 481), "[000,000,999,999]", id="over every edge"),
    ],
)
def test_boxes_are_written_as_computed_by_hand(box: Box, text: str) -> None:
    assert RELEASED.write_box(box, Size(640, 480)) == text


# Wording ------------------------------------------------------------------------------------------------------------


def test_the_released_wire_format_is_spoken_byte_for_byte() -> None:
    size = Size(640, 480)
    asked = RELEASED.ask_boxes("the man in red")
    assert [(turn.role, turn.text) for turn in asked.turns] == [
        (
            "system",
            "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
            "provides, and assist the user with a variety of tasks using natural language.",
        ),
        (
            "user",
            'Please provide the bounding box coordinate of the region this sentence describes (0+):\n"the man in red".',
        ),
    ]
    box = Box(180.2, 120.7, 552.9, 480)
    assert RELEASED.tell_boxes([box, Box(0, 0, 64, 48)], size) == "\n[281,251,863,999] [000,000,100,100]"
    assert RELEASED.tell_boxes([], size) == "\nNo object found."
    points = [Point(64.3, 96.2), Point(320, 240), Point(0, 0)]
    (question,) = RELEASED.ask_points(asked.turns, box, points, size)
    assert question.turns[:-1] == asked.turns
    assert question.turns[-1].text == (
        "Check if the points listed below are located on the object with bounding box [281,251,863,999]:\n"
        "(100,200) (500,500) (000,000)"
    )
    assert question.answer == Labels(3, ("Yes", "No"))
    assert RELEASED.tell_labels([0, 0, 1]) == "NoNoYes"


def test_each_asks_one_point_a_question_and_joint_all_in_one() -> None:
    points = [Point(1, 1), Point(2, 2), Point(3, 3)]
    for dialect, counts in ((RELEASED, [3]), (EMBEDDED, [1, 1, 1]), (PLAIN, [1, 1, 1])):
        questions = dialect.ask_points((), Box(0, 0, 9, 9), points, Size(9, 9))
        assert [question.answer.count for question in questions if isinstance(question.answer, Labels)] == counts
        assert dialect.ask_points((), Box(0, 0, 9, 9), [], Size(9, 9)) == ()


@pytest.mark.parametrize(
    "expression",
    ["the {red} ring", "{expression} {0} {", 'the "big" one\'s', "<image> </s> [INST] <|im_end|>", "100% of %s", "\\n \\1"],
)
@EVERY_DIALECT
def test_an_expression_stands_in_the_question_as_it_is(dialect: Dialect, expression: str) -> None:
    assert expression in dialect.ask_boxes(expression).turns[-1].text
    assert expression in dialect.ask_prompt(expression, 2, 1).turns[-1].text


@pytest.mark.parametrize(
    ("on", "words"), [(0, "no points on"), (2, "two points on"), (10, "ten points on"), (11, "11 points on")]
)
def test_numbers_of_points_are_asked_for_in_words(on: int, words: str) -> None:
    assert words in EMBEDDED.ask_prompt("it", on, 1).turns[-1].text


# Replies: boxes -----------------------------------------------------------------------------------------------------

ONE, TWO = Box(281.5, 251.5, 863.5, 999.5), Box(10.5, 20.5, 30.5, 40.5)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param("[281,251,863,999]", [ONE], id="one box"),
        pytest.param("\n[281,251,863,999]", [ONE], id="newline at the start, as the released data has it"),
        pytest.param("[281,251,863,999] [010,020,030,040]", [ONE, TWO], id="several boxes"),
        pytest.param("[281,251,863,999][10,20,30,40]", [ONE, TWO], id="nothing between them"),
        pytest.param("The mug on the left is at [281,251,863,999].", [ONE], id="prose around"),
        pytest.param("[ 281, 251 , 863 999 ]", [ONE], id="spaces"),
        pytest.param('```json\n[{"bbox_2d": [281, 251, 863, 999], "label": "a mug"}]\n```', [ONE], id="fenced JSON"),
        pytest.param("[[281, 251, 863, 999], [10, 20, 30, 40]]", [ONE, TWO], id="a list of lists"),
        pytest.param('{"boxes": [ [281,251,863,999]\n]}', [ONE], id="a list in an object"),
        pytest.param("[281,251,863,1000]", [ONE], id="the far edge named as such"),
        pytest.param("[281,251,863,999] [10,20,30,40] [281,251,863,999]", [ONE, TWO], id="a box named twice is one box"),
        pytest.param("[281,251,863,999] " * 200, [ONE], id="one box over and over"),
        pytest.param("(1) [281,251,863,999] (2) [10,20,30,40]", [ONE, TWO], id="numbered"),
        pytest.param("[281,251,863,999] on (300,300) off ()", [ONE], id="points that nobody asked for"),
        pytest.param("No object found.", [], id="none"),
        pytest.param("\nNo object found.", [], id="none after a newline"),
        pytest.param("no object found", [], id="none in lower case"),
        pytest.param("NO OBJECT FOUND!!", [], id="none in capitals"),
        pytest.param("Sorry - no object   found in this picture", [], id="none in prose"),
        pytest.param("No object found, unless you mean [10,20,30,40]", [TWO], id="a box outweighs the words"),
    ],
)
def test_boxes_are_read_from(reply: str, expected: list[Box]) -> None:
    assert list(RELEASED.read_boxes(WHERE, Reply(reply), THOUSAND)) == expected


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
        pytest.param("[0.28,0.25,0.86,1.0]", "not four numbers", id="fractions"),
        pytest.param("[x1,y1,x2,y2]", "not four numbers", id="the instructions' own words"),
        pytest.param(f"[1,2,3,{'9' * 5000}]", "0 to 999", id="a number too long for int()"),
        pytest.param(
            "".join(f"[0,0,{n},9]" for n in range(1, MAX_OBJECTS + 2)), "at most 100", id="more boxes than any answer"
        ),
    ],
)
def test_no_box_is_guessed_from(reply: str, reason: str) -> None:
    with pytest.raises(ReplyError, match=re.escape(reason)) as caught:
        RELEASED.read_boxes(WHERE, Reply(reply), THOUSAND)
    assert (caught.value.question, caught.value.reply) == (WHERE, Reply(reply))
    assert len(str(caught.value)) < 600, "the message stays readable"


@pytest.mark.parametrize(
    ("reply", "none"),
    [
        pytest.param("none", True, id="the word"),
        pytest.param("There is none.", True, id="the word in prose"),
        pytest.param("Nonetheless I looked.", False, id="a word that begins like it"),
        pytest.param("It is at the cannonenplatz.", False, id="a word that holds it"),
    ],
)
def test_none_is_a_word_of_its_own(reply: str, none: bool) -> None:
    if none:
        assert PLAIN.read_boxes(WHERE, Reply(reply), THOUSAND) == ()
    else:
        with pytest.raises(ReplyError):
            PLAIN.read_boxes(WHERE, Reply(reply), THOUSAND)


@pytest.mark.parametrize(
    ("reply", "labels"),
    [
        pytest.param("[10,20,30,40] on (11,21) (12,22) off (29,39)", [1, 1, 0], id="as asked"),
        pytest.param("\n[10,20,30,40]\nOn: (11,21), (12,22)\nOff: (29,39)", [1, 1, 0], id="lines and capitals"),
        pytest.param("The one on top, off centre: [10,20,30,40] on (11,21) (12,22) off (29,39)", [1, 1, 0], id="on in prose"),
        pytest.param("[10,20,30,40] off (29,39) on (11,21) (12,22)", [0, 1, 1], id="the other way round"),
        pytest.param("[10,20,30,40] (11,21) (12,22) off (29,39)", [1, 1, 0], id="the first ones are on"),
    ],
)
def test_prompts_are_read_from(reply: str, labels: list[int]) -> None:
    (prompt,) = RELEASED.read_prompt(WHERE, Reply(reply), THOUSAND)
    assert prompt.box == TWO
    assert [point.label for point in prompt.points] == labels
    assert {(p.x, p.y) for p in prompt.points} == {(11.5, 21.5), (12.5, 22.5), (29.5, 39.5)}


@pytest.mark.parametrize("reply", ["[10,20,30,40] on (11,21,31)", "[10,20,30,40] on (11)", "[10,20,30,40] on (1100,21)"])
def test_a_malformed_point_is_an_error_where_points_were_asked_for(reply: str) -> None:
    with pytest.raises(ReplyError, match="expected 2 numbers of 0 to 999"):
        RELEASED.read_prompt(WHERE, Reply(reply), THOUSAND)


# Replies: labels ----------------------------------------------------------------------------------------------------


def which(count: int) -> Question:
    return Question((Turn("user", "which?"),), Labels(count, ("Yes", "No")))


@pytest.mark.parametrize(
    ("reply", "labels"),
    [
        pytest.param("NoNoYes", [0, 0, 1], id="one word after another, as the released adapter"),
        pytest.param("\nNoNoYes", [0, 0, 1], id="after a newline"),
        pytest.param("no, no, yes.", [0, 0, 1], id="commas and lower case"),
        pytest.param("1. No\n2. No\n3. Yes", [0, 0, 1], id="a list"),
        pytest.param("(1,2): **No**; (3,4): NO; (5,6): Yes, nothing hides it", [0, 0, 1], id="prose around"),
        pytest.param("I know not, but say NoNoYes", [0, 0, 1], id="words that hold the words"),
    ],
)
def test_labels_are_read_from(reply: str, labels: list[int]) -> None:
    assert RELEASED.read_labels(which(3), Reply(reply)) == tuple((label, None) for label in labels)


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
        RELEASED.read_labels(which(3), Reply(reply))


def test_probabilities_decide_and_become_the_confidence() -> None:
    reply = Reply("NoNoNo", ((0.9, 0.1), (0.2, 0.8), (0.5, 0.5)))
    assert RELEASED.read_labels(which(3), reply) == ((1, 0.9), (0, 0.8), (1, 0.5))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_probabilities_of_another_count_are_an_error_whatever_the_text(count: int) -> None:
    with pytest.raises(ReplyError, match=f"expected 3 answers, got {count}"):
        RELEASED.read_labels(which(3), Reply("NoNoYes", ((0.9, 0.1),) * count))


def test_the_longer_word_is_read_where_one_begins_the_other() -> None:
    dialect = dataclasses.replace(EMBEDDED, yes="in", no="in front")
    question = Question(WHERE.turns, Labels(1, ("in", "in front")))
    assert dialect.read_labels(question, Reply("in front")) == ((0, None),)
    assert dialect.read_labels(question, Reply("In.")) == ((1, None),)


def test_labels_are_read_from_questions_about_labels_alone() -> None:
    with pytest.raises(ValueError, match="expects labels"):
        RELEASED.read_labels(WHERE, Reply("Yes"))


# Asking again ------------------------------------------------------------------------------------------------------


@EVERY_DIALECT
def test_only_models_that_follow_instructions_are_corrected(dialect: Dialect) -> None:
    again = dialect.ask_again(WHERE, Reply("{hmm}"), "a {reason} with braces")
    if dialect.name in ("released", "embedded"):
        assert again == WHERE, "checkpoints that were trained on the dialogue never saw a correction"
    else:
        assert again.turns[:-1] == (*WHERE.turns, Turn("assistant", "{hmm}"))
        assert again.turns[-1].role == "user"
        assert "a {reason} with braces" in again.turns[-1].text
        assert dialect.none_text in again.turns[-1].text
        assert again.answer == WHERE.answer


# As a file ----------------------------------------------------------------------------------------------------------


@EVERY_DIALECT
def test_a_dialect_comes_back_from_its_file(dialect: Dialect) -> None:
    assert Dialect.from_json(dialect.to_json()) == dialect


@EVERY_DIALECT
def test_a_file_from_before_asking_again_still_loads(dialect: Dialect) -> None:
    told = json.loads(dialect.to_json())
    del told["ask_again_text"]
    assert Dialect.from_json(json.dumps(told)) == dataclasses.replace(dialect, ask_again_text="")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"ask_again_text": "again: {why}"}, "ask_again_text", id="another field in the correction"),
        pytest.param({"points": "both"}, "'both'", id="an unknown way to ask"),
        pytest.param({"scale": "1000"}, "expected scale as int", id="a number in quotes"),
        pytest.param({"scale": 1}, "at least 2", id="a single step"),
        pytest.param({"yes": "no"}, "yes, no", id="one word for both answers"),
        pytest.param({"none_text": "..."}, "none_text", id="none said without a word"),
        pytest.param({"ask_boxes_text": "where is {it}?"}, "ask_boxes_text", id="a field that is never filled"),
        pytest.param({"ask_boxes_text": "where is {expression?"}, "ask_boxes_text", id="an open brace"),
        pytest.param({"box_text": "<{x1},{y1},{x2},{y2}>"}, "<0,0,999,999>", id="boxes that cannot be read back"),
        pytest.param({"yes": None}, "expected yes as str", id="null"),
        pytest.param({"colour": "red"}, "colour", id="a field that there is not"),
    ],
)
def test_a_file_that_cannot_be_spoken_is_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        Dialect.from_json(json.dumps(json.loads(PLAIN.to_json()) | change))


@pytest.mark.parametrize("text", ["", "[]", "[1]", "null", "{", '"plain"'])
def test_what_is_no_dialect_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a dialect"):
        Dialect.from_json(text)


def test_what_is_in_a_region_is_asked_in_words_of_the_dialect_with_its_box_or_a_point() -> None:
    box, point, size = Box(10, 20, 50, 60), Point(30, 40), Size(100, 100)
    assert EMBEDDED.ask_region(box, point, size).turns[-1].text == "what is at (057 076)"
    asked = PLAIN.ask_region(box, point, size)
    assert asked.turns[-1].text == "Describe in a few words what is in [100,200,500,600]."
    assert isinstance(asked.answer, FreeText)
    old = json.loads(PLAIN.to_json())
    del old["ask_region_text"]
    assert Dialect.from_json(json.dumps(old)) == PLAIN, "checkpoints from before it can be asked too"
