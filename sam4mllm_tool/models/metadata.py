"""Files beside weights: dialect.json says how to question the model, calibration.json how to correct its probabilities.

Both are looked up beside the adapter first, then beside the base model, in a local folder or on the hub.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.models.mllm.model_specs import EMBEDDED, find_parts
from sam4mllm_tool.models.mllm.remote_specs import parse_remote_spec
from sam4mllm_tool.models.probing.probed_dialects import has_probed_dialects, load_probed_dialect
from sam4mllm_tool.optional_dependencies import wrap_import_errors
from sam4mllm_tool.protocol import DIALECTS, PLAIN, RELEASED, Dialect
from sam4mllm_tool.protocol.dialects import find_by_config, find_by_model_name
from sam4mllm_tool.text import parse_json, suggest_name
from sam4mllm_tool.types import MLLM

__all__ = [
    "find_dialect",
    "find_family_dialect",
    "find_fingerprints",
    "find_probed_dialect",
    "find_trained_dialect",
    "fit_dialect",
    "identify_mllm",
    "list_candidate_dialects",
    "read_metadata",
]

T = TypeVar("T")
_MAX_BYTES = 2**25
_RELEASED_BASE = "llama3-llava-next-8b"
"""In the name of the published adapter's base, and of its converted copy."""


def find_dialect(mllm: str, name: str | None = None) -> Dialect:
    """Return the dialect in which to ask a model.

    That is the one called `name`, else the dialect.json beside the weights, which says how they were trained, else `released`
    for an adapter of the published one's base, else the one that was measured for the model (`sam4mllm probe`), else the model
    family's own, else `plain`.

    Args:
        mllm: Model spec; a hub id is looked up on the hub. A remote model's family is guessed by its name.
        name: A key of `protocol.DIALECTS`.

    Raises:
        SpecError: There is no dialect of that name, a file can't be read, or the hub can't be reached.
    """
    if name is not None:
        return _get_dialect(name)
    return find_trained_dialect(mllm) or find_probed_dialect(mllm) or find_family_dialect(mllm) or PLAIN


def find_trained_dialect(mllm: str) -> Dialect | None:
    """Return the dialect that a model was trained in, where that is known, or None. Raises SpecError as `find_dialect` does.

    That is the dialect.json beside its weights, else `released` for an adapter of the published SAM4MLLM adapter's base, which
    has no such file.
    """
    return read_metadata(mllm, "dialect.json", Dialect.from_json) or _find_released_dialect(mllm)


def find_probed_dialect(mllm: str, version: str | None = None) -> Dialect | None:
    """Return the dialect that was measured for a model and kept, or None.

    Args:
        mllm: Model spec.
        version: As in `identify_mllm`.

    Raises:
        SpecError: As in `find_dialect`.
    """
    return load_probed_dialect(identify_mllm(mllm, version)) if has_probed_dialects() else None


def list_candidate_dialects(mllm: str, name: str | None = None) -> tuple[Dialect, ...]:
    """Return the dialects in which a model may be asked, for measuring which is the best: the family's own first.

    Weights with a dialect.json are asked in that one alone: they were trained on its words.

    Args:
        mllm: Model spec.
        name: The only candidate, a key of `protocol.DIALECTS`.

    Raises:
        SpecError: As in `find_dialect`.
    """
    if name is not None:
        return (_get_dialect(name),)
    if trained := find_trained_dialect(mllm):
        return (trained,)
    family = find_family_dialect(mllm)
    return (family, PLAIN) if family else (PLAIN, DIALECTS["qwen3_vl"], DIALECTS["gemma"])


def fit_dialect(dialect: Dialect, mllm: MLLM) -> Dialect:
    """Return the dialect for a model as it is loaded: with its resizing and padding."""
    return dialect.for_model(getattr(mllm, "resizing", None), pads_images=getattr(mllm, "pads_images", False))


