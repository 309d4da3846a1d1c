"""The training of the embedded Segment Anything, on the same scenes as the MLLM.

There are two stages. First the encoder alone learns dense targets like the MLLM's: whether an object and a part cover each
patch, the masks of both in 4 x 4 cells, and their boxes as sines and cosines, as prompts are encoded, so that a prompt can be
compared with them. Then the decoder learns masks from prompts, at first alone, then with the encoder, which goes on learning
dense targets of the same images. Where a prompt fits two regions (one click on a handle, a box around a frame and its
picture), two of the three candidates are trained, one on each, so that candidates are the whole and its parts; else the best
is trained fully and the others a little. The IoU head is trained too. In some steps a click on what is wrong follows, with the
first mask as mask input. All prompts of a batch have the same number of points, and either all or none have a box, because
Segment Anything attends to padding points and inference never pads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage  # type: ignore[import-untyped]
from torch import Tensor, nn
from transformers import SamModel

from recipes.embedded.architecture import CELLS, INPUT_SIDE, fourier_features
from recipes.embedded.sam_model import BOX_FREQUENCIES, CHANNELS, GRID, MASK_SIDE
from recipes.embedded.sam_prompts import COUNTS, PLACEMENTS, SamPrompts, sample_prompts
from recipes.embedded.scene_cache import SIDE, SceneCache
from recipes.embedded.training_loop import Metrics, MuonAdamW, Stage, autocast, draw_batches, train

_DENSE_WEIGHT = 0.5
"""Weight of the encoder's dense targets while the whole model learns."""
BALANCED_STEPS, DECODER_STEPS = 200, 1500
"""Steps in which pixels of the region weigh as much as all others, so that masks don't stay empty; in which the decoder alone
learns."""
_CORRECTED = 0.4
"""Share of the steps in which a correcting click follows."""
_MIN_COVERAGE = 1e-3  # as the segmenter's backend encodes mask inputs
_LEAST_AREA = 50
"""Pixels of the decoder's mask; the errors of masks are compared with their areas, those of smaller ones with this."""


# Stage 1 ------------------------------------------------------------------------------------------------------------


class DenseEncoder(nn.Module):
    """The encoder with a linear head: whether something covers a patch, its cells, its box; of object and part."""

    def __init__(self, model: SamModel) -> None:
        super().__init__()
        self.encoder = model.vision_encoder
        self.sizes = 2 * [1, CELLS**2, 4 * 2 * len(BOX_FREQUENCIES)]
        self.head = nn.Linear(CHANNELS, sum(self.sizes))

    def forward(self, pixel_values: Tensor) -> Sequence[Tensor]:
        return self.predict(self.encoder(pixel_values).last_hidden_state)

    def predict(self, embeddings: Tensor) -> Sequence[Tensor]:
        """Predict from what the encoder gave, (n, CHANNELS, GRID, GRID)."""
        return self.head(embeddings.flatten(2).transpose(1, 2)).float().split(self.sizes, -1)


