"""Find other objects that an expression means, and the object under a click.

The MLLM is asked for other objects in the dialect's own words (`Dialect.ask_other_boxes`). Where the dialect has none, or the
reply names no new box, the rejected objects are painted over in the colour of their surroundings, and the first question is
asked about that image, which any model can answer. Masks are always made on the original image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as PILImage

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.geometry.boxes import SAME_OBJECT_IOU, mask_to_box
from sam4mllm_tool.geometry.morphology import dilate_mask
from sam4mllm_tool.interactive.mask_geometry import mask_contains, mask_window
from sam4mllm_tool.pipeline.adaptive import segment_boxes
from sam4mllm_tool.pipeline.requests import Flow, on_crop
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.protocol import PQPP, BoxOnly
from sam4mllm_tool.types import Box, Image, Mask, ObjectPrompt, PointPrompt, Reply, SegmentedObject, Size

__all__ = ["erase_masks", "find_other_boxes", "segment_at_click", "segment_known_boxes", "segment_with_points"]

_BOX_REACHES = (1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 3 / 8)
"""Half sides of the boxes tried around a click, as shares of the image's shorter side."""
_BOX_REFINEMENTS = 2
"""How often each of these boxes is replaced by the box of its mask."""


def segment_known_boxes(run: RunContext, expression: str, boxes: Sequence[Box]) -> Flow[list[SegmentedObject]]:
    """Segment the objects in known boxes as the run's method does, as if the MLLM had just named the boxes."""
    if run.config.method == "adaptive":
        return (yield from segment_boxes(run, expression, boxes))
    return (yield from segment_with_points(run, expression, boxes))


def segment_with_points(run: RunContext, expression: str, boxes: Sequence[Box]) -> Flow[list[SegmentedObject]]:
    """Segment the objects in known boxes with the second round of PQPP."""
    if not boxes:
        return []
    config = run.config
    start = PQPP.start(expression, run.size, dialect=run.dialect, sampler=config.sampler, thresholds=config.thresholds)
    boxes_given = start.answer([Reply(run.dialect.format_boxes(boxes, run.size))])
    dialogue = yield from run.run_dialogue(boxes_given)
    return (yield from run.segment_prompts(dialogue.prompts))


def find_other_boxes(run: RunContext, expressions: Sequence[str], rejected: Sequence[ObjectPrompt]) -> Flow[tuple[Box, ...]]:
    """Find boxes of what an expression means besides the rejected objects.

    Args:
        run: The run.
        expressions: Tried in order; each is asked about in every way before the next one.
        rejected: Prompts of the rejected objects.

    Returns:
        Boxes of other objects; empty if there are none.
    """
    rejected_boxes = [prompt.box for prompt in rejected]
    masks = [segmented.mask for segmented in (yield from run.segment_prompts(rejected))]
    known_boxes = [*rejected_boxes, *(mask_to_box(mask) for mask in masks if mask.any())]
    without_rejected = _ErasedObjects(tuple(masks))
    for expression in expressions:
        boxes = yield from run.find_other_boxes(expression, rejected_boxes)
        if new_boxes := _drop_known(boxes or (), known_boxes):
            return new_boxes
        boxes = yield from on_crop(without_rejected, _ask_for_boxes(run, expression))
        if new_boxes := _drop_known(boxes, known_boxes):
            return new_boxes
    return ()


def _ask_for_boxes(run: RunContext, expression: str) -> Flow[tuple[Box, ...]]:
    """Ask for boxes; an unreadable reply counts as no box, since there are other ways to find one."""
    try:
        dialogue = yield from run.run_dialogue(BoxOnly.start(expression, run.size, dialect=run.dialect))
    except ReplyError as error:
        run.note(f"no other object could be read from the reply: {error.reason}")
        return ()
    return tuple(prompt.box for prompt in dialogue.prompts)


def _drop_known(boxes: Sequence[Box], known: Sequence[Box]) -> tuple[Box, ...]:
    return tuple(box for box in boxes if all(box.iou(other) < SAME_OBJECT_IOU for other in known))


@dataclass(frozen=True, eq=False)
class _ErasedObjects:
    """Shows an image with masks painted over (an `ImageTransform`)."""

    masks: tuple[Mask, ...]

    @property
    def description(self) -> str:
        return "the image with the rejected objects painted over"

    def apply(self, image: Image) -> Image:
        return erase_masks(image, self.masks)


def erase_masks(image: Image, masks: Sequence[Mask]) -> Image:
    """Return a copy of the image with each mask, slightly dilated, painted over in the median colour around it.

    Args:
        image: RGB.
        masks: Each (H, W) bool, of the image's size.
    """
    pixels = np.array(image)
    margin = max(2, round(min(image.size) / 64))
    union = np.logical_or.reduce([np.zeros(pixels.shape[:2], np.bool_), *masks])
    for mask in masks:
        if not mask.any():
            continue
        window = mask_window(mask, 3 * margin)
        erased = dilate_mask(mask[window], margin, shape="diamond")
        surroundings = dilate_mask(erased, 2 * margin, shape="diamond") & ~erased & ~union[window]
        view = pixels[window]
        sample = surroundings if surroundings.any() else ~erased
        view[erased] = np.median(view[sample], axis=0) if sample.any() else 127
    return PILImage.fromarray(pixels)


def segment_at_click(run: RunContext, click: PointPrompt) -> Flow[SegmentedObject | None]:
    """Segment the object that a click lies on, whatever the click's label; None if the segmenter finds none.

    Boxes of several sizes around the click are prompted with it and replaced by the boxes of their masks. The most stable
    object wins: its mask contains the click and fills the very box that it was prompted with.
    """
    point = PointPrompt(click.x, click.y, 1)
    objects = yield from run.segment_prompts([ObjectPrompt(box, (point,)) for box in _boxes_around(click, run.size)])
    for _ in range(_BOX_REFINEMENTS):
        boxes = [mask_to_box(segmented.mask) for segmented in objects if mask_contains(segmented.mask, click)]
        objects = yield from run.segment_prompts([ObjectPrompt(box, (point,)) for box in dict.fromkeys(boxes)])
    containing = [segmented for segmented in objects if mask_contains(segmented.mask, click)]
    return max(containing, key=_stability, default=None)


def _boxes_around(click: PointPrompt, size: Size) -> Iterator[Box]:
    for share in _BOX_REACHES:
        reach = share * min(size)
        yield Box(click.x - reach, click.y - reach, click.x + reach, click.y + reach).clip(size)


def _stability(segmented: SegmentedObject) -> float:
    """Rate how well the mask fills its prompted box; of equal objects the smaller one is what a single click can mean."""
    fit = mask_to_box(segmented.mask).iou(segmented.prompt.box)
    return segmented.score + fit - float(np.sqrt(segmented.mask.mean()))
