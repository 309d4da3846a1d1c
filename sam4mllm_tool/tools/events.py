"""What a tool reports while it works, in order: the boxes, the points, the mask. Each event is plain JSON.

    {"event": "boxes", "boxes": [[x1, y1, x2, y2], ...]}
    {"event": "points", "points": [{"x", "y", "label", "confidence"}, ...]}
    {"event": "mask", "handle": ..., "objects": [{"box", "score", "pixels", "mask"}, ...]}

Each also has "tool", "tool_call_id", "image" (the image's id) and "expression", which tell the events of parallel calls apart.

`EventHook` reports boxes and points of a run; the tool reports the mask with its result. No LangChain is imported here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.pipeline.requests import MLLMRequest, Request, Response, RunHook, SegmentRequest
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.types import Box, FreeText, PointPrompt, SegmentedObject

__all__ = ["EventHook", "EventWriter", "boxes_event", "mask_event", "points_event"]

EventWriter = Callable[[dict[str, Any]], None]
"""Takes an event."""


def boxes_event(boxes: Sequence[Box]) -> dict[str, Any]:
    """Return the event of the named boxes, in pixels; no boxes: there is no such object."""
    return {"event": "boxes", "boxes": [list(box) for box in boxes]}


def points_event(points: Sequence[PointPrompt]) -> dict[str, Any]:
    """Return the event of the answered points."""
    return {"event": "points", "points": [point.to_dict() for point in points]}


def mask_event(artifact: Mapping[str, Any], objects: Sequence[SegmentedObject]) -> dict[str, Any]:
    """Return the event of the masks.

    Args:
        artifact: Of the result; its masks are COCO RLEs.
        objects: The same objects, for their numbers of pixels.
    """
    encoded = [
        {
            "box": fields["box"],
            "score": fields["score"],
            "pixels": int(segmented.mask.sum()),
            "mask": fields["mask"],
        }
        for fields, segmented in zip(artifact["objects"], objects, strict=True)
    ]
    return {"event": "mask", "handle": artifact["handle"], "objects": encoded}


class EventHook(RunHook):
    """Reports the first boxes that can be read, and the points that the segmenter is first prompted with."""

    def __init__(self, write: EventWriter, run: RunContext) -> None:
        self._write, self._run = write, run
        self._pending = {"boxes", "points"}

    def before_request(self, request: Request) -> None:
        """Report the points of the first prompts that have any."""
        if not isinstance(request, SegmentRequest) or "points" not in self._pending:
            return
        if points := [point for prompt in request.prompts for point in prompt.points]:
            self._pending.discard("points")
            self._write(points_event(points))

    def after_request(self, request: Request, response: Response) -> None:
        """Report the boxes of the first reply that names some, or none."""
        if not isinstance(request, MLLMRequest) or "boxes" not in self._pending:
            return
        boxes = self._read_boxes(request, response)
        if boxes is not None:
            self._pending.discard("boxes")
            self._write(boxes_event(boxes))

    def _read_boxes(self, request: MLLMRequest, response: Response) -> Sequence[Box] | None:
        """None where the replies are about something else or can't be read: then they are asked for again."""
        if not response.replies or not isinstance(request.questions[0].answer, FreeText):
            return None
        try:
            return self._run.dialect.parse_boxes(request.questions[0], response.replies[0], self._run.size)
        except ReplyError:
            return None
