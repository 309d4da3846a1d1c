"""Coordinates of models that see an image in the middle of a square."""

import json

import pytest

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol import DIALECTS, JOINT, PLAIN, Dialect
from sam4mllm_tool.protocol.dialects.qwen import QWEN2_5_VL
from sam4mllm_tool.types import Box, Point, Reply, Size

LLAVA = DIALECTS["llava"].for_model(pads_images=True)
WIDE, HIGH = Size(640, 480), Size(300, 501)


@pytest.mark.parametrize(
    ("size", "box", "text"),
    [
        pytest.param(WIDE, Box(0, 0, 640, 480), "[0.00, 0.12, 1.00, 0.88]", id="all of a wide image: 80 rows above and below"),
        pytest.param(WIDE, Box(320, 240, 640, 400), "[0.50, 0.50, 1.00, 0.75]", id="its lower right"),
        pytest.param(HIGH, Box(0, 0, 300, 501), "[0.20, 0.00, 0.80, 1.00]", id="all of a high image: 100 columns left of it"),
        pytest.param(Size(400, 400), Box(100, 200, 300, 400), "[0.25, 0.50, 0.75, 1.00]", id="a square is itself"),
    ],
)
def test_a_box_is_written_and_read_in_the_square(size, box, text):
    assert LLAVA.encode_box(box, size) == text
    step = max(size) * LLAVA.codec.codec._unit("x1", Size(1, 1))
    assert LLAVA.codec.decode_box(text, size) == pytest.approx(box, abs=step)
    assert LLAVA.snap_box(box, size) == LLAVA.codec.decode_box(text, size)


def test_what_a_model_marks_beside_the_image_is_cut_off():
    assert LLAVA.codec.decode_box("[0, 0, 0.5, 0.5]", WIDE) == Box(0, 0, 320, 240)
    assert LLAVA.codec.decode_point("(0.5, 0.01)", WIDE) == Point(320, 0)
    assert LLAVA.snap_point(Point(320, 240), WIDE) == Point(320, 240)
    assert LLAVA.encode_point(Point(320, 240), WIDE) == "(0.50, 0.50)"


def test_replies_are_read_on_the_image():
    question = LLAVA.ask_boxes("the ring")
    assert LLAVA.parse_boxes(question, Reply("[0.25, 0.25, 0.75, 0.75]"), WIDE) == (Box(160, 80, 480, 400),)


def test_fractions_are_refused_where_steps_of_the_square_are_expected():
    padded = PLAIN.for_model(pads_images=True)
    with pytest.raises(ReplyError, match="in fractions of the image: expected numbers of 0 to 999"):
        padded.parse_boxes(padded.ask_boxes("the ring"), Reply("[0.25,0.25,0.75,0.75]"), WIDE)


def test_only_a_dialect_that_leaves_it_open_is_set_by_loading():
    assert PLAIN.for_model(pads_images=True).padded
    assert PLAIN.for_model() is PLAIN
    assert JOINT.for_model(pads_images=True) is JOINT, "it was trained on coordinates of the image itself"
    assert not Dialect.from_json(PLAIN.for_model().to_json()).padded
    assert Dialect.from_json(LLAVA.to_json()) == LLAVA
    resized = QWEN2_5_VL.for_model((28, 784, 10**6), pads_images=False)
    assert resized.resizing == (28, 784, 10**6)


def test_a_dialect_json_without_the_setting_counts_the_image_itself():
    old = json.dumps({name: value for name, value in json.loads(PLAIN.to_json()).items() if name != "padded"})
    assert Dialect.from_json(old).padded is False
    assert Dialect.from_json(old).for_model(pads_images=True).padded is False


def test_a_model_pads_only_where_it_is_said_to():
    assert PLAIN.for_model() is PLAIN
    assert PLAIN.for_model(pads_images=True).padded
