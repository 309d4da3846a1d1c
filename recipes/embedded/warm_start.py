"""Start the training from an earlier pair's vision tower, which may have seen images of another size."""

from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlavaForConditionalGeneration


def load_tower(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Load the vision tower of `folder`/mllm into the model; the projector and the language model stay as they are."""
    prefix, positions = "vision_tower.", "embeddings.position_embedding.weight"
    weights = load_file(folder / "mllm" / "model.safetensors")
    tower = {key.rpartition(prefix)[2]: value.float() for key, value in weights.items() if prefix in key}
    count = model.config.vision_config.image_size // model.config.vision_config.patch_size
    side = round(len(tower[positions]) ** 0.5)
    tower[positions] = resize_grid(tower[positions].unflatten(0, (side, side)), count).flatten(0, 1)
    model.model.vision_tower.load_state_dict(tower)


def resize_grid(grid: Tensor, side: int) -> Tensor:
    """Resize (s, s, width) embeddings of patches to (side, side, width), bicubically."""
    resized = F.interpolate(grid.permute(2, 0, 1)[None], (side, side), mode="bicubic", align_corners=False)
    return resized[0].permute(1, 2, 0)
