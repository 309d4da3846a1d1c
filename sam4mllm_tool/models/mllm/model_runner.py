"""Run one checkpoint: an image and tokenized prompts in, token ids and logits out.

The image's features are computed once and passed with every prompt, in families that accept them (`mm_encoder_outputs`); other
families encode its pixels again. Several prompts are packed into one prefix tree if the model's attention allows it; otherwise
what they share is read once over a key-value cache, and the rest of each over a copy of it.
"""

import copy
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from sam4mllm_tool.models.mllm.prefix_tree import build_prefix_tree
from sam4mllm_tool.models.mllm.prompt_renderer import ImageInputs, TokenIds, TokenizedPrompt

__all__ = ["CachedReader", "ModelRunner", "cache_parameter", "can_pack", "extend_by_last", "split_into_passes"]

PACKED_TOKENS = 4096
"""Most tokens after the image in one packed pass; bounds the memory of its attention mask."""
_PACKABLE_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_TWO_WAY_MODEL_TYPES = ("paligemma",)
"""They read all of a prompt in both directions, so that none of it can be read before the rest."""
_PACKABLE_ROPE_TYPES = ("default", "linear", "llama3", "yarn")


class ModelRunner:
    """A model in evaluation mode.

    Args:
        model: Image-text-to-text model of transformers.
        packs: Whether to pack prompts if `can_pack` allows it.
        keeps_layers: Whether an image's features include the hidden states of all layers of the vision tower.
    """

    def __init__(self, model: Any, *, packs: bool = True, keeps_layers: bool = False) -> None:
        self.model, self.keeps_layers = model, keeps_layers
        self.packs = packs and can_pack(model)
        self._parameters = frozenset(inspect.signature(model.forward).parameters)

    @property
    def encodes_prompts(self) -> bool:
        """Whether prompts are read by an encoder, and answers start anew."""
        return bool(getattr(self.model.config, "is_encoder_decoder", False))

    @property
    def longest(self) -> int | None:
        """How many tokens the model can read; None if its config doesn't say."""
        longest: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return longest

    def generate(self, image_inputs: ImageInputs, prompt: TokenizedPrompt, max_tokens: int) -> tuple[list[int], float]:
        """Decode an answer greedily.

        Returns:
            Its ids, without the prompt's, and the natural logarithm of its probability.
        """
        ids = self._batch(prompt.ids)
        output = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            return_dict_in_generate=True,
            output_logits=True,
            **self._prompt_arguments(image_inputs, prompt, len(prompt.ids)),
        )
        answer = output.sequences[0, 1 if self.encodes_prompts else len(prompt.ids) :]
        following = torch.log_softmax(torch.cat(output.logits).float(), -1)
        return answer.tolist(), float(following.gather(1, answer[:, None]).double().sum())

    def compute_logits(self, image_inputs: ImageInputs, prompts: dict[TokenIds, TokenizedPrompt]) -> dict[TokenIds, Tensor]:
        """Compute what may follow each text.

        Args:
            image_inputs: The image of all prompts.
            prompts: For each text, the prompt that it starts with.

        Returns:
            For each text, (k, vocabulary) logits: after the last token of its prompt and after each later token.
        """
        if not self.packs or any(prompt.token_inputs for prompt in prompts.values()):
            shared = self._shared_prefix(prompts)
            if not shared:
                return {text: self._compute_alone(image_inputs, prompt, text) for text, prompt in prompts.items()}
            return self._compute_branches(image_inputs, prompts, shared)
        logits: dict[TokenIds, Tensor] = {}
        for group in split_into_passes(prompts, self.model.config.image_token_id, PACKED_TOKENS):
            starts = [len(prompts[text].ids) - 1 for text in group]
            logits.update(zip(group, self._compute_packed(image_inputs, group, starts), strict=True))
        return logits

    def compute_patch_features(self, image_inputs: ImageInputs, layer: int) -> Tensor | None:
        """Return the (n, width) hidden states of the vision tower for an image's patches, of all its tiles.

        Args:
            image_inputs: The image, computed with `keeps_layers`.
            layer: Index among the hidden states; 0 is the embedding of the patches.

        Returns:
            None in families that don't give them, or without such a layer.
        """
        layers = getattr(self._compute_features(image_inputs), "hidden_states", None) or ()
        patches = layers[layer] if layer < len(layers) else None
        return patches.flatten(0, -2) if isinstance(patches, Tensor) else None

    def start_reader(self, image_inputs: ImageInputs, prompt: TokenizedPrompt) -> "CachedReader":
        """Return a reader that takes the prompt first and then one piece of text after another."""
        return CachedReader(self, self._prompt_arguments(image_inputs, prompt, len(prompt.ids)))

    def forward(self, ids: TokenIds, count: int, **arguments: Any) -> Tensor:
        """Run one forward pass over `ids`. Without an attention mask, each token sees all before it, cached ones included.

        Returns:
            (count, vocabulary) logits after the last `count` tokens.
        """
        if "logits_to_keep" in self._parameters:
            arguments["logits_to_keep"] = count
        logits: Tensor = self.model(input_ids=self._batch(ids), **arguments).logits[0, -count:]
        return logits

    def ones(self, length: int) -> Tensor:
        """Return the attention mask of a text that is read from its start."""
        return torch.ones(1, length, dtype=torch.long, device=self.model.device)

    def _compute_alone(self, image_inputs: ImageInputs, prompt: TokenizedPrompt, text: TokenIds) -> Tensor:
        count = len(text) - len(prompt.ids) + 1
        arguments = self._prompt_arguments(image_inputs, prompt, len(text))
        return self.forward(text, count, attention_mask=self.ones(len(text)), **arguments)

    def _shared_prefix(self, prompts: dict[TokenIds, TokenizedPrompt]) -> TokenIds:
        """Return what all prompts start with, the image included, where it can be read before the rest; else nothing."""
        image = getattr(self.model.config, "image_token_id", None) or getattr(self.model.config, "image_token_index", None)
        if len(prompts) < 2 or self.encodes_prompts or self.model.config.model_type in _TWO_WAY_MODEL_TYPES:
            return ()
        length = min(len(prompt.ids) - 1 for prompt in prompts.values())
        first, *others = prompts
        for other in others:
            length = min(length, _shared_length(first, other))
        prefix = first[:length]
        return prefix if image in prefix and all(image not in text[length:] for text in prompts) else ()

    def _compute_branches(
        self, image_inputs: ImageInputs, prompts: dict[TokenIds, TokenizedPrompt], shared: TokenIds
    ) -> dict[TokenIds, Tensor]:
        token_inputs = {name: value[:, : len(shared)] for name, value in next(iter(prompts.values())).token_inputs.items()}
        reader = self.start_reader(image_inputs, TokenizedPrompt(shared, token_inputs))
        reader.read(shared)
        return {
            text: reader.copy().read(text[len(shared) :], len(text) - len(prompt.ids) + 1) for text, prompt in prompts.items()
        }

    def _compute_packed(self, image_inputs: ImageInputs, texts: Sequence[TokenIds], starts: Sequence[int]) -> list[Tensor]:
        """Return for each text (length - start, vocabulary) logits: after each of its tokens from `start` on."""
        tree = build_prefix_tree(texts)
        scored_paths = [path[start:] for path, start in zip(tree.paths, starts, strict=True)]
        nodes = sorted({node for path in scored_paths for node in path})
        row = {node: i for i, node in enumerate(nodes)}
        device, dtype = self.model.device, self.model.dtype
        hidden = torch.from_numpy(~tree.attention_mask()).to(device)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, torch.finfo(dtype).min)
        logits = self.model(
            input_ids=torch.from_numpy(tree.ids)[None].to(device),
            position_ids=torch.from_numpy(tree.positions)[None].to(device),
            attention_mask=mask[None, None],
            logits_to_keep=torch.tensor(nodes, device=device),
            use_cache=False,
            **self._image_arguments(image_inputs),
        ).logits[0]
        return [logits[[row[node] for node in path]] for path in scored_paths]

    def _prompt_arguments(self, image_inputs: ImageInputs, prompt: TokenizedPrompt, length: int) -> dict[str, Any]:
        """Return the image's arguments and the prompt's inputs per token, extended to `length`."""
        extended = {name: extend_by_last(value, length) for name, value in prompt.token_inputs.items()}
        return {**self._image_arguments(image_inputs), **self._to_model(extended)}

    def _image_arguments(self, image_inputs: ImageInputs) -> dict[str, Any]:
        """Return the image's features, computed once, in families that accept them; its pixels in others."""
        inputs = self._to_model(image_inputs.inputs)
        if "mm_encoder_outputs" not in self._parameters or (features := self._compute_features(image_inputs)) is None:
            return inputs
        others = {name: value for name, value in inputs.items() if not name.startswith("pixel_")}
        return {**others, "mm_encoder_outputs": {"image": features}}

    def _compute_features(self, image_inputs: ImageInputs) -> Any:
        """Return the output of `get_image_features`, computed once per image; None in families that lack it."""
        if image_inputs.features is None and hasattr(self.model, "get_image_features"):
            inputs = self._to_model(image_inputs.inputs)
            accepted = inspect.signature(self.model.get_image_features).parameters
            arguments: dict[str, Any] = {name: value for name, value in inputs.items() if name in accepted}
            if self.keeps_layers:
                arguments["output_hidden_states"] = True
            image_inputs.features = self.model.get_image_features(**arguments, return_dict=True)
        return image_inputs.features

    def _to_model(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keep what the model's forward pass accepts, on its device; floats in its precision."""
        return {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else value.dtype)
            for name, value in tensors.items()
            if name in self._parameters
        }

    def _batch(self, ids: TokenIds) -> Tensor:
        return torch.tensor([ids], device=self.model.device)