def compute_dense_targets(cache: SceneCache, index: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return per patch: whether a region covers it, (n, patches); cells, (n, patches, 16); the region's box in [0, 1]."""
    fine = GRID * CELLS
    middles = ((np.arange(fine) + 0.5) * SIDE / fine).astype(int)
    array = "instances" if kind == "object" else "parts"
    sampled = cache.load(array, index.numpy())[:, middles][:, :, middles]
    tiles = sampled.reshape(-1, GRID, CELLS, GRID, CELLS).transpose(0, 1, 3, 2, 4).reshape(len(index), GRID**2, CELLS**2)
    listed, boxes = np.zeros((len(index), 256), np.bool_), np.zeros((len(index), 256, 4), np.float32)
    for row, i in enumerate(index.tolist()):
        record = cache.records[i]
        regions = enumerate(record.objects, start=1) if kind == "object" else ((p.number, p) for p in record.object_parts)
        for number, region in regions:
            listed[row, number], boxes[row, number] = True, np.array(region.box) / SIDE
    rows = np.arange(len(index))[:, None]
    most = max(1, int(tiles.max()))
    counts = (tiles[..., None] == np.arange(1, most + 1)).sum(2) * listed[:, None, 1 : most + 1]
    number = np.where(counts.max(-1) > 0, counts.argmax(-1) + 1, 0)
    cells = (tiles == number[..., None]).astype(np.float32)
    return torch.from_numpy(number > 0), torch.from_numpy(cells), torch.from_numpy(boxes[rows, number])


def _compute_dense_loss(module: DenseEncoder, cache: SceneCache, index: Tensor) -> tuple[Tensor, Metrics]:
    device = module.head.weight.device
    with autocast(device):
        predictions = module(cache.load_pixels(index).to(device))
    return _compare_dense(predictions, cache, index)


def _compare_dense(predictions: Sequence[Tensor], cache: SceneCache, index: Tensor) -> tuple[Tensor, Metrics]:
    device = predictions[0].device
    loss, metrics = predictions[0].new_zeros(()), dict[str, float]()
    for kind, (covered, cells, boxes) in zip(("object", "part"), (predictions[:3], predictions[3:]), strict=True):
        on, true_cells, true_boxes = (t.to(device) for t in compute_dense_targets(cache, index, kind))
        box_error = (boxes[on] - fourier_features(true_boxes[on], BOX_FREQUENCIES)).square().mean()
        loss = loss + (
            F.binary_cross_entropy_with_logits(covered[..., 0], on.float())
            + 3 * F.binary_cross_entropy_with_logits(cells[on], true_cells[on])
            + box_error
        )
        metrics |= {
            kind: ((covered[..., 0] > 0) == on).float().mean().item(),
            f"{kind}_cells": ((cells[on] > 0) == (true_cells[on] > 0.5)).float().mean().item(),
            f"{kind}_box": box_error.item(),
        }
    return loss, metrics


def train_encoder(cache: SceneCache, model: SamModel, folder: Path, steps: int, batch: int = 24) -> None:
    """Train the encoder in place (stage 1); checkpoint folder/sam-encoder.pt."""
    module = DenseEncoder(model).to(model.device)
    stage = Stage("sam-encoder", folder, module, MuonAdamW(module.named_parameters(), rate=3e-3), steps)
    draw = draw_batches(cache.trained_on, batch, seed=10, first=stage.count_steps_done())

    @torch.no_grad()
    def evaluate() -> Metrics:
        return _compute_dense_loss(module, cache, cache.held_out(60))[1]

    train(stage, lambda _: _compute_dense_loss(module, cache, next(draw)), evaluate)


# Stage 2 ------------------------------------------------------------------------------------------------------------


def _predict(model: SamModel, embeddings: Tensor, prompts: SamPrompts, mask_input: Tensor | None = None) -> Any:
    with autocast(embeddings.device):
        return model(
            image_embeddings=embeddings,
            input_boxes=prompts.boxes,
            input_points=prompts.points,
            input_labels=prompts.labels,
            input_masks=mask_input,
            multimask_output=True,
        )


def _compute_mask_loss(out: Any, prompts: SamPrompts, *, balanced: bool = False) -> tuple[Tensor, Metrics]:
    """Compare at the size of the decoder's masks, where it takes a quarter of the time that it takes at the image's."""
    logits = out.pred_masks.float().flatten(0, 1)
    scores = out.iou_scores.float().flatten(0, 1)
    coverages = (F.adaptive_avg_pool2d(masks.flatten(0, 1)[:, None], MASK_SIDE) for masks in (prompts.masks, prompts.others))
    truth, other = (coverage.expand_as(logits) for coverage in coverages)
    losses = _compare_masks(logits, truth, balanced)
    best = losses.min(-1).values
    ambiguous = (prompts.masks != prompts.others).flatten(0, 1).flatten(1).any(1)
    if ambiguous.any():
        pairs = losses[ambiguous][:, :, None] + _compare_masks(logits[ambiguous], other[ambiguous], balanced)[:, None]
        pairs = pairs + torch.diag(torch.full((3,), torch.inf, device=pairs.device))
        best = best.masked_scatter(ambiguous, pairs.flatten(1).min(-1).values)
    with torch.no_grad():
        iou = _compute_iou(logits > 0, truth > 0.5)
    loss = best.mean() + 0.1 * losses.mean() + F.mse_loss(scores, iou)
    chosen = iou.gather(-1, scores.argmax(-1, keepdim=True))
    return loss, {"best_iou": iou.max(-1).values.mean().item(), "chosen_iou": chosen.mean().item()}


def _compare_masks(logits: Tensor, truth: Tensor, balanced: bool) -> Tensor:
    """Return the Dice loss of each mask + its binary cross-entropy, per pixel of the true area or by its mean on both sides."""
    soft = logits.sigmoid()
    dice = 1 - (2 * (soft * truth).sum((-1, -2)) + 1) / (soft.sum((-1, -2)) + truth.sum((-1, -2)) + 1)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    if not balanced:
        return cross_entropy.sum((-1, -2)) / (truth.sum((-1, -2)) + _LEAST_AREA) + dice
    sides = ((cross_entropy * side).sum((-1, -2)) / side.sum((-1, -2)).clamp(min=1) for side in (truth, 1 - truth))
    return sum(sides, dice)


def _compute_iou(predicted: Tensor, true: Tensor) -> Tensor:
    return (predicted & true).sum((-1, -2)) / (predicted | true).sum((-1, -2)).clamp(min=1)


@torch.no_grad()
def add_correction(out: Any, prompts: SamPrompts, rng: np.random.Generator) -> tuple[SamPrompts, Tensor]:
    """Return the prompts with a click on what the chosen masks have wrong, one prompt per image, and the masks as input."""
    chosen = out.iou_scores.float().flatten(0, 1).argmax(-1)
    coarse = out.pred_masks.float().flatten(0, 1)[torch.arange(len(chosen), device=chosen.device), chosen]
    masks = (F.interpolate(coarse[:, None], (INPUT_SIDE,) * 2, mode="bilinear", align_corners=False) > 0).float()
    truth = prompts.masks.flatten(0, 1)
    wrong = (masks[:, 0] != truth).cpu().numpy()
    clicks = np.array([_draw_click(w if w.any() else t, rng) for w, t in zip(wrong, truth.cpu().numpy() > 0.5, strict=True)])
    xs, ys = torch.from_numpy(clicks).to(truth.device).long().T
    labels = truth[torch.arange(len(truth), device=truth.device), ys, xs].long()[:, None, None]
    points = torch.stack([xs, ys], -1)[:, None, None].float() + 0.5
    if prompts.points is not None and prompts.labels is not None:
        points = torch.cat([prompts.points.flatten(0, 1)[:, None], points], 2)
        labels = torch.cat([prompts.labels.flatten(0, 1)[:, None], labels], 2)
    boxes = None if prompts.boxes is None else prompts.boxes.flatten(0, 1)[:, None]
    corrected = SamPrompts(boxes, points, labels, truth[:, None], truth[:, None])
    small = F.interpolate(masks, (MASK_SIDE,) * 2, mode="bilinear", antialias=True)
    return corrected, small.logit(eps=_MIN_COVERAGE)


def _draw_click(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """Return (x, y) of a pixel of the mask: the one furthest from its edge, or any."""
    if rng.random() < 0.5:
        y, x = np.unravel_index(ndimage.distance_transform_edt(mask).argmax(), mask.shape)
    else:
        y, x = rng.choice(np.argwhere(mask))
    return int(x), int(y)


def train_masks(cache: SceneCache, dense: DenseEncoder, model: SamModel, folder: Path, steps: int, batch: int = 10) -> None:
    """Train the model in place, and `dense`, which has its encoder (stage 2); checkpoint folder/sam.pt.

    The steps of the decoder alone take 0.6 of the time of those with the encoder.
    """
    device = model.device
    parts = nn.ModuleDict({"sam": model, "head": dense.head})
    optimizer = MuonAdamW(parts.named_parameters(), rate=1.5e-3, adamw_rate=6e-4)
    stage = Stage("sam", folder, parts, optimizer, steps)
    draw = draw_batches(cache.trained_on, batch, seed=20, first=stage.count_steps_done())

    def encode(index: Tensor) -> Tensor:
        with autocast(device):
            embeddings: Tensor = model.vision_encoder(cache.load_pixels(index).to(device)).last_hidden_state
        return embeddings.float()

    def compute_loss(step: int) -> tuple[Tensor, Metrics]:
        rng, index = np.random.default_rng((30, step)), next(draw)
        placement = str(rng.choice(PLACEMENTS))
        count = int(rng.choice(COUNTS[placement]))
        prompts = sample_prompts(cache, index, rng, count, placement).to(device)
        with torch.set_grad_enabled(step >= DECODER_STEPS):
            embeddings = encode(index)
        out = _predict(model, embeddings, prompts)
        loss, metrics = _compute_mask_loss(out, prompts, balanced=step < BALANCED_STEPS)
        if step >= BALANCED_STEPS and rng.random() < _CORRECTED:
            corrected, mask_input = add_correction(out, prompts, rng)
            repeated = embeddings.repeat_interleave(len(mask_input) // len(embeddings), 0)
            second, after = _compute_mask_loss(_predict(model, repeated, corrected, mask_input), corrected)
            loss, metrics = loss + second, metrics | {"corrected_iou": after["chosen_iou"]}
        if step >= DECODER_STEPS:
            dense_loss, seen = _compare_dense(dense.predict(embeddings), cache, index)
            loss = loss + _DENSE_WEIGHT * dense_loss
            metrics |= {name: seen[name] for name in ("object_cells", "part_cells", "object_box", "part_box")}
        return loss, metrics

    @torch.no_grad()
    def evaluate() -> Metrics:
        metrics: Metrics = {}
        for placement, count, jitter in (
            ("even", 0, 0.0),
            ("even", 5, 0.0),
            ("grid", 25, 0.0),
            ("far", 9, 0.12),
            ("clicks", 1, 0.0),
        ):
            fixed, figures = np.random.default_rng(1), []
            for index in cache.held_out(120).split(20):
                prompts = sample_prompts(cache, index, fixed, count, placement, (jitter,)).to(device)
                figures.append(_compute_mask_loss(_predict(model, encode(index), prompts), prompts)[1])
            for name in ("chosen", "best"):
                metrics[f"{name}_{count}_{placement}"] = float(np.mean([f[f"{name}_iou"] for f in figures]))
        return metrics

    train(stage, compute_loss, evaluate)
