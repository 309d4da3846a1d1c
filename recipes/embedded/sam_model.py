"""The embedded Segment Anything before training: a SamModel of 1.7 million parameters."""

import torch
from PIL import Image
from transformers import (
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from recipes.embedded.architecture import INPUT_SIDE

PATCH, CHANNELS = 8, 128
GRID = INPUT_SIDE // PATCH
MASK_SIDE = 4 * GRID
"""Side of the masks that the decoder gives and takes."""


def build_sam(channels: int = CHANNELS) -> SamModel:
    """Build the model with fresh weights.

    Transformers' own scales are unlike Segment Anything's: they would make noise of coordinates, and nothing of images.
    """
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=128,
            output_channels=channels,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=INPUT_SIDE,
            patch_size=PATCH,
            window_size=GRID // 2,
            global_attn_indexes=[1, 3],
            mlp_dim=512,
            num_pos_feats=channels // 2,
            use_rel_pos=False,
            initializer_range=0.02,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=channels, image_size=INPUT_SIDE, patch_size=PATCH, mask_input_channels=8
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=channels, mlp_dim=256, num_hidden_layers=2, num_attention_heads=4, iou_head_hidden_dim=64
        ),
    )
    model = SamModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "positional_embedding" in name:
                parameter.div_(parameter.std())
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
