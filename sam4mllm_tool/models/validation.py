"""Checks of what a backend returns, made once, where it enters: a driver, or whoever calls a backend itself.

A model's text may say anything, and the dialect reads it or raises ReplyError. Numbers and masks are the backend's own work:
one that is NaN, out of range or of another shape would pass for an answer further on ("no such object"), so it is a
BackendError, which names the backend and the value. NumPy alone.
"""

import math
import reprlib
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeVar

import numpy as np

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.types import Labels, MaskCandidate, ObjectPrompt, Question, Reply, SegmentedObject, Size

__all__ = ["validate_objects", "validate_replies"]

T = TypeVar("T")

SUM_TOLERANCE = 1e-3
"""How far the probabilities of a label's words may sum from 1, which half precision needs."""
LOG_TOLERANCE = 1e-6
"""How far above 0 a logarithm of a probability may be rounded."""


def validate_replies(name: str, questions: Sequence[Question], replies: Sequence[Reply]) -> list[Reply]:
    """Check what an MLLM replied.

    Args:
        name: The backend's name, for the message.
        questions: What it was asked.
        replies: What `reply` or `areply` returned.

    Returns:
        The replies as they are, in a list.

    Raises:
        BackendError: There are more or fewer replies than questions, or one of them breaks what `Reply` says of its fields.
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
        size: Of the image that it was shown, in pixels; of the crop where it was shown a crop.
        prompts: What it was prompted with.
        objects: What `segment` or `asegment` returned.

    Returns:
        The objects as they are, in a list.

    Raises:
        BackendError: There are more or fewer objects than prompts, a mask (an alternative's, too) is not (H, W) bool of the
            image's size, or a score or a confidence is not in [0, 1].
    """
    checked = _validate_sequence(name, "masks", SegmentedObject, objects, len(prompts))
    for number, found in enumerate(checked, start=1):
        start = f"{name} gave object {number}"
        _validate_candidate(start, size, found)
        if found.confidence is not None and not _is_probability(found.confidence):
            raise BackendError(f"{start} the confidence {_show(found.confidence)}: expected one in [0, 1], or None")
        for candidate in found.alternatives:
            _validate_candidate(f"{name} gave an alternative of object {number}", size, candidate)
    return checked


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
        raise BackendError(f"{start} the tokens {_show(reply.tokens)}: expected two numbers from 0 on, or None")


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
        raise BackendError(f"{start} a mask of {mask.shape} {mask.dtype}: expected {shape} bool, as the image is")
    if not _is_probability(candidate.score):
        raise BackendError(f"{start} the score {_show(candidate.score)}: expected one in [0, 1]")


def _is_number(value: Any) -> bool:
    """Whether it is a real number, of Python or of NumPy."""
    return isinstance(value, Real)


def _is_probability(value: Any) -> bool:
    """Whether it is a number in [0, 1], which NaN is not."""
    return _is_number(value) and bool(0 <= value <= 1)


def _are_counts(values: Any) -> bool:
    """Whether they are two whole numbers from 0 on."""
    return isinstance(values, Sequence) and len(values) == 2 and all(isinstance(one, int) and one >= 0 for one in values)


def _show(value: object) -> str:
    """The value in a message: on one line, shortened."""
    return " ".join(reprlib.repr(value).split())
