"""Processes that share every batch train the model that one process trains."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.recipes.shared_training import SAMPLES


def draw_first_layer() -> torch.nn.Linear:
    """Draw the first layer as the training does before its first step."""
    torch.manual_seed(0)
    torch.randn(SAMPLES, 8), torch.randn(SAMPLES, 4)
    return torch.nn.Linear(8, 16)


def run_training(folder: Path, *launcher: str) -> dict[str, torch.Tensor]:
    folder.mkdir()
    command = [sys.executable, "-m", *launcher, "tests.recipes.shared_training", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    model: dict[str, torch.Tensor] = torch.load(folder / "shared.pt", weights_only=True)["model"]
    return model


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    alone = run_training(tmp_path / "alone")
    shared = run_training(tmp_path / "shared", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    assert (tmp_path / "alone" / "FIRST").read_text() == "0 of 1"
    assert (tmp_path / "shared" / "FIRST").read_text() == "0 of 2"
    trained = [name for name in alone if name.startswith("layers")]
    for name in trained:
        torch.testing.assert_close(shared[name], alone[name], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(alone["layers.0.weight"], draw_first_layer().weight), "it was trained"
