"""The embedded Segment Anything: a SamModel of 1.1 million parameters, trained on the same scenes as the MLLM.

There are two stages. First the encoder alone learns dense targets like the MLLM: what covers each patch, that
object's mask in 4 x 4 cells, and its box relative to the patch. Then the whole model learns masks from prompts: boxes with
jitter, up to 25 points with true labels, uniform or far from edges, and clicks without a box. Of the three candidates, the best
is trained fully and the others a little; the IoU head is trained too. All prompts of a batch have the same number of points,
and either all or none have a box, because Segment Anything attends to padding points and inference never pads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from recipes.embedded.curriculum import compute_depth
from recipes.embedded.scene_cache import SAM_SIDE, SIDE, SceneCache
from recipes.embedded.training_loop import Metrics, MuonAdamW, Stage, draw_batches, train
from sam4mllm_tool.embedded.scenes import COLOURS

PATCH, CHANNELS, CELLS = 8, 64, 4
GRID = SAM_SIDE // PATCH
HELD_OUT = 500
PROMPTS = 3
ROUGHNESS = (1, 1, 1, 2, 2, 4, 4, 6)
"""Factors of a box's jitter: rough boxes teach the model to trust points."""
COUNTS = {"even": (0, 0, 3, 3, 5, 8, 12, 18, 25), "far": (1, 3, 5, 9, 9, 9), "clicks": (1, 1, 2, 3)}
"""Numbers of points per prompt that are drawn from, by placement."""
PLACEMENTS = ("even", "even", "far", "clicks")
"""Placements that are drawn from: uniform in the box; spread over it and far from edges; clicks, without a box."""


def build_sam() -> SamModel:
    """Build the model with fresh weights; unlike transformers, with the scale of Segment Anything's positional encoding."""
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=128,
            output_channels=CHANNELS,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=SAM_SIDE,
            patch_size=PATCH,
            window_size=GRID // 2,
            global_attn_indexes=[1, 3],
            mlp_dim=512,
            num_pos_feats=CHANNELS // 2,
            use_rel_pos=False,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=CHANNELS, image_size=SAM_SIDE, patch_size=PATCH, mask_input_channels=8
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=CHANNELS, mlp_dim=256, num_hidden_layers=2, num_attention_heads=4, iou_head_hidden_dim=64
        ),
    )
    model = SamModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "positional_embedding" in name:
                parameter.div_(parameter.std())
    return model


def build_processor() -> SamProcessor:
    """Build the processor for the model's input size."""
    return SamProcessor(
        image_processor=SamImageProcessor(
            size={"longest_edge": SAM_SIDE},
            pad_size={"height": SAM_SIDE, "width": SAM_SIDE},
            mask_size={"longest_edge": 4 * GRID},
            mask_pad_size={"height": 4 * GRID, "width": 4 * GRID},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        )
    )


def _load_pixels(cache: SceneCache, index: Tensor) -> Tensor:
    return torch.from_numpy(cache.load("sam", index.numpy())).permute(0, 3, 1, 2).float() / 127.5 - 1


# Stage 1 ------------------------------------------------------------------------------------------------------------


class DenseEncoder(nn.Module):
    """The encoder with a linear head: object or background, colour, the object's cells, its box relative to the patch."""

    def __init__(self, model: SamModel) -> None:
        super().__init__()
        self.encoder = model.vision_encoder
        self.head = nn.Linear(CHANNELS, 1 + len(COLOURS) + CELLS**2 + 4)

    def forward(self, pixel_values: Tensor) -> Sequence[Tensor]:
        features = self.encoder(pixel_values).last_hidden_state.flatten(2).transpose(1, 2)
        return self.head(features).float().split([1, len(COLOURS), CELLS**2, 4], -1)


