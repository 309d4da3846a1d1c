"""Backends that answer questions about an image.

`load_mllm` loads a checkpoint by its spec; `ScriptedMLLM` returns prepared replies in tests. A backend's module, and torch with
it, is imported on first use.
"""

import reprlib
from typing import TYPE_CHECKING, Any, Unpack

from sam4mllm_tool.errors import SpecError, quote_text
from sam4mllm_tool.models.load_options import LoadOptions, LoadOverrides
from sam4mllm_tool.models.mllm.model_specs import EMBEDDED, find_parts, split_spec
from sam4mllm_tool.models.mllm.remote_specs import parse_remote_spec
from sam4mllm_tool.models.mllm.scripted import ScriptedMLLM
from sam4mllm_tool.optional_dependencies import wrap_import_errors
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.types import MLLM

if TYPE_CHECKING:
    from sam4mllm_tool.models.mllm.chat_model import ChatModelMLLM
    from sam4mllm_tool.models.mllm.openai_compatible import OpenAICompatibleMLLM
    from sam4mllm_tool.models.mllm.transformers import TransformersMLLM

__all__ = [
    "EMBEDDED",
    "ScriptedMLLM",
    "TransformersMLLM",
    "load_mllm",
    "load_remote_mllm",
    "parse_remote_spec",
    "split_spec",
    "wrap_chat_model",
]


def load_mllm(
    spec: str, *, dialect: Dialect | None = None, options: LoadOptions = LoadOptions(), **overrides: Unpack[LoadOverrides]
) -> MLLM:
    """Load the model that a spec names.

    Args:
        spec: `embedded`, a folder in Hugging Face format or a hub id, each optionally followed by `+ADAPTER`: the folder or hub
            id of a peft adapter. An adapter alone is loaded onto the base that it names. `embedded` has an adapter of its own.
            Or a remote model: `openai:MODEL@URL` or `langchain:PROVIDER:MODEL`.
        dialect: The dialect in which a remote model will be asked, by default its family's: it decides in which sizes images
            are sent. Without effect on checkpoints.
        options: Where and how precisely the model runs.
        overrides: Single options that differ from `options`, as in `device="cuda:1"`; see `LoadOptions`.

    Raises:
        SpecError: The spec names nothing that can be loaded, an option doesn't fit, or a library is broken.
        MissingExtraError: A library is not installed.
    """
    if parse_remote_spec(spec):
        return load_remote_mllm(spec, dialect=dialect, options=options.override(**overrides))
    with wrap_import_errors():
        from sam4mllm_tool.models.checkpoints import embedded_folder
        from sam4mllm_tool.models.mllm.transformers import TransformersMLLM

    base, adapter = find_parts(spec)
    if base == EMBEDDED:
        base, adapter = embedded_folder("mllm"), adapter or embedded_folder("adapter")
    try:
        return TransformersMLLM.load(base, adapter, name=spec, options=options.override(**overrides))
    except SpecError as error:
        if adapter != spec:
            raise
        reason = f"{quote_text(spec)} is a LoRA adapter alone, and on the base that it names it can't be loaded: {error}"
        raise SpecError(f"{reason}; name a base as BASE+ADAPTER") from error


def load_remote_mllm(
    spec: str, *, dialect: Dialect | None = None, options: LoadOptions = LoadOptions()
) -> "OpenAICompatibleMLLM | ChatModelMLLM":
    """Connect to the remote model that a spec names, as `load_mllm` does. `ask_in` of it sets another dialect later.

    Raises:
        ValueError: The spec names no remote model.
    """
    remote, max_pixels = parse_remote_spec(spec), options.max_pixels
    if remote is None:
        raise ValueError(f"expected the spec of a remote model, got {spec!r}")
    if remote.kind == "openai":
        from sam4mllm_tool.models.mllm.openai_compatible import OpenAICompatibleMLLM

        return OpenAICompatibleMLLM.load(remote, name=spec, dialect=dialect, max_pixels=max_pixels)
    from sam4mllm_tool.models.mllm.chat_model import ChatModelMLLM

    return ChatModelMLLM.load(remote, name=spec, dialect=dialect, max_pixels=max_pixels)


def wrap_chat_model(mllm: Any, *, dialect: Dialect | None = None, max_pixels: int | None = None) -> MLLM:
    """Return an MLLM as it is, and a chat model of LangChain as one that asks it.

    Args:
        mllm: The MLLM or the chat model.
        dialect: As in `load_mllm`.
        max_pixels: As in `LoadOptions`.

    Raises:
        SpecError: It is neither, or the chat model takes no images.
    """
    if hasattr(mllm, "reply") and hasattr(mllm, "areply"):
        given: MLLM = mllm
        return given
    if not hasattr(mllm, "invoke"):
        raise SpecError(f"expected a spec, a chat model or an MLLM, got {reprlib.repr(mllm)}")
    from sam4mllm_tool.models.mllm.chat_model import ChatModelMLLM

    return ChatModelMLLM(mllm, dialect=dialect, max_pixels=max_pixels)


def __getattr__(name: str) -> Any:
    if name == "TransformersMLLM":
        from sam4mllm_tool.models.mllm.transformers import TransformersMLLM

        return TransformersMLLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
