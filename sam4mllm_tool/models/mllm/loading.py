"""Load an image-text-to-text checkpoint, optionally with a peft adapter, ready for inference.

Checkpoints are untrusted: weights are read from safetensors only, never unpickled, and no code of a checkpoint runs. A
checkpoint that lacks weights, or an adapter that doesn't fit it, is refused: transformers and peft would fill the gaps with
random numbers and warn.
"""

import json
import logging
from importlib.util import find_spec
from typing import Any, Unpack

import torch
import transformers
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASK_GENERATION_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    GenerationConfig,
)

from sam4mllm_tool.errors import MissingExtraError, SpecError
from sam4mllm_tool.models.checkpoints import (
    custom_code_error,
    find_file,
    quiet_loading,
    require_complete,
    resolve_folder_or_hub_id,
    wrap_load_errors,
)
from sam4mllm_tool.models.devices import choose_device, choose_dtype
from sam4mllm_tool.models.load_options import LoadOptions, LoadOverrides
from sam4mllm_tool.models.mllm.adapters import TORCHVISION_EXTRA, merge_adapter
from sam4mllm_tool.models.mllm.image_preparation import limit_pixels

__all__ = ["load_checkpoint"]

_OUTSIDE_LANGUAGE_MODEL = r"(?!.*(language|text)_model\.).+"
"""Regular expression of the names of all modules that are no part of the language model."""
_GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast", "SentencePieceBackend", "PythonBackend")


def load_checkpoint(
    base: str, adapter: str | None = None, *, options: LoadOptions = LoadOptions(), **overrides: Unpack[LoadOverrides]
) -> tuple[Any, Any]:
    """Load a model in evaluation mode, without gradients and with greedy decoding, and its processor.

    Args:
        base: Folder or hub id.
        adapter: Folder or hub id. The adapter is merged into the weights, so that it costs nothing later; on a quantised base
            it stays attached.
        options: Where and how precisely the model runs.
        overrides: Single options that differ from `options`.

    Returns:
        (model, processor).

    Raises:
        SpecError: The base or the adapter can't be loaded, or they don't fit each other.
        MissingExtraError: A library is not installed.
    """
    options = options.override(**overrides)
    choose_device(options.device)  # refused before anything is read
    base_path = resolve_folder_or_hub_id(base)
    adapter_path = resolve_folder_or_hub_id(adapter, marker="adapter_config.json") if adapter else None
    with quiet_loading():
        with wrap_load_errors(base, extra=TORCHVISION_EXTRA):
            config = AutoConfig.from_pretrained(base_path, trust_remote_code=False)
            _require_mllm(config, base)
            processor = AutoProcessor.from_pretrained(base_path, trust_remote_code=False)
            _require_image_and_text(processor, base)
            limit_pixels(processor.image_processor, options.max_pixels)
            _require_known_tokenizer(processor.tokenizer, config, base_path, base)
            model = _load_model(base_path, base, config, options)
        if adapter is not None and adapter_path is not None:
            with wrap_load_errors(adapter, extra=TORCHVISION_EXTRA):
                model = merge_adapter(model, adapter_path, adapter, base)
        model.generation_config = _greedy_config(model, processor.tokenizer)
    model = model.eval().requires_grad_(False)
    if options.compile and (encoder := model.get_encoder(modality="image")) is not model:
        encoder.compile()
    return model, processor


def _require_mllm(config: Any, base: str) -> None:
    if type(config) in MODEL_FOR_MASK_GENERATION_MAPPING:
        raise SpecError(f"{base!r} is a segmenter of type {config.model_type!r}: name it as the segmenter, not as the MLLM")
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise SpecError(f"{base!r} is a model of type {config.model_type!r}: expected an MLLM, which reads an image and text")


def _require_image_and_text(processor: Any, base: str) -> None:
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        kind = type(processor).__name__
        raise SpecError(f"{base!r} has no processor for images and text (got {kind}): expected an image-text-to-text model")


def _require_known_tokenizer(tokenizer: Any, config: Any, path: str, base: str) -> None:
    """Refuse a tokenizer class that transformers doesn't have: it would silently substitute a generic one."""
    if type(tokenizer).__name__ not in _GENERIC_TOKENIZERS:
        return
    file = find_file(path, "tokenizer_config.json")
    settings = json.loads(file.read_text(encoding="utf-8")) if file else {}
    name = settings.get("tokenizer_class") or getattr(config, "tokenizer_class", None)
    if name and not any(hasattr(transformers, known) for known in (name, name.removesuffix("Fast"), f"{name}Fast")):
        raise custom_code_error(base)


def _load_model(path: str, base: str, config: Any, options: LoadOptions) -> Any:
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    arguments: dict[str, Any] = {}
    if options.quantize:
        arguments["quantization_config"] = _quantization_config(options.quantize, dtype)
    if options.device_map or options.quantize or getattr(config, "quantization_config", None) is not None:
        arguments["device_map"] = options.device_map or {"": device}
    if options.attention:
        arguments["attn_implementation"] = options.attention
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        path,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **arguments,
    )
    model, info = loaded
    require_complete(base, info)
    return model if "device_map" in arguments else model.to(device)


def _quantization_config(quantize: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return bitsandbytes' settings: NF4 with doubly quantized scales, as QLoRA has them, or LLM.int8().

    Only the language model is quantized. The rest is small, and adapters may replace the projector's weights.
    """
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes, which quantizes models,", "quantize")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a cast in every layer
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=[_OUTSIDE_LANGUAGE_MODEL])
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[_OUTSIDE_LANGUAGE_MODEL],
    )


def _greedy_config(model: Any, tokenizer: Any) -> GenerationConfig:
    """Return settings for greedy decoding up to any of the checkpoint's end tokens.

    The checkpoint's sampling settings and repetition penalties are dropped: coordinates repeat.
    """
    original = model.generation_config
    ends = original.eos_token_id if isinstance(original.eos_token_id, list) else [original.eos_token_id]
    eos = sorted({end for end in (*ends, tokenizer.eos_token_id) if end is not None})
    pads = (tokenizer.pad_token_id, original.pad_token_id, *eos)
    return GenerationConfig(
        do_sample=False,
        bos_token_id=original.bos_token_id,
        decoder_start_token_id=original.decoder_start_token_id,
        eos_token_id=eos or None,
        pad_token_id=next((pad for pad in pads if pad is not None), None),
    )
