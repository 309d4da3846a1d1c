"""Every off-the-shelf family's replies in every form that such models wrap them in, at any size."""

import contextlib
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.protocol.native_replies import find_first_box
from sam4mllm_tool.types import Box, Point, Reply, Size
from tests.protocol.test_native_dialects import EVERY_NATIVE, NATIVE, QUESTION

SIZES = st.builds(Size, st.integers(100, 3000), st.integers(100, 3000))
SHARES = st.lists(st.sampled_from(range(0, 101, 10)), min_size=2, max_size=2, unique=True).map(sorted)
LISTS = [name for name, dialect in NATIVE.items() if dialect.box_text.startswith("[")]
JSON = [name for name, dialect in NATIVE.items() if '"label"' in dialect.item_text]


@st.composite
def two_boxes(draw: st.DrawFn, size: Size) -> tuple[Box, Box]:
    """Two boxes that no frame writes alike."""
    boxes = []
    for start, end in ((0.0, 0.45), (0.5, 0.95)):
        (x1, x2), (y1, y2) = draw(SHARES), draw(SHARES)
        left, right = (start + (end - start) * share / 100 for share in (x1, x2))
        top, bottom = (start + (end - start) * share / 100 for share in (y1, y2))
        boxes.append(Box(left * size.width, top * size.height, right * size.width, bottom * size.height))
    return boxes[0], boxes[1]


def write_items(dialect: Dialect, boxes: tuple[Box, ...], size: Size) -> list[str]:
    return [dialect.item_text.format(box=dialect.encode_box(box, size)) for box in boxes]


def write_floats(dialect: Dialect, text: str) -> str:
    """Give integers a decimal; numbers of other families have some, and location tokens can't."""
    return text if dialect.decimals or "<loc" in text else re.sub(r"(?<![\w.])(\d+)(?![\w.])(?=[,\])\"])", r"\1.0", text)


FORMS: dict[str, Callable[[Dialect, list[str]], str]] = {
    "as they are": lambda _, items: " ".join(items),
    "in a code fence": lambda _, items: "```json\n[" + ",\n".join(items) + "]\n```",
    "in an unclosed code fence": lambda _, items: "```\n" + "\n".join(items),
    "in prose": lambda _, items: f"Sure! I see two of them: {items[0]} and {items[1]}, on the right.",
    "numbered": lambda _, items: f"1. {items[0]}\n2. {items[1]}",
    "after a thought": lambda _, items: f"<think>Is it {items[1]}{items[0]}? Yes.</think>{' '.join(items)}",
    "after a thought that the template opened": lambda _, items: f"At {items[1]}? No.</think>\n\n{' '.join(items)}",
    "with decimals": lambda dialect, items: write_floats(dialect, " ".join(items)),
    "cut off in a third": lambda _, items: " ".join([*items, items[0][: len(items[0]) // 2]]),
    "repeated": lambda _, items: " ".join([*items, *items]),
    "in an answer tag": lambda _, items: f"<answer>{' '.join(items)}</answer>",
}


@EVERY_NATIVE
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=5)
@given(data=st.data())
def test_boxes_are_read_in_every_form(dialect: Dialect, form: str, data: st.DataObject) -> None:
    size = data.draw(SIZES)
    boxes = data.draw(two_boxes(size))
    reply = Reply(FORMS[form](dialect, write_items(dialect, boxes, size)))
    parsed = dialect.parse_boxes(QUESTION, reply, size)
    assert len(parsed) == 2
    for box, written in zip(parsed, boxes, strict=True):
        assert tuple(box) == pytest.approx(tuple(dialect.snap_box(written, size)))


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("label", ["sign [1, 2, 3, 4]", "(1, 2), (3, 4)", 'the \\"box\\": [5, 6, 7, 8]', "there is none", "]}"])
def test_labels_say_nothing_about_places(name: str, label: str) -> None:
    dialect, size, boxes = NATIVE[name], Size(640, 480), (Box(64, 48, 320, 240), Box(320, 240, 600, 400))
    text = dialect.format_boxes(boxes, size).replace('"label": "object"', f'"label": "{label}"')
    assert label in text
    parsed = dialect.parse_boxes(QUESTION, Reply(text), size)
    assert [tuple(box) for box in parsed] == [pytest.approx(tuple(dialect.snap_box(box, size))) for box in boxes]


@pytest.mark.parametrize("name", LISTS)
def test_a_box_may_stand_in_round_brackets(name: str) -> None:
    dialect, size, box = NATIVE[name], Size(640, 480), Box(64, 48, 320, 240)
    text = dialect.encode_box(box, size).replace("[", "(").replace("]", ")")
    (parsed,) = dialect.parse_boxes(QUESTION, Reply(f"It is at {text}."), size)
    assert tuple(parsed) == pytest.approx(tuple(dialect.snap_box(box, size)))


@EVERY_NATIVE
@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "```json\n[]\n```",
        '{"objects": []}',
        "none",
        "None.",
        "There is none.",
        "There is no red ring.",
        "There is no red ring in the image, only a blue one.",
        "There are no objects that match this.",
        "No such object is visible.",
        "The red ring is not present in this image.",
        "<think>[1, 2, 3, 4]? No, that is blue.</think>There is no red ring.",
    ],
)
def test_no_object_is_an_answer_in_every_family(dialect: Dialect, text: str) -> None:
    assert dialect.parse_boxes(QUESTION, Reply(text), Size(640, 480)) == ()
    assert dialect.parse_points(QUESTION, Reply(text), Size(640, 480)) == ()


