"""The embedded Segment Anything: a SamModel of 1.1 million parameters, trained on the same scenes as the MLLM.

Two stages. First the encoder alone learns densely, like the MLLM's eyes: what covers each patch, that object's mask in
4 x 4 cells and its box relative to the patch. Then the whole model learns masks from prompts: boxes with jitter, up to 25
points with true labels, evenly drawn or far from edges, clicks without a box; three candidates of which the best is trained
fully and the others a little, and the IoU head. All prompts of a batch are alike in their number of points and in whether
they have a box: Segment Anything attends to padding points, and inference never pads.
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

from recipes.embedded.examples import depth
from recipes.embedded.loop import Metrics, Optimiser, batches, train
from recipes.embedded.world import SAM_SIDE, SIDE, World
from sam4mllm_tool.embedded.scenes import COLOURS

PATCH, CHANNELS, CELLS = 8, 64, 4
GRID = SAM_SIDE // PATCH
HELD_OUT = 500
PROMPTS = 3
ROUGHNESS = (1, 1, 1, 2, 2, 4, 4, 6)
"""How many times the jitter a box gets: rough ones teach that points are to be believed."""
COUNTS = {"even": (0, 0, 3, 3, 5, 8, 12, 18, 25), "far": (1, 3, 5, 9, 9, 9), "clicks": (1, 1, 2, 3)}
"""How many points a batch's prompts have, by how they are placed, drawn anew each time."""
PLACINGS = ("even", "even", "far", "clicks")
"""How a batch's points are placed: evenly in the box; spread over it and far from edges; as clicks, without a box."""


def build_sam() -> SamModel:
    """Fresh weights; the positional encoding's spread is Segment Anything's, which transformers' default is not."""
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


def _pixels(world: World, index: Tensor) -> Tensor:
    return torch.from_numpy(world.rows("sam", index.numpy())).permute(0, 3, 1, 2).float() / 127.5 - 1


# Stage 1 ------------------------------------------------------------------------------------------------------------


class DenseEncoder(nn.Module):
    """The encoder with a linear head: object or ground, colour, the object's cells, its box seen from the patch."""

    def __init__(self, model: SamModel) -> None:
        super().__init__()
        self.encoder = model.vision_encoder
        self.head = nn.Linear(CHANNELS, 1 + len(COLOURS) + CELLS**2 + 4)

    def forward(self, pixel_values: Tensor) -> Sequence[Tensor]:
        seen = self.encoder(pixel_values).last_hidden_state.flatten(2).transpose(1, 2)
        return self.head(seen).float().split([1, len(COLOURS), CELLS**2, 4], -1)


