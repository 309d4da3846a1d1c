"""How one family of checkpoints is spoken to: its wording, its number format, its coordinate frame.

Pixels become text here and text becomes pixels here, and nowhere else. Verbs pair up: `ask_boxes` writes the question,
`tell_boxes` the ideal answer (training's), `read_boxes` parses a real one. Readers accept prose around an answer, since many
models are talkative, but never guess: an answer that is cut off, out of the frame, or of another count is a ReplyError.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.types import (
    Box,
    FreeText,
    Label,
    Labels,
    ObjectPrompt,
    Point,
    PointPrompt,
    Question,
    Reply,
    Size,
    Turn,
)

MAX_OBJECTS = 100
"""Boxes in one reply; a model that names more is repeating itself, and each would cost a mask."""

T = TypeVar("T")

_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Dialect:
    """The wording and the frame of one family of checkpoints.

    scale: a coordinate is an integer 0 to scale - 1, the share of the picture's side times scale, rounded down; reading
    gives the middle of that step. digits: zero-padded width, 0 for none. points: "joint", all points in one question, or
    "each", one point a question. The templates' fields: {expression} in ask_boxes_text and ask_prompt_text (there also {on}
    and {off}, the numbers of points in words), {box} and {points} in ask_points_text, {x1} to {y2} in box_text, {x} and {y}
    in point_text. ask_again_text: what is said to an answer that can't be read, {reason} why, and what is expected instead;
    empty for checkpoints that were trained on this dialogue alone, to which it would be new. ask_whether_text: whether what is
    in {box} is what {expression} means; ask_other_text: as ask_boxes_text, leaving out what is in {boxes}; either empty where a
    model can't be asked that. ask_region_text: what is in {box}, or at {point}, a place on what is seen there.
    """

    name: str
    ask_boxes_text: str
    ask_points_text: str
    ask_prompt_text: str
    none_text: str
    yes: str
    no: str
    points: Literal["joint", "each"]
    scale: int = 1000
    digits: int = 3
    box_text: str = "[{x1},{y1},{x2},{y2}]"
    point_text: str = "({x},{y})"
    system: str = ""
    answer_start: str = ""
    max_tokens: int = 512
    ask_again_text: str = ""
    ask_whether_text: str = ""
    ask_other_text: str = ""
    ask_region_text: str = "Describe in a few words what is in {box}."

    def __post_init__(self) -> None:
        """A dialect may come from a file: one that could not be spoken or read back is refused here."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in (str, int) and not isinstance(value, field.type):
                raise ValueError(f"expected {field.name} as {field.type.__name__}, got {value!r}")
        if self.points not in ("joint", "each"):
            raise ValueError(f"expected points as 'joint' or 'each', got {self.points!r}")
        if self.scale < 2:
            raise ValueError(f"expected a scale of at least 2, got {self.scale}")
        if not (_plain(self.yes) and _plain(self.no) and _plain(self.none_text)) or _plain(self.yes) == _plain(self.no):
            raise ValueError(f"expected words for yes, no and none_text, got {self.yes!r}, {self.no!r} and {self.none_text!r}")
        for name, places in _PLACES.items():
            template = getattr(self, name)
            try:
                template.format(**dict.fromkeys(places, ""))
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(f"expected {name} with {', '.join(places)} in braces, got {template!r}") from error
        for written in (self.write_box(Box(0, 0, 1, 1), Size(1, 1)), self.write_point(Point(0, 0), Size(1, 1))):
            if not _TOKENS.fullmatch(written):
                raise ValueError(f"expected boxes as [numbers] and points as (numbers), they are written {written!r}")

    # Questions and ideal answers -----------------------------------------------------------------------------------

    def start(self) -> tuple[Turn, ...]:
        """The turns before the first question."""
        return (Turn("system", self.system),) if self.system else ()

    def ask_boxes(self, expression: str) -> Question:
        """Round 1: where is it?"""
        asked = Turn("user", self.ask_boxes_text.format(expression=expression))
        return Question((*self.start(), asked), FreeText(self.max_tokens))

    def ask_other(self, expression: str, boxes: Sequence[Box], size: Size) -> Question | None:
        """Round 1 again, leaving out what is in `boxes`; None without words for that. `tell_boxes` is its ideal answer."""
        if not self.ask_other_text:
            return None
        listed = " ".join(self.write_box(box, size) for box in boxes)
        asked = Turn("user", self.ask_other_text.format(expression=expression, boxes=listed))
        return Question((*self.start(), asked), FreeText(self.max_tokens))

    def ask_whether(self, expression: str, box: Box, size: Size) -> Question | None:
        """Whether the object in the box is one that the expression means; None without words for that.

        It stands alone: a model that is shown its own answer tends to stand by it.
        """
        if not self.ask_whether_text:
            return None
        asked = self.ask_whether_text.format(expression=expression, box=self.write_box(box, size))
        return Question((*self.start(), Turn("user", asked)), Labels(1, (self.yes, self.no)))

    def ask_region(self, box: Box, point: Point, size: Size) -> Question:
        """What is there, in the model's own words. box: around it. point: on it, since a box also holds what is beside it."""
        places = {"box": self.write_box(box, size), "point": self.write_point(point, size)}
        return Question(
            (*self.start(), Turn("user", self.ask_region_text.format(**places))), FreeText(min(self.max_tokens, 64))
        )

    def tell_boxes(self, boxes: Sequence[Box], size: Size) -> str:
        """The ideal answer to `ask_boxes`; no boxes: there is no such object."""
        return self.answer_start + (" ".join(self.write_box(box, size) for box in boxes) or self.none_text)

    def ask_points(self, so_far: tuple[Turn, ...], box: Box, points: Sequence[Point], size: Size) -> tuple[Question, ...]:
        """Round 2, after the turns so far: which of the points are on the object in this box? One question or one each."""
        groups = [[point] for point in points] if self.points == "each" else [points] if points else []
        questions = []
        for group in groups:
            listed = " ".join(self.write_point(point, size) for point in group)
            text = self.ask_points_text.format(box=self.write_box(box, size), points=listed)
            questions.append(Question((*so_far, Turn("user", text)), Labels(len(group), (self.yes, self.no))))
        return tuple(questions)

    def as_taught(self, reply: str) -> str:
        """The reply as training had it in the conversation so far: a backend may have stripped how answers start."""
        return reply if reply.startswith(self.answer_start) else self.answer_start + reply

    def tell_labels(self, labels: Sequence[Label]) -> str:
        """The ideal answer to one question of `ask_points`."""
        return "".join(self.yes if label else self.no for label in labels)

    def ask_prompt(self, expression: str, on: int, off: int) -> Question:
        """PPG: box and points in one answer."""
        text = self.ask_prompt_text.format(expression=expression, on=_in_words(on), off=_in_words(off))
        return Question((*self.start(), Turn("user", text)), FreeText(self.max_tokens))

    def ask_again(self, question: Question, reply: Reply, reason: str) -> Question:
        """The question with the reply that can't be read and a turn that corrects it; as it was without words for that."""
        if not self.ask_again_text:
            return question
        told = (Turn("assistant", reply.text), Turn("user", self.ask_again_text.format(reason=reason)))
        return Question((*question.turns, *told), question.answer)

    def tell_prompt(self, prompts: Sequence[ObjectPrompt], size: Size) -> str:
        """The ideal answer to `ask_prompt`."""
        parts = []
        for prompt in prompts:
            on, off = ([p for p in prompt.points if p.label == label] for label in (1, 0))
            words = [self.write_box(prompt.box, size)]
            for word, group in (("on", on), ("off", off)):
                words += [word, *(self.write_point(Point(p.x, p.y), size) for p in group)] if group else []
            parts.append(" ".join(words))
        return self.answer_start + (" ".join(parts) or self.none_text)

    # Real answers --------------------------------------------------------------------------------------------------

    def read_boxes(self, question: Question, reply: Reply, size: Size) -> tuple[Box, ...]:
        """The boxes named in the reply, none if it says that there is no such object. Raises ReplyError.

        A box named twice is one box. Points, which were not asked for, are passed over.
        """
        tokens = (token for token in _TOKENS.finditer(reply.text) if token.lastgroup == "box")
        return self._whole([self._read_box(token, question, reply, size) for token in tokens], question, reply)

    def read_labels(self, question: Question, reply: Reply) -> tuple[tuple[Label, float | None], ...]:
        """Label and confidence for each point of the question. Raises ReplyError.

        The confidence is the label's probability among the two words; None where the reply has no probabilities.
        """
        answer = question.answer
        if not isinstance(answer, Labels):
            raise ValueError(f"labels are read from a question that expects labels, not {answer}")
        if reply.label_probabilities is not None:
            if len(reply.label_probabilities) != answer.count:
                raise ReplyError(f"expected {answer.count} answers, got {len(reply.label_probabilities)}", question, reply)
            return tuple((1, yes) if yes >= no else (0, no) for yes, no in reply.label_probabilities)
        word = "|".join(re.escape(word) for word in sorted((self.yes, self.no), key=len, reverse=True))
        runs = re.findall(rf"\b(?:{word})+\b", reply.text, re.IGNORECASE)  # "NoNoYes" is three answers, "not" is none
        words = [found for run in runs for found in re.findall(word, run, re.IGNORECASE)]
        if len(words) != answer.count:
            raise ReplyError(f"expected {answer.count} answers of {self.yes} or {self.no}, got {len(words)}", question, reply)
        return tuple((1 if found.casefold() == self.yes.casefold() else 0, None) for found in words)

    def read_prompt(self, question: Question, reply: Reply, size: Size) -> tuple[ObjectPrompt, ...]:
        """Boxes and the points that follow each, none if there is no such object. Raises ReplyError."""
        prompts: list[ObjectPrompt] = []
        label: Label = 1
        for token in _TOKENS.finditer(reply.text):
            kind = token.lastgroup
            if kind == "box":
                prompts.append(ObjectPrompt(self._read_box(token, question, reply, size)))
                label = 1
            elif kind == "word":
                label = 1 if token["word"].lower() == "on" else 0
            elif kind == "point" and prompts:
                x, y = self._read_numbers(token["point"], 2, question, reply, size)
                last = prompts.pop()
                prompts.append(ObjectPrompt(last.box, (*last.points, PointPrompt(x, y, label))))
        return self._whole(prompts, question, reply)

    def _read_box(self, token: re.Match[str], question: Question, reply: Reply, size: Size) -> Box:
        x1, y1, x2, y2 = self._read_numbers(token["box"], 4, question, reply, size)
        if not (x1 < x2 and y1 < y2):
            raise ReplyError(f"the box {token[0]} is empty", question, reply)
        return Box(x1, y1, x2, y2)

    def _whole(self, found: Sequence[T], question: Question, reply: Reply) -> tuple[T, ...]:
        """What was found in the reply, each once, if that is all that the reply meant to name. Raises ReplyError."""
        text, distinct = reply.text, tuple(dict.fromkeys(found))
        if len(found) != len(_OPENINGS.findall(text)) or text.count("[") > text.count("]"):
            raise ReplyError("a box is not four numbers in brackets, or the answer is cut off", question, reply)
        if len(distinct) > MAX_OBJECTS:
            raise ReplyError(f"expected at most {MAX_OBJECTS} boxes, got {len(distinct)}", question, reply)
        if not found and f" {_plain(self.none_text)} " not in f" {_plain(text)} ":
            raise ReplyError(f"expected boxes or {self.none_text!r}", question, reply)
        return distinct

    def _read_numbers(self, text: str, count: int, question: Question, reply: Reply, size: Size) -> list[float]:
        """The middles of the steps, in pixels. `scale` itself, the far edge, is read as the last step."""
        numbers = re.findall(r"\d+", text)
        if len(numbers) != count or any(len(number) > 9 or int(number) > self.scale for number in numbers):
            raise ReplyError(f"expected {count} numbers of 0 to {self.scale - 1}, got {text[:80]!r}", question, reply)
        steps = (min(int(number), self.scale - 1) for number in numbers)
        return [(step + 0.5) * side / self.scale for step, side in zip(steps, (*size, *size), strict=False)]

    # Numbers -------------------------------------------------------------------------------------------------------

    def write_box(self, box: Box, size: Size) -> str:
        """The box as text, at least one step wide and high."""
        x1, x2 = self._steps(box.x1, box.x2, size.width)
        y1, y2 = self._steps(box.y1, box.y2, size.height)
        return self.box_text.format(x1=self._pad(x1), y1=self._pad(y1), x2=self._pad(x2), y2=self._pad(y2))

    def write_point(self, point: Point, size: Size) -> str:
        x, y = self._step(point.x, size.width), self._step(point.y, size.height)
        return self.point_text.format(x=self._pad(x), y=self._pad(y))

    def snap(self, point: Point, size: Size) -> Point:
        """The place in pixels that is really asked about: the middle of the step that the point falls in."""
        x, y = ((self._step(v, side) + 0.5) * side / self.scale for v, side in zip(point, size, strict=True))
        return Point(x, y)

    def snap_box(self, box: Box, size: Size) -> Box:
        """The box that is read back when this one is written."""
        (x1, x2), (y1, y2) = self._steps(box.x1, box.x2, size.width), self._steps(box.y1, box.y2, size.height)
        sides = (size.width, size.height) * 2
        return Box(*((n + 0.5) * side / self.scale for n, side in zip((x1, y1, x2, y2), sides, strict=True)))

    def _step(self, value: float, side: int) -> int:
        return max(0, min(self.scale - 1, math.floor(value * self.scale / side)))

    def _steps(self, low: float, high: float, side: int) -> tuple[int, int]:
        first = min(self._step(low, side), self.scale - 2)
        return first, max(self._step(high, side), first + 1)

    def _pad(self, step: int) -> str:
        return f"{step:0{self.digits}d}"

    # As a file -----------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """What `from_json` reads; kept as dialect.json beside the weights that were trained on it."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Dialect":
        """Raises ValueError naming the fault."""
        try:
            fields: dict[str, Any] = json.loads(text)
            return cls(**fields)
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"not a dialect: {error}") from error