@EVERY_NATIVE
@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "A dog.",
        "It is on the left.",
        "I'm sorry, I can't help with that.",
        "<think>At [1, 2, 3, 4]",
        "[1, 2]]]",
        "1 2 3",
    ],
)
def test_what_cannot_be_read_is_an_error_in_every_family(dialect: Dialect, text: str) -> None:
    with pytest.raises(ReplyError):
        dialect.parse_boxes(QUESTION, Reply(text), Size(640, 480))


@EVERY_NATIVE
def test_a_first_box_that_is_cut_off_is_an_error_in_every_family(dialect: Dialect) -> None:
    (item,) = write_items(dialect, (Box(64, 48, 320, 240),), Size(640, 480))
    end = next(i for i in range(len(item), 0, -1) if item[i - 1].isdigit())
    with pytest.raises(ReplyError):
        dialect.parse_boxes(QUESTION, Reply(item[: end - 1]), Size(640, 480))


@EVERY_NATIVE
@given(text=st.text(alphabet=" 0123456789.,;-[](){}<>\"'/=abcdeilnopstxy_:\n", max_size=80))
@settings(max_examples=30)
def test_any_text_is_read_or_refused_with_a_reply_error(dialect: Dialect, text: str) -> None:
    for parse in (dialect.parse_boxes, dialect.parse_prompts, dialect.parse_points):
        with contextlib.suppress(ReplyError):
            parse(QUESTION, Reply(text), Size(640, 480))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        pytest.param('```json\n[{"bbox_2d": [1, 2, 30.5, 40]}]\n```', (1, 2, 30.5, 40), id="JSON"),
        pytest.param("It is at (1,2),(30,40).", (1, 2, 30, 40), id="two corners"),
        pytest.param("ring<loc_1><loc_2><loc_30><loc_40>", (1, 2, 30, 40), id="location tokens"),
        pytest.param('<points x1="1" y1="2" x2="30" y2="40" x3="9" y3="9">rings</points>', (1, 2, 30, 40), id="points in XML"),
        pytest.param('<point x="9" y="9"/><points coords="1 1 2 2 30 40"/>', (1, 2, 30, 40), id="a point, then two"),
        pytest.param("<loc0001><loc0002><loc0030><loc0040> or [9, 9, 99, 99]", (1, 2, 30, 40), id="the first of two forms"),
        pytest.param("[1, 2, 30, 40] or <loc0009><loc0009><loc0099><loc0099>", (1, 2, 30, 40), id="the first of two others"),
        pytest.param('{"label": "[9, 9, 99, 99]", "box": [1, 2, 30, 40]}', (1, 2, 30, 40), id="a label says nothing"),
        pytest.param("<think>[9, 9, 99, 99]?</think>[1, 2, 30, 40]", (1, 2, 30, 40), id="after a thought"),
        pytest.param("<think>[1, 2, 30, 40]", None, id="a thought alone"),
        pytest.param('<point x="1" y="2">ring</point>', None, id="a single point"),
        pytest.param("There is none.", None, id="none"),
    ],
)
def test_the_first_box_is_found_in_any_format(text: str, numbers: tuple[float, ...] | None) -> None:
    assert find_first_box(text) == numbers


