"""Losses that guide the language model besides the one on its answers.

Taught where in the image to look, which words matter and what a point shows, a small model finds in minutes how to route that
information to its answers. All three are used in training only.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.embedded.architecture import CELLS, GRID, WIDTH, build_vocabulary
from recipes.embedded.feature_model import ExampleBatch

_BOX_START = build_vocabulary().index("[")


def compute_word_attention_loss(attention: Sequence[Tensor], batch: ExampleBatch) -> Tensor:
    """Return the cross-entropy between attention and an even spread over the words that decide which object is meant."""
    relevant = batch.word_targets.any(1)
    even = batch.word_targets[relevant] / batch.word_targets[relevant].sum(1, keepdim=True)
    return torch.stack([-((a[relevant] + 1e-3).log() * even).sum(1).mean() for a in attention]).mean()


def compute_image_attention_loss(attention: Sequence[Tensor], batch: ExampleBatch, owners: Tensor) -> Tensor:
    """Return the mean -log of the share of attention on the patches where the answer is visible.

    Args:
        attention: (k, 144) for each layer.
        batch: What it was computed for.
        owners: (scenes, 144), the object that covers each patch.
    """
    covered = owners[batch.scenes][batch.owner[batch.row]] == batch.image_target[:, None]
    patch, _ = _decode_cell(batch.image_target)
    patches = torch.where(batch.image_target[:, None] >= 0, covered, torch.arange(GRID**2) == patch[:, None])
    # The words of the expression decide where a box starts and its first number; the numbers before decide the others.
    from_words = (batch.target == _BOX_START) | (batch.ids[batch.row, batch.node] == _BOX_START)
    weights = torch.where(from_words, 4.0, 1.0) * patches.any(1)
    losses = torch.stack([-((a * patches).sum(1) + 1e-3).log() for a in attention]).mean(0)
    return (losses * weights).sum() / weights.sum()


def _decode_cell(image_target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the patch of each encoded cell and the cell's index in it; -1 for other image targets."""
    row, column = (-2 - image_target) // (GRID * CELLS), (-2 - image_target) % (GRID * CELLS)
    patch = row // CELLS * GRID + column // CELLS
    cell = row % CELLS * CELLS + column % CELLS
    return torch.where(image_target < -1, patch, -1), torch.where(image_target < -1, cell, -1)


class PointProbe(nn.Module):
    """Predicts, half-way up the layers, what a point's answer depends on: its cell in its patch, and the patch's mask.

    The layers above then only have to pick the cell from the mask. The probe itself is discarded after training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(WIDTH, 2 * CELLS + CELLS**2)

    def compute_loss(self, hidden: Tensor, batch: ExampleBatch, cells: Tensor) -> Tensor:
        """Return the loss; `cells` are those of `PatchTargets`."""
        patch, cell = _decode_cell(batch.image_target)
        at = cell >= 0
        row, column, mask = self.read(hidden[at]).split([CELLS, CELLS, CELLS**2], -1)
        truth = cells[batch.scenes[batch.owner[batch.row[at]]], patch[at]].float() / 255
        position_loss = F.cross_entropy(row, cell[at] // CELLS) + F.cross_entropy(column, cell[at] % CELLS)
        return position_loss + 2 * F.binary_cross_entropy_with_logits(mask, truth)