class CachedReader:
    """Reads a text piece by piece over a key-value cache.

    Args:
        runner: Runs the model.
        arguments: Passed with the first piece, which contains the image.
    """

    def __init__(self, runner: ModelRunner, arguments: dict[str, Any]) -> None:
        self._runner, self._first_arguments = runner, arguments
        masks = (name for name in ("cross_attention_mask",) if name in arguments)
        self._last_rows: dict[str, Tensor] = {name: arguments[name][:, -1:] for name in masks}
        self._cache = {cache_parameter(runner.model): DynamicCache(config=runner.model.config)}

    def copy(self) -> "CachedReader":
        """Return a reader that goes on from here by itself."""
        branch = copy.copy(self)
        branch._cache = {name: copy.deepcopy(cache) for name, cache in self._cache.items()}
        return branch

    def read(self, ids: TokenIds, count: int = 1) -> Tensor:
        """Return the (count, vocabulary) logits after the last `count` of these tokens.

        Only the first piece has an attention mask: from a mask as long as the cache, families with three-dimensional positions
        (Qwen2-VL, GLM-4.xV) would build the positions of the whole text for the new tokens.
        """
        arguments, self._first_arguments = self._first_arguments, {}
        if arguments:
            arguments["attention_mask"] = self._runner.ones(len(ids))
        else:
            arguments = {name: last_row.expand(-1, len(ids), -1, -1) for name, last_row in self._last_rows.items()}
        return self._runner.forward(ids, count, use_cache=True, **self._cache, **arguments)


