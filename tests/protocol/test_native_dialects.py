"""The dialects of off-the-shelf families: their own replies, in their own frames, at odd sizes."""

import dataclasses
import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.models.metadata import find_dialect
from sam4mllm_tool.protocol import DIALECTS, Dialect
from sam4mllm_tool.protocol.dialects import BY_MODEL_TYPE, find_by_model_name
from sam4mllm_tool.protocol.native_codec import NativeCodec, Resizing
from sam4mllm_tool.protocol.thoughts import close_thought, strip_thought
from sam4mllm_tool.types import Box, FreeText, ObjectPrompt, Point, PointPrompt, Question, Reply, Size, Turn

RESIZING = (28, 56 * 56, 14 * 14 * 4 * 1280)
NATIVE = {
    name: dialect if dialect.resizing else dialect.for_model(RESIZING)
    for name, dialect in DIALECTS.items()
    if dialect.replies != "exact"
}
EVERY_NATIVE = pytest.mark.parametrize("dialect", NATIVE.values(), ids=NATIVE)
QUESTION = Question((Turn("user", "where is it?"),), FreeText(64))
SIZE = Size(640, 480)
BOX = Box(64, 48, 320, 240)
"""A tenth of the sides to the middle, so that every frame names it in round numbers."""
OTHER = Box(320, 240, 640, 480)
SIZES = [Size(640, 480), Size(333, 777), Size(1920, 1080), Size(224, 224), Size(3001, 1999)]


def parse(name: str, text: str, size: Size = SIZE) -> list[Box]:
    return list(NATIVE[name].parse_boxes(QUESTION, Reply(text), size))


