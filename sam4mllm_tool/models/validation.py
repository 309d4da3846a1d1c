"""Validate what a backend returns, once, where it enters: in a driver, or wherever a backend is called directly.

A model's text may be anything; the dialect parses it or raises ReplyError. Numbers and masks are the backend's responsibility:
a value that is NaN, out of range or of the wrong shape would later pass for an answer ("no such object"), so it raises a
BackendError that names the backend and the value. NumPy only.
"""

import math
import reprlib
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeVar

import numpy as np

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.models.segmenter.deferred_candidates import DeferredCandidate
from sam4mllm_tool.types import FreeText, Labels, MaskCandidate, ObjectPrompt, Question, Reply, SegmentedObject, Size

__all__ = ["validate_objects", "validate_questions", "validate_replies"]

T = TypeVar("T")

SUM_TOLERANCE = 1e-3
"""How far the sum of a label's probabilities may be from 1; half precision needs it."""
LOG_TOLERANCE = 1e-6
"""How far above 0 rounding may lift a log-probability."""


def validate_questions(questions: Sequence[Question]) -> None:
    """Check what an MLLM is asked.

    Raises:
        ValueError: A question asks for no tokens, no labels or fewer than two words, or doesn't end with the user's turn.
    """
    for question in questions:
        _validate_question(question)


def validate_replies(name: str, questions: Sequence[Question], replies: Sequence[Reply]) -> list[Reply]:
    """Check what an MLLM replied.

    Args:
        name: The backend's name, for the message.
        questions: The questions it answered.
        replies: The result of `reply` or `areply`.

    Returns:
        The replies as they are, in a list.

    Raises:
        BackendError: There are more or fewer replies than questions, or a reply violates the contract of `Reply`.
    """
    checked = _validate_sequence(name, "replies", Reply, replies, len(questions))
    for number, (question, reply) in enumerate(zip(questions, checked, strict=True), start=1):
        _validate_reply(f"{name} gave reply {number}", question, reply)
    return checked


def validate_objects(
    name: str, size: Size, prompts: Sequence[ObjectPrompt], objects: Sequence[SegmentedObject]
) -> list[SegmentedObject]:
    """Check what a segmenter returned.

    Args:
        name: The backend's name, for the message.
        size: Of the image or crop that it segmented, in pixels.
        prompts: The prompts it was given.
        objects: The result of `segment` or `asegment`.

    Returns:
        The objects as they are, in a list.

    Raises:
        BackendError: There are more or fewer objects than prompts, a mask (also of an alternative) is not (H, W) bool of the
            image's size, a score or confidence is not in [0, 1], or a prompt has a coordinate that is not finite.
    """
    checked = _validate_sequence(name, "masks", SegmentedObject, objects, len(prompts))
    for number, segmented in enumerate(checked, start=1):
        start = f"{name} gave object {number}"
        _validate_candidate(start, size, segmented)
        if segmented.confidence is not None and not _is_probability(segmented.confidence):
            raise BackendError(f"{start} the confidence {_show(segmented.confidence)}: expected one in [0, 1], or None")
        _validate_prompt(start, segmented.prompt)
        for candidate in segmented.alternatives:
            if not isinstance(candidate, DeferredCandidate):  # of our own, made when somebody looks at it
                _validate_candidate(f"{name} gave an alternative of object {number}", size, candidate)
    return checked


def _validate_question(question: Question) -> None:
    answer, roles = question.answer, [turn.role for turn in question.turns]
    if roles[-1:] != ["user"]:
        raise ValueError(f"a question's turns must end with the user's, got {roles}")
    if isinstance(answer, FreeText) and answer.max_tokens < 1:
        raise ValueError(f"free text needs at least one token, got max_tokens={answer.max_tokens}")
    if isinstance(answer, Labels) and (
        answer.count < 1 or len(set(answer.words)) != len(answer.words) or len(answer.words) < 2
    ):
        raise ValueError(f"labels need a count of at least 1 and at least two different words, got {answer}")