_TOKENS = re.compile(r"\[(?P<box>[\d\s,]*)\]|\((?P<point>[\d\s,]*)\)|\b(?P<word>on|off)\b", re.IGNORECASE)
_OPENINGS = re.compile(r"\[(?!\s*[\[{\"])")
"""What should begin a box: a bracket that does not merely open a JSON list."""

_PLACES = {
    "ask_boxes_text": ("expression",),
    "ask_points_text": ("box", "points"),
    "ask_prompt_text": ("expression", "on", "off"),
    "ask_again_text": ("reason",),
    "ask_whether_text": ("expression", "box"),
    "ask_other_text": ("expression", "boxes"),
    "ask_region_text": ("box", "point"),
    "box_text": ("x1", "y1", "x2", "y2"),
    "point_text": ("x", "y"),
}


def _in_words(count: int) -> str:
    return _COUNTS[count] if count < len(_COUNTS) else str(count)


def _plain(text: str) -> str:
    """Letters and digits alone, so that case and punctuation don't decide whether an object exists."""
    return " ".join(re.findall(r"\w+", text.casefold()))


RELEASED = Dialect(
    name="released",
    system=(
        "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
        "provides, and assist the user with a variety of tasks using natural language."
    ),
    ask_boxes_text=('Please provide the bounding box coordinate of the region this sentence describes (0+):\n"{expression}".'),
    ask_points_text="Check if the points listed below are located on the object with bounding box {box}:\n{points}",
    # PPG exists in the paper alone; this wording is ours.
    ask_prompt_text=(
        "Please provide the bounding box coordinate, {on} points on and {off} points off the region this sentence "
        'describes (0+):\n"{expression}".'
    ),
    none_text="No object found.",
    yes="Yes",
    no="No",
    points="joint",
    answer_start="\n",
)
"""The published adapter's wire format, word for word (its converter's; the picture's placeholder comes from the template)."""