# Replies as the families write them -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reply", "expected"),
    [
        pytest.param("qwen2_vl", "(100,100),(500,500)", [BOX], id="Qwen2-VL"),
        pytest.param(
            "qwen2_vl",
            "<|object_ref_start|>the ring<|object_ref_end|><|box_start|>(100,100),(500,500)<|box_end|>",
            [BOX],
            id="Qwen2-VL with its marks",
        ),
        pytest.param("qwen2_vl", "(100,100),(500,500) (500,500),(1000,1000)", [BOX, OTHER], id="Qwen2-VL, two boxes"),
        pytest.param("qwen3_vl", '```json\n[{"bbox_2d": [100, 100, 500, 500], "label": "ring"}]\n```', [BOX], id="Qwen3-VL"),
        pytest.param("qwen3_vl", '[{"bbox_2d": [500, 500, 1003, 1001]}]', [OTHER], id="Qwen3-VL past the far edge"),
        pytest.param(
            "qwen3_vl",
            '```json\n[{"bbox_2d": [100, 100, 500, 500], "label": "ring"},\n{"bbox_2d": [500, 5',
            [BOX],
            id="cut off",
        ),
        pytest.param(
            "qwen3_vl", '[{"label": "sign [1, 2, 3, 4]", "bbox_2d": [100, 100, 500, 500]}]', [BOX], id="brackets in a label"
        ),
        pytest.param("qwen3_vl", "<think>At [1, 2, 3, 4]? No.</think>\n[100, 100, 500, 500]", [BOX], id="after a thought"),
        pytest.param("qwen3_vl", "It may be [1,2,3,4].\n</think>\n[100, 100, 500, 500]", [BOX], id="after an opened thought"),
        pytest.param("internvl", "<ref>the ring</ref><box>[[100, 100, 500, 500]]</box>", [BOX], id="InternVL"),
        pytest.param("internvl", "ring[[100, 100, 500, 500], [500, 500, 1000, 1000]]", [BOX, OTHER], id="InternVL, two boxes"),
        pytest.param(
            "internvl", "<ref>sign [1, 2, 3, 4]</ref><box>[[100, 100, 500, 500]]</box>", [BOX], id="InternVL, a label"
        ),
        pytest.param("glm4v", "<|begin_of_box|>[[100,100,500,500]]<|end_of_box|>", [BOX], id="GLM-4.1V"),
        pytest.param("gemma", '```json\n[{"box_2d": [100, 100, 500, 500], "label": "ring"}]\n```', [BOX], id="Gemma"),
        pytest.param("kimi_vl", "[0.1, 0.1, 0.5, 0.5]", [BOX], id="Kimi-VL"),
        pytest.param("kimi_vl", "The ring is at (0.10, 0.10, 0.50, 0.50).", [BOX], id="round brackets, in prose"),
        pytest.param("paligemma", "<loc0102><loc0102><loc0512><loc0512> red ring", [BOX], id="PaliGemma"),
        pytest.param(
            "paligemma",
            "<loc0102><loc0102><loc0512><loc0512> ring [1, 2] ; <loc0512><loc0512><loc1023><loc1023> ring",
            [BOX, OTHER],
            id="PaliGemma, two boxes",
        ),
        pytest.param("florence2", "red ring<loc_100><loc_100><loc_500><loc_500>", [BOX], id="Florence-2"),
        pytest.param(
            "molmo", '<points x1="10.0" y1="10.0" x2="50.0" y2="50.0" alt="corners">corners</points>', [BOX], id="Molmo"
        ),
        pytest.param("molmo2", '<points coords="1 1 100 100 2 500 500">the corners</points>', [BOX], id="Molmo2"),
        pytest.param("llava", "[0.1, 0.1, 0.5, 0.5]", [BOX], id="LLaVA"),
        pytest.param("idefics", "[.1, .1, .5, .5]", [BOX], id="no digit before the decimal point"),
        pytest.param("mistral", "The ring is at [100, 100, 500, 500].", [BOX], id="Mistral, in prose"),
        pytest.param("gpt", '[{"box": [64, 48, 320, 240], "label": "ring"}]', [BOX], id="GPT"),
        pytest.param("claude", "```json\n[{'box': [64, 48, 320, 240], 'label': \"ring's\"}]\n```", [BOX], id="single quotes"),
        pytest.param("qwen3_vl", "[]", [], id="an empty list"),
        pytest.param("qwen3_vl", "```json\n[]\n```", [], id="an empty list in a fence"),
        pytest.param("qwen3_vl", "There is no red ring in this image.", [], id="none in prose"),
        pytest.param("qwen3_vl", "There are none.", [], id="there are none"),
        pytest.param("gemma", "none", [], id="none as asked for"),
        pytest.param("gemma", "The image does not contain a teapot.", [], id="does not contain"),
    ],
)
def test_a_native_reply_is_read(name: str, reply: str, expected: list[Box]) -> None:
    boxes = parse(name, reply)
    assert len(boxes) == len(expected)
    for box, true_box in zip(boxes, expected, strict=True):
        assert tuple(box) == pytest.approx(tuple(true_box), abs=0.5)


def test_qwen2_5_vl_counts_pixels_of_the_resized_image() -> None:
    codec = NATIVE["qwen2_5_vl"].codec
    assert isinstance(codec, NativeCodec)
    assert codec.resizing is not None
    assert codec.resizing.apply(Size(1000, 700)) == Size(1008, 700)
    (box,) = parse("qwen2_5_vl", '[{"bbox_2d": [252, 70, 504, 350], "label": "ring"}]', Size(1000, 700))
    assert tuple(box) == pytest.approx((250, 70, 500, 350))


def test_claude_counts_pixels_of_the_image_that_its_service_shrinks() -> None:
    (box,) = parse("claude", '[{"box": [0, 0, 784, 441], "label": "ring"}]', Size(3136, 1764))
    assert box.x2 == pytest.approx(3136 * 784 / 1429, abs=0.5), "1,150,000 pixels"
    (box,) = parse("claude", '[{"box": [0, 0, 784, 100], "label": "ring"}]', Size(3136, 400))
    assert box == Box(0, 0, 1568, 200), "1568 pixels on the long side"


def test_gpt_counts_pixels_of_the_image_as_sent() -> None:
    (box,) = parse("gpt", '[{"box": [10, 20, 1024, 768], "label": "ring"}]', Size(2000, 1500))
    assert box == pytest.approx(Box(10 / 0.512, 20 / 0.512, 2000, 1500)), "768 pixels on the short side"
    (box,) = parse("gpt", '[{"box": [10, 20, 640, 480], "label": "ring"}]', Size(640, 480))
    assert box == Box(10, 20, 640, 480)


