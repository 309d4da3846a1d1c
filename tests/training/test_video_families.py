"""Families whose processors also read video and so need torchvision: what they predict, id by id, and that they learn."""

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
from sam4mllm_tool.training.row_builder import RowBuilder, tokenize_answers
from sam4mllm_tool.training.tokenized_dataset import TokenizedDataset, write_rows
from sam4mllm_tool.training.trainer import compute_loss_sum
from tests.checkpoints import IDEFICS3_SPECIAL, IDEFICS3_TEMPLATE, SPECIAL, build_tokenizer
from tests.training.drawn_conversations import write_conversations
from tests.training.test_target_modules import SMALL
from tests.training.test_taught_tokens import BOX, CONVERSATIONS, FIRST, IMAGE, SECOND, SHARED

pytestmark = pytest.mark.skipif(
    find_spec("torchvision") is None, reason="these processors need torchvision, which has no build for this torch here"
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
INTERN_MARKS = ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm"]


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


@pytest.mark.parametrize("family", FAMILIES)
def test_the_predicted_tokens_are_the_answers_with_their_end_tokens(family: str) -> None:
    prompter = PromptRenderer(build_processor(family), family)
    answers = list(tokenize_answers(prompter, ImageInputs(IMAGE), CONVERSATIONS.conversations[0]))
    space, end = ("Ġ", "<end_of_utterance>") if family == "smolvlm" else ("", "<|im_end|>")
    predicted = [prompter.tokenizer.convert_ids_to_tokens(list(answer.ids[answer.start :])) for answer in answers]
    assert predicted == [[*filter(None, [space]), *BOX, end], [f"{space}Yes", end], [f"{space}No", end]]
    prompts = [SHARED[:2], (*SHARED, FIRST[0]), (*SHARED, SECOND[0])]
    assert [answer.ids[: answer.start] for answer in answers] == [prompter.write(ImageInputs(IMAGE), t).ids for t in prompts]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_different_images_has_the_loss_of_its_rows_alone(family: str, tmp_path: Path) -> None:
    processor = build_processor(family)
    prompter = PromptRenderer(processor, family)
    tokenizer = prompter.tokenizer
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
    write_conversations(tmp_path, 2, dialect=PLAIN, expressions=1, points=1)
    Image.open(tmp_path / "1.png").resize((200, 120)).save(tmp_path / "1.png")
    packs = ModelRunner(model).packs
    assert packs == (family in ("internvl", "smolvlm")), "three-dimensional positions can't be packed"
    write_rows(tmp_path, tmp_path / "rows.sqlite", RowBuilder(prompter, processor.image_token_id, packs=packs, max_tokens=4096))
    rows = TokenizedDataset(tmp_path / "rows.sqlite", prompter, processor.image_token_id)
    accepts = frozenset(inspect.signature(model.forward).parameters)
    collate = Collator(tokenizer.pad_token_id, accepts, packs)
    items = [rows[i] for i in range(len(rows))]
    together = compute_loss_sum(model, collate(items), torch.float32)
    alone = sum(compute_loss_sum(model, collate([item]), torch.float32).item() for item in items)
    assert together.item() == pytest.approx(alone, rel=1e-4)
    together.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "q_proj" in name and "language" in name)
