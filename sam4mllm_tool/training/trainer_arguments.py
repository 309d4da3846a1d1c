"""The settings of a run as transformers' TrainingArguments, one device per process."""

import os
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.models.devices import choose_device
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.model import uses_bfloat16

__all__ = ["build_trainer_arguments"]


def build_trainer_arguments(config: TrainingConfig, checkpoints_dir: Path) -> TrainingArguments:
    """Build the arguments, which joins the other processes of the run.

    Raises:
        DataError: transformers refuses the settings, or they can't be followed in several processes.
        SpecError: There is no such device.
    """
    device = choose_device(config.device)
    _require_usable(config, device)
    if device.index is not None and "ACCELERATE_TORCH_DEVICE" not in os.environ:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    try:
        arguments = _convert_settings(config, checkpoints_dir, cpu=device.type == "cpu")
        placed = arguments.device
    except (ValueError, ImportError, OSError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError(f"transformers refuses the settings: {reason.strip()}") from error
    if arguments.n_gpu > 1:  # else Trainer would spread each pass over all visible GPUs
        arguments._n_gpu = 1
    if device.index is not None and placed != device:
        arguments.__dict__["_setup_devices"] = device
        torch.cuda.set_device(device)
    if config.eval_data and (is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_USE_FSDP") == "true"):
        raise DataError("eval_data needs all weights on each device, but FSDP or ZeRO-3 shards them: leave it out")
    return arguments


def _require_usable(config: TrainingConfig, device: torch.device) -> None:
    for name in ("deepspeed", "fsdp_config"):
        file = getattr(config, name)
        if isinstance(file, str) and not Path(file).is_file():
            raise DataError(f"{name}: {file} is not there")
    if device.index is not None and _count_processes() > 1:
        raise DataError(f"device = {config.device!r} is one device for several processes: leave it out, each takes its own")


def _count_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _convert_settings(config: TrainingConfig, checkpoints_dir: Path, *, cpu: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(checkpoints_dir),
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulation,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup,
        optim=config.optimiser,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        bf16=uses_bfloat16(config),
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        seed=config.seed,
        save_strategy="steps",
        save_steps=config.save_every,
        logging_steps=config.log_every,
        report_to=["wandb"] if config.report_to == "wandb" else [],
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=not cpu,
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and _count_processes() > 1 else None,
        ddp_find_unused_parameters=False,
        deepspeed=config.deepspeed,
        fsdp=config.fsdp,
        fsdp_config=config.fsdp_config,
    )
