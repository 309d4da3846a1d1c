"""Stage 1: vision tower and projector learn, patch by patch, what the patch shows.

Dense targets teach a small tower in minutes what question answering would not teach it in days: noun, colour, pattern, box,
ranks and relations of the object that the patch is about, name and box of that object's part, the masks of both in 4 x 4 cells,
and the position of the patch itself. All are read from the projector's output in the basis of `EmbeddingCodes`.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from recipes.embedded.architecture import CELLS, GRID, INPUT_SIDE, RANKS, EmbeddingCodes, fourier_features
from recipes.embedded.patch_targets import PatchTargets, compute_targets
from recipes.embedded.scene_cache import SceneCache
from recipes.embedded.training_loop import Metrics, MuonAdamW, Stage, autocast, draw_batches, train

_SHARPNESS = 8.0  # logits are the class codes times this
_MIRRORED_RANKS = (1, 0, 2, 3)


def mirror_targets(targets: PatchTargets) -> PatchTargets:
    """Return the targets of the scenes' mirror images."""

    def mirror_boxes(boxes: Tensor) -> Tensor:
        return torch.stack([1 - boxes[..., 2], boxes[..., 1], 1 - boxes[..., 0], boxes[..., 3]], -1)

    def mirror_patches(values: Tensor) -> Tensor:
        return values.unflatten(1, (GRID, GRID)).flip(2).flatten(1, 2)

    def mirror_cells(cells: Tensor) -> Tensor:
        return mirror_patches(cells).unflatten(2, (CELLS, CELLS)).flip(3).flatten(2)

    return PatchTargets(
        mirror_patches(targets.owner),
        mirror_patches(targets.part),
        mirror_cells(targets.cells),
        mirror_cells(targets.part_cells),
        targets.looks,
        targets.ranks[..., _MIRRORED_RANKS],
        targets.flags,
        mirror_boxes(targets.boxes),
        targets.names,
        mirror_boxes(targets.part_boxes),
    )


def _compute_losses(output: Tensor, codes: EmbeddingCodes, targets: PatchTargets) -> tuple[Tensor, Metrics]:
    """Return the weighted sum of all dense losses, and metrics; `output` is (n, patches, codes), all of the targets' scenes."""
    code = {name: output[..., slice_] for name, slice_ in codes.parts.items()}
    scenes = torch.arange(len(output), device=output.device)[:, None]
    on, on_part = targets.owner >= 0, targets.part >= 0
    owners, parts = targets.owner.long().clamp(min=0), targets.part.long().clamp(min=0)
    nouns, colours, patterns = targets.looks.long()[scenes, owners][on].unbind(-1)
    logits = {
        "noun": (_SHARPNESS * code["noun"][on] @ codes.nouns.T.to(output.device), nouns),
        "colour": (_SHARPNESS * code["colour"][on], colours),
        "pattern": (_SHARPNESS * code["pattern"][on], patterns),
        "part": (
            _SHARPNESS * code["part"][on_part] @ codes.names.T.to(output.device),
            targets.names.long()[scenes, parts][on_part],
        ),
    }
    masks = {
        "cells": (code["cells"][on], targets.cells[on].float() / 255),
        "part_cells": (code["part_cells"][on_part], targets.part_cells[on_part].float() / 255),
    }
    boxes = {
        "box": (code["box"][on], targets.boxes.float()[scenes, owners][on]),
        "part_box": (code["part_box"][on_part], targets.part_boxes.float()[scenes, parts][on_part]),
    }
    ranks, flags = targets.ranks.long()[scenes, owners][on], targets.flags.float()[scenes, owners][on]
    rank_logits = (_SHARPNESS * code["rank"][on]).unflatten(-1, (4, RANKS))
    middle = (torch.arange(GRID, device=output.device) + 0.5) / GRID
    own = fourier_features(torch.stack([middle.repeat(GRID), middle.repeat_interleave(GRID)], -1))
    loss = (
        sum(F.cross_entropy(*pair) for pair in logits.values())
        + F.binary_cross_entropy_with_logits(_SHARPNESS * (code["object"][..., 0] - 0.5), on.float())
        + sum(3 * F.binary_cross_entropy_with_logits(_SHARPNESS * (2 * c - 1), truth) for c, truth in masks.values())
        + F.cross_entropy(rank_logits.flatten(0, 1), ranks.flatten()) * 2
        + F.binary_cross_entropy_with_logits(_SHARPNESS * (code["flags"][on] - 0.5), flags) * 2
        + sum((c - fourier_features(truth)).square().mean() * 8 for c, truth in boxes.values())
        + (code["own"] - own).square().mean() * 3
    )
    with torch.no_grad():
        metrics = {name: (scores.argmax(-1) == truth).float().mean().item() for name, (scores, truth) in logits.items()}
        metrics |= {name: ((c > 0.5) == (truth > 0.5)).float().mean().item() for name, (c, truth) in masks.items()}
        metrics |= {
            "object": ((code["object"][..., 0] > 0.5) == on).float().mean().item(),
            "rank2+": (rank_logits.argmax(-1) == ranks)[ranks > 0].float().mean().item(),
            "flag": (code["flags"][on] > 0.5)[flags > 0].float().mean().item(),
        }
        metrics |= {f"{name}_px": _measure_box_error(c, truth) for name, (c, truth) in boxes.items()}
    return loss, metrics


def _measure_box_error(codes: Tensor, boxes: Tensor) -> float:
    """Return the mean error of the best-matching coordinates, in pixels of the MLLM's input, on at most 500 patches."""
    chosen = torch.linspace(0, len(codes) - 1, min(500, len(codes)), device=codes.device).long()
    coordinates = (torch.arange(INPUT_SIDE, device=codes.device) + 0.5) / INPUT_SIDE
    scores = codes[chosen].unflatten(-1, (4, -1)) @ fourier_features(coordinates[:, None]).T
    return float((coordinates[scores.argmax(-1)] - boxes[chosen]).abs().mean() * INPUT_SIDE)


def train_vision(cache: SceneCache, model: LlavaForConditionalGeneration, folder: Path, steps: int, batch: int = 64) -> None:
    """Train the model's tower and projector in place; checkpoint folder/eyes.pt. Every other batch is mirrored."""
    codes, targets, device = EmbeddingCodes(), compute_targets(cache, folder), model.device
    parts = nn.ModuleDict({"tower": model.model.vision_tower, "projector": model.model.multi_modal_projector})
    stage = Stage("eyes", folder, parts, MuonAdamW(parts.named_parameters(), rate=3e-3), steps)
    draw = draw_batches(cache.trained_on, batch, seed=0, first=stage.count_steps_done())

    def compute_loss(index: Tensor, mirrored: bool = False) -> tuple[Tensor, Metrics]:
        pixels, truth = cache.load_pixels(index).to(device), targets.select(index).to(device)
        if mirrored:
            pixels, truth = pixels.flip(-1), mirror_targets(truth)
        with autocast(device):
            features = model.model.get_image_features(pixel_values=pixels, return_dict=True)
            embedded = torch.stack(list(features.pooler_output))
        return _compute_losses(codes.decode(embedded), codes, truth)

    @torch.no_grad()
    def evaluate() -> Metrics:
        chunks = cache.held_out(250).split(50)
        metrics = [compute_loss(chunk)[1] for chunk in chunks]
        return {key: sum(m[key] for m in metrics) / len(metrics) for key in metrics[0]}

    train(stage, lambda step: compute_loss(next(draw), mirrored=step % 2 == 1), evaluate)
