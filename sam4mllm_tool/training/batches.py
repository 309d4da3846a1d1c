"""Rows put together for one pass, and the order in which they come.

Rows are padded to the longest of their batch, so rows of like length come together; which ones, and in which order, follows
from the seed and the epoch alone, so that a run that was cut goes on with the rows that are due.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Sampler

from sam4mllm_tool.training.attention import block_masks, sees
from sam4mllm_tool.training.examples import Row
from sam4mllm_tool.training.rows import Item

__all__ = ["Collator", "LikeLengths"]

_POOL = 32
"""How many batches' rows are drawn at random before they are put in order of length."""


def _positions(row: Row) -> npt.NDArray[np.int64]:
    depths = np.zeros(len(row), np.int64)
    for i, parent in enumerate(row.parents.tolist()):
        depths[i] = depths[parent] + 1 if parent >= 0 else 0
    return depths


@dataclass(frozen=True)
class Collator:
    """Puts items together: b rows, padded on the right to n tokens, of which k are to be predicted.

    pad: the id that fills up. accepts: the names that the model's forward takes; of the processor's tensors, others are left
    out. packs: whether the model is told what each token sees; else each row is a plain text. blocks: told for the attention
    of attention.py.

    Gives `input_ids` (b, n); `attention_mask`, what each token sees, (b, n, n) bool or as `block_masks` gives it, with
    `position_ids` (b, n); for plain texts, (b, n) ones and zeros for padding; `labels` (k,), the tokens to predict, each from
    the token at `label_rows`, `label_nodes`; and what the model takes of the pictures.
    """

    pad: int
    accepts: Collection[str]
    packs: bool
    blocks: bool = False

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        rows = [item.row for item in items]
        masks, length = block_masks(rows) if self.blocks else (None, max(map(len, rows)))
        batch = {"input_ids": torch.from_numpy(_pad([row.ids.astype(np.int64) for row in rows], length, self.pad))}
        if self.packs:
            batch["attention_mask"] = torch.from_numpy(_masks(rows, length) if masks is None else masks)
            batch["position_ids"] = torch.from_numpy(_pad([_positions(row) for row in rows], length, 0))
        else:
            batch["attention_mask"] = torch.from_numpy(_pad([np.ones(len(row), np.int64) for row in rows], length, 0))
        places = [(number, row.parents[i], row.ids[i]) for number, row in enumerate(rows) for i in np.flatnonzero(row.taught)]
        label_rows, label_nodes, labels = torch.from_numpy(np.array(places, np.int64).T.copy())
        batch |= {"labels": labels, "label_rows": label_rows, "label_nodes": label_nodes}
        for name in sorted({name for item in items for name in item.along if name in self.accepts}):
            batch[name] = torch.cat([F.pad(item.along[name], (0, length - len(item.row))) for item in items])
        for name in sorted({name for item in items for name in item.inputs if name in self.accepts}):
            batch[name] = _joined([item.inputs[name] for item in items])
        return batch


def _pad(rows: Sequence[npt.NDArray[np.int64]], length: int, value: int) -> npt.NDArray[np.int64]:
    return np.stack([np.pad(row, (0, length - len(row)), constant_values=value) for row in rows])


def _masks(rows: Sequence[Row], length: int) -> npt.NDArray[np.bool_]:
    masks = np.broadcast_to(np.eye(length, dtype=np.bool_), (len(rows), length, length)).copy()
    for mask, row in zip(masks, rows, strict=True):
        mask[: len(row), : len(row)] = sees(row)
    return masks


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """One after another along the first dimension, the others filled up with zeros: pictures differ in their tiles."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]

    def filled(tensor: Tensor) -> Tensor:
        missing = [size - has for size, has in zip(shape, tensor.shape[1:], strict=True)]
        return F.pad(tensor, [n for size in reversed(missing) for n in (0, size)]) if any(missing) else tensor

    return torch.cat([filled(tensor) for tensor in tensors])


class LikeLengths(Sampler[int]):
    """The order of an epoch: batches at random, each of rows of like length.

    lengths: of all rows. batch: rows a batch. `set_epoch` says which epoch is next.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed, self._epoch = np.array(lengths), batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng([self._seed, self._epoch])
        order = draw.permutation(len(self._lengths))
        batches: list[Any] = []
        for start in range(0, len(order), self._batch * _POOL):
            pool = order[start : start + self._batch * _POOL]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches += [pool[i : i + self._batch] for i in range(0, len(pool), self._batch)]
        whole = [batch for batch in batches if len(batch) == self._batch]
        short = [batch for batch in batches if len(batch) < self._batch]  # at most one, and only the last may be
        for number in draw.permutation(len(whole)):
            yield from whole[number].tolist()
        for batch in short:
            yield from batch.tolist()
