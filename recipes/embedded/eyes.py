"""Stage 1, the eyes: vision tower and projector learn, patch by patch, what the patch shows.

Dense targets teach a small tower in minutes what answers to questions would not teach it in days: the colour, shape, size,
box and ranks of the object that covers the patch, that object's mask in 4 x 4 cells, and the patch's own place. All are
read from the projector's output in the basis of `Codes`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from recipes.embedded.architecture import CELLS, GRID, RANKS, Codes, fourier
from recipes.embedded.loop import Metrics, Optimiser, batches, train
from recipes.embedded.world import MLLM_SIDE, SIDE, World
from sam4mllm_tool.embedded.scenes import COLOURS, SHAPES, SIZES, SceneObject

HELD_OUT = 500
MAX_OBJECTS = 10
_SHARP = 8.0  # class codes times this are logits


@dataclass(frozen=True)
class Targets:
    """Per scene and patch: which object covers it most (-1 none) and its cells; per scene and object: its looks."""

    owner: Tensor  # (n, 144) int8
    cells: Tensor  # (n, 144, 16) uint8, 0 to 255
    looks: Tensor  # (n, 10, 3) int8: colour, shape, size
    ranks: Tensor  # (n, 10, 8) int8
    boxes: Tensor  # (n, 10, 4) float16 in [0, 1]


def pixels(world: World, indices: Tensor) -> Tensor:
    """(n, 3, 192, 192) float in [-1, 1], as the image processor gives them."""
    rows = torch.from_numpy(world.rows("mllm", indices.numpy()))
    return rows.permute(0, 3, 1, 2).float() / 127.5 - 1


def image_features(model: LlavaForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """(n, 144, width): what the language model sees of the picture."""
    return torch.stack(list(model.model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output))


def _ranks(objects: tuple[SceneObject, ...]) -> np.ndarray:
    """(n, 8): each object's rank from left, right, top, bottom among its shape, then among its colour."""
    reach = np.array([(x, -x, y, -y) for x, y in (o.centre for o in objects)])
    rows = []
    for attribute in ("shape", "colour"):
        names = np.array([getattr(o, attribute) for o in objects])
        same = names[:, None] == names[None]
        rows.append((same[:, :, None] & (reach[None] < reach[:, None])).sum(1))
    return np.concatenate(rows, 1).clip(0, RANKS - 1)


def make_targets(world: World, folder: Path) -> Targets:
    cached = folder / f"targets-{world.first}-{len(world)}.pt"
    if cached.exists():
        return Targets(**torch.load(cached, weights_only=True))
    n, colours, shapes, sizes = len(world), list(COLOURS), list(SHAPES), list(SIZES)
    owner, cells = np.full((n, GRID**2), -1, np.int8), np.zeros((n, GRID**2, CELLS**2), np.uint8)
    looks, ranks = np.zeros((n, MAX_OBJECTS, 3), np.int8), np.zeros((n, MAX_OBJECTS, 8), np.int8)
    boxes = np.zeros((n, MAX_OBJECTS, 4), np.float16)
    edges = np.linspace(0, SIDE, GRID * CELLS + 1)[:-1].astype(int)
    areas = np.outer(*(np.diff([*edges, SIDE]),) * 2)
    for i in tqdm(range(n), desc="targets", mininterval=10):
        objects, instances = world.objects[i], world.rows("instances", np.array([i]))[0]
        masks = np.stack([instances == k + 1 for k in range(len(objects))]).astype(np.float32)
        share = np.add.reduceat(np.add.reduceat(masks, edges, 1), edges, 2) / areas
        share = share.reshape(-1, GRID, CELLS, GRID, CELLS).transpose(0, 1, 3, 2, 4).reshape(-1, GRID**2, CELLS**2)
        most = share.mean(2).argmax(0)
        patch = np.arange(GRID**2)
        owner[i] = np.where(share.mean(2)[most, patch] > 0.02, most, -1)
        cells[i] = share[most, patch] * 255
        looks[i, : len(objects)] = [(colours.index(o.colour), shapes.index(o.shape), sizes.index(o.size)) for o in objects]
        ranks[i, : len(objects)] = _ranks(objects)
        boxes[i, : len(objects)] = np.array([o.box for o in objects]) / SIDE
    tensors = {"owner": owner, "cells": cells, "looks": looks, "ranks": ranks, "boxes": boxes}
    targets = {name: torch.from_numpy(array) for name, array in tensors.items()}
    torch.save(targets, cached)
    return Targets(**targets)


