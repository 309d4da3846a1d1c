"""Segment everything that one or several expressions mean, part by part, and leave out what they exclude.

What is to be left out is asked of each object by itself: "all mugs but not the white one" segments all mugs, then asks of
each whether it is the white mug.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from sam4mllm_tool.config import Method
from sam4mllm_tool.errors import EmptyMaskError, ExpressionError, ReplyError
from sam4mllm_tool.geometry.boxes import SAME_OBJECT_IOU, format_box, mask_iou
from sam4mllm_tool.images.export import format_confidence
from sam4mllm_tool.interactive.compound_expression import MAX_PARTS, split_expression
from sam4mllm_tool.pipeline.adaptive import min_confidence
from sam4mllm_tool.pipeline.methods import segment_expression
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.protocol import BoxOnly
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.protocol.references import is_plural, singularize
from sam4mllm_tool.types import Box, Segmentation, SegmentedObject

__all__ = ["segment_compound"]

_EXCLUDED = 0.5
"""Probability of being one to leave out from which on an object is left out."""
_LOCATED_WEIGHT = 0.2
"""What the answer to "where is it?" adds to the probability of an object where a single one is to be chosen.

A small model says yes to many an object that merely looks alike: tests/benchmarks/exclusion.py counts it.
"""


def segment_compound(run: RunContext, expressions: Sequence[str], method: Method) -> Flow[Segmentation]:
    """Segment what the expressions mean, each split where its words allow it (`split_expression`).

    An object that two of them mean is in the result once. A part without an object is a note of the result.

    Args:
        run: The run.
        expressions: At least one.
        method: How each part is asked about.

    Returns:
        One result. Each object has the expression of its part; the confidence is the lowest of all parts.

    Raises:
        ExpressionError: An expression is empty or too long, or there are more than `MAX_PARTS` parts.
        ReplyError: The boxes of every part stay unreadable.
        EmptyMaskError: The masks of every part are empty.
        BackendError: A model failed.
    """
    compounds = [split_expression(expression) for expression in expressions]
    count = sum(len(compound.parts) for compound in compounds)
    if count > MAX_PARTS:
        raise ExpressionError(f"{count} expressions are too many for one call: give at most {MAX_PARTS}")
    if len(compounds) == 1 and not compounds[0].is_compound:
        return (yield from segment_expression(run, compounds[0].parts[0], method))
    results: list[Segmentation] = []
    errors: list[ReplyError | EmptyMaskError] = []
    for compound in compounds:
        parts = yield from _segment_parts(run, compound.parts, method, errors)
        results += yield from _leave_out(run, compound.excluded, parts)
    if errors and not results:
        raise errors[0]
    objects = _drop_duplicates([segmented for result in results for segmented in result.objects])
    confidence = None if errors else _find_lowest([result.confidence for result in results])
    abstained = not objects and any(result.abstained for result in results)
    expression = " and ".join(dict.fromkeys(map(validate_expression, expressions)))
    return run.build_result(expression, objects, None if abstained else confidence, abstained=abstained)


def _segment_parts(
    run: RunContext, parts: Sequence[str], method: Method, errors: list[ReplyError | EmptyMaskError]
) -> Flow[list[Segmentation]]:
    """Segment each part by itself; one that fails adds its error to `errors` and a note, one without an object a note."""
    results = []
    for part in parts:
        try:
            result = yield from segment_expression(run, part, method)
        except (ReplyError, EmptyMaskError) as error:
            run.note(f"'{part}' could not be segmented: {error.reason if isinstance(error, ReplyError) else error}")
            errors.append(error)
            continue
        if not result.objects:
            answer = f"there is no such object, {format_confidence(result.confidence)}"
            run.note(f"'{part}': {'not sure enough to answer' if result.abstained else answer}")
        results.append(result)
    return results


def _leave_out(run: RunContext, excluded: Sequence[str], results: Sequence[Segmentation]) -> Flow[list[Segmentation]]:
    """Return the results without the objects to leave out; the others are less sure by their chance of being one."""
    objects = [segmented for result in results for segmented in result.objects]
    chances = [0.0] * len(objects)
    dropped: set[int] = set()
    for expression in excluded if objects else ():
        matches, probabilities = yield from _find_matches(run, expression, objects)
        chances = [max(pair) for pair in zip(chances, probabilities, strict=True)]
        for index in matches:
            run.note(f"left out the object at {format_box(objects[index].prompt.box)}, which is '{expression}'")
        if not matches:
            run.note(f"nothing was left out as '{expression}'")
        dropped |= {*matches}
    rest = iter(enumerate(zip(objects, chances, strict=True)))
    return [_drop_objects(result, list(islice(rest, len(result.objects))), dropped) for result in results]


def _drop_objects(
    result: Segmentation, objects: Sequence[tuple[int, tuple[SegmentedObject, float]]], dropped: set[int]
) -> Segmentation:
    """Return the result without some objects.

    Args:
        result: Of one part.
        objects: Its objects, each with its number and its chance of being one to leave out.
        dropped: The numbers of those to leave out.
    """
    if not objects:
        return result
    kept = [_scale_confidence(segmented, 1 - chance) for index, (segmented, chance) in objects if index not in dropped]
    was_verified = all(segmented.confidence is not None for segmented in result.objects)
    confidence = min(chance for _, (_, chance) in objects) if not kept and was_verified else min_confidence(kept)
    return replace(result, objects=tuple(kept), confidence=confidence)


def _scale_confidence(segmented: SegmentedObject, probability: float) -> SegmentedObject:
    return replace(segmented, confidence=None if segmented.confidence is None else segmented.confidence * probability)


def _find_matches(run: RunContext, expression: str, objects: Sequence[SegmentedObject]) -> Flow[tuple[list[int], list[float]]]:
    """Find the objects that an expression means, by two questions: where it is, and of each object whether it is meant.

    "The white mug" is a single object: the one that is the most probable.

    Returns:
        The indices of these objects, and for each object the probability that it is one: the mean of both answers.
    """
    boxes = [segmented.prompt.box for segmented in objects]
    answers = yield from run.verify_boxes(singularize(expression), boxes)
    named = yield from _locate(run, expression)
    if named is None:
        located = [round(answer or 0.0) for answer in answers]
    elif not named:
        return [], [(answer or 0.0) / 2 for answer in answers]
    else:
        located = [int(any(other.iou(box) >= SAME_OBJECT_IOU for other in named)) for box in boxes]
    verified = [
        place if answer is None else run.calibration.objects(answer) for answer, place in zip(answers, located, strict=True)
    ]
    probabilities = [(answer + place) / 2 for answer, place in zip(verified, located, strict=True)]
    if is_plural(expression):
        return [index for index, probability in enumerate(probabilities) if probability >= _EXCLUDED], probabilities
    best = max(range(len(boxes)), key=lambda index: verified[index] + _LOCATED_WEIGHT * located[index])
    return [best] * (verified[best] >= _EXCLUDED or bool(located[best])), probabilities


def _locate(run: RunContext, expression: str) -> Flow[tuple[Box, ...] | None]:
    """Return the boxes of what the expression means, or else of its singular; None where the replies can't be read."""
    try:
        for words in dict.fromkeys((expression, singularize(expression))):
            named = yield from run.run_dialogue(BoxOnly.start(words, run.size, dialect=run.dialect))
            if named.prompts:
                return tuple(prompt.box for prompt in named.prompts)
    except ReplyError as error:
        run.note(f"it is not sure which objects are '{expression}': {error.reason}")
        return None
    return ()


def _find_lowest(confidences: Sequence[float | None]) -> float | None:
    known = [confidence for confidence in confidences if confidence is not None]
    return min(known) if known and len(known) == len(confidences) else None


def _drop_duplicates(objects: Sequence[SegmentedObject]) -> list[SegmentedObject]:
    """Keep the first of objects whose masks are one object's."""
    kept: list[SegmentedObject] = []
    for segmented in objects:
        if all(mask_iou(segmented.mask, other.mask) < SAME_OBJECT_IOU for other in kept):
            kept.append(segmented)
    return kept
