"""A segmenter that follows its prompts to the letter, for the tests of whatever drives one: no model, no torch.

```python
Sam4Mllm(ScriptedMLLM(["[100,100,300,300]", ...]), BoxSegmenter()).segment(image, "the red ring")
```
"""

from collections.abc import Sequence

import numpy as np

from sam4mllm_tool.models.segmenter.choice import choose_object
from sam4mllm_tool.types import Image, Mask, MaskCandidate, ObjectPrompt, SegmentedObject

__all__ = ["BoxSegmenter"]


class BoxSegmenter:
    """The mask of a prompt is its box; with points, those pixels of the box whose nearest point is on the object.

    name: what `usage` will call it.
    """

    def __init__(self, *, name: str = "boxes") -> None:
        self._name = name
        self.calls: list[tuple[ObjectPrompt, ...]] = []
        """The prompts of every call so far, in order."""

    @property
    def name(self) -> str:
        return self._name

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """One mask per prompt, in order, of score 1; confidence as the transformers backend has it. Only the size of the
        picture matters."""
        self.calls.append(tuple(prompts))
        return [choose_object([MaskCandidate(_fill(prompt, image.size), 1.0)], prompt) for prompt in prompts]

    async def asegment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """As `segment`."""
        return self.segment(image, prompts)


def _fill(prompt: ObjectPrompt, size: tuple[int, int]) -> Mask:
    """size: (width, height) in pixels. A pixel is in the box if its centre is."""
    x, y = np.arange(size[0])[None] + 0.5, np.arange(size[1])[:, None] + 0.5
    box = prompt.box
    inside: Mask = (box.x1 <= x) & (x < box.x2) & (box.y1 <= y) & (y < box.y2)
    if not prompt.points:
        return inside
    nearest = np.argmin([(x - point.x) ** 2 + (y - point.y) ** 2 for point in prompt.points], axis=0)
    on: Mask = np.array([point.label == 1 for point in prompt.points])[nearest]
    return inside & on