def _get_dialect(name: str) -> Dialect:
    if name not in DIALECTS:
        raise SpecError(f"no such dialect: {name!r}; there are {', '.join(sorted(DIALECTS))}{suggest_name(name, DIALECTS)}")
    return DIALECTS[name]


def _find_released_dialect(mllm: str) -> Dialect | None:
    """Return the published adapter's dialect for an adapter whose adapter_config.json names the same base."""
    if parse_remote_spec(mllm) or find_parts(mllm)[1] is None:
        return None
    config = read_metadata(mllm, "adapter_config.json", parse_json, adapter_only=True)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return RELEASED if isinstance(base, str) and _RELEASED_BASE in base.lower() else None


def find_family_dialect(mllm: str) -> Dialect | None:
    """Return the dialect of the family that the base model's config names, or a remote model's name."""
    if remote := parse_remote_spec(mllm):
        return find_by_model_name(remote.model)
    base, _ = find_parts(mllm)
    return read_metadata(base, "config.json", lambda text: find_by_config(parse_json(text)))


def find_fingerprints(mllm: str | None, segmenter: str) -> dict[str, str | None]:
    """Return a fingerprint of the weights of each part: base, adapter, segmenter; None for a part that is not there or remote.

    Without an MLLM's spec, of the segmenter alone.

    Raises:
        SpecError: A spec names nothing, or the hub can't be reached.
    """
    parts = {} if mllm is None else _fingerprint_mllm(mllm)
    from sam4mllm_tool.models.checkpoints import embedded_folder, fingerprint

    return {**parts, "segmenter": fingerprint(embedded_folder("sam") if segmenter == EMBEDDED else segmenter)}


def identify_mllm(mllm: str, version: str | None = None) -> dict[str, str | None]:
    """Return what tells an MLLM from others and its versions from one another: fingerprints of its weights, or a server's spec.

    Args:
        mllm: Model spec.
        version: What a server says that it runs; unused where there are weights.

    Raises:
        SpecError: The spec names nothing, or the hub can't be reached.
    """
    return {"spec": mllm, "version": version} if parse_remote_spec(mllm) else _fingerprint_mllm(mllm)


def _fingerprint_mllm(mllm: str) -> dict[str, str | None]:
    base, adapter = find_parts(mllm)
    with wrap_import_errors():
        from sam4mllm_tool.models.checkpoints import embedded_folder, fingerprint

    if base == EMBEDDED:
        base, adapter = embedded_folder("mllm"), adapter or embedded_folder("adapter")
    parts = {"base": None if parse_remote_spec(mllm) else base, "adapter": adapter}
    return {name: None if part is None else fingerprint(part) for name, part in parts.items()}


def read_metadata(spec: str, name: str, parse: Callable[[str], T], *, adapter_only: bool = False) -> T | None:
    """Return the parsed file `name` beside the weights that `spec` names; None where there is no such file.

    Args:
        spec: Model spec, maybe with `+ADAPTER`, or an adapter alone. The adapter's file wins over the base's.
        name: File name, such as `dialect.json`.
        parse: Takes the file's text; its ValueError becomes a SpecError that names the file.
        adapter_only: Whether a base's file doesn't count where there is an adapter.

    Raises:
        SpecError: The file can't be read or parsed, or the hub can't be reached.
    """
    if parse_remote_spec(spec):
        return None
    base, adapter = find_parts(spec)
    with wrap_import_errors():
        from sam4mllm_tool.models.checkpoints import embedded_folder, find_file

    if base == EMBEDDED:
        base = embedded_folder("adapter")
    for part in (base,) if adapter is None else (adapter,) if adapter_only else (adapter, base):
        if file := find_file(part, name):
            try:
                return parse(_read_text(Path(file)))
            except (OSError, ValueError) as error:
                raise SpecError(f"{file}: {error}") from error
    return None


def _read_text(file: Path) -> str:
    """Read a file that came with weights. Raises OSError; ValueError where it is larger than any such file."""
    with file.open("rb") as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it is over the limit of {_MAX_BYTES:,} bytes")
    return content.decode("utf-8")
