"""What the stages share: the optimiser, the learning-rate schedule, checkpoints, and a training loop that can be cut."""

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

Metrics = dict[str, float]


class Optimiser:
    """Muon for the matrices inside transformer blocks, AdamW for the rest; half the steps of AdamW alone on these models."""

    def __init__(
        self,
        named: Iterator[tuple[str, nn.Parameter]],
        rate: float,
        weight_decay: float = 0.02,
        rate_of_others: float | None = None,
    ) -> None:
        parameters = [(name, p) for name, p in named if p.requires_grad]
        hidden = [p for name, p in parameters if p.ndim == 2 and "layers." in name]
        others = [p for name, p in parameters if not (p.ndim == 2 and "layers." in name)]
        self.parameters = hidden + others
        self._steppers: list[torch.optim.Optimizer] = []
        self._rates: list[float] = []
        if hidden:
            self._rates.append(rate)
            self._steppers.append(torch.optim.Muon(hidden, rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
        if others:
            self._rates.append(rate_of_others or rate)
            self._steppers.append(torch.optim.AdamW(others, rate, weight_decay=0.0, betas=(0.9, 0.98)))

    def step(self, loss: Tensor, fraction: float, step: int) -> None:
        """One update; the rate warms up over 100 steps and falls to nothing by cosine as fraction goes to 1."""
        factor = min(1, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, fraction))))
        for stepper in self._steppers:
            stepper.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for stepper, rate in zip(self._steppers, self._rates, strict=True):
            for group in stepper.param_groups:
                group["lr"] = rate * factor
            stepper.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [stepper.state_dict() for stepper in self._steppers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for stepper, state in zip(self._steppers, states, strict=True):
            stepper.load_state_dict(state)


def save(path: Path, value: Any) -> None:
    """Writes beside, then renames: a cut never leaves half a checkpoint."""
    beside = path.with_suffix(".tmp")
    torch.save(value, beside)
    beside.replace(path)


def train(
    name: str,
    folder: Path,
    module: nn.Module,
    optimiser: Optimiser,
    steps: int,
    loss_of: Callable[[int], tuple[Tensor, Metrics]],
    evaluate: Callable[[], Metrics],
    every: int = 250,
) -> None:
    """Runs `steps` updates of `loss_of(step)`, resuming from folder/NAME.pt, which is written every `every` steps."""
    checkpoint = folder / f"{name}.pt"
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(saved["model"], strict=False)
        if "optimiser" in saved:
            optimiser.load_state_dict(saved["optimiser"])
        start = saved["step"]
    seen: dict[str, list[float]] = defaultdict(list)
    began = time.monotonic()
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=name, mininterval=30)
    for step in bar:
        module.train()
        loss, metrics = loss_of(step)
        optimiser.step(loss, step / steps, step)
        for key, value in {"loss": loss.item(), **metrics}.items():
            if not math.isnan(value):
                seen[key].append(value)
        if (step + 1) % 50 == 0:
            means = "  ".join(f"{key} {sum(v) / len(v):.3f}" for key, v in seen.items())
            tqdm.write(f"{name} {step + 1}  {time.monotonic() - began:.0f}s  {means}")
            seen.clear()
        if (step + 1) % every == 0 or step + 1 == steps:
            save(checkpoint, {"model": module.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1})
            module.eval()
            tqdm.write(f"{name} held out: " + "  ".join(f"{k} {v:.3f}" for k, v in evaluate().items()))


def batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Endless batches of indices below count, reshuffled each time through."""
    for epoch in itertools.count():
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch))
        yield from order.split(size)[: count // size]
