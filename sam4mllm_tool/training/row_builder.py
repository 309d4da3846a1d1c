"""From training conversations to rows of token ids, and which of the tokens the model has to predict.

Every assistant turn is learnt as inference would produce it: the prompt, exactly as inference renders it, then the answer,
exactly as the model has to generate it. All answers about one image form one prefix tree: a token that several of them share
is in it once and learnt once, and no branch attends to another. Where the model supports such trees, a row is a part of the
tree; where it doesn't, a row is one path through it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.data.training_conversations import ImageConversations, TrainingConversation
from sam4mllm_tool.errors import DataError, ExpressionError
from sam4mllm_tool.models.mllm.prefix_tree import PrefixTree, build_prefix_tree
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs, TokenIds
from sam4mllm_tool.models.mllm.prompt_renderer import PromptRenderer
from sam4mllm_tool.types import Turn

__all__ = ["AnswerTokens", "RowBuilder", "TokenRow", "tokenize_answers"]


@dataclass(frozen=True, eq=False)
class AnswerTokens:
    """One answer to learn.

    Attributes:
        ids: The prompt's tokens, then, from index `start` on, the answer's.
        start: Where the answer begins.
        turns: The turns of the prompt.
    """

    ids: TokenIds
    start: int
    turns: tuple[Turn, ...]


@dataclass(frozen=True, eq=False)
class TokenRow:
    """Tokens that go through the model together.

    Attributes:
        ids: (n,) int32 token ids.
        parents: (n,) int32; token i follows token parents[i] < i and attends to it and to its ancestors; -1 for the first.
        predicted: (n,) bool, whether the model has to predict the token from its parent.
        rendered: A prompt of the row as text. The processor's tensors for it are the row's image inputs.
    """

    ids: npt.NDArray[np.int32]
    parents: npt.NDArray[np.int32]
    predicted: npt.NDArray[np.bool_]
    rendered: str

    def __len__(self) -> int:
        return len(self.ids)


def tokenize_answers(
    prompter: PromptRenderer, image: ImageInputs, conversation: TrainingConversation
) -> Iterator[AnswerTokens]:
    """Yield every assistant turn of the conversation once, shared turns before the branches.

    Raises:
        ExpressionError, SpecError: As the prompter raises them.
        DataError: The conversation has an answer before any question.
    """
    done: set[tuple[Turn, ...]] = set()
    for sequence in conversation.sequences():
        for count, turn in enumerate(sequence, start=1):
            turns = sequence[:count]
            if turn.role != "assistant" or turns in done:
                continue
            if not any(earlier.role == "user" for earlier in turns):
                raise DataError(f"a conversation begins with the assistant: {turn.text[:80]!r}")
            done.add(turns)
            prompt = prompter.ids(image, turns[:-1])
            yield AnswerTokens(prompt + prompter.answer(turns), len(prompt), turns[:-1])


class RowBuilder:
    """Builds rows for one model.

    Args:
        prompter: Renders and tokenizes prompts for the model.
        placeholder: The token id that stands for the image.
        packs: Whether rows may branch.
        max_tokens: Most tokens per row, not counting the placeholders.

    Attributes:
        dropped: How many answers or conversations were left out, by reason.
    """

    def __init__(self, prompter: PromptRenderer, placeholder: int, *, packs: bool, max_tokens: int) -> None:
        self.prompter, self.placeholder, self.packs, self.max_tokens = prompter, placeholder, packs, max_tokens
        self.dropped: Counter[str] = Counter()

    def build_rows(self, conversations: ImageConversations, image: ImageInputs) -> list[TokenRow]:
        """Build the rows of all conversations about one image; none if no answer fits.

        Raises:
            SpecError, DataError: As `tokenize_answers` raises them.
        """
        answers = [answer for each in conversations.conversations for answer in self._fitting_answers(image, each)]
        by_image_prefix: dict[TokenIds, list[AnswerTokens]] = {}
        for answer in answers:  # answers share a row only if they share everything up to the image's last token
            ids = answer.ids
            end = len(ids) - ids[::-1].index(self.placeholder) if self.placeholder in ids else 0
            by_image_prefix.setdefault(ids[:end], []).append(answer)
        return [row for group in by_image_prefix.values() for row in self._build_group(group)]

    def _fitting_answers(self, image: ImageInputs, conversation: TrainingConversation) -> list[AnswerTokens]:
        try:
            answers = list(tokenize_answers(self.prompter, image, conversation))
        except ExpressionError:
            self.dropped["conversations that the model can't read"] += 1
            return []
        fitting = [answer for answer in answers if self._fits(answer.ids)]
        if len(fitting) < len(answers):
            self.dropped[f"answers that end after max_tokens={self.max_tokens}"] += len(answers) - len(fitting)
        return fitting

    def _fits(self, ids: TokenIds) -> bool:
        longest = self.prompter.longest
        return len(ids) - ids.count(self.placeholder) <= self.max_tokens and (longest is None or len(ids) <= longest)

    def _build_group(self, answers: Sequence[AnswerTokens]) -> Iterator[TokenRow]:
        """Yield rows of answers that share their prefix; sorting them puts the tree's tokens in depth-first order."""
        answers = sorted(answers, key=lambda answer: answer.ids)
        tree = build_prefix_tree([answer.ids for answer in answers])
        predicted = np.zeros(len(tree.ids), np.bool_)
        for answer, path in zip(answers, tree.paths, strict=True):
            predicted[list(path[answer.start :])] = True
        budget = self.max_tokens + int((tree.ids == self.placeholder).sum())
        for group in _group_paths(tree, budget) if self.packs else _complete_paths(tree):
            nodes = np.array(sorted({node for i in group for node in tree.paths[i]}))
            if predicted[nodes].any():
                yield _cut_row(tree, nodes, predicted, self.prompter.render(answers[group[-1]].turns))
                predicted[nodes] = False  # each token is learnt in one row only


def _group_paths(tree: PrefixTree, budget: int) -> Iterator[list[int]]:
    """Yield groups of consecutive path numbers, as many together as have at most `budget` tokens."""
    group: list[int] = []
    nodes: set[int] = set()
    for number, path in enumerate(tree.paths):
        if group and len(nodes.union(path)) > budget:
            yield group
            group, nodes = [], set()
        group.append(number)
        nodes.update(path)
    if group:
        yield group


def _complete_paths(tree: PrefixTree) -> Iterator[list[int]]:
    """Yield the number of each path that no other path continues."""
    inner = set(tree.parents.tolist())
    for number, end in enumerate(tree.ends):
        if end not in inner:
            yield [number]


def _cut_row(tree: PrefixTree, nodes: npt.NDArray[np.int64], predicted: npt.NDArray[np.bool_], rendered: str) -> TokenRow:
    """Return the part of the tree with these nodes, which include their parents."""
    parents = np.where(tree.parents[nodes] < 0, -1, np.searchsorted(nodes, tree.parents[nodes]))
    return TokenRow(tree.ids[nodes].astype(np.int32), parents.astype(np.int32), predicted[nodes].copy(), rendered)
