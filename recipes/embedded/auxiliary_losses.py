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
from recipes.embedded.patch_targets import MAX_OBJECTS, PatchTargets

_PATCHES = torch.arange(GRID**2)
_BOX_START = build_vocabulary().index("[")


def compute_word_attention_loss(attention: Sequence[Tensor], batch: ExampleBatch) -> Tensor:
    """Return the cross-entropy between attention and an even spread over the words that decide which object is meant."""
    relevant = batch.word_targets.any(1)
    even = batch.word_targets[relevant] / batch.word_targets[relevant].sum(1, keepdim=True)
    return torch.stack([-((a[relevant] + 1e-3).log() * even).sum(1).mean() for a in attention]).mean()


def compute_image_attention_loss(attention: Sequence[Tensor], batch: ExampleBatch, targets: PatchTargets) -> Tensor:
    """Return the mean -log of the share of attention on the patches where the answer is visible.

    Args:
        attention: (k, patches) for each layer.
        batch: What it was computed for.
        targets: Those of the batch's scenes.
    """
    covered = _show_region(targets, batch.owner[batch.row], batch.image_target)
    patch, _ = _decode_cell(batch.image_target)
    patches = torch.where(batch.image_target[:, None] >= 0, covered, _PATCHES.to(patch.device) == patch[:, None])
    # The words of the expression decide where a box starts and its first number; the numbers before decide the others.
    from_words = (batch.target == _BOX_START) | (batch.ids[batch.row, batch.node] == _BOX_START)
    weights = torch.where(from_words, 4.0, 1.0) * patches.any(1)
    losses = torch.stack([-((a * patches).sum(1) + 1e-3).log() for a in attention]).mean(0)
    return (losses * weights).sum() / weights.sum()


def _show_region(targets: PatchTargets, scenes: Tensor, regions: Tensor) -> Tensor:
    """Return (k, patches) bool: which patches are about each region, an `encode_region`; none for other image targets."""
    is_part = (regions >= MAX_OBJECTS)[:, None]
    return torch.where(
        is_part, targets.part[scenes] == regions[:, None] - MAX_OBJECTS, targets.owner[scenes] == regions[:, None]
    )


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

    def compute_loss(self, hidden: Tensor, batch: ExampleBatch, targets: PatchTargets) -> Tensor:
        """Return the loss for the points whose patches are about the region in question; `targets` as above."""
        patch, cell = _decode_cell(batch.image_target)
        scene, region = batch.owner[batch.row], batch.region
        at = (cell >= 0) & (region >= 0)
        at &= _show_region(targets, scene, region)[torch.arange(len(patch), device=patch.device), patch.clamp(min=0)]
        if not at.any():
            return hidden.new_zeros(())
        row, column, mask = self.read(hidden[at]).split([CELLS, CELLS, CELLS**2], -1)
        place, is_part = (scene[at], patch[at]), (region[at] >= MAX_OBJECTS)[:, None]
        truth = torch.where(is_part, targets.part_cells[place], targets.cells[place]).float() / 255
        position_loss = F.cross_entropy(row, cell[at] // CELLS) + F.cross_entropy(column, cell[at] % CELLS)
        return position_loss + 2 * F.binary_cross_entropy_with_logits(mask, truth)
