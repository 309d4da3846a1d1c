"""Several processes that train one model, each with its share of a batch: `torchrun --nproc-per-node N -m recipes.embedded`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

__all__ = ["average_gradients", "count_processes", "first_process_first", "get_rank", "join_processes", "wait_for_others"]

_PATIENCE = timedelta(hours=2)
"""How long a process waits while the first one draws scenes, computes features or measures."""


def join_processes() -> None:
    """Join the other processes where torchrun started this one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group("gloo", timeout=_PATIENCE)


def get_rank() -> int:
    """Return the number of this process, 0 for the first or only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def count_processes() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_others() -> None:
    """Return when all processes have come here."""
    if count_processes() > 1:
        dist.barrier()


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process run the block before the others do, so that they find the files that it wrote."""
    if get_rank() > 0:
        wait_for_others()
    yield
    if get_rank() == 0:
        wait_for_others()


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace the gradients by their mean over all processes; one that a process lacks counts as zero."""
    if count_processes() == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    means = (flat / count_processes()).split([gradient.numel() for gradient in gradients])
    for parameter, mean in zip(parameters, means, strict=True):
        parameter.grad = mean.view_as(parameter)
