"""Merge token sequences with shared beginnings into one prefix tree (trie), so that one forward pass scores all of them.

Questions about one image share the image, the instructions and the earlier turns, and differ in a few last tokens. In the
tree every shared token exists once, attends to its ancestors and itself, and has its depth as its position, so the logits
equal those of separate passes. Training packs its conversations the same way: no answer sees a sibling branch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["PrefixTree", "build_prefix_tree"]


@dataclass(frozen=True, eq=False)
class PrefixTree:
    """A trie of token sequences with parents before children.

    Attributes:
        ids: (n,) int64 token ids.
        positions: (n,) int64 depths, 0 at a root.
        parents: (n,) int64 indices; parents[i] < i, -1 at a root.
        paths: For each sequence, the nodes of its tokens.
    """

    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    parents: npt.NDArray[np.int64]
    paths: tuple[tuple[int, ...], ...]

    @property
    def ends(self) -> tuple[int, ...]:
        """For each sequence, the node of its last token."""
        return tuple(path[-1] for path in self.paths)

    def attention_mask(self) -> npt.NDArray[np.bool_]:
        """Return the (n, n) bool mask: row i is true at i and at its ancestors."""
        mask = np.eye(len(self.ids), dtype=np.bool_)
        for i, parent in enumerate(self.parents):
            if parent >= 0:
                mask[i] |= mask[parent]
        return mask

    sees = attention_mask  # former name


def build_prefix_tree(sequences: Sequence[Sequence[int]]) -> PrefixTree:
    """Build the tree of non-empty token sequences. Raises ValueError if one is empty."""
    ids: list[int] = []
    positions: list[int] = []
    parents: list[int] = []
    children: dict[tuple[int, int], int] = {}
    paths: list[tuple[int, ...]] = []
    for sequence in sequences:
        if not sequence:
            raise ValueError("expected non-empty token sequences")
        node = -1
        path: list[int] = []
        for position, token in enumerate(sequence):
            edge = (node, token)
            if edge not in children:
                children[edge] = len(ids)
                ids.append(token)
                positions.append(position)
                parents.append(node)
            node = children[edge]
            path.append(node)
        paths.append(tuple(path))
    return PrefixTree(np.array(ids, np.int64), np.array(positions, np.int64), np.array(parents, np.int64), tuple(paths))
