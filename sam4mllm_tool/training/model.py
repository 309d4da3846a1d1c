"""The model that is trained: a base, opened as for inference, with a LoRA adapter on it and all else frozen."""

import inspect
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.models.checkpoints import (
    choose_device,
    choose_dtype,
    embedded_folder,
    quiet_loading,
    resolve_folder_or_hub_id,
    wrap_load_errors,
)
from sam4mllm_tool.models.mllm import split_spec
from sam4mllm_tool.models.mllm.loading import load_checkpoint
from sam4mllm_tool.models.mllm.model_runner import ModelRunner
from sam4mllm_tool.models.mllm.prompt_renderer import PromptRenderer
from sam4mllm_tool.training.attention import BRANCHES
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.target_modules import examine

__all__ = ["Student", "base_and_adapter", "load_student", "uses_bfloat16"]

EMBEDDED = "embedded"


@dataclass(frozen=True, eq=False)
class Student:
    """A model under training. base: the spec that it is an adapter for. model: with the adapter. packs: whether rows may
    branch, see `can_pack`. attention: how the language model attends while it is trained.
    """

    base: str
    model: PeftModel
    processor: Any
    prompter: PromptRenderer
    placeholder: int
    packs: bool
    attention: str

    def attend(self, attention: str) -> None:
        """Changes how the language model attends; the vision tower keeps its own way."""
        self.inner.set_attn_implementation({"text_config": attention})

    @property
    def accepts(self) -> frozenset[str]:
        """What its forward takes."""
        return frozenset(inspect.signature(self.inner.forward).parameters)

    @property
    def inner(self) -> Any:
        """The base's own class, the adapter's layers in it."""
        return self.model.get_base_model()


def base_and_adapter(config: TrainingConfig) -> tuple[str, str | None]:
    """The spec of the base, and the adapter to go on from."""
    base, adapter = split_spec(config.mllm)
    return base, adapter or config.init_adapter


def uses_bfloat16(config: TrainingConfig) -> bool:
    """Whether it computes in bfloat16: where it is asked for, or where the device does so natively."""
    if config.precision == "auto":
        device = choose_device(config.device)
        return device.type == "cpu" or choose_dtype(None, device) is torch.bfloat16
    return config.precision == "bf16"


def load_student(config: TrainingConfig) -> Student:
    """The base with a new adapter, or with the one to go on from. Raises SpecError, MissingExtraError."""
    base, adapter = base_and_adapter(config)
    folder = embedded_folder("mllm") if base == EMBEDDED else base
    model, processor = _open_base(config, folder)
    torch.manual_seed(config.seed)
    adapted = _adapt(model, config, adapter, base=resolve_folder_or_hub_id(folder))
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()  # small steps would be rounded away in bfloat16
    placeholder = getattr(model.config, "image_token_id", None)
    if placeholder is None:
        raise SpecError(f"{base!r} has no token that stands for the picture: it can't be trained here")
    runner = ModelRunner(model, packs=config.pack)
    attention = _attention(config, runner.packs, model.device)
    student = Student(
        base, adapted, processor, PromptRenderer(processor, base, runner.longest), placeholder, runner.packs, attention
    )
    student.attend(attention)
    return student


def _open_base(config: TrainingConfig, folder: str) -> tuple[Any, Any]:
    if config.quantise == "none":
        device = choose_device(config.device)
        dtype = "bfloat16" if device.type != "cpu" and uses_bfloat16(config) else "float32"
        return load_checkpoint(folder, device=config.device, dtype=dtype)
    if find_spec("bitsandbytes") is None:
        raise SpecError("quantise = '4bit' needs bitsandbytes, which is not installed: pip install bitsandbytes")
    return _open_in_4_bits(config, folder)


def _open_in_4_bits(config: TrainingConfig, folder: str) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

    bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    path = resolve_folder_or_hub_id(folder)
    with quiet_loading(), wrap_load_errors(folder, extra="sam"):
        AutoConfig.from_pretrained(path, trust_remote_code=False)  # the first to say that a checkpoint needs its own code
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
        model = AutoModelForImageTextToText.from_pretrained(
            path,
            quantization_config=bits,
            dtype=torch.bfloat16,
            device_map={"": choose_device(config.device)},
            use_safetensors=True,
            trust_remote_code=False,
        )
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=config.gradient_checkpointing)
    return model, processor


def _attention(config: TrainingConfig, packs: bool, device: torch.device) -> str:
    if config.attention == BRANCHES and not packs:
        raise SpecError("attention = 'branches' is for packed rows, and this model can't pack: leave it out")
    if config.attention != "auto":
        return config.attention
    return BRANCHES if packs and device.type == "cpu" else "sdpa"


def _adapt(model: Any, config: TrainingConfig, adapter: str | None, base: str) -> PeftModel:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft 0.21 asks transformers for it
        if adapter is None:
            adapted: Any = get_peft_model(model, _new_adapter(model, config))
        else:
            with wrap_load_errors(adapter, extra="sam"):
                path = resolve_folder_or_hub_id(adapter, marker="adapter_config.json")
                PeftConfig.from_pretrained(path)
                adapted = PeftModel.from_pretrained(model, path, is_trainable=True)
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def _new_adapter(model: Any, config: TrainingConfig) -> LoraConfig:
    structure = examine(model, targets=config.lora_targets, projector=config.projector)
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=structure.projections,
        modules_to_save=list(structure.projector) or None,
        task_type="CAUSAL_LM",
    )
