"""transformers' Trainer with our loss, our order of rows, and checkpoints that are whole or not there."""

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

from sam4mllm_tool.training.batches import Collator, LikeLengths
from sam4mllm_tool.training.output_dir import WRITING, writing
from sam4mllm_tool.training.rows import Rows

__all__ = ["LessonTrainer", "loss_of", "newest_checkpoint"]


def loss_of(model: nn.Module, batch: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """The cross-entropy summed over the batch's `labels`, a scalar.

    batch: as the collator gives it. dtype: what the model computes in, for the mask.
    """
    inputs = dict(batch)
    rows, nodes, labels = (inputs.pop(name) for name in ("label_rows", "label_nodes", "labels"))
    if inputs["attention_mask"].ndim == 3:
        unseen = ~inputs["attention_mask"][:, None]
        inputs["attention_mask"] = torch.zeros(unseen.shape, dtype=dtype, device=unseen.device).masked_fill_(
            unseen, torch.finfo(dtype).min
        )
    kept = nodes.contiguous().unique()  # sorted; logits only where some row has something to predict
    logits = model(**inputs, logits_to_keep=kept, use_cache=False).logits
    return F.cross_entropy(logits[rows, torch.searchsorted(kept, nodes.contiguous())].float(), labels, reduction="sum")


class LessonTrainer(Trainer):
    """Trains on rows of lessons.

    The loss is the sum over the predicted tokens of a step, of all its passes and processes, divided by their number.
    dtype: what the model computes in. projector_learning_rate: for what is trained whole, if another.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        rows: Rows,
        collator: Collator,
        *,
        dtype: torch.dtype,
        projector_learning_rate: float | None = None,
        keep: int = 2,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self._order = LikeLengths(rows.lengths, arguments.train_batch_size, arguments.seed)
        self._dtype, self._projector_learning_rate, self._keep = dtype, projector_learning_rate, keep
        self._tokens, self._since = 0, time.perf_counter()
        self._folder = Path(str(arguments.output_dir))
        super().__init__(
            model=model,
            args=arguments,
            data_collator=collator,
            train_dataset=rows,
            callbacks=[_Epochs(self._order), *(callbacks or [])],
        )
        self.model_accepts_loss_kwargs = True  # the loss below is of the whole step already
        self._loss_shifts_labels = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,  # noqa: ARG002 - Trainer's signature
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The share of this pass in the step's loss. num_items_in_batch: predicted tokens of the step, on all processes."""
        read = inputs["position_ids"] > 0 if "position_ids" in inputs else inputs["attention_mask"]
        self._tokens += int(read.sum()) * self.args.world_size
        count = len(inputs["labels"]) if num_items_in_batch is None else num_items_in_batch
        # Gradients are averaged over the processes afterwards, but the tokens are already those of all.
        return loss_of(model, inputs, self._dtype) / count * self.accelerator.num_processes

    def _get_train_sampler(self, _: Any = None) -> Sampler[int]:
        return self._order

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Trainer's own, with the other rate for what is trained whole."""
        optimizer = super().create_optimizer(model)
        if self._projector_learning_rate is not None:
            trainable: Any = model or self.model
            trained = {id(p) for n, p in trainable.named_parameters() if "modules_to_save" in n}
            for group in list(optimizer.param_groups):
                whole = [p for p in group["params"] if id(p) in trained]
                if whole:
                    group["params"] = [p for p in group["params"] if id(p) not in trained]
                    optimizer.add_param_group({**group, "params": whole, "lr": self._projector_learning_rate})
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    def _run_epoch(self, *seen: Any, **told: Any) -> None:
        """Trainer's own, unless the checkpoint it goes on from was the last: Trainer looks for the end after a step only."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*seen, **told)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            now = time.perf_counter()
            logs["tokens_per_second"] = round(self._tokens / max(now - self._since, 1e-9), 1)
            self._tokens, self._since = 0, now
        super().log(logs, start_time)

    def pause(self) -> None:
        """What was done since the last log, other than training, doesn't count in the speed."""
        self._tokens, self._since = 0, time.perf_counter()

    # Checkpoints ---------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:  # noqa: ARG002 - called by name
        return str(self._folder / WRITING)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Written aside, then renamed, so that one with its name is whole; then the oldest go."""
        folder, beside = self._folder, self._folder / WRITING
        name = f"checkpoint-{self.state.global_step}"
        with writing(beside, "a checkpoint", "the last whole one stays"):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                shutil.rmtree(folder / name, ignore_errors=True)
                (beside / name).replace(folder / name)
                for old in _checkpoints(folder)[: -self._keep]:
                    shutil.rmtree(old)
                shutil.rmtree(beside)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """The adapter alone; peft would ask the hub whether the base's embeddings were changed."""
        if self.args.should_save:
            model: Any = self.accelerator.unwrap_model(self.model)
            model.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict, save_embedding_layers=False)


class _Epochs(TrainerCallback):
    """Tells the order of rows which epoch begins; accelerate's own way doesn't reach it in several processes."""

    def __init__(self, order: LikeLengths) -> None:
        self._order = order

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._order.set_epoch(math.floor((state.epoch or 0) + 1e-6))


def _checkpoints(folder: Path) -> list[Path]:
    """The whole ones, the oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; what a cut left half-written has another name."""
    return next(reversed(_checkpoints(folder)), None)
