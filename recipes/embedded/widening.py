"""Widen a trained Segment Anything: every channel twice, so that at first the wide model gives what the narrow one gave.

Net2Net (Chen, Goodfellow and Shlens, ICLR 2016): what reads a channel reads its two copies in random shares that add up to 1.
By the shares the copies get different gradients, and so become different.
"""

import re

import torch
from torch import Tensor
from transformers import SamModel

_EMBEDDING = re.compile(r"(embed|embed\.\d|token|tokens)\.weight$")
_PER_HEAD = re.compile(r"attn\w*\.([qkv]_proj\.(weight|bias)|out_proj\.weight)$")


def widen_sam(narrow: SamModel, wide: SamModel, seed: int = 0) -> None:
    """Load into `wide`, whose decoder has twice the channels, weights with which it computes what `narrow` does.

    Args:
        narrow: The trained model.
        wide: Of the same configuration, but for twice the channels of prompt encoder, mask decoder and the encoder's neck.
        seed: Of the shares.

    Raises:
        ValueError: `wide` has not twice the channels of `narrow`.
    """
    before, after = narrow.state_dict(), wide.state_dict()
    heads = narrow.config.mask_decoder_config.num_attention_heads
    generator = torch.Generator().manual_seed(seed)
    widened = {name: _widen(name, value, after[name].shape, heads, generator) for name, value in before.items()}
    wide.load_state_dict(widened)


def _widen(name: str, value: Tensor, shape: torch.Size, heads: int, generator: torch.Generator) -> Tensor:
    if value.shape == shape:
        return value
    if "positional_embedding" in name:
        return value.repeat(1, 2)
    reading = None if value.ndim < 2 or _EMBEDDING.search(name) else 0 if "upscale_conv" in name else 1
    for axis, (size, wide_size) in enumerate(zip(value.shape, shape, strict=True)):
        if size == wide_size:
            continue
        if wide_size != 2 * size:
            raise ValueError(f"{name} of {size} can be widened to {2 * size}, not to {wide_size}")
        is_per_head = _PER_HEAD.search(name) is not None and ("out_proj" in name) == (axis == reading)
        groups = heads if is_per_head else 2
        value = value.index_select(axis, _copy_twice(torch.arange(size), groups))
        if axis == reading:
            share = 0.25 + 0.5 * torch.rand(size, generator=generator)
            shares = torch.stack([share, 1 - share]).unflatten(1, (groups, -1)).transpose(0, 1).flatten()
            value = value * shares.reshape([-1 if i == axis else 1 for i in range(value.ndim)])
    if _PER_HEAD.search(name) and "q_proj" in name:
        return value * 2**-0.5  # twice the channels of a head double the product, by whose root it is divided
    return value / 2 if "hypernetworks" in name and "proj_out" in name else value  # its product with the channels is a sum


def _copy_twice(channels: Tensor, groups: int) -> Tensor:
    """Return the channels with each of some groups of them twice in a row."""
    return channels.unflatten(0, (groups, -1)).repeat(1, 2).flatten()
