"""Share an evaluation between the processes of `torchrun` or `accelerate launch`, on one machine or on several.

Each process evaluates every n-th image into a file of its own in the folder that all share. The first process waits for these
files and puts their lines in the dataset's order, so that nothing else has to be sent from one to another, and an interrupted
run resumes share by share.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.evaluation.records import SAMPLES_FILE

__all__ = ["ProcessShare"]

T = TypeVar("T")
_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class ProcessShare:
    """Which of the images this process evaluates.

    Attributes:
        rank: The number of this process, from 0.
        count: How many processes there are.
        local_rank: The number of this process on its machine, which is that of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> "ProcessShare":
        """Read what `torchrun` and `accelerate launch` set; everything is this process's without them."""
        if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
            return cls()
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0")))

    @property
    def is_first(self) -> bool:
        """Whether this process puts the shares together."""
        return self.rank == 0

    @property
    def file(self) -> str:
        """The name of the file of this share's samples, once it is complete."""
        return self._name_file(self.rank)

    def _name_file(self, rank: int) -> str:
        return SAMPLES_FILE if self.count == 1 else f"{SAMPLES_FILE}.{rank}-of-{self.count}"

    def select(self, images: Iterator[T]) -> Iterator[T]:
        """Yield this share of the images."""
        return islice(images, self.rank, None, self.count)

    def merge(self, folder: Path, images: Iterable[list[Sample]]) -> None:
        """Wait for all shares, and write their lines in the order of the images; only the first process of several does."""
        if self.count == 1 or not self.is_first:
            return
        paths = [folder / self._name_file(rank) for rank in range(self.count)]
        while not all(path.exists() for path in paths):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        whole = folder / f"{SAMPLES_FILE}.part"
        with ExitStack() as stack:
            target = stack.enter_context(whole.open("wb"))
            shares = [stack.enter_context(path.open("rb")) for path in paths]
            for number, samples in enumerate(images):
                target.writelines(islice(shares[number % self.count], len(samples)))
        whole.replace(folder / SAMPLES_FILE)
        for path in folder.glob(f"{SAMPLES_FILE}.*"):
            path.unlink(missing_ok=True)

    def use_own_gpu(self) -> None:
        """Make this process's GPU the one that models are loaded on by default, where there is one for each process."""
        import torch

        if self.count > 1 and torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank % torch.cuda.device_count())
