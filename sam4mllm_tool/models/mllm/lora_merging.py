"""Merge a plain LoRA adapter into a model's weights without peft, whose import takes longer than the merge."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["merge_plain_lora"]

_PREFIX = "base_model.model."
_UNDERSTOOD = frozenset(
    (
        *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"),
        *("r", "lora_alpha", "use_rslora", "target_modules", "modules_to_save"),
        *("bias", "init_lora_weights", "lora_dropout", "megatron_core", "qalora_group_size"),
    )
)
"""Settings of an adapter that may have a value: they are used here, or matter for training or other settings alone."""


def merge_plain_lora(model: Any, settings: Mapping[str, Any], weights: Path) -> bool:
    """Add an adapter to the model's weights, with the same result as peft's merge.

    Args:
        model: The base, not quantized, all of it in memory.
        settings: Content of the adapter's adapter_config.json.
        weights: Its adapter_model.safetensors.

    Returns:
        Whether that was done. It isn't done for a variant of LoRA, nor where names or shapes don't fit exactly, which peft
        either knows to handle or explains; the model is then as it was.
    """
    if not _is_plain(settings):
        return False
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in load_file(weights).items() if name.startswith(_PREFIX)}
    adapted = {name: layer for name, layer in model.named_modules() if _is_target(name, settings)}
    saved = {
        f"{name}.{parameter}": value
        for name, module in model.named_modules()
        if _is_saved(name, settings)
        for parameter, value in module.named_parameters()
    }
    pairs = {name: (tensors.get(f"{name}.lora_A.weight"), tensors.get(f"{name}.lora_B.weight")) for name in adapted}
    if len(tensors) != len(saved) + 2 * len(pairs) or not all(
        _fits(adapted[name], settings.get("r"), *pair) for name, pair in pairs.items()
    ):
        return False
    tied = [getattr(each, "weight", None) for each in (model.get_input_embeddings(), model.get_output_embeddings())]
    if any(name not in tensors or tensors[name].shape != value.shape for name, value in saved.items()) or any(
        value is weight for value in saved.values() for weight in tied
    ):
        return False
    with torch.no_grad():
        for name, (down, up) in pairs.items():
            weight = adapted[name].weight
            weight += _delta(down, up, settings, weight.device)
        for name, value in saved.items():
            value.copy_(tensors[name])
    return True


def _is_plain(settings: Mapping[str, Any]) -> bool:
    return (
        settings.get("peft_type") == "LORA"
        and settings.get("bias", "none") == "none"
        and settings.get("init_lora_weights", True) in (True, False, "gaussian")
        and isinstance(settings.get("target_modules"), str | list)
        and not any(value for name, value in settings.items() if name not in _UNDERSTOOD)
    )


def _is_target(name: str, settings: Mapping[str, Any]) -> bool:
    targets = settings["target_modules"]
    if _is_saved(name, settings):
        return False
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _is_saved(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether the adapter has a module's weights in whole."""
    return any(name == module or name.endswith(f".{module}") for module in settings.get("modules_to_save") or ())


def _fits(layer: nn.Module, rank: object, down: Tensor | None, up: Tensor | None) -> bool:
    if type(layer) is not nn.Linear or down is None or up is None:
        return False
    return (*up.shape, *down.shape) == (layer.out_features, rank, rank, layer.in_features)


def _delta(down: Tensor | None, up: Tensor | None, settings: Mapping[str, Any], device: torch.device) -> Tensor:
    """Return the product in float32, as peft computes it, scaled."""
    assert down is not None
    assert up is not None
    rank = down.shape[0]
    scaling = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
    delta: Tensor = (up.to(device, torch.float32) @ down.to(device, torch.float32)) * scaling
    return delta