# Points ---------------------------------------------------------------------------------------------------------------

POINTING = {name: dialect for name, dialect in NATIVE.items() if dialect.ask_pointing_text}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("molmo", '<point x="10.0" y="20.0" alt="ring">ring</point>', [(64, 96)]),
        ("molmo", 'Counting the <points x1="10" y1="20" x2="50.0" y2="50" alt="r">r</points> gives 2.', [(64, 96), (320, 240)]),
        ("molmo", '<point x="10" y="20" alt="a">a</point> and <point x="50" y="50" alt="b">b</point>', [(64, 96), (320, 240)]),
        ("molmo", '<points x1="10" y1="20" x2="50" y2="5', [(64, 96)]),
        ("molmo2", '<points coords="1 1 100 200 2 500 500" alt="r">r</points>', [(64, 96), (320, 240)]),
        ("molmo2", '<points coords="1 100 200 2 500 500"/>', [(64, 96), (320, 240)]),
        ("molmo2", '<points coords="1 1 100 200 2 500 50', [(64, 96)]),
        ("molmo2", '<points coords="1 1 100 200 2 500 500 3', [(64, 96), (320, 240)]),
        ("qwen2_5_vl", '```json\n[{"point_2d": [64, 95], "label": "ring [9, 9]"}]\n```', [(63.6, 95.8)]),
        (
            "qwen3_vl",
            '[{"point_2d": [100, 200], "label": "a"}, {"point_2d": [500, 500], "label": "b"}]',
            [(64, 96), (320, 240)],
        ),
        ("gemma", '[{"point": [200, 100], "label": "ring"}]', [(64, 96)]),
        ("internvl", "<point>[[100, 200]]</point>", [(64, 96)]),
        ("qwen2_vl", "(100,200),(500,500)", [(64, 96), (320, 240)]),
        ("kimi_vl", "The ring is at (0.100, 0.200).", [(64, 96)]),
        ("claude", "[64, 96]", [(64, 96)]),
        ("paligemma", "<loc0205><loc0102>", [(64, 96)]),
    ],
)
def test_native_points_are_read(name: str, text: str, expected: list[tuple[float, float]]) -> None:
    points = NATIVE[name].parse_points(QUESTION, Reply(text), Size(640, 480))
    assert [tuple(point) for point in points] == [pytest.approx(point, abs=0.6) for point in expected]


@pytest.mark.parametrize("dialect", POINTING.values(), ids=POINTING)
def test_points_are_read_in_prose_and_after_a_thought(dialect: Dialect) -> None:
    size, points = Size(640, 480), (Point(100, 50), Point(300, 400))
    written = [dialect.encode_point(point, size) for point in points]
    text = f"<think>{written[1]}{written[0]}?</think>They are {written[0]} and {written[1]}."
    parsed = dialect.parse_points(QUESTION, Reply(text), size)
    assert [tuple(p) for p in parsed] == [pytest.approx(tuple(dialect.snap_point(point, size))) for point in points]


@pytest.mark.parametrize("name", sorted(POINTING.keys() - {"qwen2_vl", "molmo", "molmo2"}))  # a box of theirs is two points
def test_a_box_is_no_point(name: str) -> None:
    dialect, size = NATIVE[name], Size(640, 480)
    with pytest.raises(ReplyError, match="expected points, got the box"):
        dialect.parse_points(QUESTION, Reply(dialect.format_boxes([Box(64, 48, 320, 240)], size)), size)
