"""Tiny random checkpoints of families whose processors also read video and so need torchvision."""

from copy import deepcopy
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.checkpoints import (
    GEMMA3_TEMPLATE,
    IDEFICS3_SPECIAL,
    IDEFICS3_TEMPLATE,
    LLAVA_NEXT_TEMPLATE,
    SPECIAL,
    build_tokenizer,
)
from tests.training.test_target_modules import QWEN_VISION, ROTATED, SMALL, TEXT, VISION

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
GLM_MARKS = ["<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]
GLM_MARKS += ["<|user|>", "<|assistant|>"]
GLM_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
MISTRAL_MARKS = ["[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]"]
GEMMA4_MARKS: dict[str, Any] = {
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "image_token": "<|image|>",
    "audio_token": "<|audio|>",
}
GEMMA4_MARKS |= {"boa_token": "<|audio>", "eoa_token": "<audio|>"}
MOLMO2_MARKS = ["<|image|>", "<|video|>", "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>"]
MOLMO2_MARKS += ["<im_end>", "<frame_end>", "<im_low>", "<|im_start|>", "<|im_end|>"]
KIMI_MARKS = ["<|media_pad|>", "<|media_begin|>", "<|media_content|>", "<|media_end|>", "<|kimi_k25_video_placeholder|>"]
PINPOINTS = [[32, 64], [64, 32], [64, 64]]
VIDEO_FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm"]
"""Those that tuning is tested on."""
MORE_FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_5": {
        "text_config": ROTATED
        | {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4}
        | {"linear_key_head_dim": 8, "linear_value_head_dim": 8},
        "vision_config": QWEN_VISION,
    },
    "glm4v": {
        "text_config": ROTATED | {"pad_token_id": 3},
        "vision_config": QWEN_VISION | {"image_size": 56},
    },
    "llava_onevision": {
        "text_config": TEXT | {"model_type": "qwen2"},
        "vision_config": VISION
        | {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, "vision_use_head": False},
        "image_grid_pinpoints": PINPOINTS,
    },
    "mistral3": {
        "text_config": TEXT | {"model_type": "mistral", "sliding_window": None},
        "vision_config": VISION | {"model_type": "pixtral", "image_size": 48, "patch_size": 8},
        "spatial_merge_size": 2,
    },
    "pixtral": {
        "text_config": TEXT | {"model_type": "mistral", "sliding_window": None},
        "vision_config": VISION | {"model_type": "pixtral", "image_size": 48, "patch_size": 8},
        "vision_feature_select_strategy": "full",
        "vision_feature_layer": -1,
    },
    "gemma4": {
        "text_config": TEXT
        | {"global_head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
        | {"hidden_size_per_layer_input": 0},
        "vision_config": VISION
        | {"num_key_value_heads": 2, "head_dim": 16, "patch_size": 8, "pooling_kernel_size": 2, "position_embedding_size": 64},
        "audio_config": None,
    },
    "molmo2": {
        "text_config": TEXT | {"additional_vocab_size": 8, "qk_norm_type": "qwen3"},
        "vision_config": VISION | {"num_key_value_heads": 2, "head_dim": 16, "patch_size": 8, "num_position_embeddings": 16},
        "adapter_config": {"hidden_size": 32, "intermediate_size": 32, "text_hidden_size": 32, "vision_feature_layer": [-1, -2]}
        | {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
    },
    "kimi_k25": {
        "text_config": TEXT
        | {"moe_intermediate_size": 32, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "n_routed_experts": 4}
        | {"num_experts_per_tok": 2, "kv_lora_rank": 16, "q_lora_rank": 16, "num_key_value_heads": 4}
        | {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8},
        "vision_config": VISION | {"pos_emb_height": 8, "pos_emb_width": 8},
        "projection_hidden_size": 32,
    },
}
"""Configs of families that inference alone is tested on."""


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


def build_glm4v() -> Any:
    tokenizer = build_tokenizer([*SPECIAL[:4], *GLM_MARKS], adds_bos=False)
    images = transformers.Glm4vImageProcessor(size={"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 84 * 84})
    return transformers.Glm4vProcessor(images, tokenizer, transformers.Glm4vVideoProcessor(), chat_template=GLM_TEMPLATE)


def build_llava_onevision() -> Any:
    tokenizer = build_tokenizer([*SPECIAL, "<video>", "<|im_start|>", "<|im_end|>"], adds_bos=False)
    images = transformers.LlavaOnevisionImageProcessor(size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS)
    return transformers.LlavaOnevisionProcessor(
        images,
        tokenizer,
        transformers.LlavaOnevisionVideoProcessor(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=CHATML.replace("IMAGE", "<image>"),
    )


def build_pixtral(merged: int) -> Any:
    tokenizer = build_tokenizer([*SPECIAL[:4], *MISTRAL_MARKS], adds_bos=True)
    images = transformers.PixtralImageProcessor(size={"longest_edge": 48}, patch_size={"height": 8, "width": 8})
    template = LLAVA_NEXT_TEMPLATE.replace("<image>\n", "[IMG]")
    return transformers.PixtralProcessor(images, tokenizer, patch_size=8, spatial_merge_size=merged, chat_template=template)


def build_gemma4() -> Any:
    marks = [*GEMMA4_MARKS.values(), "<|video|>", "<start_of_turn>", "<end_of_turn>"]
    tokenizer = build_tokenizer([*SPECIAL[:4], *marks], adds_bos=True)
    tokenizer._set_model_specific_special_tokens(GEMMA4_MARKS)
    sizes: dict[str, Any] = {"patch_size": 8, "pooling_kernel_size": 2}
    return transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        transformers.Gemma4ImageProcessor(max_soft_tokens=70, **sizes),
        tokenizer,
        transformers.Gemma4VideoProcessor(**sizes),
        chat_template=GEMMA3_TEMPLATE.replace("<start_of_image>", "<|image|>"),
    )


def build_molmo2() -> Any:
    tokenizer = build_tokenizer([*SPECIAL[:4], *MOLMO2_MARKS], adds_bos=False)
    images = transformers.Molmo2ImageProcessor(
        patch_size=8, size={"height": 32, "width": 32}, max_crops=2, overlap_margins=[1, 1], pooling_size=[2, 2]
    )
    template = CHATML.replace("IMAGE", "<|image|>")
    return transformers.Molmo2Processor(images, transformers.Molmo2VideoProcessor(), tokenizer, chat_template=template)


def build_kimi_k25() -> Any:
    tokenizer = build_tokenizer([*SPECIAL[:4], *KIMI_MARKS, "<|im_start|>", "<|im_end|>"], adds_bos=False)
    template = CHATML.replace("IMAGE", "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>")
    images, video = transformers.Kimi_K25ImageProcessor(), transformers.Kimi_K25VideoProcessor()
    return transformers.Kimi_K25Processor(images, tokenizer, video, chat_template=template)


def build_processor(family: str) -> Any:
    match family:
        case "qwen2_vl":
            return build_qwen("Qwen2VLProcessor", "Qwen2VLVideoProcessor")
        case "qwen2_5_vl":
            return build_qwen("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor")
        case "qwen3_vl" | "qwen3_5":
            return build_qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor")
        case "internvl":
            return build_internvl()
        case "glm4v":
            return build_glm4v()
        case "llava_onevision":
            return build_llava_onevision()
        case "gemma4":
            return build_gemma4()
        case "molmo2":
            return build_molmo2()
        case "kimi_k25":
            return build_kimi_k25()
        case "mistral3" | "pixtral":
            return build_pixtral(2 if family == "mistral3" else 1)
    return build_smolvlm()


MARKS = {
    "vision_start_token_id": ["<|vision_start|>", "<|media_begin|>"],
    "vision_end_token_id": ["<|vision_end|>", "<|media_end|>"],
    "image_start_token_id": ["<|begin_of_image|>", "<im_start>"],
    "image_end_token_id": ["<|end_of_image|>", "<im_end>"],
    "video_start_token_id": ["<|begin_of_video|>"],
    "video_end_token_id": ["<|end_of_video|>"],
    "video_token_id": ["<video>", "<|video_pad|>", "<|kimi_k25_video_placeholder|>", "<|video|>"],
    "low_res_image_start_token_id": ["<low_res_im_start>"],
    "frame_start_token_id": ["<frame_start>"],
    "frame_end_token_id": ["<frame_end>"],
    "boi_token_id": ["<|image>"],
    "eoi_token_id": ["<image|>"],
    "boa_token_id": ["<|audio>"],
    "audio_token_id": ["<|audio|>"],
}


def build_model(family: str, processor: Any) -> Any:
    """Return a tiny random model that fits the processor."""
    tokenizer = processor.tokenizer
    settings = deepcopy(MORE_FAMILIES.get(family) or SMALL[family])  # a config keeps and changes what it is given
    config = AutoConfig.for_model("llava" if family == "pixtral" else family, **settings)
    config.get_text_config().vocab_size = len(tokenizer)
    config.get_text_config().initializer_range = config.initializer_range = 0.4  # so that answers differ
    for name, marks in MARKS.items():
        if hasattr(config, name):
            setattr(config, name, next(i for mark in marks if (i := tokenizer.convert_tokens_to_ids(mark)) is not None))
    image_token = "<im_patch>" if family == "molmo2" else processor.image_token
    config.image_token_id = tokenizer.convert_tokens_to_ids(image_token)  # last, as Molmo2 has one name for several
    if family in ("internvl", "smolvlm"):
        setattr(config, "downsample_ratio" if family == "internvl" else "scale_factor", 0.5 if family == "internvl" else 2)
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config)
