"""Read many texts about one or several images in as few passes as can be, each token once.

What all texts about an image share is read first, with the model's own masks and positions. All that follows is one pass over
a tree: each token sees those before it in its own text, and has its place in that text as its position, so that the logits
equal those of separate passes.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sam4mllm_tool.models.mllm.image_texts import ImageTexts, join_caches
from sam4mllm_tool.models.mllm.model_runner import ModelRunner, cache_parameter
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs, TokenizedPrompt
from sam4mllm_tool.models.mllm.reading import Reading
from sam4mllm_tool.models.mllm.token_tree import shared_length

__all__ = ["TreeReader"]

TOKENS_PER_PASS = 4096
"""Most new tokens in one pass over a tree; bounds the memory of its attention mask."""
MOST_FILLED, MOST_FILLED_CACHE = 1.05, 1.5
"""Texts about several images share a pass if filling them up to the longest makes no more than so many times their tokens: of
new ones, which are computed, and of those in the cache, which are looked at."""
_Part: TypeAlias = tuple[ImageTexts, int]
"""A tree, and the node from which on it is read."""
_Logits: TypeAlias = dict[tuple[ImageTexts, int], Tensor]
"""What follows a node, (vocabulary,)."""


class TreeReader:
    """Reads with one model.

    Args:
        runner: Runs the model; `can_branch` allows it.
    """

    can_guess = True
    """Whether tokens that were read in vain do no harm: they stay in the tree, and no other text sees them."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        text = runner.model.config.get_text_config()
        self._window: int | None = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
        self._layer_types = sorted(set(getattr(text, "layer_types", None) or ()))

    def open(self, image_inputs: ImageInputs, prompt: TokenizedPrompt, image_end: int) -> ImageTexts:
        """Return where the texts are kept that begin with the prompt's first `image_end` tokens, up to the image's last."""
        return ImageTexts(image_inputs, prompt.token_inputs, image_end)

    def read(self, readings: Sequence[Reading]) -> list[Tensor]:
        """Return for each reading (count, vocabulary) logits: of what follows each of its last `count` tokens."""
        results: dict[int, Tensor] = {}
        for group in _split(readings):
            results |= zip(group, self._read_together([readings[i] for i in group]), strict=True)
        return [results[i] for i in range(len(readings))]

    def _read_together(self, readings: Sequence[Reading]) -> list[Tensor]:
        """Read texts that are sorted, so that neighbours share the most."""
        first = {reading.texts: len(reading.texts.tree) for reading in readings}
        logits: _Logits = {}
        for texts in first:
            if not len(texts.tree):
                self._start(texts, [reading for reading in readings if reading.texts is texts], logits)
        started = {texts: len(texts.tree) for texts in first}
        for reading, length in zip(readings, _kept_lengths(readings), strict=True):
            _place(reading, length, first)
        kept = {texts: len(texts.tree) for texts in first}
        ends = [_place(reading, len(reading.text), first)[-reading.count :] for reading in readings]
        wanted = {(reading.texts, node) for reading, nodes in zip(readings, ends, strict=True) for node in nodes}
        for part in _group([(texts, length) for texts, length in started.items() if length < len(texts.tree)]):
            self._extend(part, wanted, logits)
        for texts, length in kept.items():
            texts.truncate(length)
        rows = zip(readings, ends, strict=True)
        return [torch.stack([logits[reading.texts, node] for node in nodes]) for reading, nodes in rows]

    def _start(self, texts: ImageTexts, readings: Sequence[Reading], logits: _Logits) -> None:
        """Read the image and what follows it in all texts, in one pass without branches."""
        shared = readings[0].text
        for reading in readings[1:]:
            shared = shared[: shared_length(shared, reading.text)]
        wanted = {i for reading in readings for i in range(len(reading.text) - reading.count, len(reading.text))}
        wanted_here = sorted(i for i in wanted if i < len(shared)) or [len(shared) - 1]
        runner = self._runner
        output = runner.model(
            input_ids=torch.tensor([shared], device=runner.model.device),
            attention_mask=runner.ones(len(shared)),
            logits_to_keep=torch.tensor(wanted_here, device=runner.model.device),
            use_cache=True,
            **{cache_parameter(runner.model): texts.cache},
            **runner.prompt_arguments(texts.image_inputs, texts.token_inputs, len(shared)),
        )
        for parent, token in enumerate(shared, -1):
            texts.tree.add(parent, token)
        deltas = getattr(getattr(runner.model, "model", None), "rope_deltas", None)
        texts.position_offset = 0 if deltas is None else int(deltas.flatten()[0])
        logits.update(zip(((texts, i) for i in wanted_here), output.logits[0], strict=True))

    def _extend(self, part: list[_Part], wanted: set[tuple[ImageTexts, int]], logits: _Logits) -> None:
        """Read the nodes of each tree from the given one on, of all trees in one pass: a row each, filled up to the longest."""
        device = self._runner.model.device
        old, new = max(first for _, first in part), max(len(texts.tree) - first for texts, first in part)
        cache = part[0][0].cache if len(part) == 1 else join_caches([texts for texts, _ in part])
        columns = sorted(
            {node - first for texts, first in part for node in range(first, len(texts.tree)) if (texts, node) in wanted}
        )
        output = self._runner.model(
            input_ids=torch.tensor([_fill(texts.tree.ids[first:], new) for texts, first in part], device=device),
            position_ids=torch.tensor(
                [_fill([depth + texts.position_offset for depth in texts.tree.depths[first:]], new) for texts, first in part],
                device=device,
            ),
            attention_mask=self._attention_mask(part, old, new),
            logits_to_keep=torch.tensor(columns, dtype=torch.long, device=device),
            use_cache=True,
            **{cache_parameter(self._runner.model): cache},
        )
        for row, (texts, first) in enumerate(part):
            nodes = ((texts, first + column) for column in columns)
            logits.update((node, output.logits[row, i]) for i, node in enumerate(nodes) if node in wanted)
            if len(part) > 1:
                texts.append(cache, row, old, old + len(texts.tree) - first)

    def _attention_mask(self, part: list[_Part], old: int, new: int) -> Tensor | dict[str, Tensor]:
        """The mask for every kind of layer that the model has."""
        full = self._float_mask(_stack_masks(part, old, new, None)) if self._layer_types != ["sliding_attention"] else None
        if self._window is None or self._layer_types == ["full_attention"]:
            assert full is not None
            return full
        windowed = self._float_mask(_stack_masks(part, old, new, self._window))
        if full is None or not self._layer_types:
            return windowed
        return {"full_attention": full, "sliding_attention": windowed}

    def _float_mask(self, mask: npt.NDArray[np.bool_]) -> Tensor:
        device, dtype = self._runner.model.device, self._runner.model.dtype
        hidden = torch.from_numpy(~mask).to(device)
        return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, torch.finfo(dtype).min)[:, None]


