"""Serve any image-text-to-text checkpoint of transformers, optionally with a peft adapter, as an MLLM.

An image is encoded once, and each token about it is read once: the rounds of a dialogue, other expressions and later calls go
on from what was read. Free text is decoded greedily. Labels are scored instead of decoded, so a reply always has as many as
requested. What is read together changes values by rounding alone.
"""

import asyncio
import copy
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch

from sam4mllm_tool.errors import BackendError, Sam4MllmError, SpecError
from sam4mllm_tool.models.device_memory import is_out_of_memory, move_to_cpu, run_within_memory
from sam4mllm_tool.models.devices import describe_hardware
from sam4mllm_tool.models.domain import ImageDomain, find_domain, pool_features
from sam4mllm_tool.models.load_options import LoadOptions, LoadOverrides
from sam4mllm_tool.models.mllm.adapters import SwitchedAdapters
from sam4mllm_tool.models.mllm.answering import Job, Probabilities, Writing, generate, most_probable, run_jobs, score_labels
from sam4mllm_tool.models.mllm.branching import can_branch, find_image_token
from sam4mllm_tool.models.mllm.copying_reader import CopyingReader
from sam4mllm_tool.models.mllm.known_images import KnownImage, KnownImages
from sam4mllm_tool.models.mllm.loading import load_checkpoint
from sam4mllm_tool.models.mllm.model_runner import ModelRunner
from sam4mllm_tool.models.mllm.prompt_inputs import TokenizedPrompt
from sam4mllm_tool.models.mllm.prompt_renderer import PromptRenderer
from sam4mllm_tool.models.mllm.reading import TextReader
from sam4mllm_tool.models.mllm.reply_drafts import ReplyDrafts
from sam4mllm_tool.models.mllm.tree_reader import TreeReader
from sam4mllm_tool.models.validation import validate_questions
from sam4mllm_tool.types import FreeText, Image, Labels, Question, Reply, Tokens, Turn

__all__ = ["TransformersMLLM"]

