"""The images that a model was asked about last, and what it has read about each."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from sam4mllm_tool.images.rgb_conversion import ensure_rgb, hash_pixels
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs, TokenIds, TokenizedPrompt
from sam4mllm_tool.models.mllm.reading import TextReader
from sam4mllm_tool.types import Image

__all__ = ["CACHED_BYTES", "CACHED_IMAGES", "KnownImage", "KnownImages"]

CACHED_IMAGES = 32
CACHED_BYTES = 1 << 30
"""Most memory that images, and what was read about them, take between calls."""
_KEPT_IMAGES = 4
"""So many stay without what was read about them, however much memory they take."""


@dataclass(eq=False)
class KnownImage:
    """An image, and the texts about it that were read, by how they begin up to the image's end."""

    inputs: ImageInputs
    _texts: dict[TokenIds, Any] = field(default_factory=dict)

    def texts(self, reader: TextReader, prompt: TokenizedPrompt, image_token: int | None) -> Any:
        """Return where the texts are kept that begin as the prompt does."""
        beginning = prompt.ids[: prompt.image_end(image_token)]
        if beginning not in self._texts:
            self._texts[beginning] = reader.open(self.inputs, prompt, len(beginning))
        return self._texts[beginning]

    @property
    def bytes(self) -> int:
        """The memory that the texts take."""
        return sum(texts.bytes for texts in self._texts.values())

    @property
    def all_bytes(self) -> int:
        """The memory that the image and the texts take."""
        return self.bytes + self.inputs.bytes

    def forget_texts(self) -> None:
        """Forget all that was read but the image."""
        for texts in self._texts.values():
            texts.forget_texts()


class KnownImages:
    """The latest images, the last one last."""

    def __init__(self) -> None:
        self._by_hash: OrderedDict[bytes, KnownImage] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_hash)

    def take(self, image: Image) -> KnownImage:
        """Look an image up by its content: the caller may have drawn on it since the last question."""
        rgb = ensure_rgb(image)
        key = hash_pixels(rgb)
        known = self._by_hash.pop(key, None) or KnownImage(ImageInputs(rgb))
        self._by_hash[key] = known
        return known

    def forget_all_but(self, batch_size: int) -> None:
        """Keep the images of a batch, whose next questions will come together, and at least the latest few.

        Where all takes more than `CACHED_BYTES`, what was read about the first of them is forgotten, and then the first images.
        """
        while len(self._by_hash) > max(CACHED_IMAGES, batch_size):
            self._by_hash.popitem(last=False)
        used = sum(known.all_bytes for known in self._by_hash.values())
        for known in self._by_hash.values():
            if used <= CACHED_BYTES:
                break
            used -= known.bytes
            known.forget_texts()
            used += known.bytes
        while used > CACHED_BYTES and len(self._by_hash) > max(_KEPT_IMAGES, batch_size):
            used -= self._by_hash.popitem(last=False)[1].all_bytes

    def clear(self) -> None:
        """Forget all."""
        self._by_hash.clear()
