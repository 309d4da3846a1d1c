"""Files beside weights: dialect.json says how to question the model, calibration.json how to correct its probabilities.

Both are looked up beside the adapter first, then beside the base model, in a local folder or on the hub.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.models.mllm import parse_remote_spec, split_spec
from sam4mllm_tool.optional_dependencies import wrap_import_errors
from sam4mllm_tool.protocol import DIALECTS, PLAIN, Dialect
from sam4mllm_tool.protocol.dialects import find_by_config, find_by_model_name
from sam4mllm_tool.text import suggest_name

__all__ = ["find_dialect", "find_fingerprints", "read_metadata"]

T = TypeVar("T")


def find_dialect(mllm: str, name: str | None = None) -> Dialect:
    """Return the dialect called `name`, else the dialect.json beside the weights, else the model family's own, else `plain`.

    Args:
        mllm: Model spec; a hub id is looked up on the hub. A remote model's family is guessed by its name.
        name: A key of `protocol.DIALECTS`.

    Raises:
        SpecError: There is no dialect of that name, the file can't be read, or the hub can't be reached.
    """
    if name is not None:
        if name not in DIALECTS:
            raise SpecError(f"no such dialect: {name!r}; there are {', '.join(sorted(DIALECTS))}{suggest_name(name, DIALECTS)}")
        return DIALECTS[name]
    return read_metadata(mllm, "dialect.json", Dialect.from_json) or _find_family_dialect(mllm) or PLAIN


def _find_family_dialect(mllm: str) -> Dialect | None:
    """Return the dialect of the family that the base model's config names, or a remote model's name."""
    if remote := parse_remote_spec(mllm):
        return find_by_model_name(remote.model)
    base, _ = split_spec(mllm)
    return read_metadata(base, "config.json", lambda text: find_by_config(json.loads(text)))


def find_fingerprints(mllm: str, segmenter: str) -> dict[str, str | None]:
    """Return a fingerprint of the weights of each part: base, adapter, segmenter; None for a part that is not there or remote.

    Raises:
        SpecError: A spec names nothing, or the hub can't be reached.
    """
    base, adapter = split_spec(mllm)
    with wrap_import_errors():
        from sam4mllm_tool.models.checkpoints import embedded_folder, fingerprint

    if base == "embedded":
        base, adapter = embedded_folder("mllm"), adapter or embedded_folder("adapter")
    parts = {"base": base, "adapter": adapter, "segmenter": embedded_folder("sam") if segmenter == "embedded" else segmenter}
    if parse_remote_spec(mllm):
        parts["base"] = None
    return {name: None if part is None else fingerprint(part) for name, part in parts.items()}


def read_metadata(spec: str, name: str, parse: Callable[[str], T]) -> T | None:
    """Return the parsed file `name` beside the weights that `spec` names; None where there is no such file.

    Args:
        spec: Model spec, maybe with `+ADAPTER`. The adapter's file wins over the base's.
        name: File name, such as `dialect.json`.
        parse: Takes the file's text; its ValueError becomes a SpecError that names the file.

    Raises:
        SpecError: The file can't be read or parsed, or the hub can't be reached.
    """
    if parse_remote_spec(spec):
        return None
    base, adapter = split_spec(spec)
    with wrap_import_errors():
        from sam4mllm_tool.models.checkpoints import embedded_folder, find_file

    if base == "embedded":
        base = embedded_folder("adapter")
    for part in (base,) if adapter is None else (adapter, base):
        if file := find_file(part, name):
            try:
                return parse(Path(file).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise SpecError(f"{file}: {error}") from error
    return None
