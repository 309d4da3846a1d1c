"""Read boxes, points and labels out of a model's reply.

Models are talkative, so prose, lists and JSON around an answer are accepted. Nothing is guessed: a reply that is cut off, out
of the frame, or of another count raises ReplyError, whose reason may be sent back to the model.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias, TypeVar

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol.padded_codec import Codec
from sam4mllm_tool.protocol.thoughts import strip_thought
from sam4mllm_tool.types import Box, Label, Labels, ObjectPrompt, Point, PointPrompt, Question, Reply, Size

__all__ = ["MAX_OBJECTS", "LabelAndConfidence", "ReplyParser"]

MAX_OBJECTS = 100
"""Boxes in one reply. A model that names more is repeating itself, and each box would cost a mask."""

LabelAndConfidence: TypeAlias = tuple[Label, float | None]
"""The answer to one yes-or-no question, and its probability in [0, 1]; None where the reply has no probabilities."""

T = TypeVar("T")

_TOKENS = re.compile(r"\[(?P<box>[\d\s,]*)\]|\((?P<point>[\d\s,]*)\)|\b(?P<word>on|off)\b", re.IGNORECASE)
_BOX_STARTS = re.compile(r"\[(?!\s*[\[{\"])")
"""A bracket that should begin a box: one that does not merely open a JSON list."""
_FRACTIONS = re.compile(r"\[\s*(?:[01]?\.\d+|[01])\s*(?:,\s*(?:[01]?\.\d+|[01])\s*){3}\]")
"""A box of numbers from 0 to 1; with a decimal point they are fractions, which some models write whatever they are asked."""


@dataclass(frozen=True)
class ReplyParser:
    """Read replies that use these words and this codec.

    Args:
        codec: Converts the numbers of boxes and points to pixels.
        yes: The word for a point on the object, or for a box that is what was meant.
        no: The word for the opposite.
        none_text: What a reply says where there is no such object. Case and punctuation don't matter.
    """

    codec: Codec
    yes: str
    no: str
    none_text: str

    def __post_init__(self) -> None:
        self._check_words()
        box, point = self.codec.encode_box(Box(0, 0, 1, 1), Size(1, 1)), self.codec.encode_point(Point(0, 0), Size(1, 1))
        if not re.fullmatch(r"\[[\d\s,]*\]", box) or not re.fullmatch(r"\([\d\s,]*\)", point):
            raise ValueError(f"expected boxes as [numbers] and points as (numbers), they are written {box!r} and {point!r}")

    def _check_words(self) -> None:
        yes, no, none = (_normalize(text) for text in (self.yes, self.no, self.none_text))
        if not (yes and no and none) or yes == no:
            raise ValueError(f"expected words for yes, no and none_text, got {self.yes!r}, {self.no!r} and {self.none_text!r}")

    def parse_boxes(self, question: Question, reply: Reply, size: Size) -> tuple[Box, ...]:
        """Return the distinct boxes that the reply names, in pixels; points are ignored.

        Returns:
            No boxes if the reply says that there is no such object.

        Raises:
            ReplyError: A box is malformed, or the reply names neither boxes nor their absence.
        """
        text = self.read_answer(question, reply)
        tokens = (token for token in _TOKENS.finditer(text) if token.lastgroup == "box")
        boxes = [self._decode_box(token["box"], token[0], question, reply, size) for token in tokens]
        return self._check_complete(boxes, text, question, reply)

    def parse_prompts(self, question: Question, reply: Reply, size: Size) -> tuple[ObjectPrompt, ...]:
        """Return the boxes with the points that follow each, in pixels; none if there is no such object.

        A point is on the object unless the last word among "on" and "off" since its box is "off".

        Raises:
            ReplyError: As for `parse_boxes`, or a point is malformed.
        """
        text, prompts = self.read_answer(question, reply), list[ObjectPrompt]()
        label: Label = 1
        for token in _TOKENS.finditer(text):
            if token.lastgroup == "box":
                prompts.append(ObjectPrompt(self._decode_box(token["box"], token[0], question, reply, size)))
                label = 1
            elif token.lastgroup == "word":
                label = 1 if token["word"].lower() == "on" else 0
            elif prompts:
                point = PointPrompt(*self._decode_point(token["point"], question, reply, size), label)
                prompts[-1] = ObjectPrompt(prompts[-1].box, (*prompts[-1].points, point))
        return self._check_complete(prompts, text, question, reply)

    def parse_points(self, question: Question, reply: Reply, size: Size) -> tuple[Point, ...]:
        """Return the distinct points of a reply that names points alone, in pixels; none if there is no such object.

        Raises:
            ReplyError: A point is malformed, or the reply names a box, or neither points nor their absence.
        """
        text = self.read_answer(question, reply)
        tokens = [token for token in _TOKENS.finditer(text) if token.lastgroup != "word"]
        if box := next((token[0] for token in tokens if token.lastgroup == "box"), None):
            raise ReplyError(f"expected points, got the box {box}", question, reply)
        points = [self._decode_point(token["point"], question, reply, size) for token in tokens]
        if not points:
            self._require_none_text(text, question, reply, "points")
        return self._distinct(points, question, reply, "points")

    def parse_labels(self, question: Question, reply: Reply) -> tuple[LabelAndConfidence, ...]:
        """Return label and confidence for each point of the question.

        Probabilities decide where the reply has them, else the words of its text.

        Raises:
            ReplyError: The reply holds more or fewer answers than the question asks for.
        """
        answer = question.answer
        if not isinstance(answer, Labels):
            raise ValueError(f"labels are read from a question that expects labels, not {answer}")
        if reply.label_probabilities is not None:
            if len(reply.label_probabilities) != answer.count:
                raise ReplyError(f"expected {answer.count} answers, got {len(reply.label_probabilities)}", question, reply)
            return tuple((1, yes) if yes >= no else (0, no) for yes, no in reply.label_probabilities)
        words = _find_words(self.read_answer(question, reply), self.yes, self.no)
        if len(words) != answer.count:
            raise ReplyError(f"expected {answer.count} answers of {self.yes} or {self.no}, got {len(words)}", question, reply)
        return tuple((1 if word.casefold() == self.yes.casefold() else 0, None) for word in words)

    def read_answer(self, question: Question, reply: Reply) -> str:
        """Return the reply's text after its thought. Raises ReplyError where the thought doesn't end."""
        answer = strip_thought(reply.text)
        if answer is None:
            raise ReplyError("the answer was cut off while the model was thinking", question, reply)
        return answer

    def _decode_box(self, numbers: str, written: str, question: Question, reply: Reply, size: Size) -> Box:
        """Return the box of these numbers, which the reply wrote as `written`. Raises ReplyError."""
        try:
            box = self.codec.decode_box(numbers, size)
        except ValueError as error:
            raise ReplyError(str(error), question, reply) from error
        if box.width <= 0 or box.height <= 0:
            raise ReplyError(f"the box {written} is empty", question, reply)
        return box

    def _decode_point(self, numbers: str, question: Question, reply: Reply, size: Size) -> Point:
        try:
            return self.codec.decode_point(numbers, size)
        except ValueError as error:
            raise ReplyError(str(error), question, reply) from error

    def _distinct(self, parsed: Iterable[T], question: Question, reply: Reply, what: str = "boxes") -> tuple[T, ...]:
        """Return what was parsed, each once. Raises ReplyError for more than `MAX_OBJECTS`."""
        distinct = tuple(dict.fromkeys(parsed))
        if len(distinct) > MAX_OBJECTS:
            raise ReplyError(f"expected at most {MAX_OBJECTS} {what}, got {len(distinct)}", question, reply)
        return distinct

    def _require_none_text(self, text: str, question: Question, reply: Reply, expected: str) -> None:
        if f" {_normalize(self.none_text)} " not in f" {_normalize(text)} ":
            raise ReplyError(f"expected {expected} or {self.none_text!r}", question, reply)

    def _check_complete(self, parsed: Sequence[T], text: str, question: Question, reply: Reply) -> tuple[T, ...]:
        """Return what was parsed, each once, if the answer holds nothing that looks like a box and was not parsed."""
        if fractions := next((match[0] for match in _FRACTIONS.finditer(text) if "." in match[0]), None):
            expected = f"expected numbers of 0 to {self.codec.scale - 1}"
            raise ReplyError(f"the box {fractions} seems to be in fractions of the image: {expected}", question, reply)
        if len(parsed) != len(_BOX_STARTS.findall(text)) or text.count("[") > text.count("]"):
            raise ReplyError("a box is not four numbers in brackets, or the answer is cut off", question, reply)
        distinct = self._distinct(parsed, question, reply)
        if not parsed:
            self._require_none_text(text, question, reply, "boxes")
        return distinct


def _find_words(text: str, yes: str, no: str) -> list[str]:
    """Find every yes and no of the text: "NoNoYes" holds three, "not" holds none."""
    word, run = _word_patterns(yes, no)
    return [match for words in run.findall(text) for match in word.findall(words)]


@cache
def _word_patterns(yes: str, no: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return a pattern of one word and one of a run of words.

    The run never backtracks (`++`), so a hostile reply takes linear time however the words overlap.
    """
    word = "|".join(re.escape(word) for word in sorted((yes, no), key=len, reverse=True))
    run = rf"\b(?:(?:{word})(?=\b|{word}))++\b"
    return re.compile(word, re.IGNORECASE), re.compile(run, re.IGNORECASE)


def _normalize(text: str) -> str:
    """Keep letters and digits alone, so that case and punctuation don't decide whether an object exists."""
    return " ".join(re.findall(r"\w+", text.casefold()))
