"""What a reader is asked for: the logits after the last tokens of a text about an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs, TokenIds, TokenizedPrompt

__all__ = ["Reading", "TextReader"]


@dataclass(frozen=True, eq=False)
class Reading:
    """A text to read.

    Attributes:
        texts: What was read about its image so far, as the reader's `open` returned it.
        text: All its tokens, the image's included.
        count: How many of its last tokens the logits are asked for.
        keep: Whether a later text will begin with it.
    """

    texts: Any
    text: TokenIds
    count: int = 1
    keep: bool = False


class TextReader(Protocol):
    """Reads texts about images with one model."""

    can_guess: bool
    """Whether tokens that were read in vain do no harm."""

    def open(self, image_inputs: ImageInputs, prompt: TokenizedPrompt, image_end: int) -> Any:
        """Return where the texts are kept that begin with the prompt's first `image_end` tokens, up to the image's last."""

    def read(self, readings: Sequence[Reading]) -> list[Tensor]:
        """Return for each reading (count, vocabulary) logits: of what follows each of its last `count` tokens."""
