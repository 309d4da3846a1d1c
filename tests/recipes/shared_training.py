"""Train a small model on batches that processes share: `torchrun --nproc-per-node N -m tests.recipes.shared_training DIR`."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from recipes.embedded.processes import count_processes, first_process_first, get_rank, join_processes
from recipes.embedded.training_loop import Metrics, MuonAdamW, Stage, draw_batches, train

STEPS, SAMPLES, BATCH = 6, 24, 8


def main(folder: Path) -> None:
    """Write the checkpoint of the stage "shared", and FIRST with the number of processes."""
    join_processes()
    with first_process_first():
        if not (folder / "FIRST").exists():
            (folder / "FIRST").write_text(f"{get_rank()} of {count_processes()}")
    torch.manual_seed(0)
    inputs, targets = torch.randn(SAMPLES, 8), torch.randn(SAMPLES, 4)
    layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    model = nn.ModuleDict({"layers": layers, "unused": nn.Linear(2, 2)})
    stage = Stage("shared", folder, model, MuonAdamW(model.named_parameters(), rate=0.05), STEPS)
    draw = draw_batches(SAMPLES, BATCH, seed=1)

    def compute_loss(step: int) -> tuple[Tensor, Metrics]:
        index = next(draw)
        loss = (layers(inputs[index]) - targets[index]).square().mean()
        if step == 2 and get_rank() == 0:  # a part that one process alone uses
            loss = loss + 0 * model["unused"](inputs[:1, :2]).sum()
        return loss, {}

    train(stage, compute_loss, dict)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
