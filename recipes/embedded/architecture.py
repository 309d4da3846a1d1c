"""The small MLLM before training: tokenizer, processor, LLaVA configuration, and the initial embeddings.

All classes are standard transformers classes. What is particular is the initialization: the projector's output and the word
embeddings share one orthonormal basis (`EmbeddingCodes`), in which a patch encodes what it shows ("red", "mug", "handle", the
boxes of its object and of its part) along the same directions as the words and numbers that name it. The vision stage teaches
the vision tower that basis, so that the language model has to learn only which patches to attend to, not what their features
mean.
"""

import itertools
import math
from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
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

from sam4mllm_tool.drawn_things.recipe import COLOURS, load_recipes
from sam4mllm_tool.drawn_things.rendering import PATTERNS
from sam4mllm_tool.embedded.everyday import list_vocabulary
from sam4mllm_tool.embedded.everyday.expression_templates import CATEGORIES, pluralize_part

WIDTH, TOWER_WIDTH, PATCH = 256, 192, 16
"""Width of the language model, width of the vision tower, side of a patch in pixels."""
INPUT_SIDE = 224
"""Side of the image that the models see."""
GRID = INPUT_SIDE // PATCH
CELLS = 4
"""A patch encodes masks in CELLS x CELLS cells."""
COORDINATES = 192
"""Coordinates are written 000 to 191."""
RANKS = 3
"""Ranks 1st, 2nd, and later, from the left, right, top and bottom, among objects of the same kind."""
RELATION_FLAGS = ("on", "in", "behind", "next to", "across", "under", "around", "in front of")
"""What an object may be to some other; a patch encodes whether its object is that to any."""
NOUNS = tuple(load_recipes())
PARTS = tuple(sorted({part for recipe in load_recipes().values() for part in recipe.parts}))

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "<s>{% for message in messages %}{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "<{{ message['role'] }}>{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
_WORDING = """
    the a all every what which where is are of at on off in to from and or it you could any there one two no yes not
    object objects nothing part parts plain ring shape small large
    locate list inside outside match other count ground
    give please provide bounding box boxes each that this these describes described segment point points coordinates sentence
    : ; , . ? ! [ ] ( ) " ' -
"""


def build_vocabulary() -> list[str]:
    """List the special tokens, the numbers 000 to 191, and every word of the expressions, of the tasks and of the dialogue."""
    words = dict.fromkeys((*_WORDING.split(), *list_vocabulary()))
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
        image_processor=SiglipImageProcessorPil(size={"height": INPUT_SIDE, "width": INPUT_SIDE}),
        tokenizer=fast,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token="<image>",
        num_additional_image_tokens=0,
        chat_template=CHAT_TEMPLATE,
    )


def build_mllm() -> LlavaForConditionalGeneration:
    """Build LLaVA from a SigLIP tower 192 wide and a Llama 256 wide, of 6 layers each: 7.9 million parameters."""
    words = build_vocabulary()
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=TOWER_WIDTH,
            intermediate_size=4 * TOWER_WIDTH,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=INPUT_SIDE,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        text_config=LlamaConfig(
            hidden_size=WIDTH,
            intermediate_size=640,
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


FREQUENCIES = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
"""Cycles per side of the image; 14 is one per patch."""


def fourier_features(x: Tensor, frequencies: Tensor = FREQUENCIES) -> Tensor:
    """Encode coordinates in [0, 1], (..., k), as sines and cosines, (..., k * 2 * frequencies)."""
    angles = 2 * math.pi * x[..., None] * frequencies.to(x.device)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


def spread_directions(count: int, dimensions: int) -> Tensor:
    """Return (count, dimensions) unit vectors that are nearly orthogonal: more names than dimensions have to share them."""
    vectors = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(count))
    for _ in range(300):
        vectors = F.normalize(vectors, dim=1)
        overlaps = (vectors @ vectors.T).fill_diagonal_(0)
        vectors = vectors - 0.5 * overlaps.pow(3) @ vectors
    return F.normalize(vectors, dim=1)


