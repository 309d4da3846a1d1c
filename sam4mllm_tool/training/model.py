"""The model that is trained: a base, loaded as for inference, with a LoRA adapter on it and all else frozen."""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.models.checkpoints import resolve_folder_or_hub_id, wrap_load_errors
from sam4mllm_tool.models.devices import choose_device, computes_bfloat16
from sam4mllm_tool.models.mllm.adapters import attach_adapter
from sam4mllm_tool.models.mllm.branching import can_pack
from sam4mllm_tool.models.mllm.loading import load_checkpoint
from sam4mllm_tool.models.mllm.model_runner import ModelRunner
from sam4mllm_tool.models.mllm.prompt_renderer import PromptRenderer
from sam4mllm_tool.training.attention import BRANCHES
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.starting_point import find_starting_point
from sam4mllm_tool.training.target_modules import find_target_modules

__all__ = ["TrainableModel", "load_trainable_model", "uses_bfloat16"]


@dataclass(frozen=True, eq=False)
class TrainableModel:
    """A model under training.

    Attributes:
        base: The spec of the base, which the adapter will name.
        model: The base with the adapter.
        processor: The base's processor.
        prompter: Renders and tokenizes prompts for it.
        placeholder: The token id that stands for the image.
        packs: Whether rows may branch, see `can_pack`.
        attention: The language model's attention in training.
    """

    base: str
    model: PeftModel
    processor: Any
    prompter: PromptRenderer
    placeholder: int
    packs: bool
    attention: str

    def set_attention(self, attention: str) -> None:
        """Change the language model's attention; the vision tower's stays."""
        self.base_model.set_attn_implementation({"text_config": attention})

    @contextmanager
    def inference_attention(self) -> Iterator[None]:
        """Use the attention under which prompts are packed at inference, for the length of the context."""
        self.set_attention("sdpa")
        try:
            yield
        finally:
            self.set_attention(self.attention)

    @property
    def accepted_inputs(self) -> frozenset[str]:
        """The parameter names of the model's forward."""
        return frozenset(inspect.signature(self.base_model.forward).parameters)

    @property
    def base_model(self) -> Any:
        """The model as its own class, with the adapter's layers in it."""
        return self.model.get_base_model()


def uses_bfloat16(config: TrainingConfig) -> bool:
    """Return whether training computes in bfloat16: if asked to, or by default if the device does so natively."""
    if config.precision == "auto":
        return computes_bfloat16(choose_device(config.device))
    return config.precision == "bf16"


def load_trainable_model(config: TrainingConfig) -> TrainableModel:
    """Load the base with a new adapter, or with the one to continue. Raises SpecError, MissingExtraError."""
    start = find_starting_point(config)
    base = start.base
    model, processor = _load_base(config, start.folder)
    torch.manual_seed(config.seed)
    adapted = _add_adapter(model, config, start.adapter, base=resolve_folder_or_hub_id(start.folder))
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()  # small updates would be rounded away in bfloat16
    placeholder = getattr(model.config, "image_token_id", None)
    if placeholder is None:
        raise SpecError(f"{base!r} has no token that stands for the image, so it can't be trained here")
    packs = config.pack and can_pack(model)
    attention = _choose_attention(config, packs, model.device)
    prompter = PromptRenderer(processor, base, ModelRunner(model).longest)
    trainable = TrainableModel(base, adapted, processor, prompter, placeholder, packs, attention)
    trainable.set_attention(attention)
    return trainable


def _load_base(config: TrainingConfig, folder: str) -> tuple[Any, Any]:
    if config.quantise == "none":
        device = choose_device(config.device)
        dtype = "bfloat16" if device.type != "cpu" and uses_bfloat16(config) else "float32"
        return load_checkpoint(folder, device=config.device, dtype=dtype)
    model, processor = load_checkpoint(folder, device=config.device, dtype="bfloat16", quantize="4bit")
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=config.gradient_checkpointing), processor


def _choose_attention(config: TrainingConfig, packs: bool, device: torch.device) -> str:
    if config.attention == BRANCHES and not packs:
        raise SpecError("attention = 'branches' is for packed rows, and this model can't pack: leave it out")
    if config.attention != "auto":
        return config.attention
    return BRANCHES if packs and device.type == "cpu" else "sdpa"


def _add_adapter(model: Any, config: TrainingConfig, adapter: str | None, base: str) -> PeftModel:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft 0.21 reads it from transformers
        if adapter is None:
            adapted: Any = get_peft_model(model, _build_lora_config(model, config))
        else:
            with wrap_load_errors(adapter, extra="sam"):
                path = resolve_folder_or_hub_id(adapter, marker="adapter_config.json")
                adapted = attach_adapter(model, path, adapter, base, is_trainable=True)
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def _build_lora_config(model: Any, config: TrainingConfig) -> LoraConfig:
    target = find_target_modules(model, targets=config.lora_targets, projector=config.projector)
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=target.lora_pattern,
        modules_to_save=list(target.projector) or None,
        task_type="CAUSAL_LM",
    )
