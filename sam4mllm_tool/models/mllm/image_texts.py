"""The texts that a model has read about one image, with the keys and values of each token, so that none is read twice."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs
from sam4mllm_tool.models.mllm.token_tree import TokenTree

__all__ = ["ImageTexts", "join_caches", "new_cache"]

_LEAST_ROOM = 128
"""Tokens that a layer has room for beyond those it holds, at least."""


class _GrowingLayer(DynamicLayer):
    """Keys and values in buffers with room to grow, so that a few new tokens don't copy all the others."""

    keys: Tensor
    values: Tensor
    _buffers: tuple[Tensor, Tensor]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append the states of new tokens, and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = key_states[..., :0, :], value_states[..., :0, :]
            self.keys, self.values = self._buffers
        length, needed = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if needed > self._buffers[0].shape[-2]:
            room = needed + max(_LEAST_ROOM, needed // 8)
            self._buffers = _enlarge(self.keys, room), _enlarge(self.values, room)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., length:needed, :] = states
        self.truncate(needed)
        return self.keys, self.values

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens, in smaller buffers if they take less than half of these."""
        if self._buffers[0].shape[-2] > 2 * length + _LEAST_ROOM:
            self._buffers = _enlarge(self.keys[..., :length, :], length), _enlarge(self.values[..., :length, :], length)
        self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)

    @property
    def bytes(self) -> int:
        """The memory that the buffers take."""
        return sum(buffer.nbytes for buffer in self._buffers)


def _enlarge(states: Tensor, length: int) -> Tensor:
    """Return a buffer for `length` tokens that begins with these."""
    larger = states.new_empty((*states.shape[:-2], length, states.shape[-1]))
    larger[..., : states.shape[-2], :] = states
    return larger


def new_cache() -> Any:
    """Return an empty cache whose layers see all tokens, also in families that limit some layers to a window."""
    return Cache(layer_class_to_replicate=_GrowingLayer)


@dataclass(eq=False)
class ImageTexts:
    """A tree of tokens that all begin with the image's, and what the model has computed for each.

    Attributes:
        image_inputs: The image.
        token_inputs: (1, n, ...) inputs per token of a text that begins like all others; the last row is that of later tokens.
        image_end: How many tokens all begin with: the last of the image, and those before it.
        tree: The tokens that were read.
        cache: Keys and values, (1, heads, tokens, width) per layer, in the order of the tree's nodes.
        position_offset: What is added to a node's depth to give the position of a token after the image. It isn't 0 where an
            image takes fewer positions than tokens (Qwen2-VL, GLM-4.xV).
    """

    image_inputs: ImageInputs
    token_inputs: dict[str, Tensor]
    image_end: int
    tree: TokenTree = field(default_factory=TokenTree)
    cache: Any = field(default_factory=new_cache)
    position_offset: int = 0

    @property
    def bytes(self) -> int:
        """The memory that keys and values take."""
        return sum(layer.bytes for layer in self.cache.layers)

    def truncate(self, length: int) -> None:
        """Forget all nodes from `length` on."""
        if length < len(self.tree):
            self.tree.truncate(length)
            for layer in self.cache.layers:
                layer.truncate(length)

    def forget_texts(self) -> None:
        """Forget all but the image."""
        self.truncate(self.image_end)

    def append(self, joined: Any, row: int, first: int, last: int) -> None:
        """Take over the keys and values of a row of `joined` from `first` to `last`."""
        for index, layer in enumerate(joined.layers):
            keys, values = (states[row : row + 1, :, first:last] for states in (layer.keys, layer.values))
            self.cache.update(keys, values, index)


def join_caches(texts: list[ImageTexts]) -> Any:
    """Return one cache with a row for each, all as long as the longest: zeros follow the tokens of a shorter one."""
    joined = new_cache()
    for index in range(len(texts[0].cache.layers)):
        layers = [each.cache.layers[index] for each in texts]
        joined.update(_stack([layer.keys for layer in layers]), _stack([layer.values for layer in layers]), index)
    return joined


def _stack(states: list[Tensor]) -> Tensor:
    """Stack (1, heads, tokens, width) states of several texts."""
    longest = max(each.shape[-2] for each in states)
    stacked = states[0].new_zeros((len(states), *states[0].shape[1:-2], longest, states[0].shape[-1]))
    for row, each in zip(stacked, states, strict=True):
        row[:, : each.shape[-2]] = each[0]
    return stacked
