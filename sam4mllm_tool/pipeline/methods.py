"""The methods as flows, from an expression to a result: the paper's `pqpp`, `ppg` and `box`; `points`; and `adaptive`."""

from collections.abc import Sequence

from sam4mllm_tool.config import METHODS, Method
from sam4mllm_tool.errors import EmptyMaskError, quote_text
from sam4mllm_tool.geometry.boxes import format_box, mask_iou
from sam4mllm_tool.pipeline.adaptive import SAME_MASK_IOU, MethodResult, min_confidence, run_adaptive
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.protocol import PPG, PQPP, BoxOnly, Dialogue, Pointing
from sam4mllm_tool.types import ObjectPrompt, Segmentation, SegmentedObject

__all__ = ["METHODS", "Method", "drop_empty", "segment_expression", "start_dialogue"]


def segment_expression(run: RunContext, expression: str, method: Method) -> Flow[Segmentation]:
    """Segment what the expression means, less the objects whose confidence is below `config.abstain`.

    Raises:
        ExpressionError: The expression is empty or too long.
        ReplyError: The boxes stay unreadable.
        EmptyMaskError: The masks of all boxes are empty.
        BackendError: A model failed.
    """
    if method == "adaptive":
        result = yield from run_adaptive(run, expression)
    else:
        result = yield from _run_dialogue(run, expression, method)
    place = "at" if method == "points" else "in the box"
    claim = f"the MLLM says that {quote_text(result.expression)} is {place}"
    cure = "use other words or another method, or check that the models' dialect fits"
    kept = _drop_unsure(run, drop_empty(run, result.objects, claim, cure))
    confidence = result.confidence if len(kept) == len(result.objects) else min_confidence(kept)
    return run.build_result(result.expression, kept, confidence, abstained=bool(result.objects) and not kept)


def _run_dialogue(run: RunContext, expression: str, method: Method) -> Flow[MethodResult]:
    dialogue = yield from run.run_dialogue(start_dialogue(run, expression, method))
    objects = yield from run.segment_prompts(dialogue.prompts)
    return MethodResult(dialogue.expression, _drop_repeated_points(run, objects), None)


def start_dialogue(run: RunContext, expression: str, method: Method) -> Dialogue:
    """Return the dialogue of a method at its start; `adaptive` is more than one dialogue.

    Raises:
        ExpressionError: The expression is empty or too long.
        ValueError: The method has no dialogue.
    """
    match method:
        case "pqpp":
            config = run.config
            return PQPP.start(expression, run.size, dialect=run.dialect, sampler=config.sampler, thresholds=config.thresholds)
        case "ppg":
            return PPG.start(expression, run.size, dialect=run.dialect)
        case "box":
            return BoxOnly.start(expression, run.size, dialect=run.dialect)
        case "points":
            return Pointing.start(expression, run.size, dialect=run.dialect)
    raise ValueError(f"no such method: {method!r}; there are {', '.join(METHODS)}")


def drop_empty(run: RunContext, objects: Sequence[SegmentedObject], claim: str, cure: str) -> list[SegmentedObject]:
    """Drop objects without a pixel, with a note.

    Args:
        run: Takes the notes.
        objects: As the segmenter returned them.
        claim: What was expected, for the error, as in "the MLLM says that 'the mug' is in the box".
        cure: What to do, for the error.

    Raises:
        EmptyMaskError: None is left.
    """
    kept = [segmented for segmented in objects if segmented.mask.any()]
    empty = [_format_place(segmented.prompt) for segmented in objects if not segmented.mask.any()]
    if empty and not kept:
        raise EmptyMaskError(f"{claim} {' and '.join(empty)}, and {run.traits.segmenter} found no pixel there: {cure}")
    for place in empty:
        run.note(f"left out the object at {place}: its mask is empty")
    return kept


def _drop_repeated_points(run: RunContext, objects: Sequence[SegmentedObject]) -> list[SegmentedObject]:
    """Drop objects that were prompted without a box and whose mask is nearly that of one before: two points on one object."""
    kept: list[SegmentedObject] = []
    for segmented in objects:
        others = (other.mask for other in kept if segmented.prompt.points_only and other.mask.any())
        if any(mask_iou(segmented.mask, other) >= SAME_MASK_IOU for other in others):
            run.note(f"left out the object at {_format_place(segmented.prompt)}: it was pointed to before")
        else:
            kept.append(segmented)
    return kept


def _format_place(prompt: ObjectPrompt) -> str:
    if not prompt.points_only:
        return format_box(prompt.box)
    return " and ".join(f"({point.x:.0f}, {point.y:.0f})" for point in prompt.points if point.label)


def _drop_unsure(run: RunContext, objects: Sequence[SegmentedObject]) -> list[SegmentedObject]:
    kept = []
    for segmented in objects:
        if segmented.confidence is None or segmented.confidence >= run.config.abstain:
            kept.append(segmented)
        else:
            place, confidence = format_box(segmented.prompt.box), f"confidence {segmented.confidence:.2f}"
            run.note(f"left out the object at {place}: {confidence} is below {run.config.abstain:g}")
    return kept
