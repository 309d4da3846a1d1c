"""A vision tower's embeddings before training: a whitened cosine transform instead of random filters, and positions.

The mean colour of a patch varies fifty times as much as its fine structure. Random filters hand that on, and a small tower then
learns little besides colour for hundreds of steps.
"""

import math

import torch
from torch import Tensor, nn

_OPPONENT = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
_SPREAD = (3.3, 1.65, 1.05)
"""Standard deviations of the coefficients of brightness and of two colour differences at frequency 0.5, in drawn scenes."""
_DECAY = 1.4
_FINE = 4.0
"""Frequency from which coefficients get less weight again: the finest are mostly texture."""


def initialize_patches(embedding: nn.Module, frequencies: int) -> None:
    """Write cosine filters into a convolution's first filters, brightness and colour alike, the others zero.

    Args:
        embedding: The convolution, of as many filters as 3 * frequencies**2 at least, its stride its side.
        frequencies: How many of each axis are kept.
    """
    weight = embedding.get_parameter("weight")
    filters = build_filters(weight.shape[-1], frequencies)
    with torch.no_grad():
        weight.zero_()
        weight[: len(filters)] = filters
        embedding.get_parameter("bias").zero_()


def build_filters(side: int, frequencies: int) -> Tensor:
    """Return (3 * frequencies**2, 3, side, side): one filter per colour channel and pair of frequencies."""
    steps = torch.arange(frequencies)
    waves = math.sqrt(2 / side) * torch.cos(math.pi / side * steps[:, None] * (torch.arange(side) + 0.5))
    waves[0] /= math.sqrt(2)
    colours = _OPPONENT / _OPPONENT.norm(dim=1, keepdim=True)
    filters = torch.einsum("cr,uy,vx->cuvryx", colours, waves, waves)
    frequency = (steps[:, None] ** 2 + steps**2).sqrt() * 16 / side
    spread = torch.tensor(_SPREAD)[:, None, None] * (0.5 + frequency) ** -_DECAY * side / 16
    weight = 1 / (spread * (1 + (frequency / _FINE) ** 2).sqrt())
    return (filters * weight[..., None, None, None]).flatten(0, 2)


def write_positions(weight: Tensor, features: Tensor) -> None:
    """Give position embeddings the features of the positions, so that attention can start from distances.

    Args:
        weight: (..., width), overwritten.
        features: (positions, k), as many positions as `weight` has.
    """
    width = weight.shape[-1]
    rotation = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(2)))[0]
    with torch.no_grad():
        weight.copy_((1.5 * features @ rotation[: features.shape[1]]).view_as(weight))
