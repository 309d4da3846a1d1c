"""What a dialect asks and teaches, byte for byte, and its file beside the weights."""

import dataclasses
import json
import pickle
import re
from itertools import takewhile

import pytest

import sam4mllm_tool.protocol as protocol
from sam4mllm_tool.protocol import DIALECTS, EMBEDDED, PLAIN, RELEASED, Dialect
from sam4mllm_tool.types import Box, FreeText, Labels, ObjectPrompt, Point, PointPrompt, Question, Reply, Size, Turn

EVERY_DIALECT = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
UNTRAINED = [dialect for dialect in DIALECTS.values() if dialect is PLAIN or dialect.replies != "exact"]
LINES, PROCESSED = DIALECTS["qwen3_vl"], DIALECTS["qwen2_5_vl"]
QUESTION = Question((Turn("user", "where is it?"),), FreeText(64))

# Wording ------------------------------------------------------------------------------------------------------------


def test_the_released_wire_format_is_written_byte_for_byte() -> None:
    size = Size(640, 480)
    question = RELEASED.ask_boxes("the man in red")
    assert [(turn.role, turn.text) for turn in question.turns] == [
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
    assert RELEASED.format_boxes([box, Box(0, 0, 64, 48)], size) == "\n[281,251,863,999] [000,000,100,100]"
    assert RELEASED.format_boxes([], size) == "\nNo object found."
    points = [Point(64.3, 96.2), Point(320, 240), Point(0, 0)]
    (about_points,) = RELEASED.ask_points(question.turns, box, points, size)
    assert about_points.turns[:-1] == question.turns
    assert about_points.turns[-1].text == (
        "Check if the points listed below are located on the object with bounding box [281,251,863,999]:\n"
        "(100,200) (500,500) (000,000)"
    )
    assert about_points.answer == Labels(3, ("Yes", "No"))
    assert RELEASED.format_labels([0, 0, 1]) == "NoNoYes"


def test_each_asks_about_one_point_per_question_and_joint_about_all_in_one() -> None:
    points = [Point(1, 1), Point(2, 2), Point(3, 3)]
    for dialect, counts in ((RELEASED, [3]), (EMBEDDED, [1, 1, 1]), (PLAIN, [1, 1, 1])):
        questions = dialect.ask_points((), Box(0, 0, 9, 9), points, Size(9, 9))
        assert [question.answer.count for question in questions if isinstance(question.answer, Labels)] == counts
        assert dialect.ask_points((), Box(0, 0, 9, 9), [], Size(9, 9)) == ()


@pytest.mark.parametrize("dialect", UNTRAINED, ids=lambda dialect: dialect.name)
def test_the_questions_of_a_round_differ_at_their_ends_alone(dialect: Dialect) -> None:
    """So that what they share is read once, with the image before it."""
    dialect = dialect.for_model((28, 56 * 56, 10**6))
    size, boxes, points = Size(640, 480), [Box(10, 20, 300, 400), Box(200, 210, 500, 470)], [Point(20, 30), Point(290, 310)]
    verification = [dialect.ask_verification("the ring", box, size) for box in boxes]
    about_points = [question for box in boxes for question in dialect.ask_points((), box, points, size)]
    about_one_box = dialect.ask_points((), boxes[0], points, size)
    box, point = (len(text) for text in (dialect.encode_box(boxes[0], size), dialect.encode_point(points[0], size)))
    for end, questions in (
        (len("a red ring"), [dialect.ask_boxes(expression) for expression in ("a red ring", "one cup")]),
        (len("a red ring"), [dialect.ask_prompts(expression, 2, 1) for expression in ("a red ring", "one cup")]),
        (box, [question for question in verification if question is not None]),
        (box + point, about_points),
        (point, about_one_box),
    ):
        texts = [question.turns[-1].text for question in questions]
        shared = sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False)))
        assert all(len(text) - shared <= end + 20 for text in texts), texts
    others = dialect.ask_other_boxes("a red ring", boxes, size)
    assert (others is None) == (dialect.ask_other_text == "")
    assert others is None or others.turns[-1].text.startswith(dialect.ask_boxes("a red ring").turns[-1].text)


@pytest.mark.parametrize(
    "expression",
    ["the {red} ring", "{expression} {0} {", 'the "big" one\'s', "<image> </s> [INST] <|im_end|>", "100% of %s", "\\n \\1"],
)
@EVERY_DIALECT
def test_an_expression_stands_in_the_question_as_it_is(dialect: Dialect, expression: str) -> None:
    assert expression in dialect.ask_boxes(expression).turns[-1].text
    assert expression in dialect.ask_prompts(expression, 2, 1).turns[-1].text


