"""Make the training conversations of many images, in this process or in several, in the order of the images either way."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sam4mllm_tool.data.conversation_builder import Recipe, compose_conversations
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.data.training_conversations import ImageConversations, TrainingConversation
from sam4mllm_tool.parallel import map_in_processes
from sam4mllm_tool.types import Segmenter

__all__ = ["BuiltImage", "ImageSamples", "build_images", "estimate_tokens"]

ImageSamples = list[Sample] | None
"""The samples of one image; None for a held-out image, which is only counted."""

_IMAGES_PER_TASK = 8
"""Images that are sent to another process at once."""
_TOKEN = re.compile(r"\d|[^\W\d]{1,4}|[^\w\s]")


@dataclass
class BuiltImage:
    """What an image contributes: lines of JSON, counts, and the samples that were dropped, by reason and each in full."""

    lines: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_samples: list[str] = field(default_factory=list)


def build_images(images: Iterator[ImageSamples], out: Path, recipe: Recipe, processes: int) -> Iterator[BuiltImage]:
    """Yield one result per image, in order.

    Args:
        images: The samples of each image.
        out: The folder that image paths are made relative to.
        recipe: What to make of the samples.
        processes: How many processes work.

    Raises:
        BackendError: A process died. Errors of loading the segmenter pass through.
    """
    if processes <= 1:
        builder = _ImageBuilder(out, recipe)
        yield from map(builder.build, images)
        return
    chunks = iter(lambda: list(islice(images, _IMAGES_PER_TASK)), [])
    for chunk in map_in_processes(_build_chunk, chunks, processes, prepare=_prepare, given=(out, recipe), task="build"):
        yield from chunk


class _ImageBuilder:
    """Holds the segmenter, which a process loads once."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        self.out, self.recipe = out.resolve(), recipe
        self.segmenter: Segmenter | None = None
        if recipe.ppg:
            from sam4mllm_tool.models.segmenter import load_segmenter

            self.segmenter = load_segmenter(recipe.segmenter)

    def build(self, samples: ImageSamples) -> BuiltImage:
        if samples is None:
            return BuiltImage(counts=Counter({"held out": 1}))
        composed = compose_conversations(samples, self.recipe, self.segmenter)
        first = samples[0]
        path = os.path.relpath(first.image_path.resolve(), self.out)
        built = BuiltImage(dropped=composed.dropped, dropped_samples=composed.dropped_samples)
        for group in _split_by_limits(composed.conversations, self.recipe):
            name = f"{first.source}:{group[0].sample}:{group[0].kind}"
            built.lines.append(ImageConversations(name, path, tuple(group), first.image_id).to_json())
            built.counts["lessons"] += 1  # the manifest's keys are part of the file format
        for conversation in composed.conversations:
            built.counts[conversation.kind] += 1
            built.counts["branches"] += len(conversation.branches)
        built.counts["vqa pictures" if first.turns else "pictures"] += 1
        built.counts["samples"] += len(samples)
        built.counts["absent"] += sum(not sample.boxes and not sample.turns for sample in samples)
        return built


_settings: tuple[Path, Recipe] | None = None
_builder: _ImageBuilder | None = None


def _prepare(out: Path, recipe: Recipe) -> None:
    global _settings
    _settings = out, recipe


def _build_chunk(chunk: Sequence[ImageSamples]) -> list[BuiltImage]:
    """Load the segmenter with the first chunk, so that an error of loading it reaches the caller."""
    global _builder
    if _builder is None:
        assert _settings is not None
        if _settings[1].ppg:
            import torch

            torch.set_num_threads(1)  # the processes share the cores
        _builder = _ImageBuilder(*_settings)
    return [_builder.build(samples) for samples in chunk]


def _split_by_limits(conversations: Sequence[TrainingConversation], recipe: Recipe) -> Iterator[list[TrainingConversation]]:
    """Split an image's conversations into lines within the recipe's limits on samples and estimated tokens."""
    line: list[TrainingConversation] = []
    used = 0
    for conversation in conversations:
        sequences = (conversation.turns, *conversation.branches)
        tokens = sum(estimate_tokens(turn.text) for turns in sequences for turn in turns)
        samples = {other.sample for other in line} | {conversation.sample}
        if line and (used + tokens > recipe.tokens or len(samples) > recipe.references):
            yield line
            line, used = [], 0
        line.append(conversation)
        used += tokens
    if line:
        yield line


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text: one per digit, per punctuation mark and per four letters. Training counts exactly."""
    return len(_TOKEN.findall(text))
