"""Attention over tries, for the price of what is seen: on a CPU several times faster than a full mask.

Of a thousand tokens in a row, one sees the stem that all share (the picture, mostly), the turns before it and its own branch:
some two hundred. So the tokens after the stem are cut into blocks, and each block attends to the stem, to the ancestors of its
first token, and to itself; when tokens stand in the order of a walk through the trie, nothing else can be seen from it.

Which block sees what is told by a tensor in the place of the attention mask, since four dimensions pass through any model of
transformers untouched: (b, c, 1 + w, a + w) int32, for c blocks of w tokens with up to a ancestors. Its first line holds the
ancestors' places; the others, for each of the block's tokens, 1 where it sees an ancestor or a token of the block.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sam4mllm_tool.training.examples import Row

__all__ = ["BLOCK", "BRANCHES", "block_masks", "sees"]

BRANCHES = "branches"
"""The name under which transformers knows it."""
BLOCK = 48
"""Tokens a block."""


def sees(row: Row) -> npt.NDArray[np.bool_]:
    """(n, n): row i is true at i, at the token before it, and at what that one sees."""
    mask = np.eye(len(row), dtype=np.bool_)
    for i, parent in enumerate(row.parents.tolist()):
        if parent >= 0:
            mask[i] |= mask[parent]
    return mask


def block_masks(rows: Sequence[Row], width: int = BLOCK) -> tuple[npt.NDArray[np.int32], int]:
    """What the attention needs to know, (b, c, 1 + w, a + w), and how many tokens the rows must be padded to.

    rows: of tokens in the order of a walk through the trie, a branch to its end before the next.
    """
    stem = min(_stem(row) for row in rows)
    count = max(1, -(-(max(map(len, rows)) - stem) // width))
    found = [_blocks(row, stem, width) for row in rows]
    most = max((len(above) for blocks in found for above, _ in blocks), default=0)
    masks = np.zeros((len(rows), count, 1 + width, most + width), np.int32)
    masks[:, :, 1:, most:] = np.eye(width, dtype=np.int32)
    for mask, blocks in zip(masks, found, strict=True):
        for block, (above, seen) in zip(mask, blocks, strict=False):
            tokens = len(seen)
            block[0, : len(above)] = above
            block[1 : 1 + tokens, : len(above)] = seen[:, : len(above)]
            block[1 : 1 + tokens, most : most + tokens] = seen[:, len(above) :]
    return masks, stem + count * width


def _stem(row: Row) -> int:
    """How many tokens come before the first branching."""
    away = np.flatnonzero(row.parents != np.arange(-1, len(row) - 1))
    return int(row.parents[away].min()) + 1 if len(away) else len(row)


def _blocks(row: Row, stem: int, width: int) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """For each block, its first token's ancestors after the stem, and (tokens, ancestors + tokens), what is seen of them."""
    mask = sees(row)
    blocks = []
    for first in range(stem, len(row), width):
        tokens = np.arange(first, min(first + width, len(row)))
        above = stem + np.flatnonzero(mask[first, stem:first])
        blocks.append((above, mask[np.ix_(tokens, np.concatenate([above, tokens]))]))
    return blocks


def branch_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **told: Any,
) -> tuple[Tensor, Tensor | None]:
    """As transformers' attention functions: (b, heads, n, d) in, (b, n, heads, d) out. With a usual mask it is sdpa."""
    if attention_mask is None or attention_mask.dtype != torch.int32:
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **told
        )
        return result
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (kept.repeat_interleave(groups, 1) for kept in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query.device.type, enabled=False):  # it would turn every softmax into float32
        query, key = (query * scale).to(value.dtype), key.to(value.dtype)
        stem = query.shape[2] - attention_mask.shape[1] * (attention_mask.shape[2] - 1)
        before = F.scaled_dot_product_attention(
            query[:, :, :stem], key[:, :, :stem], value[:, :, :stem], is_causal=True, scale=1.0, dropout_p=dropout
        )
        after = _in_blocks(query, key, value, attention_mask, stem, dropout)
    return torch.cat([before, after], 2).transpose(1, 2).contiguous(), None


def _in_blocks(query: Tensor, key: Tensor, value: Tensor, masks: Tensor, stem: int, dropout: float) -> Tensor:
    """(b, heads, c x w, d): what the tokens after the stem make of what they see."""
    b, heads, _, d = query.shape
    count, width = masks.shape[1], masks.shape[2] - 1
    above = masks.shape[3] - width
    query = query[:, :, stem:]
    own_query, own_key, own_value = (
        kept.reshape(b, heads, count, width, d) for kept in (query, key[:, :, stem:], value[:, :, stem:])
    )
    places = masks[:, :, 0, :above].long()
    above_key, above_value = _gather(key, places), _gather(value, places)
    hidden = (masks[:, :, 1:] == 0)[:, None]
    near = torch.cat([own_query @ above_key.transpose(-1, -2), own_query @ own_key.transpose(-1, -2)], -1)
    near = near.masked_fill(hidden, torch.finfo(near.dtype).min)
    far = (query @ key[:, :, :stem].transpose(-1, -2)).view(b, heads, count, width, stem)
    weights = F.dropout(torch.cat([far, near], -1).softmax(-1), dropout)
    on_stem, on_above, on_own = weights.split([stem, above, width], -1)
    out = (on_stem.reshape(b, heads, count * width, stem) @ value[:, :, :stem]).view(b, heads, count, width, d)
    out = out + on_above @ above_value + on_own @ own_value
    return out.view(b, heads, count * width, d)


def _gather(kept: Tensor, places: Tensor) -> Tensor:
    """(b, heads, c, a, d): of (b, heads, n, d) what is at the places (b, c, a)."""
    b, heads, n, d = kept.shape
    flat = kept.transpose(1, 2).reshape(b * n, heads * d)
    rows = places + torch.arange(b, device=kept.device)[:, None, None] * n
    return flat.index_select(0, rows.flatten()).view(*places.shape, heads, d).permute(0, 3, 1, 2, 4)


AttentionInterface.register(BRANCHES, branch_attention)
AttentionMaskInterface.register(BRANCHES, sdpa_mask)
