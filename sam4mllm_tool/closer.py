"""Masks made from close by: the segmenter sees every picture at one size, so what is small in it has few pixels there.

An object is shown in views around its mask, the picture cut and enlarged so that it takes a quarter to a third of each, and
segmented anew in every one; the majority counts for a pixel. It costs the segmenter a picture a view and the MLLM nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sam4mllm_tool import stable
from sam4mllm_tool.boxes import mask_iou
from sam4mllm_tool.flows import Flow, Flows, seen
from sam4mllm_tool.types import MaskCandidate, ObjectPrompt, SegmentedObject, Size
from sam4mllm_tool.views import view_around

__all__ = ["closer"]

_SHARES = (0.25, 0.3, 0.35)
"""How much of each view the object takes. Much more of it, and its surroundings are missing."""
_SAME = 0.5
"""IoU with the mask so far from which on the new one is of the same thing."""


def closer(flows: Flows, objects: Sequence[SegmentedObject], size: Size) -> Flow[list[SegmentedObject]]:
    """The objects with masks made from close by, those so far among the alternatives.

    One that takes much of the picture as it is stays as it was, as does one that would become another thing.
    """
    found = []
    for thing in objects:
        found.append((yield from _closer(flows, thing, size)))
    return found


def _closer(flows: Flows, thing: SegmentedObject, size: Size) -> Flow[SegmentedObject]:
    box = stable.core_box(thing.mask)
    if box is None:
        return thing
    prompt, near = ObjectPrompt(box, thing.prompt.points), list[SegmentedObject]()
    for view in (view for share in _SHARES if (view := view_around(box, size, share)) is not None):
        (inside,) = yield from seen(view, flows.masks([view.prompt_in(prompt)], size))
        near.append(view.object_out(stable.middle(inside)))
    if not near:
        return thing
    mask = np.mean([one.mask for one in near], axis=0) > 0.5
    if mask_iou(mask, thing.mask) < _SAME:
        return thing
    score = float(np.mean([one.score for one in near]))
    return replace(thing, mask=mask, score=score, alternatives=(MaskCandidate(thing.mask, thing.score), *thing.alternatives))
