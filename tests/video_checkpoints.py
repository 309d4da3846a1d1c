"""Tiny random checkpoints of families whose processors also read video and so need torchvision."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.checkpoints import IDEFICS3_SPECIAL, IDEFICS3_TEMPLATE, SPECIAL, build_tokenizer
from tests.training.test_target_modules import SMALL

needs_torchvision = pytest.mark.skipif(
    find_spec("torchvision") is None, reason="these processors need torchvision, which has no build for this torch here"
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
INTERN_MARKS = ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
VIDEO_FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm"]


def build_qwen(kind: str, video: str) -> Any:
    tokenizer = build_tokenizer([*SPECIAL[:4], *QWEN_MARKS], adds_bos=False)
    template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    size = {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}
    options: dict[str, Any] = {"patch_size": 16, "size": size} if kind == "Qwen3VLProcessor" else {"size": size}
    images = transformers.Qwen2VLImageProcessor(**options)
    return getattr(transformers, kind)(images, tokenizer, getattr(transformers, video)(), chat_template=template)


def build_internvl() -> Any:
    tokenizer = build_tokenizer([*SPECIAL[:4], *INTERN_MARKS], adds_bos=False)
    names = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    tokenizer._set_model_specific_special_tokens(dict(zip(names, INTERN_MARKS[2:], strict=True)))
    images = transformers.GotOcr2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=False)
    template = CHATML.replace("IMAGE", "<IMG_CONTEXT>\n")
    return transformers.InternVLProcessor(
        images, tokenizer, transformers.InternVLVideoProcessor(), image_seq_length=4, chat_template=template
    )


def build_smolvlm() -> Any:
    pytest.importorskip("num2words", reason="SmolVLM's processor needs it")
    tokenizer = build_tokenizer([*SPECIAL, *IDEFICS3_SPECIAL], adds_bos=False)
    images = transformers.SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    video = transformers.SmolVLMVideoProcessor()
    return transformers.SmolVLMProcessor(images, tokenizer, video, image_seq_len=4, chat_template=IDEFICS3_TEMPLATE)


def build_processor(family: str) -> Any:
    match family:
        case "qwen2_vl":
            return build_qwen("Qwen2VLProcessor", "Qwen2VLVideoProcessor")
        case "qwen2_5_vl":
            return build_qwen("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor")
        case "qwen3_vl":
            return build_qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor")
        case "internvl":
            return build_internvl()
    return build_smolvlm()


def build_model(family: str, processor: Any) -> Any:
    """Return a tiny random model that fits the processor."""
    tokenizer = processor.tokenizer
    config = AutoConfig.for_model(family, **SMALL[family])
    config.get_text_config().vocab_size = len(tokenizer)
    config.get_text_config().initializer_range = config.initializer_range = 0.4  # so that answers differ
    config.image_token_id = processor.image_token_id
    for name, mark in (("vision_start_token_id", "<|vision_start|>"), ("vision_end_token_id", "<|vision_end|>")):
        if hasattr(config, name):
            setattr(config, name, tokenizer.convert_tokens_to_ids(mark))
    if family in ("internvl", "smolvlm"):
        setattr(config, "downsample_ratio" if family == "internvl" else "scale_factor", 0.5 if family == "internvl" else 2)
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config)
