"""What a tool tells while it works, in order: the boxes, the points, the mask. Each event is plain JSON.

    {"event": "boxes", "tool": ..., "boxes": [[x1, y1, x2, y2], ...]}
    {"event": "points", "tool": ..., "points": [{"x", "y", "label", "confidence"}, ...]}
    {"event": "mask", "tool": ..., "handle": ..., "objects": [{"box", "score", "pixels", "mask"}, ...]}

Flows say nothing of it: `observe` stands between a flow and its driver, and sees what passes. Nothing here imports LangChain.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.interactive.state import point_to
from sam4mllm_tool.pipeline.requests import Flow, MLLMRequest
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.types import FreeText, ObjectPrompt, PointPrompt, Question, Reply, Size

__all__ = ["Tell", "boxes_event", "mask_event", "observe", "points_event"]

Tell = Callable[[dict[str, Any]], None]
"""Takes an event."""
T = TypeVar("T")


def boxes_event(boxes: list[list[float]]) -> dict[str, Any]:
    """boxes: in pixels; none: there is no such object."""
    return {"event": "boxes", "boxes": boxes}


def points_event(points: list[PointPrompt]) -> dict[str, Any]:
    """points: with their answers."""
    return {"event": "points", "points": [point_to(point) for point in points]}


def mask_event(artifact: Mapping[str, Any]) -> dict[str, Any]:
    """artifact: of a result. Masks are COCO RLEs."""
    objects = [
        {"box": found["box"], "score": found["score"], "pixels": _pixels(found["mask"]), "mask": found["mask"]}
        for found in artifact["objects"]
    ]
    return {"event": "mask", "handle": artifact["handle"], "objects": objects}


def _pixels(mask: Mapping[str, Any]) -> int:
    from sam4mllm_tool.geometry import rle

    return int(rle.decode(mask).sum())


def observe(flow: Flow[T], tell: Tell, dialect: Dialect, size: Size) -> Flow[T]:
    """The flow itself; the first boxes that can be read and the points that are first prompted with are told as they pass."""
    wanted = {"boxes", "points"}
    need = next(flow)
    while True:
        if not isinstance(need, MLLMRequest) and "points" in wanted and (points := _points(need.prompts)):
            wanted.discard("points")
            tell(points_event(points))
        result = yield need
        if isinstance(need, MLLMRequest) and "boxes" in wanted and (event := _boxes(need.questions, result, dialect, size)):
            wanted.discard("boxes")
            tell(event)
        try:
            need = flow.send(result)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def _points(prompts: tuple[ObjectPrompt, ...]) -> list[PointPrompt]:
    return [point for prompt in prompts for point in prompt.points]


def _boxes(questions: tuple[Question, ...], replies: list[Reply], dialect: Dialect, size: Size) -> dict[str, Any] | None:
    """None where the replies are about something else or can't be read: then they are asked for again."""
    if not replies or not isinstance(questions[0].answer, FreeText):
        return None
    try:
        return boxes_event([list(box) for box in dialect.read_boxes(questions[0], replies[0], size)])
    except ReplyError:
        return None
