"""What tests of several threads share: two cores, and a segmenter that threads may call at once."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sam4mllm_tool.models.segmenter.box_segmenter import BoxSegmenter

__all__ = ["ReplicatedBoxSegmenter", "compute_on_two_cores"]


class ReplicatedBoxSegmenter(BoxSegmenter):
    def replicate(self, count: int) -> list[BoxSegmenter]:
        return [self, *(BoxSegmenter() for _ in range(count - 1))]


@contextmanager
def compute_on_two_cores() -> Iterator[None]:
    """Have torch compute on two cores, whatever the environment says."""
    cores = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(cores)