EMBEDDED = Dialect(
    name="embedded",
    ask_boxes_text="Give the bounding box of each object that this describes: {expression}",
    ask_points_text="Is this point on the object in {box}? {points}",
    ask_prompt_text=("Give the bounding box, {on} points on and {off} point off each object that this describes: {expression}"),
    none_text="no object",
    yes="yes",
    no="no",
    points="each",
    scale=192,
    box_text="[{x1} {y1} {x2} {y2}]",
    point_text="({x} {y})",
    max_tokens=96,
    ask_whether_text="Is the object in {box} what this describes: {expression}",
    ask_other_text="Not the object in {boxes}. Give the bounding box of each object that this describes: {expression}",
    ask_region_text="what is at {point}",  # the base was taught it, and the adapter keeps it
)
"""What the embedded pair speaks: one point a question, coordinates in 192 steps."""

PLAIN = Dialect(
    name="plain",
    ask_boxes_text=(
        "Find every object in the picture that this describes: {expression}\n"
        "Answer with the bounding box of each as [x1,y1,x2,y2], where x and y are integers from 0 (left, top) to 999 "
        "(right, bottom) of the picture, separated by spaces, and nothing else. If there is no such object, answer: none"
    ),
    ask_points_text=(
        "Is the point {points} on the object whose bounding box is {box}, rather than on something else inside that box? "
        "Answer Yes or No."
    ),
    ask_prompt_text=(
        "Find every object in the picture that this describes: {expression}\n"
        "For each, answer with its bounding box, {on} points on it and {off} beside it but inside the box, as "
        "[x1,y1,x2,y2] on (x,y) off (x,y), where x and y are integers from 0 (left, top) to 999 (right, bottom) of the "
        "picture, and nothing else. If there is no such object, answer: none"
    ),
    none_text="none",
    yes="Yes",
    no="No",
    points="each",
    digits=0,
    ask_again_text=(
        "That answer can't be read: {reason}. Answer the question again, and nothing else: a box as [x1,y1,x2,y2] with "
        "integers from 0 to 999, x1 less than x2 and y1 less than y2; a point as (x,y); none if there is no such object; Yes "
        "or No where that is asked."
    ),
    ask_whether_text=(
        "Look at the object in the bounding box {box}. Is it what this describes, or one of those it describes: {expression}\n"
        "Answer Yes or No."
    ),
    ask_other_text=(
        "Leave out what is in {boxes}. Find every other object in the picture that this describes: {expression}\n"
        "Answer with the bounding box of each as [x1,y1,x2,y2], where x and y are integers from 0 (left, top) to 999 "
        "(right, bottom) of the picture, separated by spaces, and nothing else. If there is no other, answer: none"
    ),
)
"""Plain instructions that an off-the-shelf model can follow without any tuning."""

JOINT = Dialect(
    name="joint",
    ask_boxes_text="Give the bounding box of each object that this describes: {expression}",
    ask_points_text="Is each of these points on the object in {box}? {points}",
    ask_prompt_text="Give the bounding box, {on} points on and {off} points off each object that this describes: {expression}",
    none_text="no such object",
    yes="Yes",
    no="No",
    points="joint",
    ask_again_text=(
        "That answer can't be read: {reason}. Answer the question again, and nothing else: a box as [x1,y1,x2,y2] with "
        "integers from 0 to 999, x1 less than x2 and y1 less than y2; a point as (x,y); no such object if there is none; one "
        "Yes or No for each point where that is asked."
    ),
    ask_whether_text="Is the object in {box} what this describes: {expression}",
    ask_other_text="Not the object in {boxes}. Give the bounding box of each object that this describes: {expression}",
)
"""For models that are tuned: short, all points of a box in one question, 0 to 999 as most families were pretrained on."""

DIALECTS = {dialect.name: dialect for dialect in (RELEASED, EMBEDDED, PLAIN, JOINT)}
