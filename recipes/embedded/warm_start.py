"""Start the training from an earlier pair's vision tower and Segment Anything, which may have seen images of another size."""

from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlavaForConditionalGeneration, SamModel

from recipes.embedded.sam_model import CHANNELS, build_sam
from recipes.embedded.widening import widen_sam


def load_tower(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Load the vision tower of `folder`/mllm into the model; the projector and the language model stay as they are."""
    prefix, positions = "vision_tower.", "embeddings.position_embedding.weight"
    weights = load_file(folder / "mllm" / "model.safetensors")
    tower = {key.rpartition(prefix)[2]: value.float() for key, value in weights.items() if prefix in key}
    count = model.config.vision_config.image_size // model.config.vision_config.patch_size
    side = round(len(tower[positions]) ** 0.5)
    tower[positions] = resize_grid(tower[positions].unflatten(0, (side, side)), count).flatten(0, 1)
    model.model.vision_tower.load_state_dict(tower)


def load_sam(model: SamModel, folder: Path) -> None:
    """Load Segment Anything of `folder`/sam into the model; one of half as many channels is widened.

    Raises:
        ValueError: It has another architecture.
    """
    positions = "vision_encoder.pos_embed"
    weights = {key: value.float() for key, value in load_file(folder / "sam" / "model.safetensors").items()}
    weights[positions] = resize_grid(weights[positions][0], model.vision_encoder.pos_embed.shape[1])[None]
    channels = len(weights["prompt_encoder.no_mask_embed.weight"][0])
    loaded = model if channels == CHANNELS else build_sam(channels)
    missing, unexpected = loaded.load_state_dict(weights, strict=False)
    tied = {"prompt_encoder.shared_embedding.positional_embedding"}
    if set(missing) - tied or unexpected:
        raise ValueError(f"{folder}/sam has another architecture: missing {missing}, unexpected {unexpected}")
    if loaded is not model:
        widen_sam(loaded, model)


def resize_grid(grid: Tensor, side: int) -> Tensor:
    """Resize (s, s, width) embeddings of patches to (side, side, width), bicubically."""
    resized = F.interpolate(grid.permute(2, 0, 1)[None], (side, side), mode="bicubic", align_corners=False)
    return resized[0].permute(1, 2, 0)
