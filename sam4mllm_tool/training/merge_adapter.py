"""Merges an adapter into its base: a standalone folder that transformers, vLLM and `transformers serve` load."""

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig

from sam4mllm_tool.errors import DataError, SpecError
from sam4mllm_tool.models.checkpoints import (
    choose_dtype,
    embedded_folder,
    quiet_loading,
    resolve_folder_or_hub_id,
    wrap_load_errors,
)
from sam4mllm_tool.models.mllm import split_spec
from sam4mllm_tool.models.mllm.loading import load_checkpoint
from sam4mllm_tool.pipeline.sam4mllm import find_dialect
from sam4mllm_tool.training.output_dir import WRITING, writing

__all__ = ["export"]


def export(mllm: str, out: Path, *, dialect: str | None = None, dtype: str | None = None) -> Path:
    """Writes BASE+ADAPTER as one model, with its processor, chat template and dialect; returns `out`.

    dialect: its name, by default the one beside the adapter. dtype: what the weights are kept in, by default what the
    base's are; they are merged in float32. Raises SpecError where the model can't be loaded or has no adapter, DataError
    where `out` is not empty, OSError where it can't be written.
    """
    base, adapter = split_spec(mllm)
    spoken = find_dialect(mllm, dialect)
    if base == "embedded":
        base, adapter = embedded_folder("mllm"), adapter or embedded_folder("adapter")
    if adapter is None:
        raise SpecError(f"{mllm!r} has no adapter to merge: expected BASE+ADAPTER")
    beside = out / WRITING  # inside, for `out` may be the folder one is in
    if out.exists() and (not out.is_dir() or any(file != beside for file in out.iterdir())):
        raise DataError(f"{out} is not empty: choose another folder")
    model, processor = load_checkpoint(base, adapter, device="cpu", dtype="float32")
    model.to(choose_dtype(dtype, torch.device("cpu")) if dtype else _kept_dtype(base))
    with writing(beside, "the model", "nothing of it is left"):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        with quiet_loading():
            model.save_pretrained(beside)
            processor.save_pretrained(beside)
        (beside / "dialect.json").write_text(spoken.to_json(), encoding="utf-8")
        _keep_template(beside, processor)
        for path in sorted(beside.iterdir(), key=lambda path: path.name == "config.json"):  # without it nothing loads
            path.replace(out / path.name)
        beside.rmdir()
    return out


def _kept_dtype(base: str) -> torch.dtype:
    with quiet_loading(), wrap_load_errors(base, extra="sam"):
        kept = AutoConfig.from_pretrained(resolve_folder_or_hub_id(base), trust_remote_code=False).dtype
    return kept if isinstance(kept, torch.dtype) else torch.float32


def _keep_template(folder: Path, processor: object) -> None:
    """Sees that the chat template is in the folder: a tokenizer may hold it where a processor does not."""
    template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)  # type: ignore[attr-defined]
    kept = folder / "tokenizer_config.json"
    if (folder / "chat_template.jinja").is_file() or not isinstance(template, str):
        return
    if "chat_template" not in json.loads(kept.read_text(encoding="utf-8")):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