@pytest.mark.parametrize(
    ("on", "words"), [(0, "no points on"), (2, "two points on"), (10, "ten points on"), (11, "11 points on")]
)
def test_numbers_of_points_are_spelled_out_up_to_ten(on: int, words: str) -> None:
    assert words in EMBEDDED.ask_prompts("it", on, 1).turns[-1].text


def test_prompts_are_written_with_points_on_the_object_before_points_off_it() -> None:
    points = (PointPrompt(29, 39, 0), PointPrompt(11, 21, 1))
    text = PLAIN.format_prompts([ObjectPrompt(Box(10, 20, 30, 40), points)], Size(1000, 1000))
    assert text == "[10,20,30,40] on (11,21) off (29,39)"
    assert PLAIN.format_prompts([], Size(9, 9)) == "none"


@EVERY_DIALECT
def test_only_models_that_follow_instructions_are_corrected(dialect: Dialect) -> None:
    again = dialect.ask_again(QUESTION, Reply("{hmm}"), "a {reason} with braces")
    if not dialect.ask_again_text:
        assert again == QUESTION, "checkpoints that were trained on the dialogue or on tasks never saw a correction"
    else:
        assert again.turns[:-1] == (*QUESTION.turns, Turn("assistant", "{hmm}"))
        assert again.turns[-1].role == "user"
        assert "a {reason} with braces" in again.turns[-1].text
        assert dialect.none_text in again.turns[-1].text
        assert again.answer == QUESTION.answer


def test_a_region_is_described_by_its_box_or_by_a_point_on_it() -> None:
    box, point, size = Box(10, 20, 50, 60), Point(30, 40), Size(100, 100)
    assert EMBEDDED.ask_region(box, point, size).turns[-1].text == "what is at (057 076)"
    question = PLAIN.ask_region(box, point, size)
    assert question.turns[-1].text == "Describe in a few words what is in [100,200,500,600]."
    assert isinstance(question.answer, FreeText)


# dialect.json -------------------------------------------------------------------------------------------------------


@EVERY_DIALECT
def test_a_dialect_comes_back_from_its_file(dialect: Dialect) -> None:
    assert Dialect.from_json(dialect.to_json()) == dialect


