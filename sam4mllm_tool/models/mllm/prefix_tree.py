"""Many token sequences that begin alike, as one.

Questions about one picture share the picture, the instructions and the earlier turns, and differ in a few last tokens.
`pack` lays them out as a trie: every shared token stands once, every token sees its ancestors and itself, positions count
from the root. One forward pass then scores all of them, exactly as if each had been run alone. Training packs its dialogues
the same way (embedded/train/), so that no answer can be copied from a neighbouring branch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Packed:
    """A trie of token sequences, parents before children.

    ids, positions, parents: (n,) int64, parents[i] < i or -1 at the root. ends: for each sequence packed, the node of its
    last token. paths: for each sequence, the nodes of all its tokens.
    """

    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    parents: npt.NDArray[np.int64]
    paths: tuple[tuple[int, ...], ...]

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(path[-1] for path in self.paths)

    def sees(self) -> npt.NDArray[np.bool_]:
        """(n, n) bool attention mask: row i is true at i and at i's ancestors."""
        n = len(self.ids)
        sees = np.eye(n, dtype=np.bool_)
        for i, parent in enumerate(self.parents):
            if parent >= 0:
                sees[i] |= sees[parent]
        return sees


def pack(sequences: Sequence[Sequence[int]]) -> Packed:
    """The trie of non-empty token sequences. Raises ValueError for an empty one."""
    ids: list[int] = []
    positions: list[int] = []
    parents: list[int] = []
    children: dict[tuple[int, int], int] = {}
    paths: list[tuple[int, ...]] = []
    for sequence in sequences:
        if not sequence:
            raise ValueError("an empty sequence cannot be packed")
        node = -1
        path: list[int] = []
        for position, token in enumerate(sequence):
            step = (node, token)
            if step not in children:
                children[step] = len(ids)
                ids.append(token)
                positions.append(position)
                parents.append(node)
            node = children[step]
            path.append(node)
        paths.append(tuple(path))
    return Packed(np.array(ids, np.int64), np.array(positions, np.int64), np.array(parents, np.int64), tuple(paths))
