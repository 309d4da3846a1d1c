"""Which modules of a model are trained, derived from the model's structure, not from the family it belongs to.

LoRA goes on the projections inside the language model, which is the module that holds the word embeddings. The module between
vision tower and language model (called projector, merger, connector or resampler) is trained in full. All else stays frozen.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from sam4mllm_tool.errors import SpecError

__all__ = ["PROJECTIONS", "PROJECTORS", "TargetModules", "find_target_modules"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The projections of a transformer layer, by their names in Llama-like models; the paper trains all seven."""
PROJECTORS = (
    "multi_modal_projector",  # LLaVA, LLaVA-NeXT, InternVL, Gemma 3, Mistral 3
    "connector",  # Idefics3, SmolVLM
    "merger",  # Qwen2-VL, Qwen2.5-VL, Qwen3-VL
    "deepstack_merger_list",  # Qwen3-VL
    "resampler",
    "perceiver_resampler",
    "mm_projector",
    "vision_projector",
    "vision_projection",
    "projector",
    "aligner",
)
"""Names that model families give to the module between vision tower and language model."""


@dataclass(frozen=True)
class TargetModules:
    """The modules that are trained, by their full names.

    Attributes:
        language_model: The language model.
        lora_pattern: A regular expression that matches the names of the layers that get LoRA, as peft's `target_modules`.
        projector: The modules that are trained in full, as peft's `modules_to_save`.
    """

    language_model: str
    lora_pattern: str
    projector: tuple[str, ...]


def find_target_modules(
    model: nn.Module, *, targets: str | Sequence[str] | None = None, projector: bool | Sequence[str] = True
) -> TargetModules:
    """Find the modules to train.

    Args:
        model: A multimodal model of transformers.
        targets: Names of layers inside the language model, or a regular expression for full names. By default `PROJECTIONS`,
            or all linear layers of a language model that has none of them.
        projector: Whether the projector is trained too, or full names of what is trained in full.

    Raises:
        SpecError: `targets` or `projector` name what the model doesn't have.
    """
    language_model = _find_language_model(model)
    pattern = targets if isinstance(targets, str) else _build_lora_pattern(model, language_model, targets)
    if not any(re.fullmatch(pattern, name) for name in _linear_layers(model)):
        first = next(iter(_linear_layers(model)))
        raise SpecError(f"lora_targets {targets!r} match none of the model's linear layers, of which the first is {first}")
    if isinstance(projector, bool):
        return TargetModules(language_model, pattern, _find_projector(model, language_model) if projector else ())
    known = {name for name, _ in model.named_modules()}
    if missing := [name for name in projector if name not in known]:
        own = sorted(_find_projector(model, language_model))
        raise SpecError(f"the model has no module {missing[0]!r}: expected full names; its projector is {own}")
    return TargetModules(language_model, pattern, tuple(projector))


def _find_language_model(model: nn.Module) -> str:
    """Return the full name of the module that holds the word embeddings."""
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    return next(name for name, module in model.named_modules() if any(child is embeddings for child in module.children()))


def _linear_layers(model: nn.Module) -> list[str]:
    """Return the full names of all linear layers, quantised ones included."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def _build_lora_pattern(model: nn.Module, language_model: str, targets: Sequence[str] | None) -> str:
    inside = [name.rpartition(".")[2] for name in _linear_layers(model) if name.startswith(f"{language_model}.")]
    names = targets if targets is not None else [name for name in PROJECTIONS if name in inside]
    alternatives = "|".join(map(re.escape, names or sorted(set(inside))))
    return rf"{re.escape(language_model)}\..*\.({alternatives})"


def _find_projector(model: nn.Module, language_model: str) -> tuple[str, ...]:
    """Return full names in the model's order; of a ModuleList its members, because peft can't wrap the list itself."""
    names: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in (language_model, *names))
        if inside or name.rpartition(".")[2] not in PROJECTORS or not any(True for _ in module.parameters()):
            continue
        names += [f"{name}.{i}" for i in range(len(module))] if isinstance(module, nn.ModuleList) else [name]
    return tuple(names)