def _losses(codes: Tensor, codebook: Codes, targets: Targets, index: Tensor) -> tuple[Tensor, Metrics]:
    """codes (n, 144, k) -> the weighted sum of all dense losses, and readable figures."""
    part = {name: codes[..., where] for name, where in codebook.parts.items()}
    owner = targets.owner[index].long()
    covered = owner >= 0
    rows, which = torch.arange(len(index))[:, None], owner.clamp(min=0)
    looks = targets.looks[index].long()[rows, which][covered]
    ranks = targets.ranks[index].long()[rows, which][covered]
    boxes = targets.boxes[index].float()[rows, which][covered]
    cells = targets.cells[index][covered].float() / 255
    logits = {name: _SHARP * part[name][covered] for name in ("colour", "shape", "size", "cells")}
    rank_logits = (_SHARP * part["rank"][covered]).unflatten(-1, (8, RANKS))
    middle = (torch.arange(GRID) + 0.5) / GRID
    own = fourier(torch.stack([middle.repeat(GRID), middle.repeat_interleave(GRID)], -1))
    box_error = (part["box"][covered] - fourier(boxes)).square().unflatten(-1, (4, -1))
    loss = (
        sum(F.cross_entropy(logits[name], looks[:, k]) for k, name in enumerate(("colour", "shape", "size")))
        + F.binary_cross_entropy_with_logits(_SHARP * (part["object"][..., 0] - 0.5), covered.float())
        + F.binary_cross_entropy_with_logits(2 * logits["cells"] - _SHARP, cells) * 3
        + F.cross_entropy(rank_logits.flatten(0, 1), ranks.flatten()) * 3
        + box_error.mean() * 8
        + (part["own"] - own).square().mean() * 3
    )
    with torch.no_grad():
        right = {
            name: (logits[name].argmax(-1) == looks[:, k]).float().mean().item()
            for k, name in enumerate(("colour", "shape", "size"))
        }
        metrics = {
            **right,
            "object": ((part["object"][..., 0] > 0.5) == covered).float().mean().item(),
            "cells": ((logits["cells"] > _SHARP / 2) == (cells > 0.5)).float().mean().item(),
            "rank": (rank_logits.argmax(-1) == ranks).float().mean().item(),
            "rank2+": (rank_logits.argmax(-1) == ranks)[ranks > 0].float().mean().item(),
            "box_mse": box_error.mean().item(),
            "box_px": _box_pixels(part["box"][covered], boxes),
        }
    return loss, metrics


def _box_pixels(codes: Tensor, boxes: Tensor) -> float:
    """Mean error of the best-matching coordinates, in pixels of the MLLM's picture; on at most 500 patches."""
    places = (torch.arange(MLLM_SIDE) + 0.5) / MLLM_SIDE
    table = fourier(places[:, None])
    read = codes[:500].unflatten(-1, (4, -1)) @ table.T
    return float((places[read.argmax(-1)] - boxes[:500]).abs().mean() * MLLM_SIDE)


def train_eyes(world: World, model: LlavaForConditionalGeneration, folder: Path, steps: int, batch: int = 96) -> None:
    """Trains model's tower and projector in place; checkpoint folder/eyes.pt."""
    codebook, targets = Codes(), make_targets(world, folder)
    parts = nn.ModuleDict({"tower": model.model.vision_tower, "projector": model.model.multi_modal_projector})
    optimiser = Optimiser(parts.named_parameters(), rate=3e-3)
    draw = batches(len(world) - HELD_OUT, batch, seed=0)

    def run(index: Tensor) -> tuple[Tensor, Metrics]:
        with torch.autocast("cpu", torch.bfloat16):
            embedded = image_features(model, pixels(world, index))
        return _losses(codebook.read(embedded), codebook, targets, index)

    @torch.no_grad()
    def evaluate() -> Metrics:
        chunks = torch.arange(len(world) - HELD_OUT, len(world)).split(100)
        figures = [run(chunk)[1] for chunk in chunks]
        return {key: sum(f[key] for f in figures) / len(figures) for key in figures[0]}

    train("eyes", folder, parts, optimiser, steps, lambda _: run(next(draw)), evaluate)