@EVERY_DIALECT
@pytest.mark.parametrize("field", ["ask_again_text", "ask_region_text"])
def test_a_file_from_before_a_field_was_added_still_loads(dialect: Dialect, field: str) -> None:
    values = json.loads(dialect.to_json())
    del values[field]
    default = {f.name: f.default for f in dataclasses.fields(Dialect)}[field]
    assert Dialect.from_json(json.dumps(values)) == dataclasses.replace(dialect, **{field: default})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"ask_again_text": "again: {why}"}, "ask_again_text", id="another placeholder in the correction"),
        pytest.param({"points": "both"}, "'both'", id="an unknown way to ask"),
        pytest.param({"scale": "1000"}, "expected scale as int", id="a number in quotes"),
        pytest.param({"scale": 1}, "at least 2", id="a single step"),
        pytest.param({"yes": "no"}, "yes, no", id="one word for both answers"),
        pytest.param({"none_text": "..."}, "none_text", id="none_text without a word"),
        pytest.param({"ask_boxes_text": "where is {it}?"}, "ask_boxes_text", id="a placeholder that is never filled"),
        pytest.param({"ask_boxes_text": "where is {expression?"}, "ask_boxes_text", id="an open brace"),
        pytest.param({"box_text": "<{x1},{y1},{x2},{y2}>"}, "<0,0,999,999>", id="boxes that cannot be read back"),
        pytest.param({"yes": None}, "expected yes as str", id="null"),
        pytest.param({"colour": "red"}, "colour", id="an unknown field"),
        pytest.param({"ask_boxes_text": "{expression:>3000000000}"}, "ask_boxes_text with expression", id="a format"),
        pytest.param({"ask_boxes_text": "{expression.__class__}"}, "ask_boxes_text with expression", id="an attribute"),
        pytest.param({"ask_boxes_text": "{expression!r}"}, "ask_boxes_text with expression", id="a conversion"),
        pytest.param({"box_text": "[{x1:>100000000},{y1},{x2},{y2}]"}, "box_text with x1", id="a format in boxes"),
        pytest.param({"box_text": "[{x1:{y1}},{y1},{x2},{y2}]"}, "box_text with x1", id="a format in a format"),
        pytest.param({"item_text": "{box:>100000000}"}, "item_text with box", id="a format in the list"),
        pytest.param({"digits": 10**9}, "expected digits of 0 to 9, got 1000000000", id="huge padding"),
        pytest.param({"digits": -1}, "expected digits of 0 to 9", id="negative padding"),
        pytest.param({"decimals": 10**9, "frame": "lines"}, "expected decimals of 0 to 9", id="huge decimals"),
        pytest.param({"scale": 10**400}, "expected scale of 1 to 1,000,000", id="a huge scale"),
        pytest.param({"max_tokens": 10**12}, "expected max_tokens of 1 to 1,000,000", id="endless replies"),
        pytest.param({"resizing": [0, 0, 0], "frame": "processed"}, "expected resizing", id="resizing to nothing"),
        pytest.param({"system": "x" * 10_001}, "at most 10,000 characters", id="a long system prompt"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Dialect.from_json(json.dumps(json.loads(PLAIN.to_json()) | change))


@pytest.mark.parametrize(
    ("name", "least", "most"), [("scale", 1, 10**6), ("digits", 0, 9), ("decimals", 0, 9), ("max_tokens", 1, 10**6)]
)
def test_numbers_are_within_limits(name: str, least: int, most: int) -> None:
    for value in (least, most):
        assert getattr(dataclasses.replace(LINES, **{name: value}), name) == value
    for value in (least - 1, most + 1):
        with pytest.raises(ValueError, match=f"expected {name} of {least} to {most:,}, got {value}"):
            dataclasses.replace(LINES, **{name: value})


def test_texts_are_within_limits_and_padding_is_a_truth() -> None:
    assert len(dataclasses.replace(PLAIN, system="x" * 10_000).system) == 10_000
    with pytest.raises(ValueError, match="expected padded as true or false, got 'yes'"):
        dataclasses.replace(PLAIN, padded="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "valid"),
    [
        pytest.param((28, 1, 1), True, id="three"),
        pytest.param((28, 56, 100, 7), True, id="a longer side"),
        pytest.param((28, 56, 100, None, 7), True, id="a shorter side alone"),
        pytest.param((28, 56), False, id="two"),
        pytest.param((28, 56, 100, 7, 7, 7), False, id="six"),
        pytest.param((28, None, 100, 7), False, id="no least area"),
        pytest.param((28, 56, None), False, id="no largest area"),
        pytest.param((28, 56, 0), False, id="zero"),
        pytest.param((28, 56, 100, -1), False, id="negative"),
        pytest.param((28, 56.0, 100), False, id="a fraction"),
        pytest.param((28, True, 100), False, id="a truth"),
    ],
)
def test_a_rule_of_resizing_is_three_to_five_whole_numbers(rule: tuple[int, ...], valid: bool) -> None:
    if valid:
        assert dataclasses.replace(PROCESSED, resizing=rule).resizing == rule
    else:
        with pytest.raises(ValueError, match="expected resizing as three to five whole numbers above 0"):
            dataclasses.replace(PROCESSED, resizing=rule)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        pytest.param((28, 56, 99), False, id="fewer pixels"),
        pytest.param((28, 56, 100), True, id="as many"),
        pytest.param((28, 56, 101), True, id="more"),
        pytest.param((14, 56, 99), True, id="another multiple"),
        pytest.param((28, 55, 99), True, id="another least area"),
        pytest.param((28, 56, 99, 7), True, id="a longest side, too"),
    ],
)
def test_a_rule_that_is_set_gives_way_to_the_same_with_fewer_pixels(rule: tuple[int, ...], kept: bool) -> None:
    dialect = dataclasses.replace(PROCESSED, resizing=(28, 56, 100))
    assert (dialect.for_model(rule) == dialect) == kept
    assert dialect.for_model(rule).resizing == (dialect.resizing if kept else rule)
    assert LINES.for_model(rule).resizing is None, "which counts no pixels"


def test_a_family_of_others_writes_each_corner_once() -> None:
    with pytest.raises(ValueError, match="expected x1, y1, x2, y2 in braces, each once"):
        dataclasses.replace(LINES, box_text="[{x1}, {y1}, {x2}]")
    with pytest.raises(ValueError, match="expected x, y in braces, each once"):
        dataclasses.replace(LINES, point_text="({x}, {x})")


def test_replies_have_limits_and_descriptions_are_short() -> None:
    assert PLAIN.ask_boxes("it").answer == PLAIN.ask_prompts("it", 1, 1).answer == FreeText(512)
    for limit, expected in ((512, 64), (10, 10)):
        dialect = dataclasses.replace(PLAIN, max_tokens=limit)
        assert dialect.ask_region(Box(1, 1, 5, 5), Point(2, 2), Size(9, 9)).answer == FreeText(expected)