def _validate_sequence(name: str, what: str, kind: type[T], results: Any, count: int) -> list[T]:
    if not isinstance(results, Sequence) or isinstance(results, str):
        raise BackendError(f"{name} gave {_show(results)} where a list of {count} {what} was asked for")
    if len(results) != count:
        raise BackendError(f"{name} gave {len(results)} {what} where {count} were asked for")
    for result in results:
        if not isinstance(result, kind):
            raise BackendError(f"{name} gave {_show(result)} among its {what}: expected a {kind.__name__}")
    return list(results)


def _validate_reply(start: str, question: Question, reply: Reply) -> None:
    if not isinstance(reply.text, str):
        raise BackendError(f"{start} the text {_show(reply.text)}: expected a str")
    if reply.label_probabilities is not None:
        _validate_labels(start, question, reply.label_probabilities)
    logarithm: Any = reply.log_probability
    if logarithm is not None and not (_is_number(logarithm) and -math.inf < logarithm <= LOG_TOLERANCE):
        raise BackendError(f"{start} the log-probability {_show(logarithm)}: expected a finite number of at most 0, or None")
    if reply.tokens is not None and not _are_counts(reply.tokens):
        raise BackendError(f"{start} the tokens {_show(reply.tokens)}: expected two non-negative integers, or None")
    for what, count in (("cached tokens", reply.cached_tokens), ("requests", reply.requests)):
        if count is not None and not _are_counts((count, 0)):
            raise BackendError(f"{start} the {what} {_show(count)}: expected a non-negative integer, or None")


def _validate_labels(start: str, question: Question, rows: Any) -> None:
    answer = question.answer
    if not isinstance(answer, Labels):
        raise BackendError(f"{start} label probabilities {_show(rows)} where free text was asked for: expected None")
    if not isinstance(rows, Sequence) or len(rows) != answer.count:
        raise BackendError(f"{start} label probabilities {_show(rows)}: expected {answer.count} rows")
    for row in rows:
        if not isinstance(row, Sequence) or len(row) != len(answer.words):
            raise BackendError(f"{start} the label probabilities {_show(row)}: expected one for each of {answer.words}")
        if not all(map(_is_probability, row)) or not math.isclose(math.fsum(row), 1, abs_tol=SUM_TOLERANCE):
            raise BackendError(f"{start} the label probabilities {_show(row)}: expected numbers in [0, 1] that sum to 1")


def _validate_candidate(start: str, size: Size, candidate: SegmentedObject | MaskCandidate) -> None:
    mask: Any = candidate.mask
    if not isinstance(mask, np.ndarray):
        raise BackendError(f"{start} a mask that is a {type(mask).__name__}: expected a NumPy array")
    shape = (size.height, size.width)
    if mask.dtype != np.bool_ or mask.shape != shape:
        raise BackendError(f"{start} a mask of {mask.shape} {mask.dtype}: expected {shape} bool, the size of the image")
    if not _is_probability(candidate.score):
        raise BackendError(f"{start} the score {_show(candidate.score)}: expected one in [0, 1]")


def _validate_prompt(start: str, prompt: ObjectPrompt) -> None:
    coordinates = (*prompt.box, *(value for point in prompt.points for value in (point.x, point.y)))
    for value in coordinates:
        if not (_is_number(value) and math.isfinite(value)):
            raise BackendError(f"{start} a prompt with the coordinate {_show(value)}: expected a finite number of pixels")
    for point in prompt.points:
        if point.label not in (0, 1) or not (point.confidence is None or _is_probability(point.confidence)):
            raise BackendError(
                f"{start} the point {_show(point)}: expected a label of 0 or 1, and a confidence in [0, 1] or None"
            )


def _is_number(value: Any) -> bool:
    """Whether the value is a real number of Python or NumPy."""
    return isinstance(value, Real)


def _is_probability(value: Any) -> bool:
    """Whether the value is a number in [0, 1]; NaN is not."""
    return _is_number(value) and bool(0 <= value <= 1)


def _are_counts(values: Any) -> bool:
    """Whether the values are two non-negative integers."""
    return isinstance(values, Sequence) and len(values) == 2 and all(isinstance(value, int) and value >= 0 for value in values)


def _show(value: object) -> str:
    """Return a short representation on one line, for a message."""
    return " ".join(reprlib.repr(value).split())
