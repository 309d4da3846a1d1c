"""Stage 1: vision tower and projector learn, patch by patch, what the patch shows.

Dense targets teach a small tower in minutes what question answering would not teach it in days: the colour, shape, size, box
and ranks of the object that covers the patch, that object's mask in 4 x 4 cells, and the position of the patch itself. All are
read from the projector's output in the basis of `EmbeddingCodes`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from recipes.embedded.architecture import CELLS, GRID, RANKS, EmbeddingCodes, fourier_features
from recipes.embedded.scene_cache import MLLM_SIDE, SIDE, SceneCache
from recipes.embedded.training_loop import Metrics, MuonAdamW, Stage, draw_batches, train
from sam4mllm_tool.embedded.scenes import COLOURS, SHAPES, SIZES, SceneObject

HELD_OUT = 500
"""Scenes at the end of the cache that are not trained on."""
_MAX_OBJECTS = 10
_SHARPNESS = 8.0  # logits are the class codes times this


@dataclass(frozen=True)
class PatchTargets:
    """The dense targets of n scenes.

    Attributes:
        owner: (n, 144) int8, the object that covers most of the patch, -1 for none.
        cells: (n, 144, 16) uint8, the share of each cell that the owner covers, from 0 to 255.
        looks: (n, 10, 3) int8, colour, shape and size of each object.
        ranks: (n, 10, 8) int8, see `_rank_objects`.
        boxes: (n, 10, 4) float16, in units of the image's side.
    """

    owner: Tensor
    cells: Tensor
    looks: Tensor
    ranks: Tensor
    boxes: Tensor


def load_pixels(cache: SceneCache, indices: Tensor) -> Tensor:
    """Return (n, 3, 192, 192) float in [-1, 1], as the image processor does."""
    images = torch.from_numpy(cache.load("mllm", indices.numpy()))
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def compute_targets(cache: SceneCache, folder: Path) -> PatchTargets:
    """Compute the dense targets of all scenes, or load them from the working folder."""
    file = folder / f"targets-{cache.first}-{len(cache)}.pt"
    if file.exists():
        return PatchTargets(**torch.load(file, weights_only=True))
    n, colours, shapes, sizes = len(cache), list(COLOURS), list(SHAPES), list(SIZES)
    owner, cells = np.full((n, GRID**2), -1, np.int8), np.zeros((n, GRID**2, CELLS**2), np.uint8)
    looks, ranks = np.zeros((n, _MAX_OBJECTS, 3), np.int8), np.zeros((n, _MAX_OBJECTS, 8), np.int8)
    boxes = np.zeros((n, _MAX_OBJECTS, 4), np.float16)
    patches = np.arange(GRID**2)
    for i in tqdm(range(n), desc="targets", mininterval=10):
        objects = cache.objects[i]
        coverage = _compute_coverage(cache.load("instances", np.array([i]))[0], len(objects))
        largest = coverage.mean(2).argmax(0)
        owner[i] = np.where(coverage.mean(2)[largest, patches] > 0.02, largest, -1)
        cells[i] = coverage[largest, patches] * 255
        looks[i, : len(objects)] = [(colours.index(o.colour), shapes.index(o.shape), sizes.index(o.size)) for o in objects]
        ranks[i, : len(objects)] = _rank_objects(objects)
        boxes[i, : len(objects)] = np.array([o.box for o in objects]) / SIDE
    arrays = {"owner": owner, "cells": cells, "looks": looks, "ranks": ranks, "boxes": boxes}
    targets = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(targets, file)
    return PatchTargets(**targets)


def _compute_coverage(instances: np.ndarray, count: int) -> np.ndarray:
    """Return (objects, patches, cells): the share of each cell that each object covers."""
    edges = np.linspace(0, SIDE, GRID * CELLS + 1)[:-1].astype(int)
    areas = np.outer(*(np.diff([*edges, SIDE]),) * 2)
    masks = np.stack([instances == k + 1 for k in range(count)]).astype(np.float32)
    shares = np.add.reduceat(np.add.reduceat(masks, edges, 1), edges, 2) / areas
    return shares.reshape(-1, GRID, CELLS, GRID, CELLS).transpose(0, 1, 3, 2, 4).reshape(-1, GRID**2, CELLS**2)


def _rank_objects(objects: tuple[SceneObject, ...]) -> np.ndarray:
    """Return (n, 8): each object's rank from left, right, top, bottom among those of its shape, then of its colour."""
    extents = np.array([(x, -x, y, -y) for x, y in (o.centre for o in objects)])
    ranks = []
    for attribute in ("shape", "colour"):
        names = np.array([getattr(o, attribute) for o in objects])
        same = names[:, None] == names[None]
        ranks.append((same[:, :, None] & (extents[None] < extents[:, None])).sum(1))
    return np.concatenate(ranks, 1).clip(0, RANKS - 1)


