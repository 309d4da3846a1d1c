"""The small MLLM before training: tokenizer, processor, LLaVA configuration, and the initial embeddings.

All classes are standard transformers classes. What is particular is the initialization: the projector's output and the word
embeddings share one orthonormal basis (`EmbeddingCodes`), in which a patch encodes what it shows ("red", "ring", the box of its
object) along the same directions as the words and numbers that name it. The vision stage teaches the vision tower that basis,
so that the language model has to learn only which patches to attend to, not what their features mean.
"""

import itertools
import math
from typing import ClassVar

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from recipes.embedded.scene_cache import MLLM_SIDE
from sam4mllm_tool.embedded.expressions import IMPLICIT, PLURALS
from sam4mllm_tool.embedded.scenes import COLOURS, SHAPES, SIZES

WIDTH, PATCH = 192, 16
GRID = MLLM_SIDE // PATCH
CELLS = 4
"""A patch encodes its object's mask in CELLS x CELLS cells."""
COORDINATES = 192
"""Coordinates are written 000 to 191."""
RANKS = 4
"""Ranks 1st, 2nd, 3rd and later, from the left, right, top and bottom, among the same shape and among the same colour."""

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "<s>{% for message in messages %}{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "<{{ message['role'] }}>{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
_WORDING = """
    the a all every what which where is are of at on off in to from and or it you could any there one two no yes not
    object objects
    nothing shape shapes small large left right top bottom
    leftmost rightmost topmost bottommost furthest highest lowest
    first second third fourth above below under higher than
    locate list inside outside count ground
    give please provide bounding box boxes each that this these describes described segment point points coordinates sentence
    : ; , . ? ! [ ] ( ) " ' -
"""


def build_vocabulary() -> list[str]:
    """List the special tokens, the numbers 000 to 191, and every word of the scenes, of the tasks and of the dialogue."""
    phrases = itertools.chain(_WORDING.split(), COLOURS, SHAPES, PLURALS.values(), SIZES, *IMPLICIT.values())
    words = dict.fromkeys(word for phrase in phrases for word in phrase.split())
    return [*SPECIAL, *(f"{n:03d}" for n in range(COORDINATES)), *words]


def build_processor() -> LlavaProcessor:
    """Build a word-level tokenizer (lower case, punctuation separate), a SigLIP image processor and the chat template."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(build_vocabulary())}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", "<user>", "<assistant>"],
        model_max_length=2048,
        padding_side="left",
    )
    return LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": MLLM_SIDE, "width": MLLM_SIDE}),
        tokenizer=fast,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token="<image>",
        num_additional_image_tokens=0,
        chat_template=CHAT_TEMPLATE,
    )


def build_mllm() -> LlavaForConditionalGeneration:
    """Build LLaVA from a SigLIP tower and a Llama of 6 layers each, both 192 wide: 5.5 million parameters."""
    words = build_vocabulary()
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=MLLM_SIDE,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        text_config=LlamaConfig(
            hidden_size=WIDTH,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=len(words),
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=words.index("<s>"),
            eos_token_id=words.index("</s>"),
            pad_token_id=words.index("<pad>"),
        ),
        image_token_index=words.index("<image>"),
        image_seq_length=GRID**2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    EmbeddingCodes().write_embeddings(model.get_input_embeddings())
    return model


FREQUENCIES = torch.tensor([0.375, 0.75, 1.5, 3.0, 6.0, 12.0, 24.0])
"""Cycles per side of the image; 12 is one per patch."""


def fourier_features(x: Tensor) -> Tensor:
    """Encode coordinates in [0, 1], (..., k), as sines and cosines, (..., k * 14)."""
    angles = 2 * math.pi * x[..., None] * FREQUENCIES
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


class EmbeddingCodes:
    """The meaning of directions of the embedding space.

    Attributes:
        parts: Slices into the code of a patch, by what they encode.
        basis: (codes, WIDTH), the orthonormal directions.
    """

    SCALES: ClassVar = {"colour": 1.6, "shape": 1.9, "size": 1.5, "rank": 0.3, "cells": 1.5, "box": 0.8}
    GAIN = 0.1  # embeddings are a tenth of the codes, as large as word embeddings usually are before training

    def __init__(self) -> None:
        per_number = 2 * len(FREQUENCIES)
        sizes = {
            "colour": len(COLOURS),
            "shape": len(SHAPES),
            "size": len(SIZES),
            "object": 1,
            "rank": 8 * RANKS,
            "cells": CELLS**2,
            "box": 4 * per_number,
            "own": 2 * per_number,
            "number": per_number,
        }
        ends = list(itertools.accumulate(sizes.values()))
        self.parts = {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}
        generator = torch.Generator().manual_seed(0)
        self.basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0][: ends[-1]]

    def decode(self, embedded: Tensor) -> Tensor:
        """Convert the projector's output, (..., WIDTH), to codes, (..., codes)."""
        return embedded.float() @ self.basis.T / self.GAIN

    def rescale_projector(self, projector: nn.Module) -> None:
        """Scale the codes of a trained projector towards equal size; the language model learns codes that are small late."""
        scales = torch.ones(len(self.basis))
        for name, factor in self.SCALES.items():
            scales[self.parts[name]] = factor
        change = torch.eye(WIDTH) + self.basis.T @ torch.diag(scales - 1) @ self.basis
        with torch.no_grad():
            for parameter in projector.get_submodule("linear_2").parameters():
                parameter.copy_(change @ parameter)

    def write_embeddings(self, embedding: nn.Module) -> None:
        """Give the words for colours, shapes, sizes and numbers the embeddings that patches will use."""
        words, weight = build_vocabulary(), embedding.get_parameter("weight")
        with torch.no_grad():
            weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
            for part, names in (("colour", list(COLOURS)), ("shape", list(SHAPES)), ("size", list(SIZES))):
                rows = self.basis[self.parts[part]]
                for row, name in zip(rows, names, strict=True):
                    weight[words.index(name)] = 3 * self.GAIN * row
            first = words.index("000")
            numbers = fourier_features((torch.arange(COORDINATES)[:, None] + 0.5) / COORDINATES)
            weight[first : first + COORDINATES] = self.GAIN * numbers @ self.basis[self.parts["number"]]