def extend_by_last(value: Tensor, length: int) -> Tensor:
    """Repeat the last row of a (1, n, ...) input per token, that of the prompt's last text token, until there are `length`."""
    return torch.cat([value, value[:, -1:].expand(-1, length - value.shape[1], *value.shape[2:])], 1)


def cache_parameter(model: Any) -> str:
    """Return the name under which `model.forward` takes a key-value cache.

    transformers 5.24 renamed `past_key_values` to `cache` and drops the old name in 5.40; older versions lack the new one.
    """
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def can_pack(model: Any) -> bool:
    """Whether packed prompts get exactly the answers that separate prompts get.

    They do in decoders of the Llama kind: full causal attention, and scalar positions whose rotation doesn't depend on the
    length. They don't with a sliding window, three-dimensional positions (Qwen2-VL), bidirectional attention over the image
    (Gemma 3), or a recurrent state (Mamba). Flash attention is excluded because it doesn't take a mask tensor.
    """
    text = model.config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    windowed = getattr(text, "sliding_window", None) is not None and getattr(text, "use_sliding_window", True)
    return (
        text.model_type in _PACKABLE_MODEL_TYPES
        and rope.get("rope_type", "default") in _PACKABLE_ROPE_TYPES
        and "mrope_section" not in rope
        and not windowed
        and set(getattr(text, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and getattr(text, "_attn_implementation", None) in ("sdpa", "eager")
        and getattr(model.config, "image_token_id", None) is not None
        and "logits_to_keep" in inspect.signature(model.forward).parameters
    )


def split_into_passes(texts: Iterable[TokenIds], placeholder: int, budget: int) -> Iterator[list[TokenIds]]:
    """Yield groups of texts that fit into one pass each: equal up to the image's last placeholder, which must exist once.

    Args:
        texts: Token sequences.
        placeholder: Id of the image's token.
        budget: Most tokens that a group may have after the image, those that texts share counted once; a longer text is a group
            of its own.
    """
    by_image_prefix: dict[TokenIds, list[TokenIds]] = {}
    for text in texts:
        after_image = len(text) - (text[::-1].index(placeholder) if placeholder in text else len(text))
        by_image_prefix.setdefault(text[:after_image], []).append(text)
    for prefix, same_prefix in by_image_prefix.items():
        group: list[TokenIds] = []
        used = 0
        for text in sorted(same_prefix):  # neighbours share the most
            added = len(text) - (_shared_length(group[-1], text) if group else len(prefix))
            if group and used + added > budget:
                yield group
                group, used, added = [], 0, len(text) - len(prefix)
            group.append(text)
            used += added
        yield group


def _shared_length(first: TokenIds, second: TokenIds) -> int:
    """Return how many tokens two texts have in common from their start."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (left, right) in pairs if left != right), min(len(first), len(second)))
