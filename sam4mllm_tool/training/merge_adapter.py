"""Merges an adapter into its base: one model folder that transformers, vLLM and `transformers serve` load."""

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig

from sam4mllm_tool.errors import DataError, SpecError
from sam4mllm_tool.models.checkpoints import (
    embedded_folder,
    find_file,
    quiet_loading,
    resolve_folder_or_hub_id,
    wrap_load_errors,
)
from sam4mllm_tool.models.devices import choose_dtype
from sam4mllm_tool.models.domain import DOMAIN_FILE
from sam4mllm_tool.models.metadata import find_dialect
from sam4mllm_tool.models.mllm.loading import load_checkpoint
from sam4mllm_tool.models.mllm.model_specs import find_parts
from sam4mllm_tool.pipeline.calibration import CALIBRATION_FILE
from sam4mllm_tool.training.output_dir import WRITING, move_in, removing_on_failure

__all__ = ["export"]


def export(mllm: str, out: Path, *, dialect: str | None = None, dtype: str | None = None) -> Path:
    """Write BASE+ADAPTER as one model, with its processor, chat template and dialect, and the adapter's calibration and domain.

    Args:
        mllm: BASE+ADAPTER, or `embedded`.
        out: A new or empty folder.
        dialect: Its name; by default the one beside the adapter.
        dtype: Data type of the written weights, by default the base's; they are merged in float32.

    Returns:
        `out`.

    Raises:
        SpecError: The model can't be loaded or has no adapter.
        DataError: `out` is not empty.
        OSError: `out` can't be written.
    """
    base, adapter = find_parts(mllm)
    spoken = find_dialect(mllm, dialect)
    if base == "embedded":
        base, adapter = embedded_folder("mllm"), adapter or embedded_folder("adapter")
    if adapter is None:
        resolve_folder_or_hub_id(base)  # which says so if it is an adapter
        raise SpecError(f"{mllm!r} has no adapter to merge: expected BASE+ADAPTER")
    part = out / WRITING  # inside `out`, which may be the current folder
    if out.exists() and (not out.is_dir() or any(file != part for file in out.iterdir())):
        raise DataError(f"{out} is not empty: choose another folder")
    model, processor = load_checkpoint(base, adapter, device="cpu", dtype="float32")
    model.to(choose_dtype(dtype, torch.device("cpu")) if dtype else _read_dtype(base))
    with removing_on_failure(part, "the model", "nothing of it is left"):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with quiet_loading():
            model.save_pretrained(part)
            processor.save_pretrained(part)
        (part / "dialect.json").write_text(spoken.to_json(), encoding="utf-8")
        for name in (CALIBRATION_FILE, DOMAIN_FILE):
            if file := find_file(adapter, name):
                shutil.copyfile(file, part / name)
        _ensure_chat_template(part, processor)
        move_in(part, out, last="config.json")  # without which nothing loads the folder
    return out


def _read_dtype(base: str) -> torch.dtype:
    with quiet_loading(), wrap_load_errors(base, extra="sam"):
        dtype = AutoConfig.from_pretrained(resolve_folder_or_hub_id(base), trust_remote_code=False).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _ensure_chat_template(folder: Path, processor: object) -> None:
    """Write the chat template if saving did not: a tokenizer may hold one that its processor doesn't have."""
    template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)  # type: ignore[attr-defined]
    if (folder / "chat_template.jinja").is_file() or not isinstance(template, str):
        return
    if "chat_template" not in json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