def _compute_losses(output: Tensor, codes: EmbeddingCodes, targets: PatchTargets, index: Tensor) -> tuple[Tensor, Metrics]:
    """Return the weighted sum of all dense losses, and metrics; `output` is (n, 144, codes)."""
    part = {name: output[..., slice_] for name, slice_ in codes.parts.items()}
    owner = targets.owner[index].long()
    covered = owner >= 0
    scenes, owners = torch.arange(len(index))[:, None], owner.clamp(min=0)
    looks = targets.looks[index].long()[scenes, owners][covered]
    ranks = targets.ranks[index].long()[scenes, owners][covered]
    boxes = targets.boxes[index].float()[scenes, owners][covered]
    cells = targets.cells[index][covered].float() / 255
    logits = {name: _SHARPNESS * part[name][covered] for name in ("colour", "shape", "size", "cells")}
    rank_logits = (_SHARPNESS * part["rank"][covered]).unflatten(-1, (8, RANKS))
    middle = (torch.arange(GRID) + 0.5) / GRID
    own = fourier_features(torch.stack([middle.repeat(GRID), middle.repeat_interleave(GRID)], -1))
    box_error = (part["box"][covered] - fourier_features(boxes)).square().unflatten(-1, (4, -1))
    loss = (
        sum(F.cross_entropy(logits[name], looks[:, k]) for k, name in enumerate(("colour", "shape", "size")))
        + F.binary_cross_entropy_with_logits(_SHARPNESS * (part["object"][..., 0] - 0.5), covered.float())
        + F.binary_cross_entropy_with_logits(2 * logits["cells"] - _SHARPNESS, cells) * 3
        + F.cross_entropy(rank_logits.flatten(0, 1), ranks.flatten()) * 3
        + box_error.mean() * 8
        + (part["own"] - own).square().mean() * 3
    )
    with torch.no_grad():
        right_ranks = rank_logits.argmax(-1) == ranks
        metrics = {
            name: (logits[name].argmax(-1) == looks[:, k]).float().mean().item()
            for k, name in enumerate(("colour", "shape", "size"))
        }
        metrics |= {
            "object": ((part["object"][..., 0] > 0.5) == covered).float().mean().item(),
            "cells": ((logits["cells"] > _SHARPNESS / 2) == (cells > 0.5)).float().mean().item(),
            "rank": right_ranks.float().mean().item(),
            "rank2+": right_ranks[ranks > 0].float().mean().item(),
            "box_mse": box_error.mean().item(),
            "box_px": _measure_box_error(part["box"][covered], boxes),
        }
    return loss, metrics


def _measure_box_error(codes: Tensor, boxes: Tensor) -> float:
    """Return the mean error of the best-matching coordinates, in pixels of the MLLM's input, on at most 500 patches."""
    coordinates = (torch.arange(MLLM_SIDE) + 0.5) / MLLM_SIDE
    table = fourier_features(coordinates[:, None])
    scores = codes[:500].unflatten(-1, (4, -1)) @ table.T
    return float((coordinates[scores.argmax(-1)] - boxes[:500]).abs().mean() * MLLM_SIDE)


def train_vision(cache: SceneCache, model: LlavaForConditionalGeneration, folder: Path, steps: int, batch: int = 96) -> None:
    """Train the model's tower and projector in place; checkpoint folder/eyes.pt."""
    codes, targets = EmbeddingCodes(), compute_targets(cache, folder)
    parts = nn.ModuleDict({"tower": model.model.vision_tower, "projector": model.model.multi_modal_projector})
    stage = Stage("eyes", folder, parts, MuonAdamW(parts.named_parameters(), rate=3e-3), steps)
    draw = draw_batches(len(cache) - HELD_OUT, batch, seed=0)

    def compute_loss(index: Tensor) -> tuple[Tensor, Metrics]:
        with torch.autocast("cpu", torch.bfloat16):
            features = model.model.get_image_features(pixel_values=load_pixels(cache, index), return_dict=True)
            embedded = torch.stack(list(features.pooler_output))
        return _compute_losses(codes.decode(embedded), codes, targets, index)

    @torch.no_grad()
    def evaluate() -> Metrics:
        chunks = torch.arange(len(cache) - HELD_OUT, len(cache)).split(100)
        metrics = [compute_loss(chunk)[1] for chunk in chunks]
        return {key: sum(m[key] for m in metrics) / len(metrics) for key in metrics[0]}

    train(stage, lambda _: compute_loss(next(draw)), evaluate)
