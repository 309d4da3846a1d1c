"""Answer questions about images with a reader: each is a job that asks for readings, and all jobs go on in lock-step."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sam4mllm_tool.models.mllm.label_probabilities import (
    Spellings,
    differ_in_first_token,
    scored_texts,
    trim_spellings,
    word_probabilities,
)
from sam4mllm_tool.models.mllm.prompt_inputs import TokenIds
from sam4mllm_tool.models.mllm.reading import Reading, TextReader
from sam4mllm_tool.models.mllm.reply_drafts import ReplyDrafts

__all__ = ["Job", "Probabilities", "Writing", "generate", "most_probable", "run_jobs", "score_labels"]

Probabilities: TypeAlias = tuple[float, ...]
"""The probability of each word of a label."""

Job: TypeAlias = Generator[list[Reading], list[Tensor], Any]
"""Yields the readings that it needs, is sent their logits, and returns an answer."""


def run_jobs(reader: TextReader, jobs: Sequence[Job]) -> list[Any]:
    """Return what the jobs return. The readings that they need at the same time are done together."""
    results: dict[int, Any] = {}
    requested: dict[int, list[Reading]] = {}
    answers: dict[int, list[Tensor] | None] = dict.fromkeys(range(len(jobs)))
    while answers:
        for i, logits in answers.items():
            try:
                requested[i] = jobs[i].send(logits)  # type: ignore[arg-type]  # None starts it
            except StopIteration as end:
                results[i] = end.value
        rows = iter(reader.read([reading for readings in requested.values() for reading in readings]))
        answers = {i: [next(rows) for _ in readings] for i, readings in requested.items()}
        requested = {}
    return [results[i] for i in range(len(jobs))]


@dataclass(frozen=True)
class Writing:
    """How a model writes a reply.

    Attributes:
        ends: The tokens that end one.
        drafts: What replies are guessed from; None to guess nothing.
    """

    ends: frozenset[int]
    drafts: ReplyDrafts | None


def generate(texts: Any, prompt: TokenIds, max_tokens: int, writing: Writing) -> Job:
    """Write a reply greedily.

    Returns:
        Its ids, the end included, and the natural logarithm of its probability.
    """
    ids: list[int] = []
    log_probability = 0.0
    while True:
        draft = writing.drafts.propose(ids)[: max_tokens - len(ids) - 1] if writing.drafts else ()
        (logits,) = yield [Reading(texts, (*prompt, *ids, *draft), 1 + len(draft), keep=True)]
        following = torch.log_softmax(logits.float(), -1)
        best = following.argmax(-1)
        for token, row, guess in zip(best.tolist(), following, (*draft, None), strict=True):
            ids.append(token)
            log_probability += float(row[token])
            if token in writing.ends or len(ids) == max_tokens:
                if writing.drafts:
                    writing.drafts.add(ids)
                return ids, log_probability
            if token != guess:
                break


def score_labels(texts: Any, prompt: TokenIds, count: int, spellings: Spellings, end: int | None, *, guesses: bool) -> Job:
    """Return for each of `count` labels the probability of each word after the most probable words before it.

    Args:
        texts: Of the image.
        prompt: All tokens before the first label.
        count: How many labels the answer has.
        spellings: For each word, the token sequences that write it.
        end: Token that ends an answer.
        guesses: Whether to read guessed labels and the next one in one pass: all labels take as many passes as guesses fail.
    """
    if count == 1:
        rows: list[Probabilities] = []
        trimmed = trim_spellings(spellings, end)
        scored = scored_texts(prompt, trimmed)
        logits = yield [Reading(texts, text, len(text) - len(prompt) + 1) for text in scored]
        return [word_probabilities(prompt, trimmed, dict(zip(scored, logits, strict=True)))]
    if not differ_in_first_token(spellings):
        rows = []
        for _ in range(count):
            rows += yield from score_labels(texts, prompt, 1, spellings, end, guesses=guesses)
            prompt += spellings[most_probable(rows[-1])][0]
        return rows
    return (yield from _score_sequence(texts, prompt, count, spellings, guesses))


def _score_sequence(texts: Any, prompt: TokenIds, count: int, spellings: Spellings, guesses: bool) -> Job:
    """Guess all labels, read them in one pass, and go on from the first that was guessed wrong, until none is."""
    first_tokens = trim_spellings(spellings, None)
    rows: list[Probabilities] = []
    labels: list[TokenIds] = []
    guessed: list[TokenIds] = [spellings[-1][0]] * (count - 1) if guesses else []
    while True:
        ids = tuple(token for label in (*labels, *guessed) for token in label)
        ends = [-1 - sum(map(len, guessed[i:])) for i in range(len(guessed) + 1)]  # of the tokens that a label follows
        (logits,) = yield [Reading(texts, prompt + ids, -ends[0], keep=True)]
        answers: list[TokenIds] = []
        for end in ends:
            row = logits[end]
            probabilities = word_probabilities((), first_tokens, {(): row[None]})
            answers.append(max(spellings[most_probable(probabilities)], key=lambda spelling: float(row[spelling[0]])))
            if len(answers) - 1 <= _equal_labels(answers, guessed):
                rows.append(probabilities)
        equal = _equal_labels(answers, guessed)
        labels += answers[: equal + 1]
        if len(rows) == count:
            return rows
        guessed = answers[equal + 1 : -1]


def _equal_labels(answers: Sequence[TokenIds], guessed: Sequence[TokenIds]) -> int:
    """Return how many labels from the first on were guessed rightly."""
    pairs = enumerate(zip(answers, guessed, strict=False))
    return next((i for i, (answer, guess) in pairs if answer != guess), min(len(answers), len(guessed)))


def most_probable(row: Probabilities) -> int:
    """Return the index of the most probable word."""
    return max(range(len(row)), key=row.__getitem__)
