"""What the stages share: optimizer, learning-rate schedule, checkpoints, and a training loop that resumes."""

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from recipes.embedded.muon import Muon
from recipes.embedded.processes import average_gradients, count_processes, get_rank, wait_for_others
from sam4mllm_tool.atomic_io import atomic_path
from sam4mllm_tool.models.devices import computes_bfloat16

Metrics = dict[str, float]

_SAVE_EVERY_S = 240
_EVALUATE_EVERY = 250
_PRINT_EVERY = 25
_WARMUP_STEPS = 100


class MuonAdamW:
    """Muon for the matrices inside transformer layers, AdamW for the rest: half the steps of AdamW alone on these models.

    Args:
        named: Parameters with their names; those that don't require a gradient are left out.
        rate: Peak learning rate.
        weight_decay: Of Muon; AdamW has none.
        adamw_rate: Peak learning rate of AdamW, by default `rate`.
    """

    def __init__(
        self,
        named: Iterator[tuple[str, nn.Parameter]],
        rate: float,
        weight_decay: float = 0.02,
        adamw_rate: float | None = None,
    ) -> None:
        parameters = [(name, p) for name, p in named if p.requires_grad]
        matrices = [p for name, p in parameters if p.ndim == 2 and "layers." in name]
        others = [p for name, p in parameters if not (p.ndim == 2 and "layers." in name)]
        self.parameters = matrices + others
        self._optimizers: list[torch.optim.Optimizer] = []
        self._rates: list[float] = []
        if matrices:
            self._rates.append(rate)
            self._optimizers.append(Muon(matrices, rate, weight_decay))
        if others:
            self._rates.append(adamw_rate or rate)
            self._optimizers.append(torch.optim.AdamW(others, rate, weight_decay=0.0, betas=(0.9, 0.98)))

    def step(self, loss: Tensor, progress: float, step: int) -> None:
        """Update the parameters; the learning rate warms up linearly, then falls by cosine as `progress` goes from 0 to 1."""
        factor = min(1, (step + 1) / _WARMUP_STEPS) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, progress))))
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        if not states:  # a stored checkpoint has none
            return
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)


@dataclass(frozen=True, eq=False)
class Stage:
    """What a stage trains.

    Attributes:
        name: Its checkpoint is NAME.pt.
        folder: The working folder.
        module: What is trained and saved.
        optimizer: Updates it.
        steps: Number of updates.
    """

    name: str
    folder: Path
    module: nn.Module
    optimizer: MuonAdamW
    steps: int

    def count_steps_done(self) -> int:
        """Return the number of steps in the checkpoint, 0 if there is none."""
        file = self.folder / f"{self.name}.pt"
        return int(torch.load(file, weights_only=True, mmap=True)["step"]) if file.exists() else 0

    def load_checkpoint(self) -> int:
        """Load the checkpoint if there is one; return the number of steps done."""
        file = self.folder / f"{self.name}.pt"
        if not file.exists():
            return 0
        checkpoint = torch.load(file, weights_only=True, map_location="cpu")
        self.module.load_state_dict(checkpoint["model"], strict=False)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        steps: int = checkpoint["step"]
        return steps

    def save_checkpoint(self, step: int) -> None:
        """Write the checkpoint atomically."""
        with atomic_path(self.folder / f"{self.name}.pt") as part:
            checkpoint = {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "step": step}
            torch.save(checkpoint, part)


def train(stage: Stage, compute_loss: Callable[[int], tuple[Tensor, Metrics]], evaluate: Callable[[], Metrics]) -> None:
    """Run the stage, resuming from its checkpoint. Of several processes the first one saves, prints and measures.

    Args:
        stage: What is trained.
        compute_loss: Returns the loss of a step and its metrics.
        evaluate: Returns held-out metrics; called after every checkpoint.
    """
    start, is_first = stage.load_checkpoint(), get_rank() == 0
    recent: dict[str, list[float]] = defaultdict(list)
    began = saved = time.monotonic()
    for step in tqdm(
        range(start, stage.steps), initial=start, total=stage.steps, desc=stage.name, mininterval=60, disable=not is_first
    ):
        stage.module.train()
        loss, metrics = compute_loss(step)
        stage.optimizer.step(loss, step / stage.steps, step)
        for key, value in {"loss": loss.item(), **metrics}.items():
            if not math.isnan(value):
                recent[key].append(value)
        done = step + 1
        if not is_first:
            continue
        if done % _PRINT_EVERY == 0:
            means = {key: sum(values) / len(values) for key, values in recent.items()}
            tqdm.write(f"{stage.name} {done}  {time.monotonic() - began:.0f}s  {_format_metrics(means)}")
            recent.clear()
        if time.monotonic() - saved > _SAVE_EVERY_S or done % _EVALUATE_EVERY == 0 or done == stage.steps:
            stage.save_checkpoint(done)
            saved = time.monotonic()
        if done % _EVALUATE_EVERY == 0 or done == stage.steps:
            stage.module.eval()
            tqdm.write(f"{stage.name} {done} held out: {_format_metrics(evaluate())}")
    wait_for_others()


def _format_metrics(metrics: Metrics) -> str:
    return "  ".join(f"{key} {value:.3f}" for key, value in metrics.items())


def draw_batches(count: int, size: int, seed: int, first: int = 0) -> Iterator[Tensor]:
    """Yield batches of indices below `count` without end, reshuffled every epoch, after leaving out the `first` ones.

    Of several processes each gets its share of a batch.
    """
    size = min(size, count)
    per_epoch = count // size
    for epoch in itertools.count(first // per_epoch):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch))
        batches = order.split(size)[first % per_epoch : per_epoch]
        yield from (batch[get_rank() :: count_processes()] for batch in batches)
        first = 0


def choose_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", get_rank() % torch.cuda.device_count())


def autocast(device: torch.device) -> torch.autocast:
    """Return a context of bfloat16 where the device computes with it; CPUs without it would be a hundred times slower."""
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device))
