"""Pixels as text and back, for every dialect's codec."""

import dataclasses
import importlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol import DIALECTS, PLAIN, RELEASED, Dialect
from sam4mllm_tool.types import Box, FreeText, Point, Question, Reply, Size, Turn

Y_FIRST = dataclasses.replace(PLAIN, name="y first", box_text="[{y1},{x1},{y2},{x2}]", point_text="({y},{x})")
STEPS = [dialect for dialect in DIALECTS.values() if dialect.frame == "steps"]
EVERY_CODEC = pytest.mark.parametrize("dialect", [*STEPS, Y_FIRST], ids=lambda dialect: dialect.name)
QUESTION = Question((Turn("user", "where is it?"),), FreeText(64))

SIZES = st.builds(Size, st.integers(1, 6000), st.integers(1, 6000))
SHARES = st.floats(0, 1)


@st.composite
def points(draw: st.DrawFn) -> tuple[Size, Point]:
    size = draw(SIZES)
    return size, Point(draw(SHARES) * size.width, draw(SHARES) * size.height)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Size, Box]:
    """Boxes in the image, including ones at its edges and ones thinner than a step."""
    size = draw(SIZES)
    (x1, x2), (y1, y2) = (sorted((draw(SHARES), draw(SHARES))) for _ in range(2))
    return size, Box(x1 * size.width, y1 * size.height, x2 * size.width, y2 * size.height)


@EVERY_CODEC
@given(boxes())
def test_a_box_is_read_back_as_its_snapped_self_and_written_the_same_again(dialect: Dialect, case: tuple[Size, Box]) -> None:
    size, box = case
    text = dialect.encode_box(box, size)
    (parsed,) = dialect.parse_boxes(QUESTION, Reply(text), size)
    assert parsed == dialect.snap_box(box, size)
    assert dialect.encode_box(parsed, size) == text


@EVERY_CODEC
@given(boxes())
def test_a_written_box_is_never_empty_and_off_by_at_most_a_step_and_a_half(dialect: Dialect, case: tuple[Size, Box]) -> None:
    size, box = case
    snapped = dialect.snap_box(box, size)
    assert snapped.x1 < snapped.x2
    assert snapped.y1 < snapped.y2
    for before, after, side in zip(box, snapped, (*size, *size), strict=True):
        assert abs(before - after) <= 1.5001 * side / dialect.scale  # half a step, and one more where the box was thinner


@EVERY_CODEC
@given(points())
def test_a_point_snaps_once_within_half_a_step(dialect: Dialect, case: tuple[Size, Point]) -> None:
    size, point = case
    snapped = dialect.snap_point(point, size)
    assert dialect.encode_point(snapped, size) == dialect.encode_point(point, size)
    assert dialect.snap_point(snapped, size) == snapped
    assert dialect.codec.decode_point(dialect.encode_point(point, size), size) == snapped
    for before, after, side in zip(point, snapped, size, strict=True):
        assert abs(before - after) <= 0.5001 * side / dialect.scale
        assert 0 < after < side


@pytest.mark.parametrize(
    ("box", "text"),
    [
        pytest.param(Box(0, 0, 640, 480), "[000,000,999,999]", id="the whole image"),
        pytest.param(Box(180.2, 120.7, 552.9, 480), "[281,251,863,999]", id="rounded down"),
        pytest.param(Box(640, 480, 640, 480), "[998,998,999,999]", id="empty at the far corner"),
        pytest.param(Box(0, 0, 0, 0), "[000,000,001,001]", id="empty at the near corner"),
        pytest.param(Box(-50, -1, 700, 481), "[000,000,999,999]", id="over every edge"),
    ],
)
def test_boxes_are_written_as_computed_by_hand(box: Box, text: str) -> None:
    assert RELEASED.encode_box(box, Size(640, 480)) == text


