"""Families whose processors also read video and so need torchvision: what they predict, id by id, and that they learn."""

import inspect
from pathlib import Path

import pytest
import torch
from PIL import Image

from sam4mllm_tool.models.mllm.branching import can_pack
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs
from sam4mllm_tool.models.mllm.prompt_renderer import PromptRenderer
from sam4mllm_tool.protocol import PLAIN
from sam4mllm_tool.training.batches import Collator
from sam4mllm_tool.training.row_builder import RowBuilder, tokenize_answers
from sam4mllm_tool.training.tokenized_dataset import TokenizedDataset, write_rows
from sam4mllm_tool.training.trainer import compute_loss_sum
from tests.training.drawn_conversations import write_conversations
from tests.training.test_taught_tokens import BOX, CONVERSATIONS, FIRST, IMAGE, SECOND, SHARED
from tests.video_checkpoints import VIDEO_FAMILIES, build_model, build_processor, needs_torchvision

pytestmark = needs_torchvision


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_the_predicted_tokens_are_the_answers_with_their_end_tokens(family: str) -> None:
    prompter = PromptRenderer(build_processor(family), family)
    answers = list(tokenize_answers(prompter, ImageInputs(IMAGE), CONVERSATIONS.conversations[0]))
    space, end = ("Ġ", "<end_of_utterance>") if family == "smolvlm" else ("", "<|im_end|>")
    predicted = [prompter.tokenizer.convert_ids_to_tokens(list(answer.ids[answer.start :])) for answer in answers]
    assert predicted == [[*filter(None, [space]), *BOX, end], [f"{space}Yes", end], [f"{space}No", end]]
    prompts = [SHARED[:2], (*SHARED, FIRST[0]), (*SHARED, SECOND[0])]
    assert [answer.ids[: answer.start] for answer in answers] == [prompter.write(ImageInputs(IMAGE), t).ids for t in prompts]


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_a_batch_of_different_images_has_the_loss_of_its_rows_alone(family: str, tmp_path: Path) -> None:
    processor = build_processor(family)
    prompter = PromptRenderer(processor, family)
    model = build_model(family, processor).train()
    write_conversations(tmp_path, 2, dialect=PLAIN, expressions=1, points=1)
    Image.open(tmp_path / "1.png").resize((200, 120)).save(tmp_path / "1.png")
    packs = can_pack(model)
    assert packs == (family in ("internvl", "smolvlm")), "three-dimensional positions can't be packed"
    write_rows(tmp_path, tmp_path / "rows.sqlite", RowBuilder(prompter, processor.image_token_id, packs=packs, max_tokens=4096))
    rows = TokenizedDataset(tmp_path / "rows.sqlite", prompter, processor.image_token_id)
    accepts = frozenset(inspect.signature(model.forward).parameters)
    collate = Collator(prompter.tokenizer.pad_token_id, accepts, packs)
    items = [rows[i] for i in range(len(rows))]
    together = compute_loss_sum(model, collate(items), torch.float32)
    alone = sum(compute_loss_sum(model, collate([item]), torch.float32).item() for item in items)
    assert together.item() == pytest.approx(alone, rel=1e-4)
    together.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "q_proj" in name and "language" in name)
