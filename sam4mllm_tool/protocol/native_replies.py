"""Read boxes and points out of the replies of off-the-shelf families, each in the format that it was trained to write.

All formats are read at once, since they can't be confused: JSON with `bbox_2d`, `box_2d` or bare lists of four numbers, in a
code fence or not; `<box>[[...]]</box>`; `(x1,y1),(x2,y2)` with or without marks; `(x1,y1,x2,y2)`; `<loc0012>` four times. What
the numbers mean is the codec's alone.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol.reply_parser import ReplyParser
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, Question, Reply, Size

__all__ = ["NativeReplyParser", "find_first_box", "strip_thought"]

_N = r"-?\d{1,7}(?:\.\d{1,7})?"
_SEPARATOR = r"(?:\s*+[,;]\s*+|\s++)"
_FOUR = _SEPARATOR.join([_N] * 4)
_TWO = _SEPARATOR.join([_N] * 2)
_BOX = re.compile(
    rf"[\[(]\s*(?P<list>{_FOUR})\s*[\])]"
    r"|(?P<loc>(?:<loc\d{4}>){4})"
)
_CORNERS = re.compile(
    rf"\(\s*(?P<corner>{_TWO})\s*\)\s*,?\s*\(\s*(?P<opposite>{_TWO})\s*\)"
    rf"|[\[(]\s*(?P<list>{_FOUR})\s*[\])]"
)
"""For families that write a box as two corners; elsewhere two points are no box."""
_POINT = re.compile(rf"[\[(]\s*(?P<list>{_TWO})\s*[\])]|\bx\d*\s*=\s*\"(?P<x>{_N})\"\s+y\d*\s*=\s*\"(?P<y>{_N})\"")
_LABEL_TEXTS = re.compile(r"\"(?:label|name|object|description|text_content)\"\s*:\s*\"(?:[^\"\\]|\\.)*+\"?")
"""Labels of JSON replies: what is written in them is no answer."""
_OPENED = re.compile(r"\"(?:bbox|bbox_2d|box_2d|box|bounding_box)\"\s*:\s*\[|<box>|<\|box_start\|>")
_NONE = re.compile(
    r"^\W*(?:no|none|nothing)\b|\bnone\b|\bno such\b"
    r"|\b(?:there|here)(?:'s| is| are| was| were) (?:no|not|none|nothing)\b|\b(?:there|here) (?:isn't|aren't)\b"
    r"|\b(?:not|n't|no \w+(?: \w+){0,5}) (?:be )?"
    r"(?:found|present|visible|shown|detected|seen|appear|contain|include|exist|depict)"
    r"|\[\s*\]\s*\}*\s*(?:```)?\s*$",
    re.IGNORECASE,
)
_REFUSAL = re.compile(r"\b(?:sorry|cannot|can't|unable|won't|not able|as an ai)\b", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(r"</(?:think|thinking|thought)>|◁/think▷", re.IGNORECASE)
_THOUGHT_STARTS = re.compile(r"<(?:think|thinking|thought)>|◁think▷", re.IGNORECASE)


def strip_thought(text: str) -> str | None:
    """Return what a reply says after its thought; None where the thought doesn't end."""
    *_, after = _THOUGHT_ENDS.split(text)  # the template may have opened the thought
    return None if _THOUGHT_STARTS.search(after) else after.strip()


def find_first_box(text: str) -> tuple[float, float, float, float] | None:
    """Return the four numbers of the first box in a reply, in any format and whatever they count; None without a box."""
    answer = _LABEL_TEXTS.sub("", strip_thought(text) or "")
    matches = [match for match in (_BOX.search(answer), _CORNERS.search(answer)) if match]
    if not matches:
        return None
    first = min(matches, key=lambda match: match.start())
    x1, y1, x2, y2 = (float(number) for group in first.groups() if group for number in re.findall(_N, group))
    return x1, y1, x2, y2


@dataclass(frozen=True)
class NativeReplyParser(ReplyParser):
    """Read replies in the families' own formats. Complete boxes count, even if the reply is cut off after them."""

    def parse_boxes(self, question: Question, reply: Reply, size: Size) -> tuple[Box, ...]:
        """As `ReplyParser.parse_boxes`."""
        return tuple(prompt.box for prompt in self._parse(question, reply, size, with_points=False))

    def parse_prompts(self, question: Question, reply: Reply, size: Size) -> tuple[ObjectPrompt, ...]:
        """As `ReplyParser.parse_prompts`."""
        return self._parse(question, reply, size, with_points=True)

    def _parse(self, question: Question, reply: Reply, size: Size, *, with_points: bool) -> tuple[ObjectPrompt, ...]:
        answer = strip_thought(reply.text)
        if answer is None:
            raise ReplyError("the answer was cut off while the model was thinking", question, reply)
        text = _LABEL_TEXTS.sub("", answer)
        matches = list((_CORNERS if ")" in self.codec.box_text else _BOX).finditer(text))
        if not matches:
            self._require_none(text, question, reply)
            return ()
        ends = [match.start() for match in matches[1:]] + [len(text)]
        prompts = []
        for match, end in zip(matches, ends, strict=True):
            box = self._decode_native_box(match, question, reply, size)
            points = tuple(self._parse_points(text[match.end() : end], question, reply, size)) if with_points else ()
            prompts.append(ObjectPrompt(box, points))
        distinct = tuple({prompt.box: prompt for prompt in reversed(prompts)}.values())[::-1]
        self._check_count(distinct, question, reply)
        return distinct

    def _require_none(self, text: str, question: Question, reply: Reply) -> None:
        """Raise ReplyError unless a reply without boxes says that there is no such object."""
        if _OPENED.search(text):
            raise ReplyError("a box is not four numbers, or the answer is cut off", question, reply)
        if _REFUSAL.search(text) or not _NONE.search(text):
            raise ReplyError(f"expected boxes or {self.none_text!r}", question, reply)

    def _decode_native_box(self, match: re.Match[str], question: Question, reply: Reply, size: Size) -> Box:
        numbers = ",".join(number for number in match.groups() if number)
        if self.codec.scale > 1 and "." in numbers and max(map(float, re.findall(_N, numbers))) <= 1:
            raise ReplyError(f"the box {match[0]} seems to be in fractions of the image", question, reply)
        return self._decode_box(numbers, match[0], question, reply, size)

    def _parse_points(self, text: str, question: Question, reply: Reply, size: Size) -> Iterator[PointPrompt]:
        """Yield the points after a box; those after the word "off" are off the object."""
        off = re.search(r"\boff\b", text, re.IGNORECASE)
        for match in _POINT.finditer(text):
            point = self._decode_point(match["list"] or f"{match['x']},{match['y']}", question, reply, size)
            yield PointPrompt(*point, 0 if off and match.start() > off.start() else 1)
