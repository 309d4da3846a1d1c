"""From a lesson to the token ids that a model is trained on, and which of them it has to predict.

Every assistant turn is one example: the prompt, exactly as inference sends it, then the answer, exactly as the model has to
generate it. All examples of a lesson form one trie (mllm/packing.py): a token that several share stands once and is learnt
once, and nothing of one branch is seen from another. Where the model can run tries, a row is a part of the trie; where it
can't, a row is one way through it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.data.training_conversations import ImageConversations, TrainingConversation
from sam4mllm_tool.errors import DataError, ExpressionError
from sam4mllm_tool.models.mllm.prefix_tree import PrefixTree, build_prefix_tree
from sam4mllm_tool.models.mllm.prompt_renderer import ImageInputs, PromptRenderer, TokenIds
from sam4mllm_tool.types import Turn

__all__ = ["Example", "Maker", "Row", "examples_of"]


@dataclass(frozen=True, eq=False)
class Example:
    """One answer to learn. ids: the prompt, then from `start` on the answer. turns: the prompt's."""

    ids: TokenIds
    start: int
    turns: tuple[Turn, ...]


@dataclass(frozen=True, eq=False)
class Row:
    """Tokens that go through the model together.

    ids, parents: (n,) int32; token i comes after token parents[i] < i and sees it and what it sees; -1 at the first.
    taught: (n,) bool, whether the token is to be predicted, from its parent. rendered: a prompt of the row, for the
    processor, whose tensors for the picture go with the row.
    """

    ids: npt.NDArray[np.int32]
    parents: npt.NDArray[np.int32]
    taught: npt.NDArray[np.bool_]
    rendered: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_chain(self) -> bool:
        """Whether it is a plain text, without branches."""
        return bool((self.parents == np.arange(-1, len(self) - 1)).all())


def examples_of(prompter: PromptRenderer, picture: ImageInputs, conversation: TrainingConversation) -> Iterator[Example]:
    """Every assistant turn of the conversation once, shared turns before the branches.

    Raises ExpressionError, SpecError as the prompter does; DataError for an answer without a question.
    """
    seen: set[tuple[Turn, ...]] = set()
    for sequence in conversation.sequences():
        for count, turn in enumerate(sequence, start=1):
            said = sequence[:count]
            if turn.role != "assistant" or said in seen:
                continue
            if not any(earlier.role == "user" for earlier in said):
                raise DataError(f"a conversation begins with the assistant: {turn.text[:80]!r}")
            seen.add(said)
            prompt = prompter.ids(picture, said[:-1])
            yield Example(prompt + prompter.answer(said), len(prompt), said[:-1])


class Maker:
    """Makes rows for one model.

    placeholder: the id that stands for the picture. packs: whether rows may branch. max_tokens: of a row, beside the
    placeholders. dropped: counts what was left out, by why.
    """

    def __init__(self, prompter: PromptRenderer, placeholder: int, *, packs: bool, max_tokens: int) -> None:
        self.prompter, self.placeholder, self.packs, self.max_tokens = prompter, placeholder, packs, max_tokens
        self.dropped: Counter[str] = Counter()

    def rows(self, lesson: ImageConversations, picture: ImageInputs) -> list[Row]:
        """The rows of a lesson, none where nothing of it fits. Raises what `examples_of` raises, except ExpressionError."""
        fitting = [example for conversation in lesson.conversations for example in self._fitting(picture, conversation)]
        by_picture: dict[TokenIds, list[Example]] = {}
        for example in fitting:  # in a row the picture stands once
            last = len(example.ids) - example.ids[::-1].index(self.placeholder) if self.placeholder in example.ids else 0
            by_picture.setdefault(example.ids[:last], []).append(example)
        return [row for alike in by_picture.values() for row in self._packed(alike)]

    def _fitting(self, picture: ImageInputs, conversation: TrainingConversation) -> list[Example]:
        try:
            examples = list(examples_of(self.prompter, picture, conversation))
        except ExpressionError:
            self.dropped["conversations that the model can't read"] += 1
            return []
        kept = [example for example in examples if self._fits(example.ids)]
        if len(kept) < len(examples):
            self.dropped[f"answers that end after max_tokens={self.max_tokens}"] += len(examples) - len(kept)
        return kept

    def _fits(self, ids: TokenIds) -> bool:
        longest = self.prompter.longest
        return len(ids) - ids.count(self.placeholder) <= self.max_tokens and (longest is None or len(ids) <= longest)

    def _packed(self, examples: Sequence[Example]) -> Iterator[Row]:
        """Rows of examples about one picture, which begin alike. Their tokens are in the order of a walk through the trie."""
        examples = sorted(examples, key=lambda example: example.ids)
        trie = build_prefix_tree([example.ids for example in examples])
        taught = np.zeros(len(trie.ids), np.bool_)
        for example, path in zip(examples, trie.paths, strict=True):
            taught[list(path[example.start :])] = True
        budget = self.max_tokens + int((trie.ids == self.placeholder).sum())
        for group in _groups(trie, budget) if self.packs else _ways(trie):
            nodes = np.array(sorted({node for i in group for node in trie.paths[i]}))
            if taught[nodes].any():
                rendered = self.prompter.render(examples[group[-1]].turns)
                yield _cut(trie, nodes, taught, rendered)
                taught[nodes] = False  # once is enough


def _groups(trie: PrefixTree, budget: int) -> Iterator[list[int]]:
    """Numbers of the trie's sequences, in order, as many together as have at most `budget` tokens."""
    group: list[int] = []
    have: set[int] = set()
    for number, path in enumerate(trie.paths):
        if group and len(have.union(path)) > budget:
            yield group
            group, have = [], set()
        group.append(number)
        have.update(path)
    if group:
        yield group


def _ways(trie: PrefixTree) -> Iterator[list[int]]:
    """The numbers of the sequences that no other goes on from, each alone."""
    inner = set(trie.parents.tolist())
    for number, end in enumerate(trie.ends):
        if end not in inner:
            yield [number]


def _cut(trie: PrefixTree, nodes: npt.NDArray[np.int64], taught: npt.NDArray[np.bool_], rendered: str) -> Row:
    """The part of the trie with these nodes, which hold their parents."""
    parents = np.where(trie.parents[nodes] < 0, -1, np.searchsorted(nodes, trie.parents[nodes]))
    return Row(trie.ids[nodes].astype(np.int32), parents.astype(np.int32), taught[nodes].copy(), rendered)