def test_a_model_that_gets_fewer_pixels_lowers_the_dialects_own_rule() -> None:
    gpt = NATIVE["gpt"]
    assert gpt.for_model((1, 1, 10_000, 2048, 768)).resizing == (1, 1, 10_000, 2048, 768)
    for other in ((28, 3136, 10_000), (1, 1, 10**9, 2048, 768)):
        assert gpt.for_model(other) is gpt, "a rule of another kind, or a wider one"
    assert gpt.for_model(gpt.resizing) is gpt


def test_gemma_writes_y_first() -> None:
    (box,) = parse("gemma", '[{"box_2d": [100, 200, 300, 400]}]', Size(1000, 1000))
    assert box == Box(200, 100, 400, 300)
    assert NATIVE["gemma"].encode_point(Point(200, 100), Size(1000, 1000)) == "(100, 200)"


@pytest.mark.parametrize(
    ("name", "reply", "reason"),
    [
        pytest.param("qwen3_vl", "", "expected coordinates", id="empty"),
        pytest.param("qwen3_vl", "I see a dog.", "expected coordinates", id="prose"),
        pytest.param("qwen3_vl", "The ring is not far from the cross.", "expected coordinates", id="not, in prose"),
        pytest.param("qwen3_vl", "I'm sorry, there is no way I can help with that.", "expected coordinates", id="a refusal"),
        pytest.param("qwen3_vl", '[{"bbox_2d": [100, 100', "cut off", id="cut off in the first box"),
        pytest.param("qwen3_vl", "<think>At [1, 2, 3, 4]?", "thinking", id="cut off in the thought"),
        pytest.param("qwen3_vl", "[100, 100, 1500, 500]", "from 0 to 1000, got 1500", id="pixels where lines are expected"),
        pytest.param("kimi_vl", "[100, 100, 500, 500]", "from 0 to 1, got 100", id="lines where shares are expected"),
        pytest.param("qwen3_vl", "[0.1, 0.2, 0.5, 1]", "fractions", id="shares where lines are expected"),
        pytest.param("qwen2_5_vl", "[0.1, 0.2, 0.5, 0.6]", "fractions", id="shares where pixels are expected"),
        pytest.param("qwen2_vl", "(0.1,0.2),(0.5,0.6)", "fractions", id="shares in two corners"),
        pytest.param("qwen3_vl", "[500, 500, 100, 100]", "empty", id="corners exchanged"),
        pytest.param("qwen3_vl", f"[1{'0' * 300}, 1, 2, 3]", "expected coordinates", id="a huge number"),
        pytest.param("paligemma", "<loc0102><loc0102><loc0512>", "cut off", id="three location tokens"),
        pytest.param("paligemma", "red ring", "expected coordinates", id="a label without a place"),
        pytest.param("florence2", "ring<loc_500><loc_500><loc_100><loc_100>", "empty", id="location tokens exchanged"),
        pytest.param("molmo", '<point x="10.0" y="10.0" alt="ring">ring</point>', "two corners", id="one point for a box"),
        pytest.param("molmo", '<points x1="9" y1="9" x2="9" y2="50">r</points>', "enclose nothing", id="points in a column"),
        pytest.param("molmo", '<points x1="9" y1="9" x2="50" y2="9">r</points>', "enclose nothing", id="points in a row"),
        pytest.param("molmo", '<points x1="10.0" y1="10', "cut off", id="cut off in the first point"),
        pytest.param("molmo2", '<points coords="1 1 100 1', "cut off", id="cut off in the first listed point"),
        pytest.param("molmo", '<points x1="100" y1="100" x2="500" y2="500">r</points>', "from 0 to 100", id="Molmo, pixels"),
    ],
)
def test_a_reply_that_cannot_be_read_is_refused(name: str, reply: str, reason: str) -> None:
    with pytest.raises(ReplyError, match=reason):
        parse(name, reply)


