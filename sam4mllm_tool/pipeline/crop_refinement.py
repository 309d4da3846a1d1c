"""Segment small objects again in enlarged crops: the segmenter sees every image at one size, so they have few pixels there.

An object is segmented in crops around its mask, of which it takes a quarter to a third, and a majority vote decides each
pixel. It costs the segmenter one image per crop and the MLLM nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sam4mllm_tool.errors import OverBudgetError
from sam4mllm_tool.geometry.boxes import SAME_OBJECT_IOU, mask_iou
from sam4mllm_tool.geometry.crops import crop_around
from sam4mllm_tool.pipeline.point_selection import select_medoid, trim_box
from sam4mllm_tool.pipeline.requests import Flow, on_crop
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.types import Box, Mask, ObjectPrompt, SegmentedObject

__all__ = ["refine_crops"]

_OBJECT_SHARES = (0.25, 0.3, 0.35)
"""Share of each crop that the object takes. With much more of it, its surroundings are missing."""
_TRIMMED_SHARE = 0.005
"""Share of a mask's pixels that is trimmed on each side before its box is taken."""
_MAX_SIDE = 1024
"""Pixels of a crop's longer side: as many as Segment Anything looks at."""
_MAX_OBJECTS = 20
"""Objects of a result that are refined: each costs the segmenter three crops."""
_UNREFINED = "refined masks in fewer crops: nothing was left of the budget"


def refine_crops(run: RunContext, objects: Sequence[SegmentedObject]) -> Flow[list[SegmentedObject]]:
    """Return the objects with masks refined in crops, as far as a budget reaches.

    An object that takes much of the image stays as it is, as does one whose mask would become another object's.
    """
    refined = []
    for segmented in objects[:_MAX_OBJECTS]:
        refined.append((yield from _refine_object(run, segmented)))
    if len(objects) > _MAX_OBJECTS:
        run.note(f"refined the masks of {_MAX_OBJECTS} objects only")
    return [*refined, *objects[_MAX_OBJECTS:]]


def _refine_object(run: RunContext, segmented: SegmentedObject) -> Flow[SegmentedObject]:
    core = trim_box(segmented.mask, _TRIMMED_SHARE)
    if core is None:
        return segmented
    prompt = ObjectPrompt(_average_boxes(core, segmented.prompt.box), segmented.prompt.points)
    in_crops: list[SegmentedObject] = []
    for share in _OBJECT_SHARES:
        crop = crop_around(prompt.box, run.size, share, longest=_MAX_SIDE)
        if crop is None:
            continue
        try:
            in_crop_run = run.for_size(crop.output_size)
            (in_crop,) = yield from on_crop(crop, in_crop_run.segment_prompts([crop.to_crop_prompt(prompt)]))
        except OverBudgetError:  # the crops so far count
            if _UNREFINED not in run.transcript.notes:
                run.note(_UNREFINED)
            break
        in_crops.append(crop.to_image_object(select_medoid(in_crop)))
    return _vote(segmented, in_crops)


def _vote(segmented: SegmentedObject, in_crops: Sequence[SegmentedObject]) -> SegmentedObject:
    """The object with the majority's mask, unless that is another object's."""
    if not in_crops:
        return segmented
    votes = np.sum([in_crop.mask for in_crop in in_crops], axis=0, dtype=np.uint8)
    mask: Mask = np.asarray(2 * votes > len(in_crops))
    if mask_iou(mask, segmented.mask) < SAME_OBJECT_IOU:
        return segmented
    return replace(segmented, mask=mask, score=sum(in_crop.score for in_crop in in_crops) / len(in_crops))


def _average_boxes(core: Box, named: Box) -> Box:
    """The mean of the mask's box and the named one, each off in its own way; the mask's where they are of two objects."""
    if core.iou(named) < SAME_OBJECT_IOU:
        return core
    return Box(*((low + high) / 2 for low, high in zip(core, named, strict=True)))