_ANY_TURNS = (Turn("user", "?"),)
"""A question from which an image's inputs can be prepared before anything is asked about it."""


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
        self._start_reader()
        self._lock = threading.Lock()
        self._replicas: list[TransformersMLLM] = []
        self._adapters: SwitchedAdapters | None = None
        self._adapter: str | None = None
        self.cpu_fallback: bool = False
        """Whether a question that the device has no memory for is answered on the CPU."""

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
        mllm.cpu_fallback = options.cpu_fallback and model.device.type != "cpu"
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
        used._start_reader()
        used._replicas = []
        with self._lock:
            self._adapters.add(adapter)
        return used

    def replicate(self, count: int) -> list["TransformersMLLM"]:
        """Return up to so many models over the same weights that threads may call at once; this one is the first.

        Each keeps what it read about images for itself, so that an image is best asked about at the same one.

        Returns:
            This one alone on a GPU, where calls would take turns anyway; where adapters take turns in the weights; and in
            families that keep something about the latest image in the model (Qwen2-VL, GLM-4.xV).
        """
        model = self._runner.model
        is_shared = self._adapters is None and not any(hasattr(module, "rope_deltas") for module in model.modules())
        while is_shared and model.device.type == "cpu" and len(self._replicas) + 1 < count:
            replica = copy.copy(self)
            replica._lock, replica._replicas = threading.Lock(), []
            replica._runner = ModelRunner(model, keeps_layers=self._runner.keeps_layers)
            replica._start_reader()
            self._replicas.append(replica)
        return [self, *self._replicas][:count]

    def _start_reader(self) -> None:
        model = self._runner.model
        self._reader: TextReader = TreeReader(self._runner) if can_branch(model) else CopyingReader(self._runner)
        self._image_token = find_image_token(model)
        self._forget()

    def _forget(self) -> None:
        self._drafts = ReplyDrafts(lambda token: str(self._renderer.tokenizer.decode([token])))
        self._images = KnownImages()

    def forget(self) -> None:
        """Forget the images and replies of earlier calls, which save work in later ones and change the rounding of answers."""
        with self._lock:
            self._forget()
        for replica in self._replicas:
            replica.forget()

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
        return self.reply_batch([(image, questions)])[0]

    def reply_batch(self, batch: Sequence[tuple[Image, Sequence[Question]]]) -> list[list[Reply]]:
        """Return the replies to questions about several images, in order. All questions go on in lock-step.

        Raises:
            Exception: As `reply`; nothing is returned if one question fails.
        """
        for _, questions in batch:
            validate_questions(questions)
            if self._runner.encodes_prompts and any(isinstance(question.answer, Labels) for question in questions):
                raise SpecError(f"{self._name!r} answers with boxes alone, not with yes or no: use the method 'box'")
        pairs = [(index, question) for index, (_, questions) in enumerate(batch) for question in questions]
        with self._running():
            replies = run_within_memory(
                lambda part: self._reply(
                    [(batch[i][0], [question for _, question in group]) for i, group in groupby(part, itemgetter(0))]
                ),
                pairs,
                release=self._images.clear,
                on_cpu=self._on_cpu if self.cpu_fallback else None,
            )
        rest = iter(replies)
        return [[next(rest) for _ in questions] for _, questions in batch]

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
            image_inputs = self._images.take(image).inputs
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
            except (RuntimeError, MemoryError, ValueError, TypeError, LookupError, AttributeError) as error:
                self._images.clear()
                if is_out_of_memory(error):
                    device = self._runner.model.device
                    raise BackendError(f"{self._name!r} ran out of memory on {device}: {error}") from error
                raise BackendError(f"{self._name!r} failed to answer: {error}") from error

    @contextmanager
    def _on_cpu(self) -> Iterator[None]:
        try:
            with move_to_cpu(self._runner.model):
                yield
        finally:
            self._images.clear()

    def _reply(self, batch: Sequence[tuple[Image, Sequence[Question]]]) -> list[Reply]:
        """Answer the questions about all images in lock-step."""
        images = [self._images.take(image) for image, _ in batch]
        queries = [(known, question) for known, (_, questions) in zip(images, batch, strict=True) for question in questions]
        prompts = self._renderer.tokenize_all([(known.inputs, question.turns) for known, question in queries])
        pending = [(known, prompt, question.answer) for (known, question), prompt in zip(queries, prompts, strict=True)]
        if self._runner.encodes_prompts:  # which asks for free text alone
            answers: list[Any] = [
                self._runner.generate(known.inputs, prompt, answer.max_tokens)
                for known, prompt, answer in pending
                if isinstance(answer, FreeText)
            ]
        else:
            answers = run_jobs(self._reader, [self._start_job(*each) for each in pending])
        replies = [self._to_reply(prompt, answer, result) for (_, prompt, answer), result in zip(pending, answers, strict=True)]
        self._images.forget_all_but(len(batch))
        return replies

    def _start_job(self, known: KnownImage, prompt: TokenizedPrompt, answer: FreeText | Labels) -> Job:
        texts = known.texts(self._reader, prompt, self._image_token)
        if isinstance(answer, FreeText):
            ends = self._runner.model.generation_config.eos_token_id
            drafts = self._drafts if self._reader.can_guess else None
            writing = Writing(frozenset(ends if isinstance(ends, list) else [ends]), drafts)
            return generate(texts, prompt.ids, answer.max_tokens, writing)
        spellings = tuple(self._renderer.spellings(word) for word in answer.words)
        end = self._renderer.tokenizer.eos_token_id
        return score_labels(texts, prompt.ids, answer.count, spellings, end, guesses=self._reader.can_guess)

    def _to_reply(self, prompt: TokenizedPrompt, answer: FreeText | Labels, result: Any) -> Reply:
        if isinstance(answer, FreeText):
            ids, log_probability = result
            self._require_numbers(log_probability)
            text = self._renderer.decode(ids)
            return Reply(text, log_probability=log_probability, tokens=Tokens(len(prompt.ids), len(ids)))
        self._require_numbers(*(probability for row in result for probability in row))
        return _label_reply(answer.words, result, Tokens(len(prompt.ids), answer.count))

    def _require_numbers(self, *values: float) -> None:
        """Refuse answers of a model that overflows its precision: they would be the same whatever is asked."""
        if any(map(math.isnan, values)):
            dtype = str(self._runner.model.dtype).removeprefix("torch.")
            cure = "its weights are broken" if dtype == "float32" else "load it in float32 (--dtype), or in bfloat16 on a GPU"
            raise BackendError(f"{self._name!r} computes values that are not numbers in {dtype}: {cure}")


def _label_reply(words: Sequence[str], rows: Sequence[Probabilities], tokens: Tokens) -> Reply:
    return Reply("".join(words[most_probable(row)] for row in rows), tuple(rows), tokens=tokens)
