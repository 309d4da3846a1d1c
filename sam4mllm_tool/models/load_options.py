"""`LoadOptions`: where and how precisely models run, once and frozen; the library, the command and evaluation share it.

Imports no torch: a name that only torch or transformers can judge, such as a device's, is checked when models are loaded.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict, Unpack

from sam4mllm_tool.errors import SpecError

__all__ = ["LoadOptions", "LoadOverrides"]


_RESULT_SETTINGS = ("dtype", "quantize", "attention", "max_pixels")


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How models are loaded, whatever they are. Servers and chat models run elsewhere and take `max_pixels` alone.

    Args:
        device: Name of a torch device, such as "cuda:1"; by default the first CUDA device, else Apple's GPU (mps), else the
            CPU.
        segmenter_device: The segmenter's device, if it differs from `device`.
        dtype: "float32", "bfloat16" or "float16"; by default bfloat16 on CUDA devices with native support, float16 on older
            ones and on mps, float32 on a CPU.
        quantize: "4bit" or "8bit" for an MLLM whose weights are quantized by bitsandbytes while they are loaded.
        device_map: "auto" spreads an MLLM over all devices, and over main memory where they are too small.
        attention: The MLLM's attention, as transformers names it: "sdpa", "eager" or "flash_attention_2", for example.
        max_pixels: Most pixels of an image that the MLLM reads; a larger image is shown smaller. By default what the
            checkpoint's own settings say, but for families that read images of any size (Qwen-VL, GLM-4.xV) at most
            2,097,152.
        compile: Compile the image encoders of both models by torch.compile: each call is faster, the first takes up to a
            minute longer. On a CPU this needs a C++ compiler.

    Raises:
        SpecError: A value is not among those above, or two don't go together.
    """

    device: str | None = None
    segmenter_device: str | None = None
    dtype: str | None = None
    quantize: Literal["4bit", "8bit"] | None = None
    device_map: Literal["auto"] | None = None
    attention: str | None = None
    max_pixels: int | None = None
    compile: bool = False
    cpu_fallback: bool = False

    def __post_init__(self) -> None:
        if self.quantize not in (None, "4bit", "8bit"):
            raise SpecError(f"unknown quantization {self.quantize!r}: expected 4bit or 8bit")
        if self.device_map not in (None, "auto"):
            raise SpecError(f"unknown device map {self.device_map!r}: expected auto")
        if self.device_map and self.device:
            raise SpecError(f"a device map spreads the MLLM over all devices: leave out the device {self.device!r}")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise SpecError(f"expected max_pixels, a number of pixels, of at least 1, got {self.max_pixels}")

    def override(self, **overrides: Unpack["LoadOverrides"]) -> "LoadOptions":
        """Return the options with other values for the given ones; None leaves an option as it is.

        Raises:
            SpecError: As above.
            TypeError: There is no such option.
        """
        given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
        return replace(self, **given) if given else self

    @property
    def for_segmenter(self) -> "LoadOptions":
        """The options that a segmenter takes, its device under the name `device`."""
        device = self.segmenter_device or self.device
        return LoadOptions(device=device, dtype=self.dtype, compile=self.compile, cpu_fallback=self.cpu_fallback)

    def to_dict(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, as plain JSON."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}

    def result_settings(self) -> dict[str, Any]:
        """Return those of them that change results, wherever the models run."""
        return {name: value for name, value in self.to_dict().items() if name in _RESULT_SETTINGS}


class LoadOverrides(TypedDict, total=False):
    """The options of `LoadOptions` as keyword arguments."""

    device: str | None
    segmenter_device: str | None
    dtype: str | None
    quantize: Literal["4bit", "8bit"] | None
    device_map: Literal["auto"] | None
    attention: str | None
    max_pixels: int | None
    compile: bool | None
    cpu_fallback: bool | None
