"""Run one checkpoint: an image and tokenized prompts in, token ids and logits out.

The image's features are computed once, in families that accept them (`mm_encoder_outputs`); other families encode its pixels
whenever its tokens are read. What is read, and in which passes, is up to the readers (tree_reader.py, copying_reader.py).
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs, TokenIds, TokenizedPrompt

__all__ = ["ModelRunner", "cache_parameter", "extend_by_last"]


class ModelRunner:
    """A model in evaluation mode.

    Args:
        model: Image-text-to-text model of transformers.
        keeps_layers: Whether an image's features include the hidden states of all layers of the vision tower.
    """

    def __init__(self, model: Any, *, keeps_layers: bool = False) -> None:
        self.model, self.keeps_layers = model, keeps_layers
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
            **self.prompt_arguments(image_inputs, prompt.token_inputs, len(prompt.ids)),
        )
        answer = output.sequences[0, 1 if self.encodes_prompts else len(prompt.ids) :]
        following = torch.log_softmax(torch.cat(output.logits).float(), -1)
        return answer.tolist(), float(following.gather(1, answer[:, None]).double().sum())

    def compute_alone(self, image_inputs: ImageInputs, prompt: TokenizedPrompt, text: TokenIds) -> Tensor:
        """Return what follows a prompt and each later token of a text, (k, vocabulary) logits, by one pass over all of it."""
        arguments = self.prompt_arguments(image_inputs, prompt.token_inputs, len(text))
        return self.forward(text, len(text) - len(prompt.ids) + 1, attention_mask=self.ones(len(text)), **arguments)

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

    def prompt_arguments(self, image_inputs: ImageInputs, token_inputs: dict[str, Tensor], length: int) -> dict[str, Any]:
        """Return the image's arguments and the inputs per token, cut or extended to `length`."""
        fitted = {name: extend_by_last(value[:, :length], length) for name, value in token_inputs.items()}
        return {**self._image_arguments(image_inputs), **self.to_model(fitted)}

    def _image_arguments(self, image_inputs: ImageInputs) -> dict[str, Any]:
        """Return the image's features, computed once, in families that accept them; its pixels in others."""
        inputs = self.to_model(image_inputs.inputs)
        if "mm_encoder_outputs" not in self._parameters or (features := self._compute_features(image_inputs)) is None:
            return inputs
        others = {name: value for name, value in inputs.items() if not name.startswith("pixel_")}
        return {**others, "mm_encoder_outputs": {"image": features}}

    def _compute_features(self, image_inputs: ImageInputs) -> Any:
        """Return the output of `get_image_features`, computed once per image; None in families that lack it."""
        if image_inputs.features is None and hasattr(self.model, "get_image_features"):
            inputs = self.to_model(image_inputs.inputs)
            accepted = inspect.signature(self.model.get_image_features).parameters
            arguments: dict[str, Any] = {name: value for name, value in inputs.items() if name in accepted}
            if self.keeps_layers:
                arguments["output_hidden_states"] = True
            image_inputs.features = self.model.get_image_features(**arguments, return_dict=True)
        return image_inputs.features

    def to_model(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keep what the model's forward pass accepts, on its device; floats in its precision."""
        return {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else value.dtype)
            for name, value in tensors.items()
            if name in self._parameters
        }

    def _batch(self, ids: TokenIds) -> Tensor:
        return torch.tensor([ids], device=self.model.device)


def extend_by_last(value: Tensor, length: int) -> Tensor:
    """Repeat the last row of a (1, n, ...) input per token, that of the prompt's last text token, until there are `length`."""
    return torch.cat([value, value[:, -1:].expand(-1, length - value.shape[1], *value.shape[2:])], 1)


def cache_parameter(model: Any) -> str:
    """Return the name under which `model.forward` takes a key-value cache.

    transformers 5.24 renamed `past_key_values` to `cache` and drops the old name in 5.40; older versions lack the new one.
    """
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
