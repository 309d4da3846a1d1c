"""Opens an image-text-to-text checkpoint, and a peft adapter on it, ready to answer.

The weights of both come as safetensors, never pickled, and a checkpoint's own code is never run. One that lacks weights, or
an adapter that doesn't belong to it, is refused: transformers and peft would fill the gaps with random numbers and warn.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from peft import PeftConfig, PeftModel
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.models.checkpoints import (
    choose_device,
    choose_dtype,
    load_errors,
    quiet_loading,
    require_complete,
    resolve_folder_or_hub_id,
)

__all__ = ["load_checkpoint"]

TORCHVISION_EXTRA = "sam"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"


def load_checkpoint(
    base: str, adapter: str | None = None, *, device: str | None = None, dtype: str | None = None
) -> tuple[Any, Any]:
    """(model, processor): in eval mode, without gradients, decoding greedily.

    base, adapter: folders or hub ids. An adapter is merged into the weights, so that it costs nothing later; a quantised
    base keeps it attached.
    Raises SpecError where one can't be loaded or they don't fit, MissingExtraError where a library is missing.
    """
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    base_path = resolve_folder_or_hub_id(base)
    adapter_path = resolve_folder_or_hub_id(adapter, marker="adapter_config.json") if adapter else None
    with quiet_loading():
        with load_errors(base, extra=TORCHVISION_EXTRA):
            config = AutoConfig.from_pretrained(base_path, trust_remote_code=False)
            processor = AutoProcessor.from_pretrained(base_path, trust_remote_code=False)
            _require_parts(processor, base)
            model = _open_model(base_path, base, config, place, precision)
        if adapter is not None and adapter_path is not None:
            with load_errors(adapter, extra=TORCHVISION_EXTRA):
                model = _adapt(model, adapter_path, adapter, base)
        model.generation_config = _greedy(model, processor.tokenizer)
    return model.eval().requires_grad_(False), processor


def _require_parts(processor: Any, base: str) -> None:
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        found = type(processor).__name__
        raise SpecError(
            f"{base!r} has no processor for pictures and text (found {found}): expected an image-text-to-text model"
        )


def _open_model(path: str, base: str, config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    quantised = getattr(config, "quantization_config", None) is not None
    options: dict[str, Any] = {"device_map": {"": device}} if quantised else {}
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        path,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    model, info = loaded
    require_complete(base, info)
    return model if quantised else model.to(device)


def _adapt(model: Any, path: str, adapter: str, base: str) -> Any:
    """The model with the adapter's changes in its own modules, so that it is used like any other."""
    if PeftConfig.from_pretrained(path).is_prompt_learning:
        raise SpecError(f"the adapter {adapter!r} learns prompts: expected one that changes weights, such as LoRA")
    _require_safetensors(path, adapter)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft 0.21 asks transformers for it
        try:
            adapted = PeftModel.from_pretrained(model, path, is_trainable=False)
        except (RuntimeError, ValueError, KeyError, UserWarning) as error:
            reason = " ".join(str(error).split())[:200]
            raise SpecError(f"the adapter {adapter!r} doesn't fit {base!r}: {reason}") from error
        return adapted.merge_and_unload() if _can_merge(adapted) else adapted.get_base_model()


def _require_safetensors(path: str, adapter: str) -> None:
    """Raises SpecError for an adapter without safetensors: peft would then unpickle what it finds, and can't be told not to."""
    folder = Path(path)
    try:
        there = (folder / _ADAPTER_WEIGHTS).is_file() if folder.is_dir() else bool(hf_hub_download(path, _ADAPTER_WEIGHTS))
    except EntryNotFoundError:
        there = False
    if not there:
        raise SpecError(f"the adapter {adapter!r} has no {_ADAPTER_WEIGHTS}: pickled weights are not opened, save it again")


def _can_merge(adapted: PeftModel) -> bool:
    """Not into quantised weights, which would be rounded again, nor by adapters that don't know how."""
    quantised = getattr(adapted.get_base_model(), "hf_quantizer", None) is not None
    return not quantised and hasattr(adapted.base_model, "merge_and_unload")


def _greedy(model: Any, tokenizer: Any) -> GenerationConfig:
    """Greedy decoding up to any of the checkpoint's end tokens, without its sampling and penalties: coordinates repeat."""
    kept = model.generation_config
    ends = kept.eos_token_id if isinstance(kept.eos_token_id, list) else [kept.eos_token_id]
    eos = sorted({end for end in (*ends, tokenizer.eos_token_id) if end is not None})
    pads = (tokenizer.pad_token_id, kept.pad_token_id, *eos)
    return GenerationConfig(
        do_sample=False,
        bos_token_id=kept.bos_token_id,
        eos_token_id=eos or None,
        pad_token_id=next((pad for pad in pads if pad is not None), None),
    )
