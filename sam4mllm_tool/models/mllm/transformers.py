"""Serve any image-text-to-text checkpoint of transformers, optionally with a peft adapter, as an MLLM.

An image is encoded once and cached, so that the rounds of a dialogue share it. Free text is decoded greedily. Labels are
scored instead of decoded, so a reply always has as many as requested: single labels of several questions together, several
labels of one question in sequence over a key-value cache.
"""

import asyncio
import copy
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch

from sam4mllm_tool.errors import BackendError, Sam4MllmError, SpecError
from sam4mllm_tool.images.rgb_conversion import ensure_rgb, hash_pixels
from sam4mllm_tool.models.devices import describe_hardware
from sam4mllm_tool.models.domain import ImageDomain, find_domain, pool_features
from sam4mllm_tool.models.load_options import LoadOptions, LoadOverrides
from sam4mllm_tool.models.mllm import label_probabilities
from sam4mllm_tool.models.mllm.adapters import SwitchedAdapters
from sam4mllm_tool.models.mllm.label_probabilities import Spellings
from sam4mllm_tool.models.mllm.loading import load_checkpoint
from sam4mllm_tool.models.mllm.model_runner import ModelRunner
from sam4mllm_tool.models.mllm.prompt_renderer import ImageInputs, PromptRenderer, TokenizedPrompt
from sam4mllm_tool.models.validation import validate_questions
from sam4mllm_tool.types import FreeText, Image, Labels, Question, Reply, Tokens, Turn

__all__ = ["TransformersMLLM"]

CACHED_IMAGES = 2
_ANY_TURNS = (Turn("user", "?"),)
"""A question from which an image's inputs can be prepared before anything is asked about it."""

Probabilities = tuple[float, ...]
"""The probability of each word of a label."""