def test_what_training_had_in_front_of_an_answer_is_restored() -> None:
    assert RELEASED.restore_answer_start("[1,2,3,4]") == RELEASED.restore_answer_start("\n[1,2,3,4]") == "\n[1,2,3,4]"
    assert RELEASED.restore_answer_start("<think>where?</think>[1,2,3,4]") == "\n[1,2,3,4]"
    assert RELEASED.restore_answer_start("<think>where?") == "\n<think>where?"
    assert PLAIN.restore_answer_start(" none ") == " none "


@pytest.mark.parametrize("text", ["", "[]", "[1]", "null", "{", '"plain"', "[" * 100_000, '{"scale": ' + "9" * 5000 + "}"])
def test_text_that_is_no_dialect_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a dialect") as caught:
        Dialect.from_json(text)
    assert len(str(caught.value)) < 250


@EVERY_DIALECT
def test_a_dialect_pickles_to_the_same_bytes_before_and_after_it_is_used(dialect: Dialect) -> None:
    dialect = dialect.for_model((28, 3136, 1_003_520))
    before = pickle.dumps(dialect)
    dialect.parse_boxes(QUESTION, Reply(dialect.format_boxes([Box(1, 1, 5, 5)], Size(9, 9))), Size(9, 9))
    assert pickle.dumps(dialect) == before
    assert pickle.loads(before) == dialect


# Old names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ask_other", "ask_other_boxes"),
        ("ask_prompt", "ask_prompts"),
        ("ask_whether", "ask_verification"),
        ("as_taught", "restore_answer_start"),
        ("read_boxes", "parse_boxes"),
        ("read_labels", "parse_labels"),
        ("read_prompt", "parse_prompts"),
        ("snap", "snap_point"),
        ("tell_boxes", "format_boxes"),
        ("tell_labels", "format_labels"),
        ("tell_prompt", "format_prompts"),
        ("write_box", "encode_box"),
        ("write_point", "encode_point"),
    ],
)
def test_old_method_names_still_work_with_a_warning(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"Dialect.{old} is now Dialect.{new}"):
        assert getattr(PLAIN, old) == getattr(PLAIN, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Placed", "PointsByBox"),
        ("true_dialogue", "build_true_dialogue"),
        ("true_replies", "build_true_replies"),
        ("turns", "flatten_turns"),
    ],
)
def test_old_names_of_the_package_still_work_with_a_warning(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old} is now sam4mllm_tool.protocol.{new}"):
        assert getattr(protocol, old) is getattr(protocol, new)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="tell_masks"):
        _ = PLAIN.tell_masks
    with pytest.raises(AttributeError, match="Sampled"):
        _ = protocol.Sampled


@pytest.mark.parametrize(
    ("name", "frame", "scale", "decimals", "digits", "resizing"),
    [
        ("released", "steps", 1000, 0, 3, None),
        ("joint", "steps", 1000, 0, 3, None),
        ("plain", "steps", 1000, 0, 0, None),
        ("embedded", "steps", 192, 0, 3, None),
        ("claude", "processed", 1000, 0, 0, (1, 1, 1_150_000, 1568)),
        ("florence2", "steps", 1000, 0, 0, None),
        ("gemma", "lines", 1000, 0, 0, None),
        ("glm4v", "lines", 1000, 0, 0, None),
        ("gpt", "processed", 1000, 0, 0, (1, 1, 1_572_864, 2048, 768)),
        ("idefics", "lines", 1, 3, 0, None),
        ("internvl", "lines", 1000, 0, 0, None),
        ("kimi_vl", "lines", 1, 3, 0, None),
        ("llava", "lines", 1, 2, 0, None),
        ("mistral", "lines", 1000, 0, 0, None),
        ("molmo", "lines", 100, 1, 0, None),
        ("molmo2", "lines", 1000, 0, 3, None),
        ("paligemma", "steps", 1024, 0, 4, None),
        ("qwen2_5_vl", "processed", 1000, 0, 0, None),
        ("qwen2_vl", "lines", 1000, 0, 0, None),
        ("qwen3_vl", "lines", 1000, 0, 0, None),
    ],
)
def test_coordinates_are_written_as_the_checkpoints_learnt_them(
    name: str, frame: str, scale: int, decimals: int, digits: int, resizing: tuple[int, ...] | None
) -> None:
    dialect = DIALECTS[name]
    assert (dialect.frame, dialect.scale, dialect.decimals, dialect.digits) == (frame, scale, decimals, digits)
    assert dialect.resizing == resizing
