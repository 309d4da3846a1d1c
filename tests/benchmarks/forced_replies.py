"""Make a model with random weights answer round 1 with a given text, whoever decodes it.

What a decoder predicts then depends, over the positions of the answer, on the position alone: a hook marks its last hidden
states there, and a hook on the output layer returns the answer's tokens for marked ones. That is a model like any other: greedy
decoding, verified guesses, packed branches and copies of a cache all have to come to the same answer. All other positions are
left as they are, those of the answers about points among them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs
from sam4mllm_tool.types import Image, Turn
from tests.benchmarks.reference_loop import prepare_inputs

__all__ = ["force_reply"]

_MARK = 2.0**14
"""First value of a marked hidden state, far above what a norm returns; the second is the index of the answer's token."""
_LOW = -100.0
"""Logit of all other tokens where one is forced."""


@contextmanager
def force_reply(models: Sam4Mllm, image: Image, expressions: Sequence[str], text: str) -> Iterator[None]:
    """Make the model answer round 1 about an image of this size with a text, inside the `with` block.

    Args:
        models: A pair whose MLLM is a checkpoint of transformers.
        image: The image, or one of the same size.
        expressions: Of equally many tokens each.
        text: The answer.

    Raises:
        ValueError: The prompts of the expressions end at different positions.
    """
    mllm: Any = models.mllm
    model, renderer = mllm._runner.model, mllm._renderer
    questions = [models.dialect.ask_boxes(expression).turns for expression in expressions]
    lengths = {len(renderer.token_ids(ImageInputs(image), turns)) for turns in {questions[0], questions[-1]}}
    if len(lengths) > 1:
        raise ValueError(f"expected expressions of equally many tokens, got prompts of {sorted(lengths)}")
    ids = (*renderer.answer_ids((*questions[0], Turn("assistant", text)))[:-1], _end_token(model))
    start = _last_position(model, renderer, image, questions[0])
    decoder = model.get_decoder()
    positions: list[Tensor] = []

    def record(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        positions[:] = [_read_positions(arguments, options)]

    def mark(_: nn.Module, __: Any, hidden: Tensor) -> Tensor:
        index = (positions[0] - start).expand(hidden.shape[:2])
        forced = (index >= 0) & (index < len(ids))
        marked = torch.zeros_like(hidden)
        marked[..., 0], marked[..., 1] = _MARK, index.clamp(0, len(ids) - 1).to(hidden.dtype)
        return torch.where(forced[..., None], marked, hidden)

    def answer(_: nn.Module, arguments: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        tokens = torch.tensor(ids, device=logits.device)[arguments[0][..., 1].long().clamp(0, len(ids) - 1)]
        certain = torch.full_like(logits, _LOW).scatter_(-1, tokens[..., None], 0.0)
        return torch.where(arguments[0][..., :1] == _MARK, certain, logits)

    hooks = (
        decoder.rotary_emb.register_forward_pre_hook(record, with_kwargs=True),
        decoder.norm.register_forward_hook(mark),
        model.get_output_embeddings().register_forward_hook(answer),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _end_token(model: Any) -> int:
    ends = model.generation_config.eos_token_id
    return int(ends[0] if isinstance(ends, list) else ends)


class _Stop(Exception):  # noqa: N818  # nothing went wrong
    """Ends a pass once the positions are known."""


def _last_position(model: Any, renderer: Any, image: Image, turns: Sequence[Turn]) -> int:
    """Return the position of a prompt's last token, which in families with three-dimensional positions isn't its index."""
    inputs = prepare_inputs(model, renderer, image, turns)
    if (index := getattr(model.model, "get_rope_index", None)) is not None:
        return int(index(**inputs)[0][0, 0, -1])
    positions: list[Tensor] = []

    def stop(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        positions.append(_read_positions(arguments, options))
        raise _Stop

    hook = model.get_decoder().rotary_emb.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with torch.inference_mode():
            model.generate(**inputs, max_new_tokens=1, do_sample=False)
    except _Stop:
        pass
    finally:
        hook.remove()
    return int(positions[0][0, -1])


def _read_positions(arguments: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    positions: Tensor = options["position_ids"] if "position_ids" in options else arguments[1]
    return positions[0] if positions.ndim == 3 else positions  # of time, height and width, which are equal in text
