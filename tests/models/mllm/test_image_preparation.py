"""How large an image a model reads: the processors of families that read any size, and the images of others."""

import numpy as np
import PIL.Image
import pytest
from transformers import Glm4vImageProcessorPil, LlavaImageProcessorPil, Qwen2VLImageProcessorPil, SiglipImageProcessorPil

from sam4mllm_tool.models.mllm import load_mllm
from sam4mllm_tool.models.mllm.image_preparation import ImagePreparation, limit_pixels, read_resizing
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs
from sam4mllm_tool.models.mllm.prompt_renderer import PromptRenderer
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import PLAIN
from sam4mllm_tool.protocol.dialects.qwen import QWEN2_5_VL
from sam4mllm_tool.types import Box, Labels, Size
from tests.models.mllm.questions import YES_NO, assert_same, make_question
from tests.video_checkpoints import build_processor, needs_torchvision

QUESTIONS = [make_question("on it ?", Labels(1, YES_NO))]
PHOTOGRAPH = Size(4032, 3024)


def qwen(**options):
    return Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}, **options)


def processed_size(processor, size: Size) -> Size:
    """Return the size that the processor itself gives an image."""
    (_, height, width), *_ = processor(images=[PIL.Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"].tolist()
    return Size(width * processor.patch_size, height * processor.patch_size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processor", "least_saving"),
    [
        pytest.param(qwen(), 5.5, id="Qwen2.5-VL"),
        pytest.param(qwen(patch_size=16), 5.5, id="Qwen3-VL, multiples of 32"),
        pytest.param(Glm4vImageProcessorPil(), 2.7, id="GLM-4.1V, which counts a pixel twice"),
    ],
)
def test_a_photograph_costs_at_most_the_default_number_of_pixels(processor, least_saving):
    before = processed_size(processor, PHOTOGRAPH)
    limit_pixels(processor)
    after = processed_size(processor, PHOTOGRAPH)
    assert before.width * before.height > least_saving * after.width * after.height
    assert 0.95 * 2**21 < after.width * after.height <= 2**21
    assert after.width / after.height == pytest.approx(4032 / 3024, rel=0.02)


@pytest.mark.parametrize("max_pixels", [None, 500_000, 3])
@pytest.mark.parametrize("size", [Size(640, 480), Size(1999, 1333), Size(333, 2500)])
def test_boxes_in_pixels_of_the_limited_image_are_exact(size, max_pixels):
    processor = qwen()
    limit_pixels(processor, max_pixels)
    dialect, processed = QWEN2_5_VL.for_model(read_resizing(processor)), processed_size(processor, size)
    edge, box = f"[0, 0, {processed.width}, {processed.height}]", Box(0, 0, size.width, size.height)
    assert dialect.codec.decode_box(edge, size) == pytest.approx(box)
    assert dialect.encode_box(box, size) == edge


def test_a_limit_above_the_checkpoints_own_changes_nothing():
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 84 * 84})
    limit_pixels(processor, 10**9)
    assert read_resizing(processor) == (28, 28 * 28, 84 * 84)


def test_other_families_get_a_smaller_image_only_where_a_limit_is_given():
    processor, image = SiglipImageProcessorPil(), PIL.Image.new("RGB", (900, 600))
    before = dict(processor.size)
    limit_pixels(processor, 9)
    assert dict(processor.size) == before
    assert ImagePreparation.for_processor(processor, None).apply(image) is image
    assert ImagePreparation.for_processor(processor, 540_000).apply(image) is image
    assert ImagePreparation.for_processor(processor, 60_000).apply(image).size == (300, 200)


def test_loading_with_a_limit_answers_about_the_smaller_image(checkpoint):
    pixels = np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(pixels)
    limited, free = (load_mllm(str(checkpoint("idefics3")), max_pixels=limit) for limit in (240, None))
    replies = limited.reply(image, QUESTIONS)
    assert_same(replies, free.reply(image.resize((20, 12), PIL.Image.Resampling.BICUBIC), QUESTIONS))
    with pytest.raises(AssertionError):
        assert_same(replies, free.reply(image, QUESTIONS))


WIDE = Size(640, 480)


def draw_scene(*boxes: Box) -> PIL.Image.Image:
    image = PIL.Image.new("RGB", WIDE, (90, 90, 90))
    for box in boxes:
        image.paste((250, 0, 0), tuple(map(int, box)))
    return image


