"""The loss and its gradient: the same packed or not, accumulated or at once, whatever the attention."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sam4mllm_tool.protocol import PLAIN, RELEASED
from sam4mllm_tool.training.attention import BRANCHES
from sam4mllm_tool.training.batches import Collator, LikeLengths
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.examples import Maker
from sam4mllm_tool.training.model import Student, load_student
from sam4mllm_tool.training.rows import Rows, make_rows
from sam4mllm_tool.training.run import train
from sam4mllm_tool.training.trainer import LessonTrainer, loss_of
from tests.checkpoints import FAMILIES
from tests.training.teaching import write_lessons

PACKING = ["llava", "llava_next", "idefics3"]


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lessons(tmp_path_factory.mktemp("lessons"), 4, dialect=PLAIN)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Student]:
    def load(family: str, **settings: Any) -> Student:
        folder = FAMILIES[family](tmp_path_factory.mktemp(family))
        told: dict[str, Any] = {"lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "precision": "float32", **settings}
        student = load_student(TrainingConfig(mllm=str(folder), lessons="l", out="o", **told))
        torch.manual_seed(1)
        for name, weight in student.model.named_parameters():
            if "lora_B" in name:  # zero at first, and so would be the gradient of what comes before
                weight.data.normal_(0, 0.1)
        return student

    return load


def learn(student: Student, lessons: Path, folder: Path, attention: str = "eager", **limits: Any) -> tuple[float, Tensor, Rows]:
    """The loss summed over all lessons, and its gradient."""
    folder.mkdir(exist_ok=True)
    told = {"packs": student.packs, "max_tokens": 1536, **limits}
    make_rows(lessons, folder / "rows.sqlite", Maker(student.prompter, student.placeholder, **told))
    rows = Rows(folder / "rows.sqlite", student.prompter, student.placeholder)
    collate = Collator(student.prompter.tokenizer.pad_token_id, student.accepts, told["packs"], attention == BRANCHES)
    student.attend(attention)
    student.model.zero_grad()
    loss = loss_of(student.model, collate([rows[i] for i in range(len(rows))]), torch.float32)
    loss.backward()
    gradients = [p.grad.flatten() for p in student.model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients), rows


@pytest.mark.parametrize("family", PACKING)
@pytest.mark.parametrize("attention", ["eager", "sdpa", BRANCHES])
def test_packed_rows_teach_the_same_as_plain_ones(
    student: Callable[..., Student], lessons: Path, tmp_path: Path, family: str, attention: str
) -> None:
    taught = student(family)
    assert taught.packs
    plain, gradient, chains = learn(taught, lessons, tmp_path / "plain", packs=False)
    packed, same, tries = learn(taught, lessons, tmp_path / "packed", attention)
    assert len(tries) < len(chains)
    assert packed == pytest.approx(plain, rel=1e-4)
    assert (same - gradient).abs().max() <= 1e-3 * gradient.abs().max()


def test_a_split_lesson_teaches_the_same(student: Callable[..., Student], lessons: Path, tmp_path: Path) -> None:
    taught = student("llava")
    whole, gradient, few = learn(taught, lessons, tmp_path / "whole", BRANCHES)
    split, same, more = learn(taught, lessons, tmp_path / "split", BRANCHES, max_tokens=1000)
    assert len(more) > len(few)
    assert split == pytest.approx(whole, rel=1e-4)
    assert (same - gradient).abs().max() <= 1e-3 * gradient.abs().max()


def test_the_frozen_tower_and_base_get_no_gradient(student: Callable[..., Student], lessons: Path, tmp_path: Path) -> None:
    taught = student("llava")
    learn(taught, lessons, tmp_path)
    trained = {name for name, weight in taught.model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    assert not any("vision_tower" in name for name in trained)
    assert {name for name, weight in taught.model.named_parameters() if weight.grad is not None} == trained


def first_gradient(monkeypatch: pytest.MonkeyPatch, config: TrainingConfig) -> Tensor:
    """What the optimiser is given at the first step of a run."""
    seen: list[Tensor] = []
    own = LessonTrainer.create_optimizer

    def watched(self: LessonTrainer, model: Any = None) -> torch.optim.Optimizer:
        optimizer = own(self, model)

        def record(*_: Any) -> None:
            seen.append(torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None]))

        optimizer.register_step_pre_hook(record)
        return optimizer

    monkeypatch.setattr(LessonTrainer, "create_optimizer", watched)
    train(config)
    return seen[0]


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "plain"])
def test_four_passes_of_one_row_give_the_gradient_of_one_of_four(
    tmp_path: Path, lessons: Path, monkeypatch: pytest.MonkeyPatch, pack: bool
) -> None:
    folder = FAMILIES["llava"](tmp_path / "base")
    told: dict[str, Any] = {"mllm": str(folder), "lessons": str(lessons), "lora_r": 4, "lora_dropout": 0.0, "max_steps": 1}
    told |= {"precision": "float32", "max_grad_norm": 0.0, "report_to": "none", "pack": pack}
    order = sorted  # the same rows in both: the four first of the epoch
    monkeypatch.setattr(LikeLengths, "__iter__", lambda self: iter(order(range(len(self)))))
    at_once = first_gradient(monkeypatch, TrainingConfig(out=str(tmp_path / "1x4"), batch=4, accumulation=1, **told))
    in_turn = first_gradient(monkeypatch, TrainingConfig(out=str(tmp_path / "4x1"), batch=1, accumulation=4, **told))
    assert at_once.abs().max() > 0
    assert (at_once - in_turn).abs().max() <= 1e-4 * at_once.abs().max()


def test_an_epoch_takes_every_row_once_in_an_order_of_its_own() -> None:
    order = LikeLengths([i % 17 for i in range(333)], batch=4, seed=3)
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    order.set_epoch(0)
    assert sorted(first) == sorted(second) == list(range(333))
    assert first != second
    assert first == list(order)
    lengths = [[n % 17 for n in first[i : i + 4]] for i in range(0, 332, 4)]
    assert sum(max(four) - min(four) for four in lengths) / len(lengths) < 2, "rows of like length come together"


def test_a_dialect_that_answers_after_a_line_break_is_taught_it(student: Callable[..., Student], tmp_path: Path) -> None:
    lessons = write_lessons(tmp_path / "lessons", 1, dialect=RELEASED, side=128)
    taught = student("llava_next")
    _, _, rows = learn(taught, lessons, tmp_path)
    row = rows[0].row
    texts = taught.prompter.tokenizer.decode(row.ids[row.taught].tolist())
    assert " \n[" in texts or " \nNo object" in texts
