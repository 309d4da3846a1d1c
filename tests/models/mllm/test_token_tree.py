"""A tree of tokens: texts share their beginnings, and each token sees those before it in its own text."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sam4mllm_tool.models.mllm.token_tree import TokenTree, shared_length

TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=6)


def add_text(tree: TokenTree, text: list[int]) -> list[int]:
    path = tree.find(text)
    for token in text[len(path) :]:
        path.append(tree.add(path[-1] if path else -1, token))
    return path


@given(TEXTS)
def test_a_text_is_read_along_its_own_tokens_alone(texts: list[list[int]]) -> None:
    tree = TokenTree()
    paths = [add_text(tree, text) for text in texts]
    mask = tree.ancestors(0)
    for text, path in zip(texts, paths, strict=True):
        assert [tree.ids[node] for node in path] == text
        assert [tree.depths[node] for node in path] == list(range(len(text)))
        assert sorted(np.flatnonzero(mask[path[-1]])) == sorted(path)
    assert len(tree) == len({tuple(text[:length]) for text in texts for length in range(1, len(text) + 1)})


@given(TEXTS, st.integers(0, 20))
def test_what_is_removed_is_forgotten_and_the_rest_stays(texts: list[list[int]], length: int) -> None:
    tree, kept = TokenTree(), TokenTree()
    for text in texts:
        add_text(tree, text)
    for parent, token in list(zip(tree.parents, tree.ids, strict=True))[:length]:
        kept.add(parent, token)
    tree.truncate(length)
    assert (tree.ids, tree.parents, tree.depths) == (kept.ids, kept.parents, kept.depths)
    assert [tree.find(text) for text in texts] == [kept.find(text) for text in texts]
    assert np.array_equal(tree.ancestors(0), kept.ancestors(0))


def test_a_window_hides_what_is_farther_back() -> None:
    tree = TokenTree()
    path = add_text(tree, [1, 2, 3, 4])
    branch = tree.add(path[1], 9)
    assert np.flatnonzero(tree.ancestors(0, window=2)[path[3]]).tolist() == [path[2], path[3]]
    assert np.flatnonzero(tree.ancestors(branch, window=2)[0]).tolist() == [path[1], branch]


def test_a_token_that_is_added_again_leaves_texts_on_the_older_one() -> None:
    tree = TokenTree()
    path = add_text(tree, [1, 2, 3])
    again = tree.add(path[0], 2)
    assert tree.find([1, 2, 3]) == path
    assert np.flatnonzero(tree.ancestors(again)[0]).tolist() == [path[0], again]
    tree.truncate(again)
    assert tree.find([1, 2, 3]) == path


@given(st.lists(st.integers(0, 1), max_size=9), st.lists(st.integers(0, 1), max_size=9))
def test_the_shared_length_is_that_of_the_common_beginning(first: list[int], second: list[int]) -> None:
    length = shared_length(first, second)
    assert first[:length] == second[:length]
    assert length == min(len(first), len(second)) or first[length] != second[length]
