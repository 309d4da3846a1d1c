"""Choose the device and the precision of a model. Imports torch, so packages import this module on first use."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.text import first_line, suggest_name

__all__ = ["choose_device", "choose_dtype", "computes_bfloat16", "count_bytes", "describe_hardware", "format_bytes"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DEVICE_ALIASES = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps", "apple": "mps"}


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return the requested device; by default the first CUDA device, else Apple's GPU, else the CPU.

    Raises:
        SpecError: The device is not available.
    """
    if device is None:
        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        return torch.device(next(name for name, is_available in available.items() if is_available))
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SpecError(f"the device {str(device)!r} can't be used: {_describe_device_error(str(device), error)}") from error
    if chosen.type == "meta":
        raise SpecError("the device 'meta' can't be used: it holds no weights; expected one such as cpu or cuda")
    return chosen


def _describe_device_error(device: str, error: Exception) -> str:
    reason = first_line(error).partition(". ")[0]
    if not reason.startswith(("Expected one of", "Invalid device string", "Device string")):
        return reason
    kind = device.partition(":")[0].lower()
    alias = _DEVICE_ALIASES.get(kind)
    suggestion = f"; did you mean {alias!r}?" if alias else suggest_name(kind, ("cpu", "cuda", "mps", "xpu"))
    return f"expected a device such as cpu, cuda, cuda:1 or mps{suggestion}"


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the requested precision; by default the 16-bit one that a GPU computes in natively, and float32 on a CPU.

    That is bfloat16 on CUDA devices of compute capability 8.0 and later. Older ones, and Apple's GPUs before the M2, emulate
    bfloat16, so they get float16, whose smaller range some families overflow: those need float32.

    Raises:
        SpecError: The name is not float32, bfloat16 or float16.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is not None:
        if dtype not in _DTYPES:
            raise SpecError(f"unknown precision {dtype!r}: expected one of {', '.join(_DTYPES)}")
        return _DTYPES[dtype]
    if device.type == "cuda" and computes_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if device.type in ("cuda", "mps") else torch.float32


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies in bfloat16 natively; one that emulates it can take a hundred times as long."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def describe_hardware(model: Any, dtype: torch.dtype | None = None) -> str:
    """Return where a model runs, in which precision it computes, and how much memory its weights take.

    Args:
        model: A model of transformers.
        dtype: What it computes in, if that isn't what its weights are in.
    """
    devices = dict.fromkeys(str(weight.device) for weight in model.parameters())
    names = [f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device for device in devices]
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    precision = str(dtype or model.dtype).removeprefix("torch.")
    quantized = ", quantized" if getattr(model, "hf_quantizer", None) is not None else ""
    return f"{' and '.join(names)}, {precision}{quantized}, {format_bytes(size)} of weights"


def count_bytes(value: Any) -> int:
    """Return the memory of a tensor, or of all tensors in lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return value.nbytes
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(count_bytes, values))


def format_bytes(count: int) -> str:
    """Return a memory size in decimal units, as in "17 MB" or "16.06 GB"."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
