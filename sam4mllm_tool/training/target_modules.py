"""What of a model is trained: found by how it is put together, not by which family it belongs to.

LoRA goes on the projections inside the language model, which is the module that holds the word embeddings. What carries the
picture from the vision tower to it (a projector, merger, connector or resampler) is trained whole. All else stays frozen.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from sam4mllm_tool.errors import SpecError

__all__ = ["PROJECTIONS", "PROJECTORS", "Structure", "examine"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""A layer's projections, by the names that the Llama kind gives them; the paper tunes all seven."""
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
"""What families call the way from the vision tower to the language model."""


@dataclass(frozen=True)
class Structure:
    """What is trained, by names of the model's modules.

    language: the language model. projections: a regular expression that matches the full names of the layers that get LoRA,
    as peft's `target_modules`. projector: full names of the modules that are trained whole, as `modules_to_save`.
    """

    language: str
    projections: str
    projector: tuple[str, ...]


def examine(
    model: nn.Module, *, targets: str | Sequence[str] | None = None, projector: bool | Sequence[str] = True
) -> Structure:
    """What of the model is trained.

    targets: names of layers inside the language model, or a regular expression for full names; by default `PROJECTIONS`, or,
    in a language model that has none of them, all its linear layers. projector: whether it is trained too, or the full names
    of what is. Raises SpecError where one of them finds nothing in the model.
    """
    language = _language_model(model)
    projections = targets if isinstance(targets, str) else _projections(model, language, targets)
    if not any(re.fullmatch(projections, name) for name in _linear(model)):
        raise SpecError(f"lora_targets {targets!r} match none of the model's linear layers, {next(iter(_linear(model)))} first")
    if isinstance(projector, bool):
        return Structure(language, projections, _projector(model, language) if projector else ())
    known = {name for name, _ in model.named_modules()}
    if absent := [name for name in projector if name not in known]:
        raise SpecError(
            f"the model has no module {absent[0]!r}: expected full names, found {sorted(_projector(model, language))}"
        )
    return Structure(language, projections, tuple(projector))


def _language_model(model: nn.Module) -> str:
    """The full name of the module that holds the word embeddings."""
    words = model.get_input_embeddings()  # type: ignore[operator]
    return next(name for name, module in model.named_modules() if any(child is words for child in module.children()))


def _linear(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers by their full names, quantised ones too."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def _projections(model: nn.Module, language: str, targets: Sequence[str] | None) -> str:
    inside = [name.rpartition(".")[2] for name in _linear(model) if name.startswith(f"{language}.")]
    wanted = targets if targets is not None else [name for name in PROJECTIONS if name in inside]
    leaves = "|".join(map(re.escape, wanted or sorted(set(inside))))
    return rf"{re.escape(language)}\..*\.({leaves})"


def _projector(model: nn.Module, language: str) -> tuple[str, ...]:
    """Full names, in the model's order; of a list of modules its members, for a list itself can't be run."""
    found: list[str] = []
    for name, module in model.named_modules():
        held = any(name.startswith(f"{outer}.") for outer in (language, *found))
        if held or name.rpartition(".")[2] not in PROJECTORS or not any(True for _ in module.parameters()):
            continue
        found += [f"{name}.{i}" for i in range(len(module))] if isinstance(module, nn.ModuleList) else [name]
    return tuple(found)
