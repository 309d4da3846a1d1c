"""Masks made from close by: the segmenter sees every picture at one size, so what is small in it has few pixels there.

An object is shown in views around its mask, the picture cut and enlarged so that it takes a quarter to a third of each, and
segmented anew in every one; the majority counts for a pixel. It costs the segmenter a picture a view and the MLLM nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sam4mllm_tool.errors import OverBudgetError
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.geometry.crops import crop_around
from sam4mllm_tool.pipeline import point_selection
from sam4mllm_tool.pipeline.requests import Flow, Flows, Transcript, on_crop
from sam4mllm_tool.types import Box, Mask, ObjectPrompt, SegmentedObject, Size

__all__ = ["refine_crops"]

_SHARES = (0.25, 0.3, 0.35)
"""How much of each view the object takes. Much more of it, and its surroundings are missing."""
_EDGE = 0.005
"""What part of a mask's pixels on each side its core is without."""
_LONGEST = 1024
"""Pixels of a view's longer side: as many as Segment Anything looks at."""
_SAME = 0.5
"""IoU from which on two masks, or two boxes, are of the same thing."""
_MOST = 20
"""Objects of an answer that are looked at from close by: each costs the segmenter three pictures."""


def refine_crops(flows: Flows, objects: Sequence[SegmentedObject], size: Size, talk: Transcript) -> Flow[list[SegmentedObject]]:
    """The objects with masks made from close by, as far as a budget reaches.

    One that takes much of the picture as it is stays as it was, as does one that would become another thing.
    """
    found = []
    for thing in objects[:_MOST]:
        found.append((yield from _closer(flows, thing, size)))
    if len(objects) > _MOST:
        talk.notes.append(f"masked no more than {_MOST} objects from close by")
    return [*found, *objects[_MOST:]]


def _closer(flows: Flows, thing: SegmentedObject, size: Size) -> Flow[SegmentedObject]:
    core = point_selection.trimmed_box(thing.mask, _EDGE)
    if core is None:
        return thing
    prompt, near = ObjectPrompt(_between(core, thing.prompt.box), thing.prompt.points), list[SegmentedObject]()
    views = (crop_around(prompt.box, size, share, longest=_LONGEST) for share in _SHARES)
    for view in filter(None, views):
        try:
            (inside,) = yield from on_crop(view, flows.masks([view.prompt_in(prompt)], view.shown))
        except OverBudgetError:  # what was made before counts
            break
        near.append(view.object_out(point_selection.select_medoid(inside)))
    if not near:
        return thing
    votes = np.sum([one.mask for one in near], axis=0, dtype=np.uint8)
    mask: Mask = np.asarray(2 * votes > len(near))
    if mask_iou(mask, thing.mask) < _SAME:
        return thing
    return replace(thing, mask=mask, score=sum(one.score for one in near) / len(near))


def _between(core: Box, told: Box) -> Box:
    """In the middle of two boxes of one object, each off in its own way; the mask's where the other is of something else."""
    if core.iou(told) < _SAME:
        return core
    return Box(*((one + other) / 2 for one, other in zip(core, told, strict=True)))
