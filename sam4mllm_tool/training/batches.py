"""How rows are collated into a batch, and the order in which they are drawn.

Rows are padded to the longest of their batch, so rows of similar length are drawn together. Which rows and in which order
follows from the seed and the epoch alone, so that an interrupted run resumes with exactly the rows that are due.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Sampler

from sam4mllm_tool.training.attention import build_ancestor_mask, build_block_masks
from sam4mllm_tool.training.row_builder import TokenRow
from sam4mllm_tool.training.tokenized_dataset import RowWithImage

__all__ = ["Collator", "LengthGroupedSampler"]

_POOL_BATCHES = 32
"""Rows of this many batches are drawn at random before they are sorted by length."""


@dataclass(frozen=True)
class Collator:
    """Collate b rows into one batch, padded on the right to n tokens, of which k are to be predicted.

    Attributes:
        pad_id: The token id that fills up.
        accepted_inputs: Parameter names of the model's forward; the processor's other tensors are left out.
        packs: Whether rows may branch, so that the model needs to know which tokens each token attends to.
        uses_block_masks: Whether the model runs with the attention of attention.py.
    """

    pad_id: int
    accepted_inputs: Collection[str]
    packs: bool
    uses_block_masks: bool = False

    def __call__(self, items: Sequence[RowWithImage]) -> dict[str, Tensor]:
        """Build the batch.

        Returns:
            `input_ids` (b, n). `attention_mask`: for rows that may branch, (b, n, n) bool or as `build_block_masks` builds it,
            with `position_ids` (b, n); for others (b, n), 0 for padding. `labels` (k,): the tokens to predict, each from the
            token at (`label_rows`, `label_nodes`). The inputs for the images that the model accepts.
        """
        rows = [item.row for item in items]
        block_masks, length = build_block_masks(rows) if self.uses_block_masks else (None, max(map(len, rows)))
        return {
            "input_ids": _pad([row.ids.astype(np.int64) for row in rows], length, self.pad_id),
            **self._build_masks(rows, length, block_masks),
            **_build_labels(rows),
            **self._join_token_inputs(items, length),
            **self._join_image_inputs(items),
        }

    def _build_masks(
        self, rows: Sequence[TokenRow], length: int, block_masks: npt.NDArray[np.int32] | None
    ) -> dict[str, Tensor]:
        if not self.packs:
            return {"attention_mask": _pad([np.ones(len(row), np.int64) for row in rows], length, 0)}
        masks = _build_full_masks(rows, length) if block_masks is None else block_masks
        positions = _pad([_depths(row) for row in rows], length, 0)
        return {"attention_mask": torch.from_numpy(masks), "position_ids": positions}

    def _join_token_inputs(self, items: Sequence[RowWithImage], length: int) -> dict[str, Tensor]:
        """Join what the processor gives per token, such as token type ids."""
        return {
            name: torch.cat([F.pad(item.token_inputs[name], (0, length - len(item.row))) for item in items])
            for name in sorted({name for item in items for name in item.token_inputs if name in self.accepted_inputs})
        }

    def _join_image_inputs(self, items: Sequence[RowWithImage]) -> dict[str, Tensor]:
        return {
            name: _concatenate([item.image_inputs[name] for item in items])
            for name in sorted({name for item in items for name in item.image_inputs if name in self.accepted_inputs})
        }


def _pad(rows: Sequence[npt.NDArray[np.int64]], length: int, value: int) -> Tensor:
    return torch.from_numpy(np.stack([np.pad(row, (0, length - len(row)), constant_values=value) for row in rows]))


def _depths(row: TokenRow) -> npt.NDArray[np.int64]:
    """Return each token's number of ancestors, which is its position."""
    depths = np.zeros(len(row), np.int64)
    for i, parent in enumerate(row.parents.tolist()):
        depths[i] = depths[parent] + 1 if parent >= 0 else 0
    return depths


def _build_full_masks(rows: Sequence[TokenRow], length: int) -> npt.NDArray[np.bool_]:
    masks = np.broadcast_to(np.eye(length, dtype=np.bool_), (len(rows), length, length)).copy()
    for mask, row in zip(masks, rows, strict=True):
        mask[: len(row), : len(row)] = build_ancestor_mask(row)
    return masks


def _build_labels(rows: Sequence[TokenRow]) -> dict[str, Tensor]:
    """Return the tokens to predict, and for each the row and the position it is predicted from."""
    triples = [(number, row.parents[i], row.ids[i]) for number, row in enumerate(rows) for i in np.flatnonzero(row.predicted)]
    label_rows, label_nodes, labels = torch.from_numpy(np.array(triples, np.int64).T.copy())
    return {"labels": labels, "label_rows": label_rows, "label_nodes": label_nodes}


def _concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate along the first dimension, zero-padding the others: images differ in their number of tiles."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]

    def pad(tensor: Tensor) -> Tensor:
        missing = [size - own for size, own in zip(shape, tensor.shape[1:], strict=True)]
        return F.pad(tensor, [n for size in reversed(missing) for n in (0, size)]) if any(missing) else tensor

    return torch.cat([pad(tensor) for tensor in tensors])


class LengthGroupedSampler(Sampler[int]):
    """Draw batches at random, each of rows of similar length, every row once an epoch.

    Args:
        lengths: Number of tokens of every row.
        batch_size: Rows per batch.
        seed: With the epoch, decides the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed, self._epoch = np.array(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order is drawn next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(len(self._lengths))
        batches: list[npt.NDArray[np.int64]] = []
        for start in range(0, len(order), self._batch_size * _POOL_BATCHES):
            pool = order[start : start + self._batch_size * _POOL_BATCHES]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches += [pool[i : i + self._batch_size] for i in range(0, len(pool), self._batch_size)]
        full = [batch for batch in batches if len(batch) == self._batch_size]
        short = [batch for batch in batches if len(batch) < self._batch_size]  # at most one, which must come last
        for number in rng.permutation(len(full)):
            yield from full[number].tolist()
        for batch in short:
            yield from batch.tolist()
