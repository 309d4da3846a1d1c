"""Tiny random checkpoints of the Segment Anything family in the real format, for tests that need a segmenter."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamHQProcessor,
    SamImageProcessorPil,
    SamModel,
    SamProcessor,
)

WIDTH = 32


def save_sam(folder: Path, *, side: int = 64, patch: int = 16) -> Path:
    """Save a SamModel whose input has `side` pixels a side, with its processor."""
    return save_checkpoint(SamModel(SamConfig(**_configs(side, patch))), SamProcessor(_image_processor(side)), folder)


def save_sam_hq(folder: Path, *, side: int = 96, patch: int = 8) -> Path:
    """Save a SamHQModel whose input has `side` pixels a side, with its processor."""
    configs = _configs(side, patch)
    configs["mask_decoder_config"] |= {"vit_dim": WIDTH}
    return save_checkpoint(SamHQModel(SamHQConfig(**configs)), SamHQProcessor(_image_processor(side)), folder)


def _configs(side: int, patch: int) -> dict[str, Any]:
    shared = {"image_size": side, "patch_size": patch}
    return {
        "vision_config": shared
        | {
            "hidden_size": WIDTH,
            "output_channels": WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mlp_dim": 2 * WIDTH,
            "window_size": 3,
            "global_attn_indexes": [1],
            "num_pos_feats": WIDTH // 2,
        },
        "prompt_encoder_config": shared
        | {"hidden_size": WIDTH, "image_embedding_size": side // patch, "mask_input_channels": 4},
        "mask_decoder_config": {
            "hidden_size": WIDTH,
            "mlp_dim": 2 * WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": WIDTH,
        },
    }


def _image_processor(side: int) -> SamImageProcessorPil:
    low = side // 4
    return SamImageProcessorPil(
        size={"longest_edge": side},
        pad_size={"height": side, "width": side},
        mask_size={"longest_edge": low},
        mask_pad_size={"height": low, "width": low},
    )


def save_checkpoint(model: PreTrainedModel, processor: Any, folder: Path) -> Path:
    """Save a model with random weights on which masks depend, and its processor; return the folder."""
    randomise_weights(model)
    level = logging.getLogger("transformers").level
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    logging.getLogger("transformers").setLevel(level)
    return folder


@torch.no_grad()
def randomise_weights(model: torch.nn.Module) -> None:
    """Set weights so large that masks and scores depend on every prompt; with transformers' initialisation they don't.

    The positional embedding gets Segment Anything's own standard deviation of 1; transformers initialises it with half the
    encoder's width, with which neighbouring positions have nothing in common.
    """
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith("positional_embedding"):
            weight.copy_(noise)
        elif weight.ndim > 1:
            weight.copy_(noise * weight[0].numel() ** -0.5)
        elif name.endswith("bias"):
            weight.copy_(0.1 * noise)
    # predicted IoUs inside (0, 1), so that clipping doesn't hide differences
    for name, head in model.named_modules():
        if name.endswith(("mask_decoder.iou_prediction_head.proj_out", "mask_decoder.iou_prediction_head.layers.2")):
            head.weight.mul_(0.1)
            head.bias.fill_(0.5)
