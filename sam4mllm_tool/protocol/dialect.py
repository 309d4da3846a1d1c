"""How one family of checkpoints is asked and answers: `Dialect`, composed of a wording, a coordinate codec and a reply parser.

A dialect is plain data, one flat JSON object beside the weights, so that a checkpoint says itself how it was trained. The
families that ship with the package are in dialects/.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from string import Formatter
from typing import Any, Literal

from sam4mllm_tool.protocol.coordinate_codec import CoordinateCodec
from sam4mllm_tool.protocol.native_codec import Frame, NativeCodec, Resizing, ResizingRule
from sam4mllm_tool.protocol.native_replies import NativeReplyParser
from sam4mllm_tool.protocol.padded_codec import Codec, PaddedCodec
from sam4mllm_tool.protocol.point_replies import PointReplyParser
from sam4mllm_tool.protocol.reply_parser import MAX_OBJECTS, LabelAndConfidence, ReplyParser
from sam4mllm_tool.protocol.wording import Wording
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.types import Box, Label, ObjectPrompt, Point, Question, Reply, Size, Turn

__all__ = ["MAX_OBJECTS", "Dialect"]

_PLACEHOLDERS = {
    "ask_boxes_text": ("expression",),
    "ask_points_text": ("box", "points"),
    "ask_prompt_text": ("expression", "on", "off"),
    "ask_again_text": ("reason",),
    "ask_whether_text": ("expression", "box"),
    "ask_other_text": ("expression", "boxes"),
    "ask_region_text": ("box", "point"),
    "ask_pointing_text": ("expression",),
    "box_text": ("x1", "y1", "x2", "y2"),
    "point_text": ("x", "y"),
    "item_text": ("box",),
    "list_text": ("boxes",),
}

_MAX_TEXT = 10_000
_RANGES = {"scale": (1, 10**6), "digits": (0, 9), "decimals": (0, 9), "max_tokens": (1, 10**6)}
"""A dialect may come with a stranger's weights."""

_RENAMED = {
    "ask_other": "ask_other_boxes",
    "ask_prompt": "ask_prompts",
    "ask_whether": "ask_verification",
    "as_taught": "restore_answer_start",
    "read_boxes": "parse_boxes",
    "read_labels": "parse_labels",
    "read_prompt": "parse_prompts",
    "snap": "snap_point",
    "tell_boxes": "format_boxes",
    "tell_labels": "format_labels",
    "tell_prompt": "format_prompts",
    "write_box": "encode_box",
    "write_point": "encode_point",
}
"""Methods of version 0.1 by their old names, which still work for one release."""