def _dense_targets(world: World, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """owner (n, patches), colour, cells (n, patches, 16) in [0, 1], box edges relative to the patch's middle."""
    fine = GRID * CELLS
    places = ((np.arange(fine) + 0.5) * SIDE / fine).astype(int)
    sampled = world.rows("instances", index.numpy())[:, places][:, :, places]
    tiles = sampled.reshape(-1, GRID, CELLS, GRID, CELLS).transpose(0, 1, 3, 2, 4).reshape(len(index), GRID**2, CELLS**2)
    counts = (tiles[..., None] == np.arange(1, 11)).sum(2)
    owner = np.where(counts.max(-1) > 0, counts.argmax(-1), -1)
    cells = tiles == owner[..., None] + 1
    colour, box = np.zeros((len(index), 10), np.int64), np.zeros((len(index), 10, 4), np.float32)
    for row, i in enumerate(index.tolist()):
        for k, thing in enumerate(world.objects[i]):
            colour[row, k], box[row, k] = list(COLOURS).index(thing.colour), np.array(thing.box) / SIDE
    rows, which = np.arange(len(index))[:, None], owner.clip(min=0)
    middle = np.stack(np.meshgrid((np.arange(GRID) + 0.5) / GRID, (np.arange(GRID) + 0.5) / GRID), -1).reshape(-1, 2)
    edges = box[rows, which] - np.concatenate([middle, middle], -1)
    arrays = (owner, colour[rows, which], cells.astype(np.float32), edges.astype(np.float32))
    return tuple(torch.from_numpy(array) for array in arrays)  # type: ignore[return-value]


def train_encoder(world: World, model: SamModel, folder: Path, steps: int, batch: int = 48) -> None:
    """Stage 1, in place; checkpoint folder/sam-encoder.pt."""
    module = DenseEncoder(model)
    optimiser = Optimiser(module.named_parameters(), rate=3e-3)
    draw = batches(len(world) - HELD_OUT, batch, seed=10)

    def run(index: Tensor) -> tuple[Tensor, Metrics]:
        with torch.autocast("cpu", torch.bfloat16):
            thing, colour, cells, edges = module(_pixels(world, index))
        owner, true_colour, true_cells, true_edges = _dense_targets(world, index)
        on = owner >= 0
        edge_error = (edges[on] - true_edges[on]).abs().mean()
        loss = (
            F.binary_cross_entropy_with_logits(thing[..., 0], on.float())
            + F.cross_entropy(colour[on], true_colour[on])
            + 3 * F.binary_cross_entropy_with_logits(cells[on], true_cells[on])
            + 10 * edge_error
        )
        return loss, {
            "object": ((thing[..., 0] > 0) == on).float().mean().item(),
            "colour": (colour[on].argmax(-1) == true_colour[on]).float().mean().item(),
            "cells": ((cells[on] > 0) == (true_cells[on] > 0.5)).float().mean().item(),
            "edge_px": edge_error.item() * SAM_SIDE,
        }

    @torch.no_grad()
    def evaluate() -> Metrics:
        return run(torch.arange(len(world) - 200, len(world)))[1]

    train("sam-encoder", folder, module, optimiser, steps, lambda _: run(next(draw)), evaluate)


# Stage 2 ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Prompts:
    """PROMPTS objects for each of n pictures, in pixels of the model's input.

    boxes: (n, p, 4), None for clicks. points: (n, p, k, 2) and labels: (n, p, k), None where k is 0. masks: (n, p, side,
    side) in {0, 1}.
    """

    boxes: Tensor | None
    points: Tensor | None
    labels: Tensor | None
    masks: Tensor


def sample_prompts(
    world: World, index: Tensor, rng: np.random.Generator, jitter: float, count: int, placing: str = "even"
) -> Prompts:
    """Boxes jittered by that share of their sides (now and then by several times as much), `count` points with true labels."""
    n, scale = len(index), SAM_SIDE / SIDE
    boxes, points = np.zeros((n, PROMPTS, 4), np.float32), np.zeros((n, PROMPTS, count, 2), np.float32)
    labels = np.zeros((n, PROMPTS, count), np.int64)
    masks = np.zeros((n, PROMPTS, SAM_SIDE, SAM_SIDE), np.float32)
    rows = world.rows("instances", index.numpy())
    pick = ((np.arange(SAM_SIDE) + 0.5) / scale).astype(int)
    for i, scene in enumerate(index.tolist()):
        objects = world.objects[scene]
        for p in range(PROMPTS):
            k = rng.integers(len(objects))
            x1, y1, x2, y2 = objects[k].box
            sides = np.array([x2 - x1, y2 - y1])
            spread = jitter * rng.choice(ROUGHNESS)
            boxes[i, p] = np.clip([x1, y1, x2, y2] + rng.normal(0, 1, 4) * np.tile(sides, 2) * spread, 0, SIDE)
            own = rows[i] == k + 1
            unit = _place(own[int(y1) : int(y2), int(x1) : int(x2)], rng, count, placing)
            xy = unit * sides + (x1, y1)
            points[i, p] = xy
            labels[i, p] = own[xy[:, 1].astype(int), xy[:, 0].astype(int)]
            masks[i, p] = own[pick][:, pick]
    b, x, y, m = (torch.from_numpy(array) for array in (boxes * scale, points * scale, labels, masks))
    return Prompts(None if placing == "clicks" else b, x if count else None, y if count else None, m)


def _place(inside: np.ndarray, rng: np.random.Generator, count: int, placing: str) -> np.ndarray:
    """(count, 2) places in the unit box. inside: (h, w) bool, the object in its box."""
    if placing == "even":
        return rng.uniform(0, 1, (count, 2))
    if placing == "clicks":  # the first somewhere well inside, the others anywhere
        deep = depth(inside)
        ys, xs = np.nonzero(deep >= rng.uniform(0.2, 1) * deep.max())
        one = rng.integers(len(xs))
        first = (np.array([xs[one], ys[one]]) + 0.5) / inside.shape[::-1]
        return np.concatenate([first[None], rng.uniform(0, 1, (count - 1, 2))])
    deep = np.where(inside, depth(inside), depth(~inside))
    ninths = rng.permutation(9)[:count]
    corners = np.stack([ninths % 3, ninths // 3], -1)
    tried = (corners[:, None] + rng.uniform(0, 1, (count, 6, 2))) / 3
    rows, columns = (tried[..., axis] * inside.shape[1 - axis] for axis in (1, 0))
    best = deep[rows.astype(int), columns.astype(int)].argmax(1)
    return tried[np.arange(count), best]


def train_masks(world: World, model: SamModel, folder: Path, steps: int, batch: int = 12) -> None:
    """Stage 2, in place; checkpoint folder/sam.pt."""
    optimiser = Optimiser(model.named_parameters(), rate=2e-3)
    draw = batches(len(world) - HELD_OUT, batch, seed=20)
    rng = np.random.default_rng(30)

    def run(index: Tensor, rng: np.random.Generator, jitter: float, count: int, placing: str) -> tuple[Tensor, Metrics]:
        drawn = sample_prompts(world, index, rng, jitter, count, placing)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(
                pixel_values=_pixels(world, index),
                input_boxes=drawn.boxes,
                input_points=drawn.points,
                input_labels=drawn.labels,
                multimask_output=True,
            )
        logits = F.interpolate(
            out.pred_masks.float().flatten(0, 1), drawn.masks.shape[-2:], mode="bilinear", align_corners=False
        )
        scores = out.iou_scores.float().flatten(0, 1)
        truth = drawn.masks.flatten(0, 1)[:, None].expand_as(logits)
        soft = logits.sigmoid()
        dice = 1 - (2 * (soft * truth).sum((-1, -2)) + 1) / (soft.sum((-1, -2)) + truth.sum((-1, -2)) + 1)
        each = 10 * F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((-1, -2)) + dice
        with torch.no_grad():
            hard, true = logits > 0, truth > 0.5
            iou = (hard & true).sum((-1, -2)) / (hard | true).sum((-1, -2)).clamp(min=1)
        loss = each.min(-1).values.mean() + 0.1 * each.mean() + F.mse_loss(scores, iou)
        chosen = iou.gather(-1, scores.argmax(-1, keepdim=True))
        return loss, {"best_iou": iou.max(-1).values.mean().item(), "chosen_iou": chosen.mean().item()}

    @torch.no_grad()
    def evaluate() -> Metrics:
        figures: Metrics = {}
        for placing, given in (("even", 0), ("even", 5), ("even", 25), ("far", 9), ("clicks", 1)):
            fixed = np.random.default_rng(1)
            chunks = torch.arange(len(world) - 240, len(world)).split(40)
            ious = [run(chunk, fixed, 0.0, given, placing)[1]["chosen_iou"] for chunk in chunks]
            figures[f"iou_{given}_{placing}"] = sum(ious) / len(ious)
        return figures

    def step(_: int) -> tuple[Tensor, Metrics]:
        placing = str(rng.choice(PLACINGS))
        return run(next(draw), rng, 0.06, int(rng.choice(COUNTS[placing])), placing)

    train("sam", folder, model, optimiser, steps, step, evaluate)