def _split(readings: Sequence[Reading]) -> Iterator[list[int]]:
    """Yield the indices of readings that are read together, sorted so that neighbours share the most."""
    group: list[int] = []
    used = 0
    before: Reading | None = None
    order = {texts: place for place, texts in enumerate(dict.fromkeys(reading.texts for reading in readings))}
    for i in sorted(range(len(readings)), key=lambda i: (order[readings[i].texts], readings[i].text)):
        reading = readings[i]
        known = len(reading.texts.tree.find(reading.text))
        if before is not None and before.texts is reading.texts:
            known = max(known, shared_length(before.text, reading.text))
        if group and used + len(reading.text) - known > TOKENS_PER_PASS:
            yield group
            group, used = [], 0
        group.append(i)
        used += len(reading.text) - known
        before = reading
    if group:
        yield group


def _kept_lengths(readings: Sequence[Reading]) -> Iterator[int]:
    """Yield how much of each text is kept: all that a neighbour shares, or that is asked to be."""
    shared = [0] * (len(readings) + 1)
    for i, (before, after) in enumerate(pairwise(readings), 1):
        shared[i] = shared_length(before.text, after.text) if before.texts is after.texts else 0
    for reading, (with_previous, with_next) in zip(readings, pairwise(shared), strict=True):
        yield len(reading.text) if reading.keep else max(with_previous, with_next)


def _place(reading: Reading, length: int, first: dict[ImageTexts, int]) -> list[int]:
    """Return the nodes of the first `length` tokens, adding those that are missing.

    What follows a node is known only in the pass that reads it: nodes that are wanted for are added again if they are old.
    """
    tree = reading.texts.tree
    path = tree.find(reading.text[:length])
    wanted_from = len(reading.text) - reading.count
    old = (depth for depth in range(wanted_from, len(path)) if path[depth] < first[reading.texts])
    del path[next(old, len(path)) :]
    for token in reading.text[len(path) : length]:
        path.append(tree.add(path[-1] if path else -1, token))
    return path


def _group(parts: list[_Part]) -> Iterator[list[_Part]]:
    """Yield parts that are read in one pass: of about the same lengths, so that hardly anything is filled up."""
    group: list[_Part] = []
    for part in sorted(parts, key=lambda part: (len(part[0].tree) - part[1], part[1])):
        if group and not _is_dense([*group, part]):
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _is_dense(group: list[_Part]) -> bool:
    new = [len(texts.tree) - first for texts, first in group]
    old = [first for _, first in group]
    return len(group) * max(new) <= MOST_FILLED * sum(new) and len(group) * max(old) <= MOST_FILLED_CACHE * sum(old)


def _fill(values: list[int], length: int) -> list[int]:
    return values + [values[-1]] * (length - len(values))


def _stack_masks(part: list[_Part], old: int, new: int, window: int | None) -> npt.NDArray[np.bool_]:
    """Return (trees, new, old + new): a tree's old tokens come first, then its new ones, which what is filled up sees."""
    stacked = np.zeros((len(part), new, old + new), np.bool_)
    stacked[:, :, old:] = True
    for rows, (texts, first) in zip(stacked, part, strict=True):
        mask = texts.tree.ancestors(first, window)
        rows[: len(mask)] = False
        rows[: len(mask), :first], rows[: len(mask), old : old + len(mask)] = mask[:, :first], mask[:, first:]
    return stacked
