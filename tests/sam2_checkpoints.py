"""Tiny random checkpoints of SAM 2, EdgeTAM and SAM 3 in the real format; their image processors need torchvision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import load_file, save_file

from tests.checkpoints import SPECIAL, build_tokenizer
from tests.sam_checkpoints import WIDTH, save_checkpoint

_SIDE2, _SIDE3 = 128, 112
_GRID = 8
"""Side of the embeddings, in patches of 16 pixels for SAM 2 and of 14 for SAM 3."""
_LEVELS = [[4 * _GRID] * 2, [2 * _GRID] * 2, [_GRID] * 2]


def save_sam2(folder: Path) -> Path:
    """Save a Sam2Model, with its processor."""
    backbone = {
        "hidden_size": 8,
        "image_size": [_SIDE2, _SIDE2],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "window_positional_embedding_background_size": [4, 4],
        "global_attention_blocks": [3],
    }
    vision = {"backbone_config": {"model_type": "sam2_hiera_det_model", **backbone}, "backbone_channel_list": [64, 32, 16, 8]}
    config = transformers.Sam2Config(vision_config=vision | _fpn(), **_heads(_SIDE2, 16))
    return save_checkpoint(transformers.Sam2Model(config), transformers.Sam2Processor(_processor2()), folder)


def save_edgetam(folder: Path) -> Path:
    """Save an EdgeTamModel, with its processor, which is SAM 2's. Needs timm."""
    arguments = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    backbone = {"model_type": "timm_wrapper", "architecture": "repvit_m1", "model_args": arguments, "num_classes": 2}
    vision = {"backbone_config": backbone, "backbone_channel_list": [384, 192, 96, 48]}
    config = transformers.EdgeTamConfig(vision_config=vision | _fpn(), **_heads(_SIDE2, 16))
    return save_checkpoint(transformers.EdgeTamModel(config), transformers.Sam2Processor(_processor2()), folder)


def save_sam3_tracker(folder: Path) -> Path:
    """Save a Sam3TrackerModel, with its processor."""
    config = transformers.Sam3TrackerConfig(vision_config=_vision3(), **_heads(_SIDE3, 14))
    processor = transformers.Sam3TrackerProcessor(_processor3())
    return save_checkpoint(transformers.Sam3TrackerModel(config), processor, folder)


def save_sam3(folder: Path) -> Path:
    """Save a Sam3VideoModel, with its processor: the layout of `facebook/sam3`, tracker and concept head over one encoder."""
    tokenizer = build_tokenizer(SPECIAL, adds_bos=True)
    transformer = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 2 * WIDTH}
    detector = {
        "vision_config": _vision3(),
        "text_config": {
            **transformer,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "projection_dim": WIDTH,
            "num_hidden_layers": 1,
        },
        "geometry_encoder_config": transformer | {"num_layers": 1},
        "detr_encoder_config": transformer | {"num_layers": 1},
        "detr_decoder_config": transformer | {"num_layers": 2, "num_queries": 5},
        "mask_decoder_config": {"hidden_size": WIDTH, "num_attention_heads": 2},
    }
    memory = {
        "memory_attention_hidden_size": WIDTH,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": WIDTH,
        "memory_attention_rope_feat_sizes": [_GRID, _GRID],
        "memory_encoder_hidden_size": WIDTH,
        "mask_downsampler_embed_dim": WIDTH,
        "memory_fuser_embed_dim": WIDTH,
        "memory_fuser_intermediate_dim": WIDTH,
        "memory_fuser_num_layers": 1,
    }
    tracker = {"vision_config": _vision3(), **_heads(_SIDE3, 14), **memory}
    config = transformers.Sam3VideoConfig(detector_config=detector, tracker_config=tracker, low_res_mask_size=4 * _GRID)
    config.image_size = _SIDE3  # which the tracker's config resets to its default
    video = transformers.Sam2VideoVideoProcessor(size={"height": _SIDE3, "width": _SIDE3})
    processor = transformers.Sam3VideoProcessor(_processor3(), video, tokenizer)
    save_checkpoint(transformers.Sam3VideoModel(config), processor, folder)
    _write_original_keys(folder / "model.safetensors")
    return folder


def _write_original_keys(weights: Path) -> None:
    """Name the tracker's weights as `facebook/sam3` does: transformers 5.24 saves them with a doubled prefix."""
    tensors = load_file(weights)
    renamed = {key.replace("tracker_model.tracker_model.", "tracker_model."): tensor for key, tensor in tensors.items()}
    save_file(renamed, weights, metadata={"format": "pt"})


SAVED: dict[str, Callable[[Path], Path]] = {
    "sam2": save_sam2,
    "edgetam": save_edgetam,
    "sam3_tracker": save_sam3_tracker,
    "sam3_video": save_sam3,
}


def _fpn() -> dict[str, Any]:
    return {"fpn_hidden_size": WIDTH, "backbone_feature_sizes": _LEVELS}


def _heads(side: int, patch: int) -> dict[str, dict[str, Any]]:
    return {
        "prompt_encoder_config": {"hidden_size": WIDTH, "image_size": side, "patch_size": patch, "mask_input_channels": 4},
        "mask_decoder_config": {
            "hidden_size": WIDTH,
            "mlp_dim": 2 * WIDTH,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": WIDTH,
        },
    }


def _vision3() -> dict[str, Any]:
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": _SIDE3,
        "pretrain_image_size": _SIDE3 // 2,
        "window_size": 4,
        "global_attn_indexes": [1],
    }
    return {"model_type": "sam3_vision_model", "backbone_config": backbone} | _fpn()


def _processor2() -> Any:
    low = {"height": 4 * _GRID, "width": 4 * _GRID}
    return transformers.Sam2ImageProcessor(size={"height": _SIDE2, "width": _SIDE2}, mask_size=low)


def _processor3() -> Any:
    low = {"height": 4 * _GRID, "width": 4 * _GRID}
    return transformers.Sam3ImageProcessor(size={"height": _SIDE3, "width": _SIDE3}, mask_size=low)
