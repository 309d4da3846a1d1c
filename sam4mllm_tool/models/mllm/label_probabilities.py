"""Compute the probability of each allowed answer word from a model's logits.

A word's probability is that of its first token, summed over its spellings (with and without a leading space) and renormalised
over the allowed words. If two words start with the same token, whole words are scored instead.
"""

import math

import torch
from torch import Tensor

from sam4mllm_tool.models.mllm.prompt_inputs import TokenIds

__all__ = ["Spellings", "differ_in_first_token", "scored_texts", "trim_spellings", "word_probabilities"]

Spellings = tuple[tuple[TokenIds, ...], ...]
"""For each word, the token sequences that write it."""


def differ_in_first_token(spellings: Spellings) -> bool:
    """Whether no two words share the first token of a spelling."""
    firsts = [{ids[0] for ids in word} for word in spellings]
    return len(set().union(*firsts)) == sum(map(len, firsts))


def trim_spellings(spellings: Spellings, end: int | None) -> Spellings:
    """Reduce spellings to the tokens that must be scored: first tokens, or whole words if those don't tell words apart.

    Args:
        spellings: For each word, the token sequences that write it.
        end: Token that ends an answer. It is appended if one word is a prefix of another ("in", "inside").
    """
    if differ_in_first_token(spellings):
        return tuple(tuple(dict.fromkeys(ids[:1] for ids in word)) for word in spellings)
    sequences = [ids for word in spellings for ids in word]
    has_prefix = any(longer[: len(ids)] == ids for ids in sequences for longer in sequences if longer is not ids)
    if not has_prefix or end is None:
        return spellings
    return tuple(tuple((*ids, end) for ids in word) for word in spellings)


def scored_texts(prompt: TokenIds, spellings: Spellings) -> list[TokenIds]:
    """Return the token sequences that a model must read to score the words; a spelling's last token is only predicted."""
    return list(dict.fromkeys(prompt + ids[:-1] for word in spellings for ids in word))


def word_probabilities(prompt: TokenIds, spellings: Spellings, logits: dict[TokenIds, Tensor]) -> tuple[float, ...]:
    """Return the probability of each word; they sum to 1.

    Args:
        prompt: Tokens before the answer.
        spellings: For each word, the token sequences to score.
        logits: For each of `scored_texts(prompt, spellings)`, (k, vocabulary): after the prompt and after each later token.
    """
    following = {text: torch.log_softmax(rows.float(), -1) for text, rows in logits.items()}

    def log_probability(ids: TokenIds) -> float:
        rows = following[prompt + ids[:-1]][-len(ids) :]
        return sum(float(rows[i, token]) for i, token in enumerate(ids))

    words = [[log_probability(ids) for ids in word] for word in spellings]
    largest = max(max(word) for word in words)
    sums = [sum(math.exp(value - largest) for value in word) for word in words]
    return tuple(each / sum(sums) for each in sums)
