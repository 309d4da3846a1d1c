"""How large an image a model reads: the processors of families that read any size, and the images of others."""

import numpy as np
import PIL.Image
import pytest
from transformers import CLIPImageProcessorPil, Glm4vImageProcessorPil, Qwen2VLImageProcessorPil

from sam4mllm_tool.models.mllm import load_mllm
from sam4mllm_tool.models.mllm.image_preparation import ImagePreparation, limit_pixels, read_resizing
from sam4mllm_tool.protocol.dialects.qwen import QWEN2_5_VL
from sam4mllm_tool.types import Box, Labels, Size
from tests.models.mllm.questions import YES_NO, make_question

PHOTOGRAPH = Size(4032, 3024)


def qwen(**options):
    return Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}, **options)


def processed_size(processor, size: Size) -> Size:
    """Return the size that the processor itself gives an image."""
    (_, height, width), *_ = processor(images=[PIL.Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"].tolist()
    return Size(width * processor.patch_size, height * processor.patch_size)


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
    processor, image = CLIPImageProcessorPil(), PIL.Image.new("RGB", (900, 600))
    before = dict(processor.size)
    limit_pixels(processor, 9)
    assert dict(processor.size) == before
    assert ImagePreparation.for_processor(processor, None).apply(image) is image
    assert ImagePreparation.for_processor(processor, 540_000).apply(image) is image
    assert ImagePreparation.for_processor(processor, 60_000).apply(image).size == (300, 200)


def test_loading_with_a_limit_answers_about_the_smaller_image(checkpoint):
    pixels = np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(pixels)
    limited, free = (load_mllm(str(checkpoint("llava")), max_pixels=limit) for limit in (240, None))
    questions = [make_question("on it ?", Labels(1, YES_NO))]
    assert limited.reply(image, questions) == free.reply(image.resize((20, 12), PIL.Image.Resampling.BICUBIC), questions)
    assert limited.reply(image, questions) != free.reply(image, questions)