class TransformersMLLM:
    """Answers questions with a checkpoint. Concurrent calls wait for each other.

    Args:
        model: As `load_checkpoint` returns it.
        processor: As `load_checkpoint` returns it.
        name: Name in `Usage` and in messages.
        domain: The images that it was trained on, where that is known; `check_image` warns of others.
        max_pixels: As in `LoadOptions`.

    Raises:
        SpecError: The processor has no chat template.
    """

    greedy = True
    """Decoding is deterministic: drivers skip identical retries."""

    def __init__(
        self, model: Any, processor: Any, *, name: str, domain: ImageDomain | None = None, max_pixels: int | None = None
    ) -> None:
        self._name, self._domain = name, domain
        self._runner = ModelRunner(model, keeps_layers=domain is not None)
        self._renderer = PromptRenderer(processor, name, self._runner.longest, max_pixels)
        self._images: OrderedDict[bytes, ImageInputs] = OrderedDict()
        self._lock = threading.Lock()
        self._adapters: SwitchedAdapters | None = None
        self._adapter: str | None = None

    @classmethod
    def load(
        cls,
        base: str,
        adapter: str | None = None,
        *,
        name: str | None = None,
        options: LoadOptions = LoadOptions(),
        **overrides: Unpack[LoadOverrides],
    ) -> "TransformersMLLM":
        """Load a checkpoint from a folder or hub id, an adapter from another, and the domain.json beside them.

        Raises:
            SpecError: The base or the adapter can't be loaded, or they don't fit each other.
            MissingExtraError: A library is not installed.
        """
        options = options.override(**overrides)
        model, processor = load_checkpoint(base, adapter, options=options)
        name, domain = name or (f"{base}+{adapter}" if adapter else base), find_domain(adapter or base)
        mllm = cls(model, processor, name=name, domain=domain, max_pixels=options.max_pixels)
        mllm._adapters = SwitchedAdapters(model, name) if adapter is None else None
        return mllm

    def use(self, adapter: str) -> "TransformersMLLM":
        """Return the model with an adapter. It shares the base's weights, so that several take the memory of one model.

        The adapter isn't merged into the weights, which costs some time per call. This object goes on answering as before,
        and calls of both, from any thread, take turns.

        Args:
            adapter: Folder or hub id of a peft adapter.

        Raises:
            SpecError: The adapter can't be loaded or doesn't fit, or this model was loaded with an adapter itself.
        """
        if self._adapters is None:
            raise SpecError(f"{self._name!r} has an adapter in its weights: load its base alone to use {adapter!r} on it")
        used = copy.copy(self)
        used._domain, used._adapter, used._name = find_domain(adapter), adapter, f"{self._adapters.base}+{adapter}"
        used._runner = ModelRunner(self._runner.model, keeps_layers=used._domain is not None)
        used._images = OrderedDict()
        with self._lock:
            self._adapters.add(adapter)
        return used

    @property
    def name(self) -> str:
        """The spec it was loaded from."""
        return self._name

    @property
    def domain(self) -> ImageDomain | None:
        """The images that it was trained on, where that is known."""
        return self._domain

    @property
    def resizing(self) -> tuple[int, int, int] | None:
        """How images are resized: (multiple of both sides, least pixels, most pixels); None for families with another rule."""
        return self._renderer.resizing

    @property
    def pads_images(self) -> bool:
        """Whether the model sees an image in the middle of a square, as LLaVA 1.5 does: its coordinates then count that one."""
        return self._renderer.pads_images

    @property
    def hardware(self) -> str:
        """Where it runs, in which precision, and how much memory its weights take."""
        return describe_hardware(self._runner.model)

    @property
    def device(self) -> str:
        """The device that its inputs are on."""
        return str(self._runner.model.device)

    @property
    def confidence_source(self) -> str:
        """Where the probabilities of labels come from."""
        return "the model's own probabilities of the words, from its logits"

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """Return one reply per question, in order. The image is encoded once for all of them.

        Raises:
            ValueError: A question asks for no tokens, no labels or fewer than two words, or doesn't end with the user's turn.
            SpecError: The tokenizer or the chat template can't write a question, or the model can't choose among labels.
            ExpressionError: A question is too long, or its text can't be kept from being read as control tokens.
            BackendError: The model failed, for example by running out of memory.
        """
        validate_questions(questions)
        if self._runner.encodes_prompts and any(isinstance(question.answer, Labels) for question in questions):
            raise SpecError(f"{self._name!r} answers with boxes alone, not with yes or no: use the method 'box'")
        with self._running():
            return self._reply(image, questions)

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """As `reply`, in a thread."""
        return await asyncio.to_thread(self.reply, image, questions)

    def check_image(self, image: Image) -> str | None:
        """Return a warning if the image is unlike those that the model was trained on; None if it is not, or nothing is known.

        Raises:
            BackendError: As in `reply`.
        """
        features = None if self._domain is None else self.image_features(image, self._domain.layer)
        return self._domain.warning if self._domain and features is not None and not self._domain.contains(features) else None

    def image_features(self, image: Image, layer: int) -> npt.NDArray[np.float64] | None:
        """Return the vision tower's features of an image in one layer, pooled (`models.domain.pool_features`).

        A model with a domain computes them in the pass that its questions share.

        Args:
            image: RGB, any size.
            layer: Index among the tower's hidden states; 0 is the embedding of the patches.

        Returns:
            None in families that don't give hidden states, or without such a layer.

        Raises:
            BackendError: As in `reply`.
        """
        with self._running():
            if not self._runner.keeps_layers:
                self._runner.keeps_layers = True
                self._images.clear()
            image_inputs = self._image_inputs(image)
            if not image_inputs.inputs:
                self._renderer.tokenize(image_inputs, _ANY_TURNS)
            patches = self._runner.compute_patch_features(image_inputs, layer)
            return None if patches is None else pool_features(patches.float().cpu().numpy())

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Wait for other calls, and wrap what the model raises."""
        with self._lock:
            try:
                if self._adapters is not None:
                    self._adapters.activate(self._adapter)
                with torch.inference_mode():
                    yield
            except Sam4MllmError:
                raise
            except torch.OutOfMemoryError as error:
                raise BackendError(f"{self._name!r} ran out of memory on {self._runner.model.device}: {error}") from error
            except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
                raise BackendError(f"{self._name!r} failed to answer: {error}") from error

    def _reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        image_inputs = self._image_inputs(image)
        prompts = [self._renderer.tokenize(image_inputs, question.turns) for question in questions]
        single_rows = self._score_single_labels(image_inputs, questions, prompts)
        replies = []
        for question, prompt in zip(questions, prompts, strict=True):
            answer, read = question.answer, len(prompt.ids)
            if isinstance(answer, FreeText):
                ids, log_probability = self._runner.generate(image_inputs, prompt, answer.max_tokens)
                self._require_numbers(log_probability)
                text = self._renderer.decode(ids)
                replies.append(Reply(text, log_probability=log_probability, tokens=Tokens(read, len(ids))))
            else:
                rows = [next(single_rows)] if answer.count == 1 else self._score_sequence(image_inputs, prompt, answer)
                self._require_numbers(*(probability for row in rows for probability in row))
                replies.append(_label_reply(answer.words, rows, Tokens(read, answer.count)))
        return replies

    def _require_numbers(self, *values: float) -> None:
        """Refuse answers of a model that overflows its precision: they would be the same whatever is asked."""
        if any(map(math.isnan, values)):
            dtype = str(self._runner.model.dtype).removeprefix("torch.")
            cure = "its weights are broken" if dtype == "float32" else "load it in float32 (--dtype), or in bfloat16 on a GPU"
            raise BackendError(f"{self._name!r} computes values that are not numbers in {dtype}: {cure}")

    def _image_inputs(self, image: Image) -> ImageInputs:
        """Look the image up by its content: the caller may have drawn on it since the last question."""
        rgb = ensure_rgb(image)
        key = hash_pixels(rgb)
        image_inputs = self._images.pop(key, None) or ImageInputs(rgb)
        self._images[key] = image_inputs
        if len(self._images) > CACHED_IMAGES:
            self._images.popitem(last=False)
        return image_inputs

    def _score_single_labels(
        self, image_inputs: ImageInputs, questions: Sequence[Question], prompts: Sequence[TokenizedPrompt]
    ) -> Iterator[Probabilities]:
        """Score the questions that ask for a single label, and return their rows in order.

        Questions that follow the same replies are scored in one pass. Others could share the image's tokens too, but rounding
        depends on what is scored together, and a dialogue must not depend on its neighbours.
        """
        groups: dict[tuple[Turn, ...], dict[int, tuple[TokenizedPrompt, tuple[str, ...]]]] = {}
        for i, (question, prompt) in enumerate(zip(questions, prompts, strict=True)):
            if isinstance(question.answer, Labels) and question.answer.count == 1:
                replied = any(turn.role == "assistant" for turn in question.turns)
                groups.setdefault(question.turns[:-1] if replied else question.turns, {})[i] = (prompt, question.answer.words)
        rows: dict[int, Probabilities] = {}
        for group in groups.values():
            rows |= zip(group, self._score(image_inputs, list(group.values())), strict=True)
        return (rows[i] for i in sorted(rows))

    def _score(
        self, image_inputs: ImageInputs, prompts_and_words: Sequence[tuple[TokenizedPrompt, tuple[str, ...]]]
    ) -> list[Probabilities]:
        """Return for each prompt the probability of each of its words as the whole answer."""
        end = self._renderer.tokenizer.eos_token_id
        spelled = [
            (prompt, label_probabilities.trim_spellings(self._spellings(words), end)) for prompt, words in prompts_and_words
        ]
        texts = {text: prompt for prompt, words in spelled for text in label_probabilities.scored_texts(prompt.ids, words)}
        logits = self._runner.compute_logits(image_inputs, texts)
        return [label_probabilities.word_probabilities(prompt.ids, words, logits) for prompt, words in spelled]

    def _score_sequence(self, image_inputs: ImageInputs, prompt: TokenizedPrompt, answer: Labels) -> list[Probabilities]:
        """Return for each label the probability of each word after the most probable words before it."""
        spellings = self._spellings(answer.words)
        if label_probabilities.differ_in_first_token(spellings):
            return self._score_sequence_cached(image_inputs, prompt, answer.count, spellings)
        rows: list[Probabilities] = []
        for _ in range(answer.count):
            rows += self._score(image_inputs, [(prompt, answer.words)])
            prompt = TokenizedPrompt(prompt.ids + spellings[_argmax(rows[-1])][0], prompt.token_inputs)
        return rows

    def _score_sequence_cached(
        self, image_inputs: ImageInputs, prompt: TokenizedPrompt, count: int, spellings: Spellings
    ) -> list[Probabilities]:
        reader, ids = self._runner.start_reader(image_inputs, prompt), prompt.ids
        first_tokens = label_probabilities.trim_spellings(spellings, None)
        rows: list[Probabilities] = []
        for _ in range(count):
            logits = reader.read(ids)
            rows.append(label_probabilities.word_probabilities((), first_tokens, {(): logits}))
            ids = max(spellings[_argmax(rows[-1])], key=lambda spelling: float(logits[0, spelling[0]]))
        return rows

    def _spellings(self, words: Sequence[str]) -> Spellings:
        return tuple(self._renderer.spellings(word) for word in words)


def _argmax(row: Probabilities) -> int:
    return max(range(len(row)), key=row.__getitem__)


def _label_reply(words: Sequence[str], rows: Sequence[Probabilities], tokens: Tokens) -> Reply:
    return Reply("".join(words[_argmax(row)] for row in rows), tuple(rows), tokens=tokens)
