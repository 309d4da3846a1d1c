"""transformers' Trainer with our loss, our order of rows, and checkpoints that are either complete or absent."""

import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from sam4mllm_tool.atomic_io import set_default_permissions
from sam4mllm_tool.training.batches import Collator, LengthGroupedSampler
from sam4mllm_tool.training.output_dir import WRITING, removing_on_failure
from sam4mllm_tool.training.tokenized_dataset import TokenizedDataset

__all__ = ["ConversationTrainer", "compute_loss_sum", "find_newest_checkpoint"]


def compute_loss_sum(model: nn.Module, batch: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Compute the cross-entropy summed over the batch's labels, a scalar.

    Args:
        model: The model under training.
        batch: As `Collator` builds it.
        dtype: What the model computes in, which its mask must have too.
    """
    inputs = dict(batch)
    rows, nodes, labels = (inputs.pop(name) for name in ("label_rows", "label_nodes", "labels"))
    if inputs["attention_mask"].ndim == 3:
        hidden = ~inputs["attention_mask"][:, None]
        inputs["attention_mask"] = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(
            hidden, torch.finfo(dtype).min
        )
    kept = nodes.contiguous().unique()  # sorted; logits are computed only where some row has a token to predict
    logits = model(**inputs, logits_to_keep=kept, use_cache=False).logits
    return F.cross_entropy(logits[rows, torch.searchsorted(kept, nodes.contiguous())].float(), labels, reduction="sum")


class ConversationTrainer(Trainer):
    """Trains on rows of training conversations.

    The loss is the sum over the predicted tokens of a step, over all its passes and processes, divided by their number.

    Args:
        model: The model with its adapter.
        arguments: transformers' settings.
        rows: What is trained on.
        collator: Builds batches of them.
        dtype: What the model computes in.
        projector_learning_rate: Learning rate of the modules that are trained in full; None for the same as LoRA's.
        keep: Number of checkpoints that stay.
        callbacks: As Trainer's.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        rows: TokenizedDataset,
        collator: Collator,
        *,
        dtype: torch.dtype,
        projector_learning_rate: float | None = None,
        keep: int = 2,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self._sampler = LengthGroupedSampler(rows.lengths, arguments.train_batch_size, arguments.seed)
        self._dtype, self._projector_learning_rate, self._keep = dtype, projector_learning_rate, keep
        self._tokens, self._since = 0, time.perf_counter()
        self._checkpoints_dir = Path(str(arguments.output_dir))
        super().__init__(
            model=model,
            args=arguments,
            data_collator=collator,
            train_dataset=rows,
            callbacks=[_EpochSetter(self._sampler), *(callbacks or [])],
        )
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the whole step's tokens itself
        self._loss_shifts_labels = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,  # noqa: ARG002 - Trainer's signature
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return this pass's share of the step's loss; `num_items_in_batch` is the step's tokens, of all processes."""
        mask = inputs["position_ids"] > 0 if "position_ids" in inputs else inputs["attention_mask"]
        self._tokens += int(mask.sum()) * self.args.world_size
        count = len(inputs["labels"]) if num_items_in_batch is None else num_items_in_batch
        # Gradients are averaged over the processes afterwards, but the count is already that of all of them.
        return compute_loss_sum(model, inputs, self._dtype) / count * self.accelerator.num_processes

    def _get_train_sampler(self, _: Any = None) -> Sampler[int]:
        return self._sampler

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create Trainer's optimizer; modules trained in full get their own learning rate."""
        optimizer = super().create_optimizer(model)
        if self._projector_learning_rate is not None:
            trainable: Any = model or self.model
            in_full = {id(p) for n, p in trainable.named_parameters() if "modules_to_save" in n}
            for group in list(optimizer.param_groups):
                moved = [p for p in group["params"] if id(p) in in_full]
                if moved:
                    group["params"] = [p for p in group["params"] if id(p) not in in_full]
                    optimizer.add_param_group({**group, "params": moved, "lr": self._projector_learning_rate})
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        """Run Trainer's epoch unless the checkpoint was the last step's: Trainer checks for the end only after a step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **options)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add tokens per second to the logs that hold a loss."""
        if "loss" in logs:
            logs["tokens_per_second"] = round(self._tokens / max(time.perf_counter() - self._since, 1e-9), 1)
            self.restart_clock()
        super().log(logs, start_time)

    def restart_clock(self) -> None:
        """Measure tokens per second from now on."""
        self._tokens, self._since = 0, time.perf_counter()

    # Checkpoints ---------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:  # noqa: ARG002 - called by name
        return str(self._checkpoints_dir / WRITING)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write into a temporary folder, then rename: a folder with a checkpoint's name is complete. Then delete old ones."""
        part = self._checkpoints_dir / WRITING
        name = f"checkpoint-{self.state.global_step}"
        with removing_on_failure(part, "a checkpoint", "the last complete one stays"):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                shutil.rmtree(self._checkpoints_dir / name, ignore_errors=True)
                set_default_permissions(part)
                (part / name).replace(self._checkpoints_dir / name)
                for old in _list_checkpoints(self._checkpoints_dir)[: -self._keep]:
                    shutil.rmtree(old)
                shutil.rmtree(part)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the adapter alone; with embedding layers, peft would ask the hub whether the base's were changed."""
        if self.args.should_save:
            model: Any = self.accelerator.unwrap_model(self.model)
            model.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict, save_embedding_layers=False)


class _EpochSetter(TrainerCallback):
    """Tells the sampler which epoch begins; accelerate's own mechanism doesn't reach it in several processes."""

    def __init__(self, sampler: LengthGroupedSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._sampler.set_epoch(math.floor((state.epoch or 0) + 1e-6))


def _list_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints, oldest first."""
    paths = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted(paths, key=lambda path: int(path.name.rpartition("-")[2]))


def find_newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, None if there is none."""
    return next(reversed(_list_checkpoints(folder)), None)
