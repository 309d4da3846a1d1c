"""The pairs whose speed is measured: the embedded one, and checkpoints of real shapes with random weights.

Those have a tokenizer that is trained on the dialects' own words, so that prompts are about as long as the families' own:
numbers are tokens of up to three digits, as in Llama 3, or of one, as in Qwen. Round 1 of random weights is forced
(forced_replies.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any, Unpack

import torch
import transformers
from PIL import Image as PILImage
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.config import SettingsOverrides
from sam4mllm_tool.drawn_things.recipe import COLOURS, load_recipes
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.models.segmenter.transformers import TransformersSegmenter
from sam4mllm_tool.protocol import DIALECTS
from sam4mllm_tool.types import Box, Image, Size
from tests.benchmarks.forced_replies import force_reply
from tests.checkpoints import LLAVA_NEXT_TEMPLATE, SPECIAL
from tests.embedded_world import draw_scene, name_object
from tests.sam_checkpoints import randomise_weights
from tests.video_checkpoints import CHATML, MARKS, QWEN_MARKS

__all__ = ["GPU_PAIRS", "NARROW_PAIRS", "PAIRS", "MeasuredPair"]

FIRST_SEED = 700_000
"""Below those of the test split, which is looked at for its figures alone."""
MAX_REPLY_TOKENS = 1024
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
QWEN2_5_TEXT: dict[str, Any] = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "initializer_range": 0.04,
    "tie_word_embeddings": True,
}
"""Qwen2.5 0.5B; its weights are larger than at the start of a training, so that labels depend on the image and the point."""
CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
    "model_type": "clip_vision_model",
}
NARROW_TEXT = QWEN2_5_TEXT | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
NARROW_TEXT |= {"vocab_size": 2048, "initializer_range": 0.3}
NARROW_CLIP = CLIP_LARGE | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
NARROW_TOWER = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 64}
NARROW_TOWER |= {"fullatt_block_indexes": [1]}  # type: ignore[dict-item]
QWEN_TOWER = {"depth": 16, "hidden_size": 768, "intermediate_size": 2048, "num_heads": 12, "out_hidden_size": 896}
QWEN_TOWER |= {"fullatt_block_indexes": [3, 7, 11, 15]}  # type: ignore[dict-item]
LLAMA3_TEXT = QWEN2_5_TEXT | {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128320,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
}
QWEN_7B_TEXT = LLAMA3_TEXT | {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
QWEN_7B_TEXT |= {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}
QWEN_7B_TOWER = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
QWEN_7B_TOWER |= {"fullatt_block_indexes": [7, 15, 23, 31]}  # type: ignore[dict-item]


@dataclass(frozen=True)
class MeasuredPair:
    """A pair of models and the images that it is measured on.

    Attributes:
        title: In the table.
        models: The pair.
        size: Of the images.
        forced: Whether round 1 is forced.
    """

    title: str
    models: Sam4Mllm
    size: Size
    forced: bool

    @property
    def model(self) -> Any:
        """The MLLM's own."""
        mllm: Any = self.models.mllm
        return mllm._runner.model

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def draw(self, seed: int, size: Size | None = None) -> tuple[Image, str]:
        """Return an image that no other seed gives, and an expression that means one object in it."""
        width, height = size or self.size
        scene = draw_scene(FIRST_SEED + seed, min(1024, max(width, height)))
        drawn = scene.objects[Random(seed).randrange(len(scene.objects))]
        return PILImage.fromarray(scene.image).resize((width, height)), name_object(drawn)

    def expressions(self, count: int) -> list[str]:
        """Return up to 128 expressions of equally many tokens."""
        return list_expressions()[:count]

    def reply(self, objects: int = 1) -> str:
        """Return the forced answer of round 1: as many boxes, from left to right."""
        step = self.size.width / (objects + 1)
        boxes = [
            Box(step * (i + 0.3), 0.2 * self.size.height, step * (i + 1.2), 0.8 * self.size.height) for i in range(objects)
        ]
        return self.models.dialect.format_boxes(boxes, self.size)

    @contextmanager
    def forcing(self, image: Image, expressions: list[str], objects: int | None = None) -> Iterator[None]:
        """Force round 1 to name some objects; by default one, and of trained weights none is forced."""
        needed = self.forced or objects is not None
        with force_reply(self.models, image, expressions, self.reply(objects or 1)) if needed else nullcontext():
            yield

    def with_settings(self, **settings: Unpack[SettingsOverrides]) -> "MeasuredPair":
        """Return the pair with other settings of the runs, and replies as long as they need."""
        models, dialect = self.models, replace(self.models.dialect, max_tokens=MAX_REPLY_TOKENS)
        other = Sam4Mllm(models.mllm, models.segmenter, dialect=dialect, config=models.config.override(settings))
        return replace(self, models=other)


