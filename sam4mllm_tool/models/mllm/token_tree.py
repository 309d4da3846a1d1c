"""A tree of token sequences with shared beginnings, to which sequences are added while a model reads them.

Each node is one token after all those on the way to it, so that what a model computed for a node serves every text that begins
with the same tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["TokenTree", "shared_length"]


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two texts have in common from their start."""
    first, second = tuple(first), tuple(second)
    equal, limit = 0, min(len(first), len(second))
    while equal < limit:  # slices are compared much faster than tokens
        middle = (equal + limit + 1) // 2
        if first[equal:middle] == second[equal:middle]:
            equal = middle
        else:
            limit = middle - 1
    return equal


@dataclass(eq=False)
class TokenTree:
    """Tokens with parents before children.

    Attributes:
        ids: The token of each node.
        parents: The node before it; -1 at a root.
        depths: How many nodes are before it.
    """

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)
    _chain: int = 0
    """How many nodes from the first on have the node before them as their parent."""

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, text: Sequence[int]) -> list[int]:
        """Return the nodes of the longest beginning of a text that the tree has."""
        path = list(range(shared_length(self.ids[: self._chain], text)))
        node: int | None = len(path) - 1
        for token in text[len(path) :]:
            node = self._children.get((node, token))  # type: ignore[arg-type]  # never None here
            if node is None:
                break
            path.append(node)
        return path

    def add(self, parent: int, token: int) -> int:
        """Add a node and return it. A text still goes through the older node where there is an equal one."""
        node = len(self.ids)
        self._chain += self._chain == node and parent == node - 1
        self.ids.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1 if parent >= 0 else 0)
        self._children.setdefault((parent, token), node)
        return node

    def truncate(self, length: int) -> None:
        """Remove all nodes from `length` on."""
        for node in range(length, len(self.ids)):
            edge = (self.parents[node], self.ids[node])
            if self._children.get(edge) == node:
                del self._children[edge]
        del self.ids[length:], self.parents[length:], self.depths[length:]
        self._chain = min(self._chain, length)

    def ancestors(self, first: int, window: int | None = None) -> npt.NDArray[np.bool_]:
        """Return the attention mask of the nodes from `first` on: (n, len(self)) bool, true at a node and its ancestors.

        Args:
            first: Index of a node.
            window: How many nodes are visible at most, the node itself included; None for all.
        """
        mask = np.zeros((len(self.ids) - first, len(self.ids)), np.bool_)
        for row, node in enumerate(range(first, len(self.ids))):
            parent = self.parents[node]
            if parent >= first:
                mask[row] = mask[parent - first]
            else:
                while parent >= self._chain:
                    mask[row, parent] = True
                    parent = self.parents[parent]
                mask[row, : parent + 1] = True
            mask[row, node] = True
        if window is not None:
            depths = np.array(self.depths)
            mask &= depths[None] > depths[first:, None] - window
        return mask
