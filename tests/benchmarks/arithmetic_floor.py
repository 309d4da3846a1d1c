"""The least that a query can cost, counted from the shapes of its models: what no driver can do without.

That is one image encoding; each token of the trie of all prompts once, with attention over the tokens before it; a pass for
each token of the boxes' numbers, which reads all weights; one more pass for the points; one SAM encoding and one mask decoding.
Seconds follow from how fast this machine multiplies matrices and reads memory, which is measured.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.models.mllm.prefix_tree import PrefixTree, build_prefix_tree
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs
from sam4mllm_tool.types import Image, ObjectPrompt, Turn

__all__ = ["Floor", "Machine", "count_floor"]


@dataclass(frozen=True)
class Machine:
    """What the machine does per second in a model's precision.

    Args:
        flops: Floating-point operations of a large matrix product.
        bytes_read: Bytes of weights in products of a matrix and a vector.
    """

    flops: float
    bytes_read: float

    @classmethod
    def measure(cls, device: torch.device, dtype: torch.dtype, width: int, inner: int) -> "Machine":
        """Measure with matrices of the shapes of a feed-forward layer, as many as don't fit into a cache; the best of 5."""
        tokens, count = 1024, max(2, 2**28 // (width * inner * 4))
        weights = [torch.randn(width, inner, device=device).to(dtype) for _ in range(count)]
        many, one = (torch.randn(rows, width, device=device).to(dtype) for rows in (tokens, 1))
        seconds = _best_seconds(lambda: many @ weights[0], device)
        all_weights = _best_seconds(lambda: [one @ weight for weight in weights], device)
        return cls(2 * tokens * width * inner / seconds, count * width * inner * dtype.itemsize / all_weights)


@dataclass(frozen=True)
class Floor:
    """The least that a query can cost.

    Attributes:
        tokens: Of the trie of all prompts.
        decodes: Passes over one token.
        passes: All passes of the language model.
        flops: Floating-point operations of all models.
        seconds: How long they take on the machine, with the reading of weights for each pass over one token.
    """

    tokens: int
    decodes: int
    passes: int
    flops: float
    seconds: float


def count_floor(
    models: Sam4Mllm,
    image: Image,
    prompts: Iterable[Sequence[Turn]],
    reply: str,
    objects: Sequence[ObjectPrompt],
    machine: Machine,
) -> Floor:
    """Count the floor of one or more queries about an image.

    Args:
        models: A pair of checkpoints of transformers.
        image: The image.
        prompts: Of both rounds.
        reply: What round 1 answers, the same for all.
        objects: What SAM is prompted with.
        machine: For the seconds.
    """
    mllm: Any = models.mllm
    model, renderer = mllm._runner.model, mllm._renderer
    inputs = ImageInputs(image)
    prompts = list(prompts)
    tree = build_prefix_tree([renderer.token_ids(inputs, turns) for turns in prompts])
    first = min(prompts, key=len)
    decodes = sum(any(map(str.isdigit, renderer.decode([token]))) for token in _answer_ids(renderer, first, reply))
    flops = _count_language(model, tree, decodes + len(prompts)) + _count_encodings(models, image, objects)
    weights = sum(weight.numel() * weight.element_size() for weight in _layer_weights(model.get_decoder()))
    seconds = flops / machine.flops + decodes * weights / machine.bytes_read
    return Floor(len(tree.ids), decodes, decodes + 2, flops, seconds)


def _answer_ids(renderer: Any, first: Sequence[Turn], reply: str) -> Sequence[int]:
    ids: Sequence[int] = renderer.answer_ids((*first, Turn("assistant", reply)))
    return ids


def _layer_weights(decoder: nn.Module) -> list[Tensor]:
    """Return the weights of the layers' linear maps: all that multiply every token."""
    layers: Any = decoder.layers
    return [weight for weight in layers.parameters() if weight.ndim == 2]


def _count_language(model: Any, tree: PrefixTree, scored: int) -> float:
    """Count the language model: linear maps, attention of each token to those before it, and the output layer."""
    text = model.config.get_text_config()
    width, layers, heads = text.hidden_size, text.num_hidden_layers, text.num_attention_heads
    inner = heads * (getattr(text, "head_dim", None) or width // heads)
    linear = 2.0 * sum(weight.numel() for weight in _layer_weights(model.get_decoder())) * len(tree.ids)
    attention = 4.0 * layers * inner * float((tree.positions + 1).sum())
    return linear + attention + 2.0 * width * text.vocab_size * scored


def _count_encodings(models: Sam4Mllm, image: Image, objects: Sequence[ObjectPrompt]) -> float:
    """Count one run of the vision tower with its projector, of SAM's encoder and of its mask decoder."""
    mllm: Any = models.mllm
    segmenter: Any = models.segmenter
    inputs = ImageInputs(image)
    mllm._renderer.tokenize(inputs, (Turn("user", "?"),))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        mllm._runner._compute_features(inputs)
        if objects:
            segmenter._decode(segmenter._encode(image), objects[:1])
    return float(counter.get_total_flops())


def _best_seconds(run: Callable[[], object], device: torch.device) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
