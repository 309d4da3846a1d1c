"""Count what an ordinal counts: "the third crescent" of two is absent.

Which of how many is meant is read from the words alone. The MLLM is asked for all of them, and for those at the edges, which
its list may leave out; then each box is verified, those of earlier attempts too, and the MLLM is asked for what is missing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sam4mllm_tool.errors import OverBudgetError, ReplyError
from sam4mllm_tool.geometry.boxes import select_new_boxes
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext, yes_probability
from sam4mllm_tool.protocol import BoxOnly
from sam4mllm_tool.protocol.references import pluralize, split_noun_phrase
from sam4mllm_tool.reasoning.attempts import Attempt
from sam4mllm_tool.types import Box, Question, Reply

__all__ = ["Ordinal", "count_objects", "parse_ordinal"]

_WORDS = ("second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_ORDINAL = re.compile(
    rf"(?:(?:the|an?|my|your|his|her|its|our|their)\s+)?(?:(?P<word>{'|'.join(_WORDS)})|(?P<number>\d{{1,2}})(?:st|nd|rd|th))\s+(?P<noun>.+)",
    re.IGNORECASE,
)
_SUPERLATIVE = re.compile(
    r"\b(?:larg|bigg|small|tall|short|long|wid|near|clos|high|low|farth|furth|old|young|bright|dark)est\b|\b\w+most\b",
    re.IGNORECASE,
)
_COMPOUNDS = {"hand", "half", "class", "party", "degree", "grade", "world", "person", "gear", "one", "ones", "time", "of"}
"""Nouns with which an ordinal is a name, as in "the second hand of the clock", or that name no kind."""


@dataclass(frozen=True)
class Ordinal:
    """Which of several objects is meant.

    Attributes:
        place: From 2 on; there have to be at least so many.
        everything: The expression for all of them, such as "all crescents".
        kind: The words for one of them, such as "crescent".
    """

    place: int
    everything: str
    kind: str

    @property
    def extremes(self) -> tuple[str, ...]:
        """Expressions for those at the edges, which a list may leave out."""
        return tuple(f"the {side} {self.kind}" for side in ("leftmost", "rightmost", "topmost", "bottommost"))


def parse_ordinal(expression: str) -> Ordinal | None:
    """Return the ordinal that an expression begins with, as "the third crescent from the left"; None without one.

    "The first" asks for no count: there is one where there is any.
    """
    match = _ORDINAL.fullmatch(" ".join(expression.split()).strip(" .!?"))
    if match is None:
        return None
    place = int(match["number"]) if match["number"] else _WORDS.index(match["word"].lower()) + 2
    noun_phrase = " ".join(_SUPERLATIVE.sub("", match["noun"]).split())
    words, (modifiers, noun) = noun_phrase.lower().split(), split_noun_phrase(noun_phrase)
    if place < 2 or not noun or words[0] in _COMPOUNDS or noun.lower() in _COMPOUNDS:
        return None
    return Ordinal(place, pluralize(noun_phrase), " ".join([*modifiers, noun]))


def count_objects(run: RunContext, ordinal: Ordinal, known: Sequence[Box]) -> Flow[Attempt]:
    """Count the objects that an ordinal counts.

    Args:
        run: With a transcript of its own.
        ordinal: What is counted, and how many there have to be.
        known: Boxes of earlier attempts, each of which is verified to be one of the kind.

    Returns:
        An attempt whose `none` is the probability that there are too few.

    Raises:
        OverBudgetError: The budget doesn't reach to list and to verify them.
    """
    listed = yield from _list_boxes(run, ordinal)
    if listed is None:
        return Attempt("count", ordinal.everything, note=f"no readable list of {ordinal.everything}")
    boxes = select_new_boxes((*listed, *known), ())
    probabilities, others, is_complete = yield from _verify_and_ask_for_more(run, ordinal, boxes)
    probabilities += yield from _verify_others(run, ordinal, others)
    if None in probabilities or run.transcript.warnings:
        count, too_few = len(probabilities), None
    else:
        calibrated = [run.calibration.objects(probability) for probability in probabilities if probability is not None]
        count = sum(probability >= 0.5 for probability in calibrated)
        too_few = is_complete * _probability_below(ordinal.place, calibrated)
    result = run.build_result(ordinal.everything, ())
    return Attempt("count", ordinal.everything, result, none=too_few, count=count, place=ordinal.place)


def _list_boxes(run: RunContext, ordinal: Ordinal) -> Flow[list[Box] | None]:
    """Ask for all objects of the kind, and for those at the edges; None where no list can be read."""
    expressions = (ordinal.everything, *ordinal.extremes)
    questions = [BoxOnly.start(expression, run.size, dialect=run.dialect).pending[0] for expression in expressions]
    replies = yield from run.ask(questions)
    listed, *extremes = (_parse_boxes(run, *pair) for pair in zip(questions, replies, strict=True))
    return None if listed is None else [box for boxes in (listed, *extremes) for box in boxes or ()]


def _verify_and_ask_for_more(
    run: RunContext, ordinal: Ordinal, boxes: Sequence[Box]
) -> Flow[tuple[list[float | None], list[Box], float]]:
    """In one round, verify the boxes and ask for others.

    Returns:
        The probability of each box, the other boxes, and the probability that no other is left out.
    """
    verifications = [run.dialect.ask_verification(ordinal.everything, box, run.size) for box in boxes]
    more = run.dialect.ask_other_boxes(ordinal.everything, boxes, run.size) if boxes else None
    questions = [question for question in (*verifications, more) if question is not None]
    if not questions:
        return [None] * len(boxes), [], 1.0
    replies = list((yield from run.ask(questions)))
    others, is_complete = ((), 1.0) if more is None else _read_others(run, more, replies.pop())
    probabilities = [yes_probability(reply) for reply in replies] or [None] * len(boxes)
    return probabilities, select_new_boxes(others, boxes), is_complete


def _read_others(run: RunContext, question: Question, reply: Reply) -> tuple[tuple[Box, ...], float]:
    boxes = _parse_boxes(run, question, reply) or ()
    none = run.none_confidence(reply)
    return boxes, 1.0 if boxes or none is None else none


def _verify_others(run: RunContext, ordinal: Ordinal, boxes: Sequence[Box]) -> Flow[list[float | None]]:
    """Verify boxes that were named late; those that the budget doesn't reach for count as right, which denies nothing."""
    if not boxes:
        return []
    try:
        return list((yield from run.verify_boxes(ordinal.everything, boxes)))
    except OverBudgetError:
        return [1.0] * len(boxes)


def _parse_boxes(run: RunContext, question: Question, reply: Reply) -> tuple[Box, ...] | None:
    try:
        return run.dialect.parse_boxes(question, reply, run.size)
    except ReplyError as error:
        run.note(f"went on without a list: {error.reason}")
        return None


def _probability_below(count: int, probabilities: Sequence[float]) -> float:
    """Return the probability that fewer than `count` of independent events happen."""

    distribution = [1.0] + [0.0] * (count - 1)
    for probability in probabilities:
        shifted = [0.0, *distribution[:-1]]
        pairs = zip(distribution, shifted, strict=True)
        distribution = [stays * (1 - probability) + moves * probability for stays, moves in pairs]
    return sum(distribution)
