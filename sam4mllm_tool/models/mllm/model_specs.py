"""Which parts a model spec names: a base, and maybe an adapter."""

from pathlib import Path

from sam4mllm_tool.errors import SpecError, quote_text
from sam4mllm_tool.models.mllm.remote_specs import parse_remote_spec
from sam4mllm_tool.optional_dependencies import wrap_import_errors

__all__ = ["EMBEDDED", "find_parts", "split_spec"]

EMBEDDED = "embedded"


def find_parts(mllm: str) -> tuple[str, str | None]:
    """Return the base and the adapter that a spec names; an adapter alone names its base itself.

    Raises:
        SpecError: The spec is incomplete, or the hub can't be reached.
    """
    base, adapter = split_spec(mllm)
    if adapter is not None or base == EMBEDDED or parse_remote_spec(mllm):
        return base, adapter
    with wrap_import_errors():
        from sam4mllm_tool.models.checkpoints import find_adapter_base

    named = find_adapter_base(base)
    return (base, None) if named is None else (named, base)


def split_spec(spec: str) -> tuple[str, str | None]:
    """Split `BASE+ADAPTER` into (base, adapter); adapter is None if there is none. Names may contain `+`.

    Raises:
        SpecError: The base or the adapter is empty, or the spec of a remote model is malformed.
    """
    if "+" not in spec or parse_remote_spec(spec) or _is_folder(spec):
        return spec, None
    splits = [(spec[:i], spec[i + 1 :]) for i, character in enumerate(spec) if character == "+"]
    base, adapter = next((split for split in reversed(splits) if _is_folder(split[0])), splits[0])
    if not base or not adapter:
        raise SpecError(f"the model spec {quote_text(spec)} is incomplete: expected BASE+ADAPTER, each a folder or a hub id")
    return base, adapter


def _is_folder(spec: str) -> bool:
    try:
        return Path(spec).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # too long for a file name, unknown home, null character
        return False
