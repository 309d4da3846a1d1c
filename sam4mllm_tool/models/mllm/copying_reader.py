"""Read texts about one image where a tree of them can't be read in one pass: over key-value caches that are copied to branch.

The image is read once, with what all texts share. Families with a recurrent state (Qwen3.5) or with the image beside the text
(Llama 3.2 Vision) are read so, and those that read a prompt in both directions (PaliGemma), of which no part can be read first.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import DynamicCache

from sam4mllm_tool.models.mllm.model_runner import ModelRunner, cache_parameter
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs, TokenIds, TokenizedPrompt
from sam4mllm_tool.models.mllm.reading import Reading
from sam4mllm_tool.models.mllm.token_tree import shared_length

__all__ = ["CopyingReader"]

_TWO_WAY_MODEL_TYPES = ("paligemma",)
_KEPT_TEXTS = 4
"""How many texts about an image stay read after a call."""


@dataclass(eq=False)
class _ReadText:
    """A text that was read, and the cache after it; `is_shared` if other texts will go on from it, too."""

    text: TokenIds
    cache: Any
    is_shared: bool = False


@dataclass(eq=False)
class CopiedTexts:
    """The texts that were read about one image, the latest last.

    Attributes:
        image_inputs: The image.
        token_inputs, image_end: As in `ImageTexts`.
        kept: What later texts can go on from.
    """

    image_inputs: ImageInputs
    token_inputs: dict[str, Tensor]
    image_end: int
    kept: list[_ReadText] = field(default_factory=list)

    def forget_texts(self) -> None:
        """Forget all but what is shared."""
        self.kept = [read for read in self.kept if read.is_shared]

    @property
    def bytes(self) -> int:
        """The memory that keys, values and states take."""
        tensors = (value for read in self.kept for layer in read.cache.layers for value in vars(layer).values())
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


class CopyingReader:
    """Reads with one model.

    Args:
        runner: Runs the model.
    """

    can_guess = False

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._reads_whole_prompts = runner.model.config.model_type in _TWO_WAY_MODEL_TYPES

    def open(self, image_inputs: ImageInputs, prompt: TokenizedPrompt, image_end: int) -> CopiedTexts:
        """Return where the texts are kept that begin with the prompt's first `image_end` tokens, up to the image's last."""
        return CopiedTexts(image_inputs, prompt.token_inputs, image_end)

    def read(self, readings: Sequence[Reading]) -> list[Tensor]:
        """Return for each reading (count, vocabulary) logits: of what follows each of its last `count` tokens."""
        by_texts: dict[CopiedTexts, list[Reading]] = defaultdict(list)
        for reading in readings:
            by_texts[reading.texts].append(reading)
        for texts, group in by_texts.items():
            self._read_shared(texts, group)
        users: dict[_ReadText, int] = defaultdict(int)
        for reading in readings:
            if (known := self._find(reading)) is not None:
                users[known] += 1
        results = [self._read(reading, users) for reading in readings]
        for texts in by_texts:
            shared = [read for read in texts.kept if read.is_shared]
            others = [read for read in texts.kept if not read.is_shared]
            texts.kept = shared + others[-max(_KEPT_TEXTS, len(readings)) :]
        return results

    def _read_shared(self, texts: CopiedTexts, readings: Sequence[Reading]) -> None:
        """Read what all texts begin with, the image included, unless it was read or can't be read before the rest."""
        if self._reads_whole_prompts or texts.kept or not texts.image_end:
            return
        shared = min((reading.text[: len(reading.text) - reading.count] for reading in readings), key=len)
        for reading in readings:
            shared = shared[: shared_length(shared, reading.text)]
        if len(readings) == 1:  # another question about the image will begin with the image
            shared = shared[: texts.image_end]
        if len(shared) >= texts.image_end:
            read = _ReadText((), DynamicCache(config=self._runner.model.config), is_shared=True)
            self._forward(texts, read, shared, 1)
            texts.kept.append(read)

    def _read(self, reading: Reading, users: dict[_ReadText, int]) -> Tensor:
        """Go on from the longest text that was read: in its place if no other reading needs it."""
        known = self._find(reading)
        if known is None:
            known = _ReadText((), DynamicCache(config=self._runner.model.config))
        elif reading.keep and users[known] == 1 and not known.is_shared:
            reading.texts.kept.remove(known)
        else:
            known = _ReadText(known.text, copy.deepcopy(known.cache))
        logits = self._forward(reading.texts, known, reading.text, reading.count)
        if reading.keep:
            reading.texts.kept.append(known)
        return logits

    def _find(self, reading: Reading) -> _ReadText | None:
        fitting = [
            read
            for read in reading.texts.kept
            if len(read.text) <= len(reading.text) - reading.count and reading.text[: len(read.text)] == read.text
        ]
        return max(fitting, key=lambda read: len(read.text), default=None)

    def _forward(self, texts: CopiedTexts, read: _ReadText, text: TokenIds, count: int) -> Tensor:
        """Read the rest of a text after `read`.

        Only the first piece has an attention mask: from a mask as long as the cache, families with three-dimensional positions
        (Qwen2-VL, GLM-4.xV) would build the positions of the whole text for the new tokens.
        """
        runner, rest = self._runner, text[len(read.text) :]
        if not read.text:
            arguments = runner.prompt_arguments(texts.image_inputs, texts.token_inputs, len(text))
            arguments["attention_mask"] = runner.ones(len(text))
        else:
            rows = {name: value[:, -1:] for name, value in texts.token_inputs.items() if name == "cross_attention_mask"}
            arguments = runner.to_model({name: row.expand(-1, len(rest), -1, -1) for name, row in rows.items()})
        read.text = text
        return runner.forward(rest, count, use_cache=True, **{cache_parameter(runner.model): read.cache}, **arguments)