@dataclass(frozen=True)
class Dialect:
    """The wording, the coordinate frame and the reply format of one family of checkpoints. Boxes and points are in pixels.

    Args:
        name: The key in `DIALECTS`.
        ask_boxes_text: Round 1: where is the object? Placeholder {expression}.
        ask_points_text: Round 2: which of these points are on the object? Placeholders {box} and {points}. Empty for
            checkpoints that can't be asked: PQPP then ends with its boxes.
        ask_prompt_text: PPG: box and points in one reply. Placeholders {expression}, and {on} and {off}, the numbers of points
            in words.
        none_text: The reply where there is no such object.
        yes: The answer for a point on the object.
        no: The answer for a point off it.
        points: "joint" asks about all points of a box in one question, "each" about one point per question.
        scale: Coordinates are integers from 0 to scale - 1, a share of the image's side times scale; see `frame`.
        digits: Width to which coordinates are padded with zeros; 0 for no padding.
        box_text: How a box is written and read. Placeholders {x1}, {y1}, {x2} and {y2}, in the family's own order.
        point_text: How a point is written and read. Placeholders {x} and {y}.
        system: The system prompt; empty for none.
        answer_start: What ideal answers begin with, such as a newline.
        max_tokens: Limit of a free-text reply.
        ask_again_text: The reaction to a reply that can't be parsed; placeholder {reason}. Empty for checkpoints that were
            trained on this dialogue alone, without corrections.
        ask_whether_text: Is the object in the box what the expression means? Placeholders {expression} and {box}. Empty for
            checkpoints that can't be asked.
        ask_other_text: As ask_boxes_text, leaving out some boxes. Placeholders {expression} and {boxes}. Empty likewise.
        ask_region_text: What is in {box}, or at {point}, a point on what is seen there?
        frame: What coordinates count. "steps": integers from 0 to scale - 1, the step that a coordinate falls in. "lines":
            numbers from 0 to scale, the far edge. "processed": pixels of the image as the model gets it, after its resizing.
        decimals: Decimals of coordinates, where `frame` isn't "steps".
        replies: "exact" reads replies as this dialect writes them, "native" as off-the-shelf families write them, "points" as
            families write them that answer with points in XML.
        item_text: How one box stands in the answer to `ask_boxes`; placeholder {box}.
        list_text: How the boxes of that answer stand together; placeholder {boxes}.
        separator: What stands between them.
        resizing: How the model resizes images, as (multiple, least pixels, most pixels) and maybe limits of the longer side
            and of the shorter, where `frame` is "processed". Loading sets it, or lowers most pixels where it is set already.
        padded: Whether coordinates count the sides of the square that the model sees the image in the middle of, as LLaVA 1.5
            does. Loading sets it, unless it is set already; in a dialect.json it is set: false where the file doesn't name it.
        ask_pointing_text: Where are the objects, a point on each? Placeholder {expression}. Empty for checkpoints that answer
            with points only after a box: they are asked `ask_prompt_text`.

    Raises:
        ValueError: A template lacks a placeholder, or what it writes could not be read back.
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
    frame: Frame = "steps"
    decimals: int = 0
    replies: Literal["exact", "native", "points"] = "exact"
    item_text: str = "{box}"
    list_text: str = "{boxes}"
    separator: str = " "
    resizing: ResizingRule | None = None
    ask_pointing_text: str = ""
    padded: bool | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in (str, int) and not isinstance(value, field.type):
                raise ValueError(f"expected {field.name} as {field.type.__name__}, got {value!r:.80}")
            if isinstance(value, str) and len(value) > _MAX_TEXT:
                raise ValueError(f"expected {field.name} of at most {_MAX_TEXT:,} characters, got {len(value):,}")
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"expected {name} of {least} to {most:,}, got {getattr(self, name)!r:.20}")
        if self.padded not in (None, False, True):
            raise ValueError(f"expected padded as true or false, got {self.padded!r:.80}")
        if self.resizing is not None and not _is_resizing(self.resizing):
            raise ValueError(f"expected resizing as three to five whole numbers above 0, got {self.resizing!r:.80}")
        for name, words in (
            ("points", ("joint", "each")),
            ("frame", ("steps", "lines", "processed")),
            ("replies", ("exact", "native", "points")),
        ):
            if getattr(self, name) not in words:
                raise ValueError(f"expected {name} as {' or '.join(map(repr, words))}, got {getattr(self, name)!r}")
        for name, placeholders in _PLACEHOLDERS.items():
            _check_template(name, getattr(self, name), placeholders)
        _ = self.wording, self.parser  # building the parts checks them, and makes equal dialects pickle to the same bytes

    @cached_property
    def codec(self) -> Codec:
        """Pixels to numbers as text, and back."""
        return PaddedCodec(self._image_codec()) if self.padded else self._image_codec()

    def _image_codec(self) -> CoordinateCodec | NativeCodec:
        if self.frame == "steps":
            return CoordinateCodec(self.scale, self.digits, self.box_text, self.point_text)
        resizing = Resizing(*self.resizing) if self.resizing else None
        return NativeCodec(self.frame, self.scale, self.decimals, self.digits, self.box_text, self.point_text, resizing)

    def for_model(self, resizing: ResizingRule | None = None, *, pads_images: bool = False) -> "Dialect":
        """Return the dialect for a model that makes images ready so; the same one, where it says already what it counts.

        Args:
            resizing: How the model resizes images; used where coordinates are pixels of the resized image. A rule that is set
                already is kept, unless this one is the same with fewer pixels, as by the option `max_pixels`.
            pads_images: Whether the model sees an image in the middle of a square.
        """
        changes: dict[str, Any] = {}
        if self.frame == "processed" and resizing and (self.resizing is None or _is_tighter(resizing, self.resizing)):
            changes["resizing"] = resizing
        if self.padded is None and pads_images:
            changes["padded"] = True
        return replace(self, **changes) if changes else self

    @cached_property
    def wording(self) -> Wording:
        """Questions and ideal answers."""
        texts = {field.name: getattr(self, field.name) for field in fields(Wording) if field.name != "codec"}
        return Wording(self.codec, **texts)

    @cached_property
    def parser(self) -> ReplyParser:
        """Replies to boxes, points and labels."""
        parser = {"exact": ReplyParser, "native": NativeReplyParser, "points": PointReplyParser}[self.replies]
        return parser(self.codec, self.yes, self.no, self.none_text)

    # Questions -----------------------------------------------------------------------------------------------------

    def start(self) -> tuple[Turn, ...]:
        """Return the turns before the first question."""
        return self.wording.start()

    def ask_boxes(self, expression: str) -> Question:
        """Ask where the object is: round 1."""
        return self.wording.ask_boxes(expression)

    def ask_other_boxes(self, expression: str, boxes: Sequence[Box], size: Size) -> Question | None:
        """Ask round 1 again, leaving out what is in `boxes`; None without words for that."""
        return self.wording.ask_other_boxes(expression, boxes, size)

    def ask_verification(self, expression: str, box: Box, size: Size) -> Question | None:
        """Ask whether the object in the box is one that the expression means; None without words for that.

        The question stands alone: a model that is shown its own answer tends to confirm it.
        """
        return self.wording.ask_verification(expression, box, size)

    def ask_region(self, box: Box, point: Point, size: Size) -> Question:
        """Ask for a description of what is in the box. `point` is on it, since a box also holds what is beside the object."""
        return self.wording.ask_region(box, point, size)

    def ask_points(
        self, previous_turns: tuple[Turn, ...], box: Box, points: Sequence[Point], size: Size
    ) -> tuple[Question, ...]:
        """Ask which points are on the object in the box, after the previous turns: round 2, one question or one per point."""
        return self.wording.ask_points(previous_turns, box, points, size)

    def ask_prompts(self, expression: str, on: int, off: int) -> Question:
        """Ask for box and points in one reply, `on` points on the object and `off` beside it: PPG."""
        return self.wording.ask_prompts(expression, on, off)

    def ask_pointing(self, expression: str) -> Question | None:
        """Ask for a point on each object; None without words for that."""
        return self.wording.ask_pointing(expression)

    def ask_again(self, question: Question, reply: Reply, reason: str) -> Question:
        """Return the question followed by the unreadable reply and a correction; the same question without words for that."""
        return self.wording.ask_again(question, reply, reason)

    # Ideal answers -------------------------------------------------------------------------------------------------

    def format_boxes(self, boxes: Sequence[Box], size: Size) -> str:
        """Write the ideal answer to `ask_boxes` and `ask_other_boxes`; no boxes: there is no such object."""
        return self.wording.format_boxes(boxes, size)

    def format_points(self, points: Sequence[Point], size: Size) -> str:
        """Write the ideal answer to `ask_pointing`; no points: there is no such object."""
        return self.wording.format_points(points, size)

    def format_labels(self, labels: Sequence[Label]) -> str:
        """Write the ideal answer to one question of `ask_points`, or to `ask_verification`."""
        return self.wording.format_labels(labels)

    def format_prompts(self, prompts: Sequence[ObjectPrompt], size: Size) -> str:
        """Write the ideal answer to `ask_prompts`."""
        return self.wording.format_prompts(prompts, size)

    def restore_answer_start(self, text: str) -> str:
        """Return a reply as training had it: decoding may have stripped `answer_start`."""
        return self.wording.restore_answer_start(text)

    # Replies -------------------------------------------------------------------------------------------------------

    def parse_boxes(self, question: Question, reply: Reply, size: Size) -> tuple[Box, ...]:
        """Return the distinct boxes of the reply, none if there is no such object. Raises ReplyError."""
        return self.parser.parse_boxes(question, reply, size)

    def parse_labels(self, question: Question, reply: Reply) -> tuple[LabelAndConfidence, ...]:
        """Return label and confidence for each point of the question. Raises ReplyError."""
        return self.parser.parse_labels(question, reply)

    def parse_prompts(self, question: Question, reply: Reply, size: Size) -> tuple[ObjectPrompt, ...]:
        """Return the boxes of the reply and the points that follow each. Raises ReplyError."""
        return self.parser.parse_prompts(question, reply, size)

    def parse_points(self, question: Question, reply: Reply, size: Size) -> tuple[Point, ...]:
        """Return the distinct points of the reply to `ask_pointing`, none if there is no such object. Raises ReplyError."""
        return self.parser.parse_points(question, reply, size)

    # Coordinates ---------------------------------------------------------------------------------------------------

    def encode_box(self, box: Box, size: Size) -> str:
        """Write a box as text, at least one step wide and high."""
        return self.codec.encode_box(box, size)

    def encode_point(self, point: Point, size: Size) -> str:
        """Write a point as text."""
        return self.codec.encode_point(point, size)

    def snap_box(self, box: Box, size: Size) -> Box:
        """Return the box that is read back when this one is written."""
        return self.codec.snap_box(box, size)

    def snap_point(self, point: Point, size: Size) -> Point:
        """Return the point that the model is really asked about when this one is written."""
        return self.codec.snap_point(point, size)

    # JSON ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Return the text of dialect.json, which is kept beside the weights that were trained on this dialect."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Dialect":
        """Build a dialect from what `to_json` wrote. Raises ValueError naming the fault."""
        try:
            values: dict[str, Any] = parse_json(text)
            if isinstance(values, dict) and values.get("resizing"):
                values["resizing"] = tuple(values["resizing"])
            values = {"padded": False, **values}
        except (ValueError, TypeError) as error:
            raise ValueError(f"not a dialect: {error}") from error
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"not a dialect: {error}") from error

    def __getattr__(self, name: str) -> Any:
        if name not in _RENAMED:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        warnings.warn(f"Dialect.{name} is now Dialect.{_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        return getattr(self, _RENAMED[name])


def _is_tighter(resizing: ResizingRule, other: ResizingRule) -> bool:
    """Whether a rule is another one with fewer pixels."""
    return resizing[2] < other[2] and (*resizing[:2], *resizing[3:]) == (*other[:2], *other[3:])


def _is_resizing(rule: ResizingRule) -> bool:
    numbers = [number for number in rule if number is not None]
    return 3 <= len(rule) <= 5 and rule[:3] == tuple(numbers[:3]) and all(type(n) is int and n > 0 for n in numbers)


def _check_template(name: str, template: str, placeholders: tuple[str, ...]) -> None:
    try:
        parts = list(Formatter().parse(template))
        if any(name is not None and (name not in placeholders or spec or conversion) for _, name, spec, conversion in parts):
            raise ValueError("a format, a conversion or an attribute")
    except ValueError as error:
        raise ValueError(f"expected {name} with {', '.join(placeholders)} in braces, got {template!r:.200}") from error
