"""Trained stages are kept with the recipe, and the training goes on from them."""

from pathlib import Path

import torch
from torch import nn

from recipes.embedded.stored_stages import restore_stages, store_stage
from recipes.embedded.training_loop import MuonAdamW, Stage


def make_stage(folder: Path) -> Stage:
    module = nn.Linear(3, 2)
    return Stage("eyes", folder, module, MuonAdamW(module.named_parameters(), rate=0.1), steps=10)


def test_a_stored_stage_is_restored_where_the_working_folder_has_none(tmp_path: Path) -> None:
    work, other = tmp_path / "work", tmp_path / "other"
    work.mkdir()
    other.mkdir()
    trained = make_stage(work)
    trained.optimizer.step(trained.module(torch.ones(3)).sum(), 0, 0)
    trained.save_checkpoint(7)
    store_stage(work, "eyes", tmp_path / "stages")
    assert restore_stages(other, tmp_path / "stages") == ["eyes"]
    restored = make_stage(other)
    assert restored.load_checkpoint() == 7
    for name, value in trained.module.state_dict().items():
        torch.testing.assert_close(restored.module.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_a_checkpoint_of_the_working_folder_is_left_as_it_is(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    stage.save_checkpoint(2)
    store_stage(tmp_path, "eyes", tmp_path / "stages")
    stage.save_checkpoint(5)
    assert restore_stages(tmp_path, tmp_path / "stages") == []
    assert stage.load_checkpoint() == 5