def build_embedded() -> MeasuredPair:
    return MeasuredPair("embedded", Sam4Mllm.load("embedded", "embedded"), Size(512, 512), forced=False)


def build_llava_next(
    text: dict[str, Any] = QWEN2_5_TEXT,
    tower: dict[str, Any] = CLIP_LARGE,
    title: str = "LLaVA-NeXT, 0.8B",
    device: str = "cpu",
) -> MeasuredPair:
    """Build LLaVA-NeXT with CLIP ViT-L/14-336, asked as the paper does; an image of 672 x 672 takes 2,928 tokens."""
    tokenizer = train_tokenizer(SPECIAL, digits=3)
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, image_grid_pinpoints=PINPOINTS
    )
    processor = transformers.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_NEXT_TEMPLATE,
    )
    config = AutoConfig.for_model(
        "llava_next",
        text_config={"model_type": "qwen2", **text},
        vision_config=tower,
        image_grid_pinpoints=PINPOINTS,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=text["tie_word_embeddings"],
    )
    return _build_pair(title, config, processor, "released", Size(672, 672), device)


def build_qwen2_5_vl(
    text: dict[str, Any] = QWEN2_5_TEXT,
    tower: dict[str, Any] = QWEN_TOWER,
    title: str = "Qwen2.5-VL, 0.6B",
    device: str = "cpu",
) -> MeasuredPair:
    """Build Qwen2.5-VL, asked in its own format, a point a question; an image of 1120 x 1120 takes 1,600 tokens."""
    tokenizer = train_tokenizer([*SPECIAL[:4], *QWEN_MARKS], digits=1)
    images = transformers.Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1600})
    template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    video = transformers.Qwen2VLVideoProcessor()
    processor = transformers.Qwen2_5_VLProcessor(images, tokenizer, video, chat_template=template)
    width = text["hidden_size"] // text["num_attention_heads"]
    sections = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [width // 8, 3 * width // 16, 3 * width // 16]}
    config = AutoConfig.for_model(
        "qwen2_5_vl", text_config={**text, "rope_parameters": sections, "model_type": "qwen2_5_vl_text"}, vision_config=tower
    )
    for name, marks in MARKS.items():
        if hasattr(config, name):
            known = (tokenizer.convert_tokens_to_ids(mark) for mark in marks)
            setattr(config, name, next(i for i in known if i is not None))
    config.image_token_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    config.tie_word_embeddings = text["tie_word_embeddings"]
    return _build_pair(title, config, processor, "qwen2_5_vl", Size(1120, 1120), device)


def build_8b() -> MeasuredPair:
    """Build the shapes of the paper's LLaVA-NeXT, with SAM ViT-H, in bfloat16 on the GPU."""
    pair = build_llava_next(LLAMA3_TEXT, CLIP_LARGE, "LLaVA-NeXT, 8B", "cuda")
    config = transformers.SamConfig(
        vision_config={"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_dim": 5120}
        | {"global_attn_indexes": [7, 15, 23, 31]}
    )
    model = transformers.SamModel(config)
    processor = transformers.SamProcessor(transformers.SamImageProcessorPil())
    return _with_segmenter(pair, model, processor, "SAM ViT-H")


def build_qwen_7b() -> MeasuredPair:
    """Build the shapes of Qwen2.5-VL 7B, with SAM 2.1 Large, in bfloat16 on the GPU."""
    pair = build_qwen2_5_vl(QWEN_7B_TEXT, QWEN_7B_TOWER, "Qwen2.5-VL, 7B", "cuda")
    hiera: dict[str, Any] = {"model_type": "sam2_hiera_det_model", "hidden_size": 144, "num_attention_heads": 2}
    hiera |= {
        "blocks_per_stage": [2, 6, 36, 4],
        "embed_dim_per_stage": [144, 288, 576, 1152],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
    }
    hiera |= {"window_size_per_stage": [8, 4, 16, 8], "global_attention_blocks": [23, 33, 43]}
    hiera |= {"window_positional_embedding_background_size": [7, 7]}
    vision = {"backbone_config": hiera, "backbone_channel_list": [1152, 576, 288, 144]}
    model = transformers.Sam2Model(transformers.Sam2Config(vision_config=vision))
    processor = transformers.Sam2Processor(transformers.Sam2ImageProcessor())
    return _with_segmenter(pair, model, processor, "SAM 2.1 L")


PAIRS: dict[str, Callable[[], MeasuredPair]] = {
    "embedded": build_embedded,
    "llava-next": build_llava_next,
    "qwen2.5-vl": build_qwen2_5_vl,
}
NARROW_PAIRS: dict[str, Callable[[], MeasuredPair]] = {
    "llava-next": lambda: build_llava_next(NARROW_TEXT, NARROW_CLIP, "LLaVA-NeXT, an image of 672 x 672"),
    "qwen2.5-vl": lambda: build_qwen2_5_vl(NARROW_TEXT, NARROW_TOWER, "Qwen2.5-VL, an image of 1120 x 1120"),
}
"""They read the same tokens as `PAIRS` and answer in a moment: for counts, and for equal answers."""
GPU_PAIRS: dict[str, Callable[[], MeasuredPair]] = {"llava-next-8b": build_8b, "qwen2.5-vl-7b": build_qwen_7b}


def list_expressions() -> list[str]:
    """List expressions of four words each."""
    nouns = [noun for noun in load_recipes() if " " not in noun]
    return [f"the {size} {colour} {noun}" for size in ("small", "large") for colour in COLOURS for noun in nouns]


def train_tokenizer(special: list[str], *, digits: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer on the words of all dialects, in which numbers are tokens of so many digits."""
    texts = [getattr(dialect, each.name) for dialect in DIALECTS.values() for each in fields(dialect) if "text" in each.name]
    answers = ["Yes", "No", " Yes", " No", "\n", '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "object"}]\n```']
    numbers = [f"{number:0{digits}d}" for number in range(10**digits)]
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(rf"\d{{1,{digits}}}"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*(map(str, texts)), *list_expressions(), *answers * 20, *numbers * 20], trainer)
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    extra = [token for token in special if token not in named.values()]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=extra, **named)


def _build_pair(title: str, config: Any, processor: Any, dialect: str, size: Size, device: str) -> MeasuredPair:
    torch.manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval().requires_grad_(False)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    mllm = TransformersMLLM(model.to(device), processor, name=title)
    asked = replace(DIALECTS[dialect].for_model(mllm.resizing, pads_images=mllm.pads_images), max_tokens=MAX_REPLY_TOKENS)
    segmenter = load_segmenter("embedded", device=device)
    return MeasuredPair(title, Sam4Mllm(mllm, segmenter, dialect=asked), size, forced=True)


def _with_segmenter(pair: MeasuredPair, model: Any, processor: Any, name: str) -> MeasuredPair:
    randomise_weights(model)
    segmenter = TransformersSegmenter(model, processor, name=name, device=pair.device, dtype=torch.bfloat16)
    models = Sam4Mllm(pair.models.mllm, segmenter, dialect=pair.models.dialect)
    return replace(pair, title=f"{pair.title}, {name}", models=models)