class EmbeddingCodes:
    """The meaning of directions of the embedding space.

    Attributes:
        parts: Slices into the code of a patch, by what they encode.
        basis: (codes, WIDTH), the orthonormal directions.
        nouns: (nouns, k), the code of each of `NOUNS` in the slice "noun".
        names: (parts, k), the code of each of `PARTS` in the slice "part".
    """

    SCALES: ClassVar = {"colour": 1.6, "noun": 1.6, "pattern": 1.5, "part": 1.6, "cells": 1.5, "part_cells": 1.5, "box": 0.8}
    SCALES |= {"part_box": 0.8, "rank": 0.3, "flags": 0.5}
    GAIN = 0.1  # embeddings are a tenth of the codes, as large as word embeddings usually are before training
    NAME_DIMENSIONS = 28

    def __init__(self) -> None:
        per_number = 2 * len(FREQUENCIES)
        sizes = {
            "colour": len(COLOURS),
            "noun": self.NAME_DIMENSIONS,
            "pattern": len(PATTERNS),
            "object": 1,
            "part": self.NAME_DIMENSIONS,
            "rank": 4 * RANKS,
            "flags": len(RELATION_FLAGS),
            "cells": CELLS**2,
            "part_cells": CELLS**2,
            "box": 4 * per_number,
            "part_box": 4 * per_number,
            "own": 2 * per_number,
            "number": per_number,
        }
        ends = list(itertools.accumulate(sizes.values()))
        self.parts = {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}
        generator = torch.Generator().manual_seed(0)
        self.basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0][: ends[-1]]
        self.nouns = spread_directions(len(NOUNS), self.NAME_DIMENSIONS)
        self.names = spread_directions(len(PARTS), self.NAME_DIMENSIONS)

    def decode(self, embedded: Tensor) -> Tensor:
        """Convert the projector's output, (..., WIDTH), to codes, (..., codes)."""
        return embedded.float() @ self.basis.T.to(embedded.device) / self.GAIN

    def rescale_projector(self, projector: nn.Module) -> None:
        """Scale the codes of a trained projector towards equal size; the language model learns codes that are small late."""
        scales = torch.ones(len(self.basis))
        for name, factor in self.SCALES.items():
            scales[self.parts[name]] = factor
        change = torch.eye(WIDTH) + self.basis.T @ torch.diag(scales - 1) @ self.basis
        with torch.no_grad():
            for parameter in projector.get_submodule("linear_2").parameters():
                parameter.copy_(change.to(parameter.device) @ parameter)

    def write_embeddings(self, embedding: nn.Module) -> None:
        """Give the words for colours, patterns, objects, parts and numbers the embeddings that patches will use."""
        words, weight = build_vocabulary(), embedding.get_parameter("weight")
        with torch.no_grad():
            weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
            for word, direction in self._name_directions():
                weight[words.index(word)] += 3 * self.GAIN * direction
            first = words.index("000")
            numbers = fourier_features((torch.arange(COORDINATES)[:, None] + 0.5) / COORDINATES)
            weight[first : first + COORDINATES] = self.GAIN * numbers @ self.basis[self.parts["number"]]

    def _name_directions(self) -> Iterator[tuple[str, Tensor]]:
        """Yield words with unit vectors of the embedding space; a word may come more than once."""
        for part, names in (("colour", COLOURS), ("pattern", PATTERNS)):
            yield from zip(names, self.basis[self.parts[part]], strict=True)
        noun_basis, part_basis = self.basis[self.parts["noun"]], self.basis[self.parts["part"]]
        by_category: dict[str, list[Tensor]] = {category: [] for category in CATEGORIES}
        for recipe, code in zip(load_recipes().values(), self.nouns, strict=True):
            for word in sorted({*recipe.name.split(), *recipe.plural.split()} - {"pair", "pairs", "of"}):
                yield word, code @ noun_basis
            if recipe.category in CATEGORIES:
                by_category[recipe.category].append(code)
        for category, codes in by_category.items():
            for word in (category, CATEGORIES[category]):
                yield word, F.normalize(torch.stack(codes).sum(0), dim=0) @ noun_basis
        for name, code in zip(PARTS, self.names, strict=True):
            for word in sorted({name, pluralize_part(name)}):
                yield word, code @ part_basis
