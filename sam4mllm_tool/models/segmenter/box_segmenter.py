"""A segmenter that draws its prompts, for testing the code that drives one. Needs no model and no torch.

```python
Sam4Mllm(ScriptedMLLM(["[100,100,300,300]", ...]), BoxSegmenter()).segment(image, "the red mug")
```
"""

from collections.abc import Sequence

import numpy as np

from sam4mllm_tool.models.segmenter.mask_choice import choose_object
from sam4mllm_tool.types import Image, Mask, MaskCandidate, ObjectPrompt, SegmentedObject, Size

__all__ = ["BoxSegmenter"]


class BoxSegmenter:
    """Returns the prompt's box as its mask; with points, the pixels of the box whose nearest point has label 1.

    For a prompt of points alone, those of the whole image. A mask input changes nothing.

    Args:
        name: Name in `Usage`.
    """

    def __init__(self, *, name: str = "boxes") -> None:
        self._name = name
        self.calls: list[tuple[ObjectPrompt, ...]] = []
        """The prompts of each call so far."""

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """Return one object per prompt, in order, with score 1; only the size of the image matters."""
        self.calls.append(tuple(prompts))
        return [choose_object([MaskCandidate(_draw_mask(prompt, Size(*image.size)), 1.0)], prompt) for prompt in prompts]

    async def asegment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """As `segment`."""
        return self.segment(image, prompts)


def _draw_mask(prompt: ObjectPrompt, size: Size) -> Mask:
    """Draw the mask of a prompt. A pixel belongs to the box if its center does."""
    x, y = np.arange(size.width)[None] + 0.5, np.arange(size.height)[:, None] + 0.5
    box = prompt.box
    in_box: Mask = (box.x1 <= x) & (x < box.x2) & (box.y1 <= y) & (y < box.y2) | prompt.points_only
    if not prompt.points:
        return in_box
    nearest = np.argmin([(x - point.x) ** 2 + (y - point.y) ** 2 for point in prompt.points], axis=0)
    on_object: Mask = np.array([point.label == 1 for point in prompt.points])[nearest]
    return in_box & on_object
