"""The loss and its gradient: equal for packed and plain rows, for accumulated and single passes, for every attention."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from sam4mllm_tool.protocol import RELEASED
from sam4mllm_tool.training.attention import BRANCHES
from sam4mllm_tool.training.batches import Collator, LengthGroupedSampler
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.model import TrainableModel, load_trainable_model
from sam4mllm_tool.training.row_builder import RowBuilder
from sam4mllm_tool.training.run import train
from sam4mllm_tool.training.tokenized_dataset import TokenizedDataset, write_rows
from sam4mllm_tool.training.trainer import ConversationTrainer, compute_loss_sum
from tests.checkpoints import FAMILIES
from tests.training.drawn_conversations import write_conversations

PACKING = ["llava", "llava_next", "idefics3"]
Load = Callable[[str], TrainableModel]


@pytest.fixture(scope="module")
def few_conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conversations(tmp_path_factory.mktemp("few"), 2, points=2, side=160)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    @cache
    def load_family(family: str) -> TrainableModel:
        folder = FAMILIES[family](tmp_path_factory.mktemp(family))
        settings: dict[str, Any] = {"lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "precision": "float32"}
        trainable = load_trainable_model(TrainingConfig(mllm=str(folder), lessons="l", out="o", **settings))
        torch.manual_seed(1)
        for name, weight in trainable.model.named_parameters():
            if "lora_B" in name:  # initialized to zero, which would make the gradient of lora_A zero too
                weight.data.normal_(0, 0.1)
        return trainable

    return load_family


class Pass(NamedTuple):
    """One pass over all rows."""

    loss: float
    gradient: Tensor
    rows: int


def make_rows(trainable: TrainableModel, conversations_dir: Path, folder: Path, **limits: Any) -> TokenizedDataset:
    file = folder / "rows.sqlite"
    builder = RowBuilder(trainable.prompter, trainable.placeholder, **{"packs": trainable.packs, "max_tokens": 1536, **limits})
    write_rows(conversations_dir, file, builder)
    return TokenizedDataset(file, trainable.prompter, trainable.placeholder)


def run_pass(trainable: TrainableModel, conversations_dir: Path, folder: Path, attention: str = "eager", **limits: Any) -> Pass:
    """Return the loss summed over all conversations, and its gradient."""
    rows = make_rows(trainable, conversations_dir, folder, **limits)
    packs = limits.get("packs", trainable.packs)
    collate = Collator(trainable.prompter.tokenizer.pad_token_id, trainable.accepted_inputs, packs, attention == BRANCHES)
    trainable.set_attention(attention)
    trainable.model.zero_grad()
    loss = compute_loss_sum(trainable.model, collate([rows[i] for i in range(len(rows))]), torch.float32)
    loss.backward()
    gradients = [p.grad.flatten() for p in trainable.model.parameters() if p.grad is not None]
    return Pass(loss.item(), torch.cat(gradients), len(rows))


def assert_same_gradient(result: Pass, expected: Pass) -> None:
    assert result.loss == pytest.approx(expected.loss, rel=1e-4)
    assert (result.gradient - expected.gradient).abs().max() <= 1e-3 * expected.gradient.abs().max()


@pytest.mark.parametrize("family", PACKING)
def test_packed_rows_give_the_gradient_of_plain_ones_with_every_attention(
    load: Load, few_conversations: Path, tmp_path: Path, family: str
) -> None:
    trainable = load(family)
    assert trainable.packs
    plain = run_pass(trainable, few_conversations, tmp_path, packs=False)
    for attention in ("eager", "sdpa", BRANCHES):
        packed = run_pass(trainable, few_conversations, tmp_path, attention)
        assert packed.rows < plain.rows
        assert_same_gradient(packed, plain)


def test_conversations_split_over_rows_give_the_gradient_of_one_row(
    load: Load, few_conversations: Path, tmp_path: Path
) -> None:
    whole = run_pass(load("llava"), few_conversations, tmp_path, BRANCHES)
    split = run_pass(load("llava"), few_conversations, tmp_path, BRANCHES, max_tokens=300)
    assert split.rows > whole.rows
    assert_same_gradient(split, whole)


def test_only_the_adapter_and_the_projector_get_a_gradient(load: Load, few_conversations: Path, tmp_path: Path) -> None:
    trainable = load("llava")
    run_pass(trainable, few_conversations, tmp_path, BRANCHES)
    weights = dict(trainable.model.named_parameters())
    trained = {name for name, weight in weights.items() if weight.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    assert not any("vision_tower" in name for name in trained)
    assert {name for name, weight in weights.items() if weight.grad is not None} == trained


def record_first_gradient(monkeypatch: pytest.MonkeyPatch, config: TrainingConfig) -> Tensor:
    """Train and return the gradient at the optimizer's first step."""
    gradients: list[Tensor] = []
    create_optimizer = ConversationTrainer.create_optimizer

    def create_with_hook(self: ConversationTrainer, model: Any = None) -> torch.optim.Optimizer:
        optimizer = create_optimizer(self, model)

        def record(*_: Any) -> None:
            gradients.append(torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None]))

        optimizer.register_step_pre_hook(record)
        return optimizer

    with monkeypatch.context() as patched:
        patched.setattr(ConversationTrainer, "create_optimizer", create_with_hook)
        train(config)
    return gradients[0]


@pytest.mark.slow
@pytest.mark.parametrize("pack", [True, False], ids=["packed", "plain"])
def test_four_accumulated_rows_give_the_gradient_of_a_batch_of_four(
    base: Path, conversations_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: bool
) -> None:
    settings: dict[str, Any] = {"mllm": str(base), "lessons": str(conversations_dir), "lora_r": 4, "lora_dropout": 0.0}
    settings |= {"max_steps": 1, "precision": "float32", "max_grad_norm": 0.0, "report_to": "none", "pack": pack}
    monkeypatch.setattr(LengthGroupedSampler, "__iter__", lambda self: iter(range(len(self))))  # the same rows in both runs
    batch = record_first_gradient(monkeypatch, TrainingConfig(out=str(tmp_path / "batch"), batch=4, accumulation=1, **settings))
    accumulated = record_first_gradient(
        monkeypatch, TrainingConfig(out=str(tmp_path / "accumulated"), batch=1, accumulation=4, **settings)
    )
    assert batch.abs().max() > 0
    assert (batch - accumulated).abs().max() <= 1e-4 * batch.abs().max()


def test_every_epoch_draws_every_row_once_in_its_own_order_grouped_by_length() -> None:
    sampler = LengthGroupedSampler([i % 17 for i in range(333)], batch_size=4, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert sorted(first) == sorted(second) == list(range(333))
    assert first != second
    assert first == list(sampler)
    lengths = [[n % 17 for n in first[i : i + 4]] for i in range(0, 332, 4)]
    assert sum(max(batch) - min(batch) for batch in lengths) / len(lengths) < 2


def test_a_dialect_that_answers_after_a_line_break_is_taught_the_line_break(load: Load, tmp_path: Path) -> None:
    trainable = load("llava_next")
    conversations_dir = write_conversations(tmp_path / "released", 1, dialect=RELEASED, side=160)
    row = make_rows(trainable, conversations_dir, tmp_path)[0].row
    answers = trainable.prompter.tokenizer.decode(row.ids[row.predicted].tolist())
    assert " \n[" in answers or " \nNo object" in answers
