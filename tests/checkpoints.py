"""Tiny random multimodal checkpoints in the real formats, for tests that need an MLLM.

Each has a byte-level tokenizer of about 300 tokens, among them "Yes" and "No" with and without a leading space; its family's
processor; a chat template in its family's style; and weights large enough that answers differ.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessorPil,
    MllamaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
)

WIDTH, PATCH, SIDE = 32, 8, 32
SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "<image>"]
IDEFICS3_SPECIAL = [
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
]
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'][0]['text'] + '\n' }}"
    "{% else %}{{ message['role'] | upper + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""As in LLaVA 1.5: no first token, images before text, and the space before the answer is left to the model."""
LLAVA_NEXT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} [/INST]{% elif message['role'] == 'assistant' %} {{ message['content'][0]['text'] }}</s>"
    "{% else %}{{ raise_exception('there is no system turn') }}{% endif %}{% endfor %}"
)
"""As in Mistral: rejects a system turn."""
IDEFICS3_TEMPLATE = (
    "<s>{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'] | capitalize }}:"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""As in Idefics3, but a system turn is silently omitted."""
GEMMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def save_llava(folder: Path, **options: Any) -> Path:
    """Save LLaVA with a CLIP tower: 16 tokens per image. Options of all families: `template`, `dtype`."""
    tokenizer = build_tokenizer(SPECIAL, adds_bos=True)
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=options.get("template", LLAVA_TEMPLATE),
    )
    config = LlavaConfig(vision_config=_clip(), text_config=_llama(tokenizer), image_token_id=SPECIAL.index("<image>"))
    return _save(LlavaForConditionalGeneration, config, processor, folder, options)


def save_llava_next(folder: Path, **options: Any) -> Path:
    """Save LLaVA-NeXT: the image and its tiles, whose number depends on its aspect ratio."""
    tokenizer = build_tokenizer(SPECIAL, adds_bos=True)
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    processor = LlavaNextProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pinpoints
        ),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=options.get("template", LLAVA_NEXT_TEMPLATE),
    )
    config = LlavaNextConfig(
        vision_config=_clip(),
        text_config=_llama(tokenizer),
        image_token_id=SPECIAL.index("<image>"),
        image_grid_pinpoints=pinpoints,
    )
    return _save(LlavaNextForConditionalGeneration, config, processor, folder, options)


def save_idefics3(folder: Path, **options: Any) -> Path:
    """Save Idefics3: tiles with row and column marks, then the whole image."""
    tokenizer = build_tokenizer([*SPECIAL, *IDEFICS3_SPECIAL], adds_bos=False)
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}),
        tokenizer,
        image_seq_len=4,
        chat_template=options.get("template", IDEFICS3_TEMPLATE),
    )
    vision = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Idefics3Config(
        vision_config=vision | {"image_size": SIDE, "patch_size": PATCH},
        text_config=_llama(tokenizer),
        image_token_id=SPECIAL.index("<image>"),
        scale_factor=2,
    )
    return _save(Idefics3ForConditionalGeneration, config, processor, folder, options)


def save_gemma3(folder: Path, **options: Any) -> Path:
    """Save Gemma 3: bidirectional attention over the image, a sliding window, and an input that marks image tokens."""
    marks = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    tokenizer = build_tokenizer([*SPECIAL[:4], *marks, "<start_of_turn>", "<end_of_turn>"], adds_bos=True)
    named = dict(zip(("boi_token", "eoi_token", "image_token"), marks, strict=True))
    tokenizer._set_model_specific_special_tokens(named)  # as loading does with `extra_special_tokens`
    tokenizer.init_kwargs["extra_special_tokens"] = named
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        tokenizer,
        image_seq_length=4,
        chat_template=options.get("template", GEMMA3_TEMPLATE),
    )
    text = {key: value for key, value in _llama(tokenizer).to_dict().items() if key not in ("model_type", "rope_parameters")}
    vision = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    boi, eoi, soft = tokenizer.convert_tokens_to_ids(marks)
    config = Gemma3Config(
        text_config=text | {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
        vision_config=vision | {"image_size": SIDE, "patch_size": PATCH, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=boi,
        eoi_token_index=eoi,
        image_token_index=soft,
    )
    return _save(Gemma3ForConditionalGeneration, config, processor, folder, options)


def save_mllama(folder: Path, **options: Any) -> Path:
    """Save Llama 3.2 Vision: the decoder sees the image through cross attention, one tile mask row per token."""
    tokenizer = build_tokenizer(["<s>", "</s>", "<unk>", "<pad>", "<|image|>"], adds_bos=True)
    processor = MllamaProcessor(
        MllamaImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_image_tiles=4),
        tokenizer,
        chat_template=options.get("template", "{{ bos_token }}" + LLAVA_TEMPLATE.replace("<image>", "<|image|>")),
    )
    text = {key: value for key, value in _llama(tokenizer).to_dict().items() if key != "model_type"}
    vision: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2, "num_global_layers": 1}
    vision |= {"attention_heads": 2, "image_size": SIDE, "patch_size": PATCH, "intermediate_layers_indices": [0, 1]}
    config = MllamaConfig(
        text_config=text | {"cross_attention_layers": [1]},
        vision_config=vision | {"vision_output_dim": 3 * WIDTH},
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    return _save(MllamaForConditionalGeneration, config, processor, folder, options)


def save_paligemma(folder: Path, **options: Any) -> Path:
    """Save PaliGemma with a chat template; its processor also returns training labels."""
    tokenizer = build_tokenizer(SPECIAL[:4], adds_bos=True)
    images: Any = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, tokenizer, chat_template=options.get("template", LLAVA_TEMPLATE))
    text = {key: value for key, value in _llama(tokenizer).to_dict().items() if key not in ("model_type", "rope_parameters")}
    vision = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = PaliGemmaConfig(
        text_config=text | {"model_type": "gemma", "head_dim": 8, "vocab_size": len(tokenizer)},
        vision_config=vision | {"model_type": "siglip_vision_model", "image_size": SIDE, "patch_size": PATCH},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=WIDTH,
    )
    return _save(PaliGemmaForConditionalGeneration, config, processor, folder, options)


def save_florence2(folder: Path, **options: Any) -> Path:
    """Save Florence-2: an encoder reads the image and the task, a decoder answers. It has no chat template."""
    tokenizer = build_tokenizer(SPECIAL, adds_bos=True)
    tokenizer.add_tokens([f"<loc_{i}>" for i in range(1000)], special_tokens=True)
    tokenizer._set_model_specific_special_tokens({"image_token": "<image>"})
    tokenizer.init_kwargs["extra_special_tokens"] = {"image_token": "<image>"}
    images: Any = CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    images.image_seq_length = 17  # 4 x 4 patches, and their mean
    processor = Florence2Processor(images, tokenizer)
    stages: dict[str, Any] = {"depths": (1, 1), "patch_size": (7, 3), "patch_stride": (4, 2), "patch_padding": (3, 1)}
    stages |= {"patch_prenorm": (False, True), "embed_dim": (16, WIDTH), "num_heads": (2, 2), "num_groups": (2, 2)}
    text = {"model_type": "bart", "d_model": WIDTH, "vocab_size": len(tokenizer), "encoder_layers": 2, "decoder_layers": 2}
    text |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": WIDTH, "decoder_ffn_dim": WIDTH}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 3, "decoder_start_token_id": 1, "init_std": 0.4}
    config = Florence2Config(
        text_config=text,
        vision_config=stages | {"window_size": 2, "projection_dim": WIDTH, "drop_path_rate": 0.0},
        image_token_id=SPECIAL.index("<image>"),
    )
    return _save(Florence2ForConditionalGeneration, config, processor, folder, options)


FAMILIES: dict[str, Callable[..., Path]] = {
    "llava": save_llava,
    "llava_next": save_llava_next,
    "idefics3": save_idefics3,
    "gemma3": save_gemma3,
}
PROJECTORS = {family: "connector" if family == "idefics3" else "multi_modal_projector" for family in FAMILIES}


def save_adapter(base: type[PreTrainedModel], checkpoint: Path, folder: Path, projector: str) -> Path:
    """Save a LoRA adapter for the attention of a checkpoint's decoder, with a fully tuned projector."""
    model = base.from_pretrained(checkpoint)
    lora = LoraConfig(r=2, target_modules=r".*(language|text)_model.*[qv]_proj", modules_to_save=[projector])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft 0.21 uses a deprecated name
        adapted = get_peft_model(model, lora)
    torch.manual_seed(1)
    for weight in (weight for weight in adapted.parameters() if weight.requires_grad):
        weight.data.normal_(0, 0.3)
    adapted.save_pretrained(folder)
    return folder


def build_tokenizer(special: list[str], *, adds_bos: bool) -> PreTrainedTokenizerFast:
    merges = [("Y", "e"), ("Ye", "s"), ("N", "o"), ("Ġ", "Yes"), ("Ġ", "No")]
    merges += [("i", "n"), ("s", "i"), ("d", "e"), ("si", "de"), ("in", "side")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*special, *alphabet, *(left + right for left, right in merges)]
    vocabulary = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    extra = [token for token in special if token not in named.values()]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=extra, **named)


def _clip() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )


def _llama(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        initializer_range=0.4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _save(kind: type[PreTrainedModel], config: Any, processor: Any, folder: Path, options: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    model = kind(config).to(options.get("dtype", torch.float32))
    for weight in (weight for weight in model.parameters() if not weight.any()):
        weight.data.normal_(0, 0.3)  # weights initialised with zeros, such as Gemma 3's projector, would hide the image
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