def test_a_thought_that_a_template_opens_is_closed_and_other_prompts_stay() -> None:
    assert close_thought("Where is it?<think>\n") == "Where is it?<think>\n\n</think>\n\n"
    assert close_thought("Where is it?") == "Where is it?"


def test_a_box_of_another_count_or_of_a_huge_number_says_how_many_are_expected() -> None:
    for text in ("[1, 2, 3]", "[1, 2, 3, 4, 5]", f"[1, 2, 3, {'4' * 400}]"):
        with pytest.raises(ValueError, match=r"expected 4 numbers, got '\[1, 2, 3"):
            NATIVE["qwen3_vl"].codec.decode_box(text, Size(640, 480))


def test_points_follow_their_box_and_off_turns_the_label() -> None:
    (prompt,) = NATIVE["qwen3_vl"].parse_prompts(
        QUESTION, Reply("[100, 100, 500, 500] on (200, 200) (300, 300) off (125, 125)"), SIZE
    )
    on, off = PointPrompt(128, 96, 1), PointPrompt(80, 60, 0)
    assert prompt == ObjectPrompt(BOX, (on, PointPrompt(192, 144, 1), off))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("[1]", "[1]"),
        ("<think>a</think> b", "b"),
        ("a</think> b", "b"),
        ("◁think▷a◁/think▷b", "b"),
        ("<think>a</think>b<think>c", None),
        ("<think>" * 20_000, None),
    ],
)
def test_a_thought_is_cut_off(text: str, answer: str | None) -> None:
    assert strip_thought(text) == answer


# Frames ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dialect", [dialect for name, dialect in NATIVE.items() if name != "llava"], ids=lambda each: each.name
)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size.width}x{size.height}")
def test_a_true_answer_is_read_back_with_a_mean_iou_of_0_98(dialect: Dialect, size: Size) -> None:
    random, overlaps = Random(0), []
    for _ in range(50):
        width, height = (random.uniform(0.2, 0.6) * side for side in size)
        x, y = random.uniform(0, size.width - width), random.uniform(0, size.height - height)
        box = Box(x, y, x + width, y + height)
        (parsed,) = dialect.parse_boxes(QUESTION, Reply(dialect.format_boxes([box], size)), size)
        overlaps.append(parsed.iou(box))
    assert sum(overlaps) / len(overlaps) >= 0.98
    assert min(overlaps) >= 0.95, "half a pixel at each edge of a box of 45 pixels"


