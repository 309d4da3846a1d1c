"""The embedded Segment Anything before training: a SamModel of 1.7 million parameters."""

import math

import torch
from PIL import Image
from torch import nn
from transformers import (
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from recipes.embedded.architecture import FREQUENCIES, INPUT_SIDE

PATCH, CHANNELS = 8, 128
GRID = INPUT_SIDE // PATCH
MASK_SIDE = 4 * GRID
"""Side of the masks that the decoder gives and takes."""
BOX_FREQUENCIES = FREQUENCIES[:4]
"""Frequencies in which the encoder learns boxes; it doesn't learn higher ones."""


def build_sam() -> SamModel:
    """Build the model with fresh weights, initialized as Segment Anything's own code does.

    A SamModel as transformers initializes it hardly learns: its encoder begins with weights of 1e-10, its decoder gives empty
    masks, and coordinates are encoded in so many cycles that they are noise. Here they are encoded along each axis alone, in
    the frequencies in which the encoder learns boxes, among others.
    """
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=128,
            output_channels=CHANNELS,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=INPUT_SIDE,
            patch_size=PATCH,
            window_size=GRID // 2,
            global_attn_indexes=[1, 3],
            mlp_dim=512,
            num_pos_feats=CHANNELS // 2,
            use_rel_pos=False,
            initializer_range=0.02,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=CHANNELS, image_size=INPUT_SIDE, patch_size=PATCH, mask_input_channels=8
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=CHANNELS, mlp_dim=256, num_hidden_layers=2, num_attention_heads=4, iou_head_hidden_dim=64
        ),
    )
    model = SamModel(config)
    for part in (model.prompt_encoder, model.mask_decoder):
        for module in part.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
                module.reset_parameters()
    count = CHANNELS // 4
    cycles = torch.cat([BOX_FREQUENCIES, torch.logspace(math.log10(0.25), math.log10(GRID / 2), count - len(BOX_FREQUENCIES))])
    per_unit = torch.block_diag(cycles[None], cycles[None]) / 2  # coordinates span -1 to 1
    with torch.no_grad():
        model.shared_image_embedding.positional_embedding.copy_(per_unit)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(per_unit)
    return model


def build_processor() -> SamProcessor:
    """Build the processor for the model's input size; it resizes as the training scenes were."""
    return SamProcessor(
        image_processor=SamImageProcessor(
            size={"longest_edge": INPUT_SIDE},
            pad_size={"height": INPUT_SIDE, "width": INPUT_SIDE},
            mask_size={"longest_edge": MASK_SIDE},
            mask_pad_size={"height": MASK_SIDE, "width": MASK_SIDE},
            resample=Image.Resampling.BICUBIC,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        )
    )