def pixels_of(mllm, image):
    (question,) = QUESTIONS
    inputs = mllm._images.take(image).inputs
    mllm._renderer.tokenize(inputs, question.turns)
    return inputs.inputs["pixel_values"]


@pytest.mark.parametrize("box", [Box(0, 200, 40, 260), Box(600, 200, 640, 260)], ids=["left edge", "right edge"])
def test_what_lies_in_the_outer_tenth_of_an_image_is_seen(checkpoint, box):
    """LLaVA 1.5's processor alone would cut 80 columns off each side of 640 x 480 pixels."""
    mllm = load_mllm(str(checkpoint("llava")))
    cut = mllm._renderer.processor.image_processor
    with_object, without = draw_scene(box), draw_scene()
    assert np.array_equal(*(cut(images=image)["pixel_values"][0] for image in (with_object, without)))
    seen = (pixels_of(mllm, with_object) != pixels_of(mllm, without)).any(1)[0].numpy()
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    side = seen.shape[0]
    found = Box(columns[0] / side, rows[0] / side, (columns[-1] + 1) / side, (rows[-1] + 1) / side)
    dialect = PLAIN.for_model(pads_images=mllm.pads_images)
    expected = [int(number) / 1000 for number in dialect.encode_box(box, WIDE)[1:-1].split(",")]
    assert found == pytest.approx(expected, abs=2.5 / side), "in the square that the model gets, and in the words it is told"


def test_the_square_has_the_processors_mean_color_and_the_image_in_its_middle(checkpoint):
    mllm = load_mllm(str(checkpoint("llava")))
    padded = mllm._renderer._preparation.apply(draw_scene())
    assert padded.size == (640, 640)
    assert padded.crop((0, 80, 640, 560)).tobytes() == draw_scene().tobytes()
    values = pixels_of(mllm, draw_scene())
    assert float(values[0, :, 0].abs().max()) < 0.03, "the mean is 0 after normalization"


def test_a_square_image_is_given_as_it_is(checkpoint):
    mllm, image = load_mllm(str(checkpoint("llava"))), PIL.Image.new("RGB", (64, 64))
    assert mllm._renderer._preparation.apply(image) is image


@pytest.mark.parametrize("family", ["llava_next", "idefics3", "gemma3", "embedded"])
def test_families_that_cut_nothing_off_get_no_padding(checkpoint, family):
    mllm = load_mllm(str(checkpoint(family)))
    assert not mllm.pads_images
    assert mllm._renderer._preparation.apply(draw_scene()).size == WIDE


def test_llavas_own_padding_is_counted_but_not_done_twice():
    own = ImagePreparation.for_processor(LlavaImageProcessorPil(do_pad=True), None)
    assert own.pads_images
    assert own.apply(draw_scene()).size == WIDE
    assert ImagePreparation.for_processor(LlavaImageProcessorPil(), None).apply(draw_scene()).size == (640, 640)


def test_loading_both_models_asks_in_the_square(checkpoint):
    models = Sam4Mllm.load(str(checkpoint("llava")), "embedded")
    assert (models.dialect.name, models.dialect.padded) == ("llava", True)
    assert not Sam4Mllm.load(str(checkpoint("llava")), "embedded", dialect="joint").dialect.padded


@needs_torchvision
@pytest.mark.parametrize(
    ("family", "multiple", "tokens"), [("qwen2_vl", 28, 2_596), ("qwen2_5_vl", 28, 2_596), ("qwen3_vl", 32, 2_028)]
)
def test_a_photograph_takes_a_qwen_some_two_thousand_tokens(family, multiple, tokens):
    processor = build_processor(family)
    processor.image_processor.size = {"shortest_edge": multiple**2, "longest_edge": 16_384 * multiple**2}
    renderer, image = PromptRenderer(processor, family), PIL.Image.new("RGB", PHOTOGRAPH)
    turns, placeholder = make_question("where is it ?", Labels(1, YES_NO)).turns, processor.image_token_id
    costly = renderer.tokenize(ImageInputs(image), turns).ids.count(placeholder)
    limit_pixels(processor.image_processor)
    assert renderer.tokenize(ImageInputs(image), turns).ids.count(placeholder) == tokens
    assert costly > 5.5 * tokens
