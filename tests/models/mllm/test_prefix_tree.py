import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam4mllm_tool.models.mllm.prefix_tree import pack

SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=6)


def test_what_begins_alike_stands_once() -> None:
    packed = pack([[7, 8, 1], [7, 8, 2], [7, 8]])
    assert packed.ids.tolist() == [7, 8, 1, 2]
    assert packed.positions.tolist() == [0, 1, 2, 2]
    assert packed.parents.tolist() == [-1, 0, 1, 1]
    assert packed.ends == (2, 3, 1)


@given(SEQUENCES)
def test_a_token_sees_what_it_would_see_alone(sequences: list[list[int]]) -> None:
    packed = pack(sequences)
    sees = packed.sees()
    for sequence, path in zip(sequences, packed.paths, strict=True):
        for length, node in enumerate(path, 1):
            seen = np.flatnonzero(sees[node])
            assert packed.ids[seen].tolist() == sequence[:length]
            assert packed.positions[seen].tolist() == list(range(length))


def test_an_empty_sequence_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="empty"):
        pack([[1], []])


@given(SEQUENCES)
def test_there_is_one_node_for_each_different_beginning(sequences: list[list[int]]) -> None:
    packed = pack(sequences)
    beginnings = {tuple(sequence[:length]) for sequence in sequences for length in range(1, len(sequence) + 1)}
    assert len(packed.ids) == len(beginnings)
    assert all(parent < node for node, parent in enumerate(packed.parents))
