"""Families whose processors also read video, and so need torchvision: what they are taught, id by id; that they learn."""

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

from sam4mllm_tool.models.mllm.model_runner import ModelRunner
from sam4mllm_tool.models.mllm.prompt_renderer import ImageInputs, PromptRenderer
from sam4mllm_tool.protocol import PLAIN
from sam4mllm_tool.training.batches import Collator
from sam4mllm_tool.training.examples import Maker, examples_of
from sam4mllm_tool.training.rows import Rows, make_rows
from sam4mllm_tool.training.trainer import loss_of
from tests.checkpoints import IDEFICS3_SPECIAL, IDEFICS3_TEMPLATE, SPECIAL, build_tokenizer
from tests.training.teaching import write_lessons
from tests.training.test_target_modules import SMALL
from tests.training.test_taught_tokens import BOX, FIRST, IMAGE, LESSON, SECOND, SHARED

pytestmark = pytest.mark.skipif(
    find_spec("torchvision") is None, reason="these processors need torchvision, which has no build for this torch here"
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}PICTURE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
INTERN_MARKS = ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm"]


def qwen(kind: str, video: str) -> Any:
    tokenizer = build_tokenizer([*SPECIAL[:4], *QWEN_MARKS], adds_bos=False)
    template = CHATML.replace("PICTURE", "<|vision_start|><|image_pad|><|vision_end|>")
    size = {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}
    options: dict[str, Any] = {"patch_size": 16, "size": size} if kind == "Qwen3VLProcessor" else {"size": size}
    pictures = transformers.Qwen2VLImageProcessor(**options)
    return getattr(transformers, kind)(pictures, tokenizer, getattr(transformers, video)(), chat_template=template)


def intern() -> Any:
    tokenizer = build_tokenizer([*SPECIAL[:4], *INTERN_MARKS], adds_bos=False)
    names = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    tokenizer._set_model_specific_special_tokens(dict(zip(names, INTERN_MARKS[2:], strict=True)))
    pictures = transformers.GotOcr2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=False)
    template = CHATML.replace("PICTURE", "<IMG_CONTEXT>\n")
    return transformers.InternVLProcessor(
        pictures, tokenizer, transformers.InternVLVideoProcessor(), image_seq_length=4, chat_template=template
    )


def smol() -> Any:
    pytest.importorskip("num2words", reason="SmolVLM's processor needs it")
    tokenizer = build_tokenizer([*SPECIAL, *IDEFICS3_SPECIAL], adds_bos=False)
    pictures = transformers.SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    video = transformers.SmolVLMVideoProcessor()
    return transformers.SmolVLMProcessor(pictures, tokenizer, video, image_seq_len=4, chat_template=IDEFICS3_TEMPLATE)


def processor_of(family: str) -> Any:
    match family:
        case "qwen2_vl":
            return qwen("Qwen2VLProcessor", "Qwen2VLVideoProcessor")
        case "qwen2_5_vl":
            return qwen("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor")
        case "qwen3_vl":
            return qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor")
        case "internvl":
            return intern()
    return smol()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_taught_tokens_are_the_answers_with_their_ends(family: str) -> None:
    write = PromptRenderer(processor_of(family), family)
    examples = list(examples_of(write, ImageInputs(IMAGE), LESSON.conversations[0]))
    blank, end = ("Ġ", "<end_of_utterance>") if family == "smolvlm" else ("", "<|im_end|>")
    taught = [write.tokenizer.convert_ids_to_tokens(list(example.ids[example.start :])) for example in examples]
    assert taught == [[*filter(None, [blank]), *BOX, end], [f"{blank}Yes", end], [f"{blank}No", end]]
    asked = [SHARED[:2], (*SHARED, FIRST[0]), (*SHARED, SECOND[0])]
    assert [example.ids[: example.start] for example in examples] == [write.write(ImageInputs(IMAGE), t).ids for t in asked]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_different_pictures_are_learnt_together_as_alone(family: str, tmp_path: Path) -> None:
    processor = processor_of(family)
    write = PromptRenderer(processor, family)
    tokenizer = write.tokenizer
    config = AutoConfig.for_model(family, **SMALL[family])
    config.get_text_config().vocab_size = len(tokenizer)
    config.image_token_id = processor.image_token_id
    for name, mark in (("vision_start_token_id", "<|vision_start|>"), ("vision_end_token_id", "<|vision_end|>")):
        if hasattr(config, name):
            setattr(config, name, tokenizer.convert_tokens_to_ids(mark))
    if family in ("internvl", "smolvlm"):
        setattr(config, "downsample_ratio" if family == "internvl" else "scale_factor", 0.5 if family == "internvl" else 2)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).train()
    lessons = write_lessons(tmp_path, 2, dialect=PLAIN, expressions=1, points=1)
    Image.open(lessons / "1.png").resize((200, 120)).save(lessons / "1.png")
    packs = ModelRunner(model).packs
    assert packs == (family in ("internvl", "smolvlm")), "positions in three dimensions can't be those of a trie"
    make_rows(lessons, tmp_path / "rows.sqlite", Maker(write, processor.image_token_id, packs=packs, max_tokens=4096))
    rows = Rows(tmp_path / "rows.sqlite", write, processor.image_token_id)
    accepts = frozenset(inspect.signature(model.forward).parameters)
    collate = Collator(tokenizer.pad_token_id, accepts, packs)
    items = [rows[i] for i in range(len(rows))]
    together = loss_of(model, collate(items), torch.float32)
    alone = sum(loss_of(model, collate([item]), torch.float32).item() for item in items)
    assert together.item() == pytest.approx(alone, rel=1e-4)
    together.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "q_proj" in name and "language" in name)
