"""What can be wrong with a training run, looked for before anything is built: folder, model, adapter, dialect and settings.

Building training conversations may take hours, so nothing that can be known without them waits until after them. The model is
built without weights, which takes no memory and little time.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.errors import DataError, MissingExtraError, SpecError
from sam4mllm_tool.models.checkpoints import embedded_folder, quiet_loading, resolve_folder_or_hub_id, wrap_load_errors
from sam4mllm_tool.models.mllm import EMBEDDED
from sam4mllm_tool.models.mllm.adapters import require_safe_adapter
from sam4mllm_tool.models.segmenter import SEGMENT_ANYTHING
from sam4mllm_tool.pipeline.sam4mllm import find_dialect
from sam4mllm_tool.protocol import JOINT, PLAIN, Dialect
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.output_dir import require_training_dir
from sam4mllm_tool.training.starting_point import StartingPoint, find_starting_point
from sam4mllm_tool.training.target_modules import find_target_modules

__all__ = ["check_before_building", "choose_data_dialect", "find_report_service"]

_EXTRA = "sam"


def check_before_building(config: TrainingConfig) -> StartingPoint:
    """Check the output folder, the model, its adapter, the dialect and the settings; load no weights and write nothing.

    Returns:
        What training starts from.

    Raises:
        DataError: `out` holds other files or can't be written, or the recipe is not valid.
        SpecError: The model, the adapter, the segmenter or the dialect can't be loaded.
        MissingExtraError: A library is not installed.
    """
    _require_libraries(config)
    out = Path(config.out).expanduser()
    require_training_dir(out)
    _require_writable(out)
    start = find_starting_point(config)
    _check_model(config, start)
    if config.data:
        recipe = Recipe.of(choose_data_dialect(config), config.recipe or {})
        if recipe.ppg:
            _require_segmenter(recipe.segmenter)
    elif config.dialect is not None:
        find_dialect(config.mllm, config.dialect)
    if config.eval_data or config.data:
        _require_segmenter(config.eval_segmenter)
    return start


def choose_data_dialect(config: TrainingConfig) -> Dialect:
    """Return the dialect in which training conversations are built from `data`. Raises SpecError."""
    dialect = find_dialect(config.mllm, config.dialect)
    if dialect is PLAIN and config.dialect is None:
        return JOINT  # a trained model needs no long instructions, and can answer all points in one reply
    return dialect


def find_report_service(config: TrainingConfig) -> str:
    """Return where metrics go besides metrics.jsonl: `auto` is TensorBoard where it is installed."""
    if config.report_to == "auto":
        return "tensorboard" if find_spec("tensorboard") else "none"
    return config.report_to


def _require_libraries(config: TrainingConfig) -> None:
    if config.quantise == "4bit" and find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes, which quantise = '4bit' needs,", "quantize")
    for name in ("accelerate", find_report_service(config)):
        if name == "none" or find_spec(name):
            continue
        if name == "wandb":  # which no extra installs
            raise SpecError("report_to = 'wandb' needs wandb, which is not installed: pip install wandb")
        raise MissingExtraError(name, "train")


def _require_writable(out: Path) -> None:
    """Raise DataError if the folder, or the nearest one above it, can't be written to."""
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        kind = "can't be written to" if nearest.is_dir() else "is a file"
        raise DataError(f"out = {str(out)!r} can't be made: {nearest} {kind}")


def _check_model(config: TrainingConfig, start: StartingPoint) -> None:
    """Check that the model and the adapter are there, and that what is to be trained is in the model."""
    path = resolve_folder_or_hub_id(start.folder)
    with quiet_loading(), wrap_load_errors(start.base, extra=_EXTRA):
        settings = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if getattr(settings, "image_token_id", None) is None:
        raise SpecError(f"{start.base!r} has no token that stands for the image, so it can't be trained here")
    if start.adapter is not None:
        with wrap_load_errors(start.adapter, extra=_EXTRA):
            require_safe_adapter(resolve_folder_or_hub_id(start.adapter, marker="adapter_config.json"), start.adapter)
    elif (model := _build_without_weights(settings)) is not None:
        find_target_modules(model, targets=config.lora_targets, projector=config.projector)


def _build_without_weights(settings: Any) -> Any:
    """Build a model on torch's meta device; None for the few classes that can't be built there."""
    try:
        with quiet_loading(), torch.device("meta"):
            return AutoModelForImageTextToText.from_config(settings, trust_remote_code=False)
    except (RuntimeError, NotImplementedError, ValueError, ImportError):
        return None  # loading it says what is wrong, if anything is


def _require_segmenter(spec: str) -> None:
    if not spec.startswith(SEGMENT_ANYTHING):
        resolve_folder_or_hub_id(embedded_folder("sam") if spec == EMBEDDED else spec)
