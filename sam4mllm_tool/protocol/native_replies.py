"""Read boxes and points out of the replies of off-the-shelf families, each in the format that it was trained to write.

Formats that can't be confused are read at once: JSON with `bbox_2d`, `box_2d` or bare lists of four numbers, in a code fence or
not; `<box>[[...]]</box>`; `(x1,y1,x2,y2)`. Where the dialect writes `(x1,y1),(x2,y2)` or location tokens such as `<loc0012>`,
those are read. What the numbers mean is the codec's alone. Families that answer with points in XML have a parser of their own
(point_replies.py); `find_first_box`, which asks for no dialect, reads those, too.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol.reply_parser import ReplyParser
from sam4mllm_tool.protocol.thoughts import strip_thought
from sam4mllm_tool.types import Box, ObjectPrompt, Point, PointPrompt, Question, Reply, Size

__all__ = ["NativeReplyParser", "find_first_box", "find_tagged_points"]

_N = r"-?(?:\d{1,7}(?:\.\d{1,17})?|\.\d{1,17})"
_SEPARATOR = r"(?:\s*+[,;]\s*+|\s++)"
_FOUR = _SEPARATOR.join([_N] * 4)
_TWO = _SEPARATOR.join([_N] * 2)
_BOX = re.compile(rf"[\[(]\s*({_FOUR})\s*[\])]")
_CORNERS = re.compile(rf"\(\s*({_TWO})\s*\)\s*,?\s*\(\s*({_TWO})\s*\)|[\[(]\s*({_FOUR})\s*[\])]")
"""For families that write a box as two corners; elsewhere two points are no box."""
_LOCATION = r"<loc_?(\d{1,4})>"
_LOCATED_BOX, _LOCATED_POINT = re.compile(_LOCATION * 4), re.compile(_LOCATION * 2)
_POINT = re.compile(rf"[\[(]\s*({_TWO})\s*[\])]")
_LABEL_TEXTS = re.compile(
    r"\"(?:label|name|object|description|text_content)\"\s*:\s*\"(?:[^\"\\]|\\.)*+\"?"
    r"|'(?:label|name|object|description|text_content)'\s*:\s*(?:'(?:[^'\\]|\\.)*+'?|\"(?:[^\"\\]|\\.)*+\"?)"
    r"|<ref>[^<]*+(?:</ref>)?|<\|object_ref_start\|>[^<]*+(?:<\|object_ref_end\|>)?"
)
"""Labels in JSON and in marks: what is written in them is no answer."""
_OPENED = re.compile(
    r"[\"'](?:bbox|bbox_2d|box_2d|box|bounding_box|point|point_2d)[\"']\s*:\s*\[|<box>|<\|box_start\|>|<loc_?\d"
)
_NONE = re.compile(
    r"^\W*(?:no|none|nothing)\b|\bnone\b|\bno such\b"
    r"|\b(?:there|here)(?:'s| is| are| was| were) (?:no|not|none|nothing)\b|\b(?:there|here) (?:isn't|aren't)\b"
    r"|\b(?:not|n't|no \w+(?: \w+){0,5}) (?:be )?"
    r"(?:found|present|visible|shown|detected|seen|appear|contain|include|exist|depict)"
    r"|\[\s*\]\s*\}*\s*(?:```)?\s*$",
    re.IGNORECASE,
)
_TAG = re.compile(r"<points?\s[^<>]*+>?", re.IGNORECASE)
_TAG_NUMBER = r"-?\d{1,7}(?:\.\d{1,17})?"
_TAG_PAIR = re.compile(rf"\bx\d*\s*=\s*\"\s*({_TAG_NUMBER})\s*\"\s+y\d*\s*=\s*\"\s*({_TAG_NUMBER})\s*\"")
_TAG_COORDS = re.compile(r"\bcoords\s*=\s*\"([^\"]*)(\"?)")
_REFUSAL = re.compile(r"\b(?:sorry|cannot|can't|unable|won't|not able|as an ai)\b", re.IGNORECASE)


def find_first_box(text: str) -> tuple[float, float, float, float] | None:
    """Return the four numbers of the first box in a reply, in any format and whatever they count; None without a box.

    A tag with several points is a box: its first two points are the corners.
    """
    answer = _LABEL_TEXTS.sub("", strip_thought(text) or "")
    boxes = [
        (match.start(), re.findall(_N, _numbers(match)))
        for pattern in (_CORNERS, _LOCATED_BOX)
        if (match := pattern.search(answer))
    ]
    tagged = ((tag.start(), [*points[0], *points[1]]) for tag, points in find_tagged_points(answer) if len(points) > 1)
    boxes += itertools.islice(tagged, 1)
    if not boxes:
        return None
    x1, y1, x2, y2 = map(float, min(boxes)[1])
    return x1, y1, x2, y2


def find_tagged_points(text: str) -> Iterator[tuple[re.Match[str], list[tuple[str, str]]]]:
    """Yield the XML tags that have points, with the first and the second number of each point, as text.

    The last tag may be cut off: then it doesn't end with ">".
    """
    for tag in _TAG.finditer(text):
        if points := list(_find_pairs(tag[0])):
            yield tag, points


def _find_pairs(tag: str) -> Iterator[tuple[str, str]]:
    yield from ((match[1], match[2]) for match in _TAG_PAIR.finditer(tag))
    for listed in _TAG_COORDS.finditer(tag):
        for image in re.split(r"[\t;:,]", listed[1]):
            numbers = re.findall(_TAG_NUMBER, image)
            start = 0 if listed[2] and len(numbers) % 3 == 0 else 1  # the image's number comes first, if it is written
            complete = numbers if listed[2] else numbers[:-1]  # the last number may be cut off
            yield from ((complete[i + 1], complete[i + 2]) for i in range(start, len(complete) - 2, 3))


@dataclass(frozen=True)
class NativeReplyParser(ReplyParser):
    """Read replies in the families' own formats. Complete boxes count, even if the reply is cut off after them."""

    def __post_init__(self) -> None:
        self._check_words()

    def parse_boxes(self, question: Question, reply: Reply, size: Size) -> tuple[Box, ...]:
        """As `ReplyParser.parse_boxes`."""
        return tuple(prompt.box for prompt in self._parse(question, reply, size, with_points=False))

    def parse_prompts(self, question: Question, reply: Reply, size: Size) -> tuple[ObjectPrompt, ...]:
        """As `ReplyParser.parse_prompts`."""
        return self._parse(question, reply, size, with_points=True)

    def parse_points(self, question: Question, reply: Reply, size: Size) -> tuple[Point, ...]:
        """As `ReplyParser.parse_points`. A reply of boxes is refused."""
        text = self.read_answer(question, reply)
        boxes = _BOX if self._box_pattern is _CORNERS else self._box_pattern  # two points in a row look like two corners
        if box := boxes.search(text):
            raise ReplyError(f"expected points, got the box {box[0]}", question, reply)
        points = [self._decode_point(_numbers(match), question, reply, size) for match in self._point_pattern.finditer(text)]
        if not points:
            self._require_none(text, question, reply)
        return self._distinct(points, question, reply, "points")

    def read_answer(self, question: Question, reply: Reply) -> str:
        """As `ReplyParser.read_answer`, without what labels say."""
        return _LABEL_TEXTS.sub("", super().read_answer(question, reply))

    @property
    def _box_pattern(self) -> re.Pattern[str]:
        template = self.codec.box_text
        return _LOCATED_BOX if "<loc" in template else _CORNERS if ")" in template else _BOX

    @property
    def _point_pattern(self) -> re.Pattern[str]:
        return _LOCATED_POINT if "<loc" in self.codec.point_text else _POINT

    def _parse(self, question: Question, reply: Reply, size: Size, *, with_points: bool) -> tuple[ObjectPrompt, ...]:
        text = self.read_answer(question, reply)
        matches = list(self._box_pattern.finditer(text))
        if not matches:
            self._require_none(text, question, reply)
            return ()
        ends = [match.start() for match in matches[1:]] + [len(text)]
        prompts: dict[Box, ObjectPrompt] = {}
        for match, end in zip(matches, ends, strict=True):
            box = self._decode_native_box(match, question, reply, size)
            points = tuple(self._parse_point_prompts(text[match.end() : end], question, reply, size)) if with_points else ()
            prompts.setdefault(box, ObjectPrompt(box, points))
        return self._distinct(prompts.values(), question, reply)

    def _require_none(self, text: str, question: Question, reply: Reply) -> None:
        """Raise ReplyError unless a reply without boxes or points says that there is no such object."""
        if _OPENED.search(text):
            raise ReplyError("a box or point has too few numbers, or the answer is cut off", question, reply)
        if _REFUSAL.search(text) or not _NONE.search(text):
            raise ReplyError(f"expected coordinates or {self.none_text!r}", question, reply)

    def _decode_native_box(self, match: re.Match[str], question: Question, reply: Reply, size: Size) -> Box:
        numbers = _numbers(match)
        if self.codec.scale > 1 and "." in numbers and max(map(float, re.findall(_N, numbers))) <= 1:
            raise ReplyError(f"the box {match[0]} seems to be in fractions of the image", question, reply)
        return self._decode_box(numbers, match[0], question, reply, size)

    def _parse_point_prompts(self, text: str, question: Question, reply: Reply, size: Size) -> Iterator[PointPrompt]:
        """Yield the points after a box; those after the word "off" are off the object."""
        off = re.search(r"\boff\b", text, re.IGNORECASE)
        for match in self._point_pattern.finditer(text):
            point = self._decode_point(_numbers(match), question, reply, size)
            yield PointPrompt(*point, 0 if off and match.start() > off.start() else 1)


def _numbers(match: re.Match[str]) -> str:
    return ",".join(number for number in match.groups() if number)
