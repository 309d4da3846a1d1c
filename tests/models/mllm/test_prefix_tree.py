"""Prefix trees, against the sequences they were built from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam4mllm_tool.models.mllm.prefix_tree import build_prefix_tree

SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=6)


def test_shared_prefixes_are_stored_once() -> None:
    tree = build_prefix_tree([[7, 8, 1], [7, 8, 2], [7, 8]])
    assert tree.ids.tolist() == [7, 8, 1, 2]
    assert tree.positions.tolist() == [0, 1, 2, 2]
    assert tree.parents.tolist() == [-1, 0, 1, 1]
    assert tree.ends == (2, 3, 1)


@given(SEQUENCES)
def test_a_token_attends_to_what_it_would_attend_to_in_its_own_sequence(sequences: list[list[int]]) -> None:
    tree = build_prefix_tree(sequences)
    mask = tree.attention_mask()
    for sequence, path in zip(sequences, tree.paths, strict=True):
        for length, node in enumerate(path, 1):
            visible = np.flatnonzero(mask[node])
            assert tree.ids[visible].tolist() == sequence[:length]
            assert tree.positions[visible].tolist() == list(range(length))


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        build_prefix_tree([[1], []])


@given(SEQUENCES)
def test_each_distinct_prefix_has_one_node(sequences: list[list[int]]) -> None:
    tree = build_prefix_tree(sequences)
    prefixes = {tuple(sequence[:length]) for sequence in sequences for length in range(1, len(sequence) + 1)}
    assert len(tree.ids) == len(prefixes)
    assert all(parent < node for node, parent in enumerate(tree.parents))
