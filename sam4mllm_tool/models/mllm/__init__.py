"""Backends that answer questions about a picture.

`load_mllm` opens a checkpoint by its spec; `ScriptedMLLM` gives prepared replies and stands in for a model in tests. A
backend's file, and with it torch, is imported on first use.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam4mllm_tool.errors import SpecError, quote_text
from sam4mllm_tool.models.mllm.scripted import ScriptedMLLM
from sam4mllm_tool.optional_dependencies import model_libraries
from sam4mllm_tool.types import MLLM

if TYPE_CHECKING:
    from sam4mllm_tool.models.mllm.transformers import TransformersMLLM

__all__ = ["ScriptedMLLM", "TransformersMLLM", "load_mllm", "split_spec"]

EMBEDDED = "embedded"


def load_mllm(spec: str, *, device: str | None = None, dtype: str | None = None) -> MLLM:
    """The model that a spec names.

    spec: `embedded`, a folder in Hugging Face format or a hub id, each with an optional `+ADAPTER`, a peft adapter's
    folder or hub id. `embedded` brings its own adapter along.
    device: as torch names it ("cuda:1"); without one, the first CUDA device, or else the CPU. dtype: "float32", "bfloat16"
    or "float16"; without one, bfloat16 on a GPU that computes in it, else float32.
    Raises SpecError for a spec that names nothing that can be loaded or a broken library, MissingExtraError where one is
    missing.
    """
    base, adapter = split_spec(spec)
    with model_libraries():
        from sam4mllm_tool.models.checkpoints import embedded_folder
        from sam4mllm_tool.models.mllm.transformers import TransformersMLLM

    if base == EMBEDDED:
        base, adapter = embedded_folder("mllm"), adapter or embedded_folder("adapter")
    return TransformersMLLM.load(base, adapter, name=spec, device=device, dtype=dtype)


def split_spec(spec: str) -> tuple[str, str | None]:
    """`BASE+ADAPTER` as (base, adapter), adapter None without one. A `+` in the name of a folder is part of the name.

    Raises SpecError for an empty base or adapter.
    """
    if "+" not in spec or _is_folder(spec):
        return spec, None
    splits = [(spec[:i], spec[i + 1 :]) for i, character in enumerate(spec) if character == "+"]
    base, adapter = next((split for split in reversed(splits) if _is_folder(split[0])), splits[0])
    if not base or not adapter:
        raise SpecError(f"the model spec {quote_text(spec)} is incomplete: expected BASE+ADAPTER, each a folder or a hub id")
    return base, adapter


def _is_folder(spec: str) -> bool:
    try:
        return Path(spec).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # longer than a name may be, no such home, a null character
        return False


def __getattr__(name: str) -> Any:
    if name == "TransformersMLLM":
        from sam4mllm_tool.models.mllm.transformers import TransformersMLLM

        return TransformersMLLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