@EVERY_NATIVE
@given(st.data())
def test_what_is_written_is_read_back_as_its_snapped_self(dialect: Dialect, data: st.DataObject) -> None:
    size = data.draw(st.builds(Size, st.integers(30, 4000), st.integers(30, 4000)))
    (x1, x2), (y1, y2) = (sorted(data.draw(st.tuples(st.floats(0, side), st.floats(0, side)))) for side in size)
    box = Box(x1, y1, x2, y2)
    (parsed,) = dialect.parse_boxes(QUESTION, Reply(dialect.format_boxes([box], size)), size)
    assert tuple(parsed) == pytest.approx(tuple(dialect.snap_box(box, size)))
    assert dialect.encode_box(parsed, size) == dialect.encode_box(box, size)
    if dialect.ask_pointing_text:
        point = Point(x1, y1)
        (parsed_point,) = dialect.parse_points(QUESTION, Reply(dialect.format_points([point], size)), size)
        assert tuple(parsed_point) == pytest.approx(tuple(dialect.snap_point(point, size)))


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([(28, 56 * 56, 14 * 14 * 4 * 1280), (32, 65536, 16777216)]))
def test_resizing_is_that_of_qwens_processor(width: int, height: int, rule: tuple[int, int, int]) -> None:
    if max(width, height) > 200 * min(width, height):
        return
    expected_height, expected_width = image_processing_pil_qwen2_vl.smart_resize(height, width, *rule)
    assert Resizing(*rule).apply(Size(width, height)) == Size(expected_width, expected_height)


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        pytest.param((10, 1, 10**6, 200), (400, 100), (200, 50), id="the longer side"),
        pytest.param((10, 1, 10**6, 200), (200, 190), (200, 190), id="just so long"),
        pytest.param((10, 1, 10**6, 900, 50), (400, 100), (200, 50), id="the shorter side"),
        pytest.param((10, 1, 10**6, 900, 50), (50, 700), (50, 700), id="just so short"),
        pytest.param((10, 1, 10_000), (400, 100), (200, 50), id="the area"),
        pytest.param((10, 1, 10_000), (100, 100), (100, 100), id="just so large"),
        pytest.param((10, 10_000, 10**6), (50, 50), (100, 100), id="too small"),
        pytest.param((10, 2_500, 10**6), (50, 50), (50, 50), id="just large enough"),
        pytest.param((10, 1, 10**6, 100), (1000, 3), (100, 10), id="never below the multiple"),
        pytest.param((10, 1, 10**6), (104, 96), (100, 100), id="to multiples"),
    ],
)
def test_an_image_is_resized_by_its_area_and_its_sides(
    rule: tuple[int, ...], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert Resizing(*rule).apply(Size(*size)) == expected


def test_pixels_of_a_model_that_does_not_say_how_it_resizes_are_an_error() -> None:
    with pytest.raises(ReplyError, match="size is unknown"):
        DIALECTS["qwen2_5_vl"].parse_boxes(QUESTION, Reply("[1, 2, 30, 40]"), SIZE)


# Choosing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", BY_MODEL_TYPE)
def test_the_config_of_a_checkpoint_chooses_its_dialect(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert find_dialect(str(tmp_path)) == BY_MODEL_TYPE[model_type]
    assert find_dialect(str(tmp_path), "plain") == DIALECTS["plain"]
    own = dataclasses.replace(DIALECTS["joint"], name="own")
    (tmp_path / "dialect.json").write_text(own.to_json())
    assert find_dialect(str(tmp_path)) == own


def test_an_unknown_family_is_asked_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "aria"}))
    assert find_dialect(str(tmp_path)).name == "plain"


def test_pixtral_is_known_by_its_vision_tower(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "vision_config": {"model_type": "pixtral"}}))
    assert find_dialect(str(tmp_path)) == DIALECTS["mistral"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("google/paligemma-3b-mix-448", "paligemma"),
        ("google/gemma-3-4b-it", "gemma"),
        ("gemini-3-pro", "gemma"),
        ("llava-hf/llava-v1.6-mistral-7b-hf", "llava"),
        ("mistral-small3.2:24b", "mistral"),
        ("allenai/Molmo-7B-D-0924", "molmo"),
        ("allenai/Molmo2-8B", "molmo2"),
        ("anthropic/claude-sonnet-5", "claude"),
        ("gpt-4o-mini", "gpt"),
        ("gpt-5.2", "gpt"),
        ("Qwen2.5-VL-7B-Instruct-GPTQ-Int4", "qwen2_5_vl"),
        ("llama-3.2-11b-vision-gptq", None),
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl"),
        ("Qwen/Qwen3.6-VL", "qwen3_vl"),
        ("Qwen/Qwen3.6-35B-A3B", "qwen3_vl"),
        ("qwen4-vl:8b", "qwen3_vl"),
        ("qwen3-omni", "qwen3_vl"),
        ("qwen-vl-max", "qwen3_vl"),
        ("Qwen/Qwen-VL-Chat", None),
        ("Qwen/Qwen3-8B", None),
        ("o3", "gpt"),
        ("o4-mini", "gpt"),
        ("openai/o3-pro", "gpt"),
        ("o1-2024-12-17", "gpt"),
        ("omkarthawakar/LlamaV-o1", None),
        ("olmo2", None),
    ],
)
def test_the_name_of_a_remote_model_chooses_its_dialect(name: str, expected: str | None) -> None:
    dialect = find_by_model_name(name)
    assert (dialect and dialect.name) == expected


@EVERY_NATIVE
def test_a_dialect_survives_its_file(dialect: Dialect) -> None:
    assert Dialect.from_json(dialect.to_json()) == dialect
