"""What a model reads: the tokens of a prompt, and the tensors of its image."""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from sam4mllm_tool.models.devices import count_bytes
from sam4mllm_tool.types import Image

__all__ = ["ImageInputs", "PlaceholderExpansion", "TokenIds", "TokenizedPrompt"]

TokenIds: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PlaceholderExpansion:
    """How a processor changed the ids of a rendered prompt: after `before`, it replaced `removed` by `inserted`.

    Attributes:
        token_inputs: Its (1, n, ...) inputs per token, up to the first token after `inserted`; later ones have the same row.
    """

    before: TokenIds
    removed: TokenIds
    inserted: TokenIds
    token_inputs: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def between(
        cls, plain: TokenIds, expanded: TokenIds, token_inputs: dict[str, Tensor] | None = None
    ) -> "PlaceholderExpansion":
        """Return the single replacement that turns the plain ids into the expanded ones."""
        shorter = min(len(plain), len(expanded))
        start = next((i for i in range(shorter) if plain[i] != expanded[i]), shorter)
        longest_suffix = shorter - start
        suffix = next((k for k in range(longest_suffix) if plain[-1 - k] != expanded[-1 - k]), longest_suffix)
        end = len(expanded) - suffix
        rows = {name: value[:, : end + 1] for name, value in (token_inputs or {}).items()}
        return cls(plain[:start], plain[start : len(plain) - suffix], expanded[start:end], rows)

    def apply(self, plain: TokenIds) -> TokenIds | None:
        """Return the expanded ids; None if the plain ids start differently."""
        start = self.before + self.removed
        if plain[: len(start)] != start:
            return None
        return self.before + self.inserted + plain[len(start) :]


@dataclass(eq=False)
class ImageInputs:
    """An image and what one model has computed from it so far.

    Attributes:
        image: RGB.
        inputs: The processor's tensors for the image, without those that have one value per token.
        features: The model's image features, in families whose forward pass accepts them.
        expansions: How the image's placeholder was expanded so far.
    """

    image: Image
    inputs: dict[str, Tensor] = field(default_factory=dict)
    features: Any = None
    expansions: list[PlaceholderExpansion] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """The memory that the image and the tensors take."""
        return 3 * self.image.width * self.image.height + count_bytes(self.inputs) + count_bytes(self.features)


@dataclass(frozen=True, eq=False)
class TokenizedPrompt:
    """A prompt as a model reads it.

    Attributes:
        ids: All tokens up to where the answer starts.
        token_inputs: (1, n, ...) tensors with one value or row per token, such as token types or cross-attention masks, up to
            one after the image, whose row all later ones have; empty in most families.
    """

    ids: TokenIds
    token_inputs: dict[str, Tensor]

    def image_end(self, image_token: int | None) -> int:
        """Return how many tokens there are up to the image's last; 0 where none stands for it.

        It may end with other tokens (Molmo 2): those that differ from text in their inputs per token are its own, too.
        """
        end = len(self.ids) - self.ids[::-1].index(image_token) if image_token in self.ids else 0
        for value in self.token_inputs.values():
            differs = (value != value[:, -1:]).flatten(2).any(-1)[0] if value.ndim > 2 else (value != value[:, -1:])[0]
            if end and differs.any():
                end = max(end, int(differs.nonzero()[-1]) + 1)
        return end