def test_the_template_decides_the_order_for_writing_and_for_reading() -> None:
    size, box, point = Size(1000, 500), Box(100, 10, 300, 40), Point(200, 25)
    assert Y_FIRST.encode_box(box, size) == "[20,100,80,300]"
    assert Y_FIRST.encode_point(point, size) == "(50,200)"
    assert Y_FIRST.parse_boxes(QUESTION, Reply("[20,100,80,300]"), size) == (Box(100.5, 10.25, 300.5, 40.25),)
    (prompt,) = Y_FIRST.parse_prompts(QUESTION, Reply("[20,100,80,300] on (50,200)"), size)
    assert (prompt.points[0].x, prompt.points[0].y) == (200.5, 25.25)
    x_first = dataclasses.replace(Y_FIRST, box_text=PLAIN.box_text)
    assert x_first.parse_boxes(QUESTION, Reply("[20,100,80,300]"), size) == (Box(20.5, 50.25, 80.5, 150.25),)


@pytest.mark.parametrize(
    ("box_text", "point_text", "written"),
    [
        pytest.param("<{x1},{y1},{x2},{y2}>", "({x},{y})", "<0,0,999,999>", id="other brackets"),
        pytest.param("[{x1}{y1}{x2}{y2}]", "({x},{y})", "[00999999]", id="no separators"),
        pytest.param("[{x1},{y1},{x2}]", "({x},{y})", "[0,0,999]", id="a missing corner"),
        pytest.param("[{x1},{y1},{x2},{x2}]", "({x},{y})", "[0,0,999,999]", id="one corner twice"),
        pytest.param("[{x1},{y1},{x2},{y2}]", "({x};{y})", "(0;0)", id="another separator"),
    ],
)
def test_templates_that_cannot_be_read_back_are_refused(box_text: str, point_text: str, written: str) -> None:
    with pytest.raises(ValueError, match=re.escape(written)):
        dataclasses.replace(PLAIN, box_text=box_text, point_text=point_text)


def test_a_scale_of_two_steps_is_the_coarsest() -> None:
    assert dataclasses.replace(PLAIN, scale=2).encode_point(Point(5, 95), Size(100, 100)) == "(0,1)"
    with pytest.raises(ValueError, match="scale"):
        dataclasses.replace(PLAIN, scale=1).encode_point(Point(5, 95), Size(100, 100))


def test_coordinates_without_settings_have_no_decimals() -> None:
    settings = {name: value for name, value in json.loads(PLAIN.to_json()).items() if name != "decimals"}
    dialect = Dialect.from_json(json.dumps({**settings, "frame": "lines", "replies": "native"}))
    assert dialect.encode_point(Point(5.26, 95), Size(1000, 1000)) == "(5,95)"


def test_the_last_line_of_the_scale_is_read() -> None:
    (point,) = PLAIN.parse_points(QUESTION, Reply("(1000,0)"), Size(100, 100))
    assert point == (pytest.approx(99.95), pytest.approx(0.05)), "the last step"
    with pytest.raises(ReplyError, match="0 to 999"):
        PLAIN.parse_points(QUESTION, Reply("(1001,0)"), Size(100, 100))


def test_a_box_without_extent_is_written_a_step_wide() -> None:
    for name, step in (("kimi_vl", 0.001), ("qwen3_vl", 1), ("llava", 0.01)):
        text = DIALECTS[name].codec.encode_box(Box(50, 50, 50, 50), Size(100, 100))
        x1, y1, x2, y2 = map(float, re.findall(r"[\d.]+", text)[-4:])
        assert (x2 - x1, y2 - y1) == (pytest.approx(step), pytest.approx(step)), text


@pytest.mark.parametrize("module", ["dialect", "wording", "coordinate_codec", "native_codec", "padded_codec", "reply_parser"])
def test_the_parts_of_a_dialect_cannot_be_changed(module: str) -> None:
    members = vars(importlib.import_module(f"sam4mllm_tool.protocol.{module}")).values()
    classes = [each for each in members if dataclasses.is_dataclass(each) and isinstance(each, type)]
    assert classes
    for each in classes:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(object.__new__(each), dataclasses.fields(each)[0].name, None)
