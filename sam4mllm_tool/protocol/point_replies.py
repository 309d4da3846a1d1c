"""Read the replies of families that point: XML tags with the coordinates of points, as Molmo and Molmo2 write them.

    <point x="10.5" y="20.0" alt="mug">mug</point>
    <points x1="10.5" y1="20.0" x2="50.0" y2="60.5" alt="mugs">mugs</points>
    <points coords="1 1 105 200 2 500 605">mugs</points>

A tag with several points is a box where a box was asked for: the one around them.
"""

from dataclasses import dataclass

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.protocol.native_replies import NativeReplyParser, find_tagged_points
from sam4mllm_tool.types import Box, ObjectPrompt, Point, PointPrompt, Question, Reply, Size

__all__ = ["PointReplyParser"]


@dataclass(frozen=True)
class PointReplyParser(NativeReplyParser):
    """Read points in XML, and boxes around the points of a tag."""

    def parse_boxes(self, question: Question, reply: Reply, size: Size) -> tuple[Box, ...]:
        """As `ReplyParser.parse_boxes`, from the points of each tag. Raises ReplyError for a tag with a single point."""
        tags = self._parse_tags(question, reply, size)
        boxes = []
        for points in [points for points, closed in tags if closed] or [points for points, _ in tags]:
            (x1, x2), (y1, y2) = ((min(values), max(values)) for values in zip(*points, strict=True))
            if x1 == x2 or y1 == y2:
                raise ReplyError("expected points at two corners, got points that enclose nothing", question, reply)
            boxes.append(Box(x1, y1, x2, y2))
        return self._distinct(boxes, question, reply)

    def parse_prompts(self, question: Question, reply: Reply, size: Size) -> tuple[ObjectPrompt, ...]:
        """Return a prompt without a box for each point. Raises ReplyError as `parse_points`."""
        return tuple(ObjectPrompt.from_points([PointPrompt(*point, 1)]) for point in self.parse_points(question, reply, size))

    def parse_points(self, question: Question, reply: Reply, size: Size) -> tuple[Point, ...]:
        """As `ReplyParser.parse_points`."""
        points = [point for points, _ in self._parse_tags(question, reply, size) for point in points]
        return self._distinct(points, question, reply, "points")

    def _parse_tags(self, question: Question, reply: Reply, size: Size) -> list[tuple[list[Point], bool]]:
        """Return the points of each tag that has some, and whether the tag is closed.

        Raises:
            ReplyError: The reply has no points and doesn't say that there is no such object.
        """
        text = self.read_answer(question, reply)
        groups: list[tuple[list[Point], bool]] = []
        for tag, pairs in find_tagged_points(text):
            points = [self._decode_point(",".join(pair), question, reply, size) for pair in pairs]
            groups.append((points, tag[0].endswith(">")))
        if not groups:
            if "<point" in text.lower():
                raise ReplyError("a point has too few numbers, or the answer is cut off", question, reply)
            self._require_none(text, question, reply)
        return groups
