"""Any image-text-to-text checkpoint of transformers, with an optional peft adapter, as an MLLM.

A picture is encoded once and kept, so that the rounds of one dialogue share it. Free text is decoded greedily. Labels are not
decoded but scored: one label a question all at once, several labels one after another over a key-value cache,
never more or fewer than asked.
"""

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sam4mllm_tool.errors import BackendError, Sam4MllmError
from sam4mllm_tool.models.mllm import label_probabilities
from sam4mllm_tool.models.mllm.loading import load_checkpoint
from sam4mllm_tool.models.mllm.prompts import Picture, Prompt, Prompter
from sam4mllm_tool.models.mllm.runner import Runner
from sam4mllm_tool.types import FreeText, Image, Labels, Question, Reply, Tokens, Turn

__all__ = ["TransformersMLLM"]

KEPT_PICTURES = 2


class TransformersMLLM:
    """Answers with a checkpoint. Calls from several threads or tasks wait for one another.

    model, processor: as `load_checkpoint` gives them. Raises SpecError for a processor without a chat template.
    """

    greedy = True
    """It decodes greedily: the same question gets the same reply, so that asking it again in the same words is in vain."""

    def __init__(self, model: Any, processor: Any, *, name: str) -> None:
        self._name = name
        self._runner = Runner(model)
        self._prompter = Prompter(processor, name, self._runner.longest)
        self._pictures: OrderedDict[bytes, Picture] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        base: str,
        adapter: str | None = None,
        *,
        name: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> "TransformersMLLM":
        """A checkpoint from a folder or hub id, with an adapter from another.

        Raises SpecError where one of them can't be loaded or they don't fit, MissingExtraError where a library is missing.
        """
        model, processor = load_checkpoint(base, adapter, device=device, dtype=dtype)
        return cls(model, processor, name=name or (f"{base}+{adapter}" if adapter else base))

    @property
    def name(self) -> str:
        return self._name

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """One reply per question, in order; the picture is encoded once for all of them.

        Raises ValueError for a question that asks for nothing, SpecError where the tokenizer or the template can't write
        one, ExpressionError for text that is too long or that can't be kept from being control tokens, BackendError where
        the model fails (out of memory, a checkpoint at odds with its processor).
        """
        for question in questions:
            _check(question)
        with self._lock, torch.inference_mode():
            try:
                return self._reply(image, questions)
            except Sam4MllmError:
                raise
            except torch.OutOfMemoryError as error:
                raise BackendError(f"{self._name!r} ran out of memory on {self._runner.model.device}: {error}") from error
            except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
                raise BackendError(f"{self._name!r} failed to answer: {error}") from error

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """As `reply`, in a thread."""
        return await asyncio.to_thread(self.reply, image, questions)

    def _reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        picture = self._picture(image)
        prompts = [self._prompter.write(picture, question.turns) for question in questions]
        asked = list(zip(prompts, [question.answer for question in questions], strict=True))
        rows = self._rows(picture, questions, prompts)
        replies = []
        for prompt, answer in asked:
            if isinstance(answer, FreeText):
                ids, likely = self._runner.decode(picture, prompt, answer.max_tokens)
                tokens = Tokens(len(prompt.ids), len(ids))
                replies.append(Reply(self._prompter.decode(ids), log_probability=likely, tokens=tokens))
            else:
                scored = [next(rows)] if answer.count == 1 else self._label(picture, prompt, answer)
                replies.append(_label_reply(answer.words, scored, Tokens(len(prompt.ids), answer.count)))
        return replies

    def _rows(self, picture: Picture, questions: Sequence[Question], prompts: Sequence[Prompt]) -> Iterator[tuple[float, ...]]:
        """The probabilities for each question about a single label, in order.

        Those that go on from the same replies are scored together. Others aren't, though that could share the picture's
        tokens: how sums are rounded depends on what is scored together, and a dialogue should not on its neighbours.
        """
        groups: dict[tuple[Turn, ...], dict[int, tuple[Prompt, tuple[str, ...]]]] = {}
        for i, (question, prompt) in enumerate(zip(questions, prompts, strict=True)):
            if isinstance(question.answer, Labels) and question.answer.count == 1:
                replied = any(turn.role == "assistant" for turn in question.turns)
                groups.setdefault(question.turns[:-1] if replied else question.turns, {})[i] = (prompt, question.answer.words)
        rows: dict[int, tuple[float, ...]] = {}
        for group in groups.values():
            rows |= zip(group, self._score(picture, list(group.values())), strict=True)
        return (rows[i] for i in sorted(rows))

    def _picture(self, image: Image) -> Picture:
        """The picture by its content, as it may have been drawn on since the last question."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        key = hashlib.blake2b(rgb.tobytes(), person=b"%dx%d" % rgb.size).digest()
        picture = self._pictures.pop(key, None) or Picture(rgb)
        self._pictures[key] = picture
        if len(self._pictures) > KEPT_PICTURES:
            self._pictures.popitem(last=False)
        return picture

    def _score(self, picture: Picture, asked: Sequence[tuple[Prompt, tuple[str, ...]]]) -> list[tuple[float, ...]]:
        """For each prompt, the probability of each of its words as the whole answer."""
        end = self._prompter.tokenizer.eos_token_id
        spelled = [(prompt, label_probabilities.comparable(self._spellings(words), end)) for prompt, words in asked]
        texts = {text: prompt for prompt, words in spelled for text in label_probabilities.continuations(prompt.ids, words)}
        logits = self._runner.read(picture, texts)
        return [label_probabilities.word_probabilities(prompt.ids, words, logits) for prompt, words in spelled]

    def _label(self, picture: Picture, prompt: Prompt, answer: Labels) -> list[tuple[float, ...]]:
        """For each label in turn, the probability of each word after the likeliest words before it."""
        spellings = self._spellings(answer.words)
        if label_probabilities.is_settled_at_first(spellings):
            return self._label_step_by_step(picture, prompt, answer.count, spellings)
        rows: list[tuple[float, ...]] = []
        for _ in range(answer.count):
            rows += self._score(picture, [(prompt, answer.words)])
            prompt = Prompt(prompt.ids + spellings[_likeliest(rows[-1])][0], prompt.extras)
        return rows

    def _label_step_by_step(
        self, picture: Picture, prompt: Prompt, count: int, spellings: label_probabilities.Spellings
    ) -> list[tuple[float, ...]]:
        steps, following = self._runner.steps(picture, prompt), prompt.ids
        firsts = label_probabilities.comparable(spellings, None)
        rows: list[tuple[float, ...]] = []
        for _ in range(count):
            logits = steps.read(following)
            rows.append(label_probabilities.word_probabilities((), firsts, {(): logits}))
            following = max(spellings[_likeliest(rows[-1])], key=lambda ids: float(logits[0, ids[0]]))
        return rows

    def _spellings(self, words: Sequence[str]) -> label_probabilities.Spellings:
        return tuple(self._prompter.spellings(word) for word in words)


def _check(question: Question) -> None:
    answer, roles = question.answer, [turn.role for turn in question.turns]
    if roles[-1:] != ["user"]:
        raise ValueError(f"a question's turns must end with the user's, got {roles}")
    if isinstance(answer, FreeText) and answer.max_tokens < 1:
        raise ValueError(f"free text needs at least one token, got max_tokens={answer.max_tokens}")
    if isinstance(answer, Labels) and (
        answer.count < 1 or len(set(answer.words)) != len(answer.words) or len(answer.words) < 2
    ):
        raise ValueError(f"labels need a count from 1 and at least two different words, got {answer}")


def _likeliest(row: Sequence[float]) -> int:
    return max(range(len(row)), key=row.__getitem__)


def _label_reply(words: Sequence[str], rows: Sequence[tuple[float, ...]], tokens: Tokens) -> Reply:
    return Reply("".join(words[_likeliest(row)] for row in rows), tuple(rows), tokens=tokens)
