"""Runs one checkpoint: a picture and prompts in, token ids and logits out.

The picture's features are computed once and handed over with every prompt, in families that take them (`mm_encoder_outputs`);
others see its pixels again. Many prompts at once are packed as one trie (packing.py) where the model's attention allows it.
"""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from sam4mllm_tool.models.mllm.prefix_tree import pack
from sam4mllm_tool.models.mllm.prompts import Ids, Picture, Prompt

__all__ = ["Runner", "cache_parameter", "can_pack"]

PACKED_TOKENS = 4096
"""How many tokens one packed pass may have after the picture; bounds the memory of its mask."""
_PACKABLE_TEXT = ("llama", "mistral", "qwen2", "qwen3")
_PLAIN_ROPE = ("default", "linear", "llama3", "yarn")


class Runner:
    """A model in eval mode. packs: whether it may pack prompts, where `can_pack` says so."""

    def __init__(self, model: Any, *, packs: bool = True) -> None:
        self.model = model
        self.packs = packs and can_pack(model)
        self._inputs = frozenset(inspect.signature(model.forward).parameters)

    @property
    def longest(self) -> int | None:
        """How many tokens it can read, None where it doesn't say."""
        longest: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return longest

    def decode(self, picture: Picture, prompt: Prompt, max_tokens: int) -> tuple[list[int], float]:
        """The likeliest answer, token by token, without its prompt, and the logarithm of its probability."""
        ids = self._tensor(prompt.ids)
        output = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            return_dict_in_generate=True,
            output_logits=True,
            **self._inputs_for(picture, prompt, len(prompt.ids)),
        )
        answer = output.sequences[0, len(prompt.ids) :]
        following = torch.log_softmax(torch.cat(output.logits).float(), -1)
        return answer.tolist(), float(following.gather(1, answer[:, None]).double().sum())

    def read(self, picture: Picture, owners: dict[Ids, Prompt]) -> dict[Ids, Tensor]:
        """What may follow in each text.

        owners: texts with the prompt that each begins with.
        Returns for each text (k, vocabulary): the logits after the last token of its prompt and after each later one.
        """
        if not self.packs or any(prompt.extras for prompt in owners.values()):
            return {text: self._read_one(picture, prompt, text) for text, prompt in owners.items()}
        logits: dict[Ids, Tensor] = {}
        for group in _chunks(owners, self.model.config.image_token_id, PACKED_TOKENS):
            starts = [len(owners[text].ids) - 1 for text in group]
            logits.update(zip(group, self._read_packed(picture, group, starts), strict=True))
        return logits

    def steps(self, picture: Picture, prompt: Prompt) -> "Steps":
        """The same one token after another, over a key-value cache."""
        return Steps(self, self._inputs_for(picture, prompt, len(prompt.ids)))

    def _read_one(self, picture: Picture, prompt: Prompt, text: Ids) -> Tensor:
        count = len(text) - len(prompt.ids) + 1
        return self.forward(text, len(text), count, **self._inputs_for(picture, prompt, len(text)))

    def forward(self, ids: Ids, seen: int, count: int, **inputs: Any) -> Tensor:
        """(count, vocabulary): the logits after the last `count` tokens, of `seen` that the model has then seen."""
        if "logits_to_keep" in self._inputs:
            inputs["logits_to_keep"] = count
        mask = torch.ones(1, seen, dtype=torch.long, device=self.model.device)
        logits: Tensor = self.model(input_ids=self._tensor(ids), attention_mask=mask, **inputs).logits[0, -count:]
        return logits

    def _read_packed(self, picture: Picture, texts: Sequence[Ids], starts: Sequence[int]) -> list[Tensor]:
        """For each text, (length - start, vocabulary): the logits after each of its tokens from `start` on."""
        packed = pack(texts)
        wanted = [path[start:] for path, start in zip(packed.paths, starts, strict=True)]
        nodes = sorted({node for path in wanted for node in path})
        row = {node: i for i, node in enumerate(nodes)}
        device, dtype = self.model.device, self.model.dtype
        unseen = torch.from_numpy(~packed.sees()).to(device)
        mask = torch.zeros(unseen.shape, dtype=dtype, device=device).masked_fill_(unseen, torch.finfo(dtype).min)
        logits = self.model(
            input_ids=torch.from_numpy(packed.ids)[None].to(device),
            position_ids=torch.from_numpy(packed.positions)[None].to(device),
            attention_mask=mask[None, None],
            logits_to_keep=torch.tensor(nodes, device=device),
            use_cache=False,
            **self._pictured(picture),
        ).logits[0]
        return [logits[[row[node] for node in path]] for path in wanted]

    def _inputs_for(self, picture: Picture, prompt: Prompt, length: int) -> dict[str, Any]:
        """The picture, and what runs along `length` tokens: 0 (text) for those after the prompt."""
        along = {name: torch.nn.functional.pad(value, (0, length - value.shape[1])) for name, value in prompt.extras.items()}
        return {**self._pictured(picture), **self._placed(along)}

    def _pictured(self, picture: Picture) -> dict[str, Any]:
        """The picture's features where the family takes them, computed now if not before; else its pixels."""
        inputs = self._placed(picture.inputs)
        if "mm_encoder_outputs" not in self._inputs or not hasattr(self.model, "get_image_features"):
            return inputs
        if picture.features is None:
            wanted = inspect.signature(self.model.get_image_features).parameters
            known = {name: value for name, value in inputs.items() if name in wanted}
            picture.features = self.model.get_image_features(**known, return_dict=True)
        others = {name: value for name, value in inputs.items() if not name.startswith("pixel_")}
        return {**others, "mm_encoder_outputs": {"image": picture.features}}

    def _placed(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """On the model's device, numbers in its precision; only what its forward knows."""
        return {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
            if name in self._inputs
        }

    def _tensor(self, ids: Ids) -> Tensor:
        return torch.tensor([ids], device=self.model.device)


class Steps:
    """Reads a text in pieces, each after all before it. inputs: for the first piece, which holds the picture."""

    def __init__(self, runner: Runner, inputs: dict[str, Any]) -> None:
        self._runner, self._first_inputs = runner, inputs
        self._cache = {cache_parameter(runner.model): DynamicCache(config=runner.model.config)}
        self._seen = 0

    def read(self, ids: Ids) -> Tensor:
        """(1, vocabulary): the logits after these tokens."""
        self._seen += len(ids)
        inputs, self._first_inputs = self._first_inputs, {}
        return self._runner.forward(ids, self._seen, 1, use_cache=True, **self._cache, **inputs)


def cache_parameter(model: Any) -> str:
    """Return the name under which `model.forward` takes a key-value cache.

    transformers 5.24 renamed `past_key_values` to `cache`, and drops the old name in 5.40. Older versions, and checkpoints that
    bring their own code, know the old one alone.
    """
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def can_pack(model: Any) -> bool:
    """Whether prompts packed as a trie are answered exactly as one by one.

    That holds for decoders whose attention sees every earlier token and whose positions are plain numbers, rotated in a
    way that doesn't depend on the length: the Llama kind. It doesn't with a sliding window, with positions in three
    dimensions (Qwen2-VL), with attention both ways over the picture (Gemma 3), or with a state (Mamba). The mask is handed
    over as a tensor, which flash attention doesn't take.
    """
    text = model.config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    windowed = getattr(text, "sliding_window", None) is not None and getattr(text, "use_sliding_window", True)
    return (
        text.model_type in _PACKABLE_TEXT
        and rope.get("rope_type", "default") in _PLAIN_ROPE
        and "mrope_section" not in rope
        and not windowed
        and set(getattr(text, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and getattr(text, "_attn_implementation", None) in ("sdpa", "eager")
        and getattr(model.config, "image_token_id", None) is not None
        and "logits_to_keep" in inspect.signature(model.forward).parameters
    )


def _chunks(texts: Iterable[Ids], placeholder: int, budget: int) -> Iterator[list[Ids]]:
    """The texts in groups for one pass each: alike up to the picture's last placeholder, which must stand once.

    budget: how many tokens a group may have after that; a longer text stands alone.
    """
    by_picture: dict[Ids, list[Ids]] = {}
    for text in texts:
        after = len(text) - (text[::-1].index(placeholder) if placeholder in text else len(text))
        by_picture.setdefault(text[:after], []).append(text)
    for picture, alike in by_picture.items():
        group: list[Ids] = []
        used = 0
        for text in alike:
            length = len(text) - len(picture)
            if group and used + length > budget:
                yield group
                group, used = [], 0
            group.append(text)
            used += length
        yield group
