"""How probable each of the given words is as the answer, read from a model's logits.

The probability of a word is that of its token, summed over its spellings (with and without a blank before it) and
renormalised over the words asked. Where two words begin with the same token, whole words are scored.
"""

import torch
from torch import Tensor

from sam4mllm_tool.models.mllm.prompts import Ids

__all__ = ["Spellings", "comparable", "continuations", "is_settled_at_first", "word_probabilities"]

Spellings = tuple[tuple[Ids, ...], ...]
"""For each word, the token ids that can write it."""


def is_settled_at_first(spellings: Spellings) -> bool:
    """Whether the first token already tells the words apart."""
    firsts = [{ids[0] for ids in word} for word in spellings]
    return len(set().union(*firsts)) == sum(map(len, firsts))


def comparable(spellings: Spellings, end: int | None) -> Spellings:
    """The spellings cut to what has to be scored: first tokens, or whole words if those don't tell the words apart.

    end: the token that ends an answer, appended where one word is the beginning of another ("in", "inside").
    """
    if is_settled_at_first(spellings):
        return tuple(tuple(dict.fromkeys(ids[:1] for ids in word)) for word in spellings)
    every = [ids for word in spellings for ids in word]
    begins = any(longer[: len(ids)] == ids for ids in every for longer in every if longer is not ids)
    if not begins or end is None:
        return spellings
    return tuple(tuple((*ids, end) for ids in word) for word in spellings)


def continuations(prompt: Ids, spellings: Spellings) -> list[Ids]:
    """What has to be read to score the words after a prompt; a spelling's last token is only predicted, never read."""
    return list(dict.fromkeys(prompt + ids[:-1] for word in spellings for ids in word))


def word_probabilities(prompt: Ids, spellings: Spellings, logits: dict[Ids, Tensor]) -> tuple[float, ...]:
    """The probability of each word, summing to 1.

    logits: for each of `continuations(prompt, spellings)`, (k, vocabulary): what follows the prompt and each token after.
    """

    def score(ids: Ids) -> Tensor:
        following = torch.log_softmax(logits[prompt + ids[:-1]][-len(ids) :].float(), -1)
        return following[range(len(ids)), list(ids)].sum()

    words = [torch.stack([score(ids) for ids in word]).logsumexp(0) for word in spellings]
    return tuple(torch.stack(words).double().softmax(0).tolist())
