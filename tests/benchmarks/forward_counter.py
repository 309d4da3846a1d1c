"""Count what a pair of models computes, with forward hooks: passes, tokens, encodings; and where the time goes.

The hooks sit on the modules that every way of running a checkpoint has to call: the vision tower, the language model, the
segmenter's encoder and its mask decoder, and on the image processor. So they count alike whoever drives the models.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.models.mllm.prefix_tree import build_prefix_tree
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs
from sam4mllm_tool.models.mllm.prompt_renderer import PromptRenderer
from sam4mllm_tool.types import Image, Turn

__all__ = ["LanguagePass", "Work", "count_trie_tokens", "count_work"]

STAGES = ("image processor", "vision tower", "language model", "SAM encoder", "mask decoder")


@dataclass(frozen=True)
class LanguagePass:
    """One forward pass of the language model.

    Attributes:
        rows: Sequences in the batch.
        tokens: New tokens of each.
        cached: Tokens of each that were in the key-value cache before.
    """

    rows: int
    tokens: int
    cached: int


@dataclass
class Work:
    """What was computed.

    Attributes:
        runs: How often each of `STAGES` ran.
        seconds: Seconds spent in each of `STAGES`; those that run at the same time count twice.
        passes: The language model's passes, in order.
    """

    runs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    passes: list[LanguagePass] = field(default_factory=list)

    @property
    def prefills(self) -> list[LanguagePass]:
        """Passes over more than one token of a sequence."""
        return [each for each in self.passes if each.tokens > 1]

    @property
    def prefilled(self) -> int:
        """Tokens computed by prefills."""
        return sum(each.rows * each.tokens for each in self.prefills)

    @property
    def starts(self) -> int:
        """Passes with nothing in the cache: they compute the image's tokens."""
        return sum(not each.cached for each in self.passes)

    @property
    def decodes(self) -> int:
        """Passes over one token of each sequence."""
        return len(self.passes) - len(self.prefills)

    @property
    def computed(self) -> int:
        """Tokens computed by all passes."""
        return sum(each.rows * each.tokens for each in self.passes)

    @property
    def reused(self) -> int:
        """Tokens that prefills took from the cache."""
        return sum(each.rows * each.cached for each in self.prefills)


@contextmanager
def count_work(models: Sam4Mllm) -> Iterator[Work]:
    """Count what a pair of checkpoints computes inside the `with` block, on any thread."""
    work = Work()
    mllm: Any = models.mllm
    model, processor = mllm._runner.model, mllm._renderer.processor
    segmenter = getattr(models.segmenter, "_model", None)
    with ExitStack() as stack:
        stack.enter_context(_watch_image_processor(processor.image_processor, work))
        vision = model.get_encoder(modality="image")
        if vision is not model:
            stack.enter_context(_watch_module(vision, "vision tower", work))
        stack.enter_context(_watch_module(model.get_decoder(), "language model", work, _read_pass))
        if segmenter is not None:
            stack.enter_context(_watch_module(segmenter.vision_encoder, "SAM encoder", work))
            stack.enter_context(_watch_module(segmenter.mask_decoder, "mask decoder", work))
        yield work


def count_trie_tokens(renderer: PromptRenderer, image: Image, prompts: Iterable[Sequence[Turn]]) -> int:
    """Return the tokens of a trie of prompts about an image: those that no driver can do without."""
    inputs = ImageInputs(image)
    return len(build_prefix_tree([renderer.token_ids(inputs, turns) for turns in prompts]).ids)


def _read_pass(arguments: dict[str, Any]) -> LanguagePass:
    embeddings = arguments.get("inputs_embeds")
    rows, tokens = (arguments["input_ids"] if embeddings is None else embeddings).shape[:2]
    cache = next((arguments[name] for name in ("cache", "past_key_values") if arguments.get(name) is not None), None)
    return LanguagePass(rows, tokens, int(cache.get_seq_length()) if cache is not None else 0)


@contextmanager
def _watch_module(
    module: nn.Module, stage: str, work: Work, read: Callable[[dict[str, Any]], LanguagePass] | None = None
) -> Iterator[None]:
    starts: list[float] = []

    def before(_: nn.Module, __: Any, arguments: dict[str, Any]) -> None:
        if read is not None:
            work.passes.append(read(arguments))
        starts.append(time.perf_counter())

    def after(_: nn.Module, __: Any, ___: Any) -> None:
        _add(work, stage, starts.pop())

    hooks = module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _watch_image_processor(image_processor: Any, work: Work) -> Iterator[None]:
    preprocess = image_processor.preprocess

    def watched(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return preprocess(*arguments, **options)
        finally:
            _add(work, "image processor", start)

    image_processor.preprocess = watched
    try:
        yield
    finally:
        del image_processor.preprocess


def _add(work: Work, stage: str, start: float) -> None:
    work.runs[stage] += 1
    work.seconds[stage] += time.perf_counter() - start
