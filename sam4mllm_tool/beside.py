"""What lies beside a model's weights: how it is spoken to (dialect.json) and how far it can be believed (calibration.json); and
what tells these weights from others."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sam4mllm_tool.confidence import CALIBRATION_FILE, Calibration
from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.libraries import model_libraries
from sam4mllm_tool.mllm import split_spec
from sam4mllm_tool.protocol import DIALECTS, PLAIN, Dialect

__all__ = ["find_calibration", "find_dialect", "find_weights"]

T = TypeVar("T")


def find_dialect(mllm: str, name: str | None = None) -> Dialect:
    """The dialect called `name`, else the dialect.json beside the spec's adapter or model, on the hub too, else `plain`.

    Raises SpecError naming the dialects there are, or the file that cannot be read, or the hub that cannot be asked.
    """
    if name is not None:
        if name not in DIALECTS:
            raise SpecError(f"no such dialect: {name!r}; there are {', '.join(sorted(DIALECTS))}")
        return DIALECTS[name]
    return _beside(mllm, "dialect.json", Dialect.from_json) or PLAIN


def find_calibration(mllm: str) -> Calibration:
    """The calibration.json beside the spec's adapter or model, on the hub too; without one the model is taken at its word.

    Raises SpecError naming the file that cannot be read, or the hub that cannot be asked.
    """
    _base, adapter = split_spec(mllm)
    only = mllm if adapter is None else adapter  # a base's own calibration does not hold for what an adapter makes of it
    return _beside(only, CALIBRATION_FILE, Calibration.from_json) or Calibration()


def find_weights(mllm: str, segmenter: str) -> dict[str, str | None]:
    """What tells the weights behind the specs from others, by part: base, adapter, segmenter. Raises SpecError."""
    base, adapter = split_spec(mllm)
    with model_libraries():
        from sam4mllm_tool.checkpoints import embedded_folder, fingerprint

    if base == "embedded":
        base, adapter = embedded_folder("mllm"), adapter or embedded_folder("adapter")
    parts = {"base": base, "adapter": adapter, "segmenter": embedded_folder("sam") if segmenter == "embedded" else segmenter}
    return {name: None if part is None else fingerprint(part) for name, part in parts.items()}


def _beside(spec: str, name: str, read: Callable[[str], T]) -> T | None:
    base, adapter = split_spec(spec)
    with model_libraries():
        from sam4mllm_tool.checkpoints import embedded_folder, find_file

    if base == "embedded":
        base = embedded_folder("adapter")
    for part in (base,) if adapter is None else (adapter, base):
        if file := find_file(part, name):
            try:
                return read(Path(file).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise SpecError(f"{file}: {error}") from error
    return None