def _compute_dense_targets(cache: SceneCache, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return per patch the owner, -1 for none, colour, cells (n, patches, 16) in {0, 1}, box edges relative to the middle."""
    fine = GRID * CELLS
    middles = ((np.arange(fine) + 0.5) * SIDE / fine).astype(int)
    sampled = cache.load("instances", index.numpy())[:, middles][:, :, middles]
    tiles = sampled.reshape(-1, GRID, CELLS, GRID, CELLS).transpose(0, 1, 3, 2, 4).reshape(len(index), GRID**2, CELLS**2)
    counts = (tiles[..., None] == np.arange(1, 11)).sum(2)
    owner = np.where(counts.max(-1) > 0, counts.argmax(-1), -1)
    cells = tiles == owner[..., None] + 1
    colour, box = np.zeros((len(index), 10), np.int64), np.zeros((len(index), 10, 4), np.float32)
    for row, i in enumerate(index.tolist()):
        for k, shape in enumerate(cache.objects[i]):
            colour[row, k], box[row, k] = list(COLOURS).index(shape.colour), np.array(shape.box) / SIDE
    rows, owners = np.arange(len(index))[:, None], owner.clip(min=0)
    middle = np.stack(np.meshgrid((np.arange(GRID) + 0.5) / GRID, (np.arange(GRID) + 0.5) / GRID), -1).reshape(-1, 2)
    edges = box[rows, owners] - np.concatenate([middle, middle], -1)
    arrays = (owner, colour[rows, owners], cells.astype(np.float32), edges.astype(np.float32))
    return tuple(torch.from_numpy(array) for array in arrays)  # type: ignore[return-value]


def _compute_dense_loss(module: DenseEncoder, cache: SceneCache, index: Tensor) -> tuple[Tensor, Metrics]:
    with torch.autocast("cpu", torch.bfloat16):
        objectness, colour, cells, edges = module(_load_pixels(cache, index))
    owner, true_colour, true_cells, true_edges = _compute_dense_targets(cache, index)
    on = owner >= 0
    edge_error = (edges[on] - true_edges[on]).abs().mean()
    loss = (
        F.binary_cross_entropy_with_logits(objectness[..., 0], on.float())
        + F.cross_entropy(colour[on], true_colour[on])
        + 3 * F.binary_cross_entropy_with_logits(cells[on], true_cells[on])
        + 10 * edge_error
    )
    return loss, {
        "object": ((objectness[..., 0] > 0) == on).float().mean().item(),
        "colour": (colour[on].argmax(-1) == true_colour[on]).float().mean().item(),
        "cells": ((cells[on] > 0) == (true_cells[on] > 0.5)).float().mean().item(),
        "edge_px": edge_error.item() * SAM_SIDE,
    }


def train_encoder(cache: SceneCache, model: SamModel, folder: Path, steps: int, batch: int = 48) -> None:
    """Train the encoder in place (stage 1); checkpoint folder/sam-encoder.pt."""
    module = DenseEncoder(model)
    stage = Stage("sam-encoder", folder, module, MuonAdamW(module.named_parameters(), rate=3e-3), steps)
    draw = draw_batches(len(cache) - HELD_OUT, batch, seed=10)

    @torch.no_grad()
    def evaluate() -> Metrics:
        return _compute_dense_loss(module, cache, torch.arange(len(cache) - 200, len(cache)))[1]

    train(stage, lambda _: _compute_dense_loss(module, cache, next(draw)), evaluate)


# Stage 2 ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SamPrompts:
    """p prompts for each of n images, in pixels of the model's input.

    Attributes:
        boxes: (n, p, 4), None for clicks.
        points: (n, p, k, 2), None if k is 0.
        labels: (n, p, k), None if k is 0.
        masks: (n, p, side, side) in {0, 1}, the true masks.
    """

    boxes: Tensor | None
    points: Tensor | None
    labels: Tensor | None
    masks: Tensor


def sample_prompts(
    cache: SceneCache, index: Tensor, rng: np.random.Generator, jitter: float, count: int, placement: str = "even"
) -> SamPrompts:
    """Draw prompts for random objects of the scenes.

    Args:
        cache: The scenes.
        index: Which of them.
        rng: Source of randomness.
        jitter: Standard deviation of the boxes' edges as a share of their sides, times a random factor of ROUGHNESS.
        count: Number of points, with true labels.
        placement: One of PLACEMENTS.
    """
    n, scale = len(index), SAM_SIDE / SIDE
    boxes, points = np.zeros((n, PROMPTS, 4), np.float32), np.zeros((n, PROMPTS, count, 2), np.float32)
    labels = np.zeros((n, PROMPTS, count), np.int64)
    masks = np.zeros((n, PROMPTS, SAM_SIDE, SAM_SIDE), np.float32)
    instances = cache.load("instances", index.numpy())
    nearest = ((np.arange(SAM_SIDE) + 0.5) / scale).astype(int)
    for i, scene in enumerate(index.tolist()):
        objects = cache.objects[scene]
        for p in range(PROMPTS):
            k = rng.integers(len(objects))
            x1, y1, x2, y2 = objects[k].box
            sides = np.array([x2 - x1, y2 - y1])
            spread = jitter * rng.choice(ROUGHNESS)
            boxes[i, p] = np.clip([x1, y1, x2, y2] + rng.normal(0, 1, 4) * np.tile(sides, 2) * spread, 0, SIDE)
            mask = instances[i] == k + 1
            xy = _place_points(mask[int(y1) : int(y2), int(x1) : int(x2)], rng, count, placement) * sides + (x1, y1)
            points[i, p] = xy
            labels[i, p] = mask[xy[:, 1].astype(int), xy[:, 0].astype(int)]
            masks[i, p] = mask[nearest][:, nearest]
    b, x, y, m = (torch.from_numpy(array) for array in (boxes * scale, points * scale, labels, masks))
    return SamPrompts(None if placement == "clicks" else b, x if count else None, y if count else None, m)


def _place_points(inside: np.ndarray, rng: np.random.Generator, count: int, placement: str) -> np.ndarray:
    """Return (count, 2) points in the unit box; `inside` is (h, w) bool, the object in its box."""
    if placement == "even":
        return rng.uniform(0, 1, (count, 2))
    if placement == "clicks":  # the first well inside the object, the others anywhere
        depth = compute_depth(inside)
        ys, xs = np.nonzero(depth >= rng.uniform(0.2, 1) * depth.max())
        pixel = rng.integers(len(xs))
        first = (np.array([xs[pixel], ys[pixel]]) + 0.5) / inside.shape[::-1]
        return np.concatenate([first[None], rng.uniform(0, 1, (count - 1, 2))])
    depth = np.where(inside, compute_depth(inside), compute_depth(~inside))
    ninths = rng.permutation(9)[:count]
    corners = np.stack([ninths % 3, ninths // 3], -1)
    candidates = (corners[:, None] + rng.uniform(0, 1, (count, 6, 2))) / 3
    rows, columns = (candidates[..., axis] * inside.shape[1 - axis] for axis in (1, 0))
    deepest = depth[rows.astype(int), columns.astype(int)].argmax(1)
    return candidates[np.arange(count), deepest]


def _compute_mask_loss(model: SamModel, pixels: Tensor, prompts: SamPrompts) -> tuple[Tensor, Metrics]:
    with torch.autocast("cpu", torch.bfloat16):
        out = model(
            pixel_values=pixels,
            input_boxes=prompts.boxes,
            input_points=prompts.points,
            input_labels=prompts.labels,
            multimask_output=True,
        )
    logits = F.interpolate(out.pred_masks.float().flatten(0, 1), prompts.masks.shape[-2:], mode="bilinear", align_corners=False)
    scores = out.iou_scores.float().flatten(0, 1)
    truth = prompts.masks.flatten(0, 1)[:, None].expand_as(logits)
    soft = logits.sigmoid()
    dice = 1 - (2 * (soft * truth).sum((-1, -2)) + 1) / (soft.sum((-1, -2)) + truth.sum((-1, -2)) + 1)
    losses = 10 * F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((-1, -2)) + dice
    with torch.no_grad():
        predicted, true = logits > 0, truth > 0.5
        iou = (predicted & true).sum((-1, -2)) / (predicted | true).sum((-1, -2)).clamp(min=1)
    loss = losses.min(-1).values.mean() + 0.1 * losses.mean() + F.mse_loss(scores, iou)
    chosen = iou.gather(-1, scores.argmax(-1, keepdim=True))
    return loss, {"best_iou": iou.max(-1).values.mean().item(), "chosen_iou": chosen.mean().item()}


def train_masks(cache: SceneCache, model: SamModel, folder: Path, steps: int, batch: int = 12) -> None:
    """Train the model in place (stage 2); checkpoint folder/sam.pt."""
    stage = Stage("sam", folder, model, MuonAdamW(model.named_parameters(), rate=2e-3), steps)
    draw = draw_batches(len(cache) - HELD_OUT, batch, seed=20)
    rng = np.random.default_rng(30)

    def compute_loss(_: int) -> tuple[Tensor, Metrics]:
        placement = str(rng.choice(PLACEMENTS))
        count = int(rng.choice(COUNTS[placement]))
        index = next(draw)
        return _compute_mask_loss(model, _load_pixels(cache, index), sample_prompts(cache, index, rng, 0.06, count, placement))

    @torch.no_grad()
    def evaluate() -> Metrics:
        metrics: Metrics = {}
        for placement, count in (("even", 0), ("even", 5), ("even", 25), ("far", 9), ("clicks", 1)):
            fixed = np.random.default_rng(1)
            ious = []
            for index in torch.arange(len(cache) - 240, len(cache)).split(40):
                prompts = sample_prompts(cache, index, fixed, 0.0, count, placement)
                ious.append(_compute_mask_loss(model, _load_pixels(cache, index), prompts)[1]["chosen_iou"])
            metrics[f"iou_{count}_{placement}"] = sum(ious) / len(ious)
        return metrics

    train(stage, compute_loss, evaluate)
