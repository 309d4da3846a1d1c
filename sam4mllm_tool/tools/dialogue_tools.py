"""The dialogue one turn a call: `propose_boxes`, `check_points`, `segment_prompt`.

Between the turns the agent can ask about points of its own, drop answers, and overrule them. Each call returns a new handle;
the dialogue before it stays as it was and can be continued again.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field, WithJsonSchema

from sam4mllm_tool.errors import count_noun
from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.images.export import format_confidence
from sam4mllm_tool.interactive import InteractiveState
from sam4mllm_tool.interactive.clicks import check_clicks
from sam4mllm_tool.pipeline.methods import drop_empty
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import BoxOnly, Grid
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.tools.artifacts import build_dialogue_artifact
from sam4mllm_tool.tools.base import Sam4MllmTool, ToolOutput, ToolTask
from sam4mllm_tool.tools.dialogue_state import DialogueError, DialogueState, NumberedPoint, find_nearest_box
from sam4mllm_tool.tools.events import EventWriter, boxes_event, points_event
from sam4mllm_tool.tools.inputs import (
    MAX_POINTS,
    BoxField,
    ClicksField,
    DialogueField,
    GridField,
    ImageField,
    PointsField,
    ToolInput,
    is_default_handle,
    leave_out,
    to_box,
    to_point_prompts,
)
from sam4mllm_tool.tools.segment_tool import build_mask_output
from sam4mllm_tool.types import Box, ObjectPrompt, Point, PointPrompt, Segmentation, Size

__all__ = ["CheckPointsTool", "ProposeBoxesTool", "SegmentPromptTool", "clip_box"]

_OVERRULING_DISTANCE = 0.01
"""How near a given point has to be to a checked one to overrule it, in units of the image's longer side."""
_BOX_ONLY = "the object in the box"
"""The expression of a result that was made from a box without words."""
_MAX_GRID_POINTS = 10 * MAX_POINTS
_MAX_LISTED = 5
"""Unknown numbers that an error lists."""


class ProposeBoxesInput(ToolInput):
    """The arguments of `propose_boxes`."""

    expression: str = Field(description="What to look for, in plain words.")
    image: ImageField = "latest"


class ProposeBoxesTool(Sam4MllmTool):
    """The first turn: where is it? See `Sam4MllmTool` for its settings."""

    server_tool: ClassVar[str | None] = "propose_boxes"

    name: str = "propose_boxes"
    description: str = (
        "Step 1 of 3: asks the vision model where an expression is. Returns a dialogue handle and boxes in pixels with their "
        "confidence, or that there is no such object. Next: check_points or segment_prompt."
    )
    args_schema: type[BaseModel] = ProposeBoxesInput

    def create_task(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> ToolTask:
        """Ask where `expression` is in `image`."""
        image_id, image = self.open_image(arguments.get("image", "latest"), runtime)
        expression, run = validate_expression(arguments["expression"]), models.start_run(Size(*image.size))
        write_event = self.get_event_writer(runtime, image_id, expression)

        def build_output(state: DialogueState) -> ToolOutput:
            return _describe_boxes(state, run, image_id)

        return ToolTask(image, _propose_boxes(run, expression, write_event), run, build_output)


def _propose_boxes(run: RunContext, expression: str, write_event: EventWriter) -> Flow[DialogueState]:
    """Ask where the expression is, and how likely each box is meant."""
    dialogue = yield from run.run_dialogue(BoxOnly.start(expression, run.size, dialect=run.dialect))
    boxes = [prompt.box for prompt in dialogue.prompts]
    write_event(boxes_event(boxes))
    answers = (yield from run.verify_boxes(expression, boxes)) if boxes else []
    is_known = not run.transcript.warnings
    confidences = [None if answer is None or not is_known else run.calibration.objects(answer) for answer in answers]
    return DialogueState(expression, run.size, dialogue.history[0].reply, tuple(confidences))


def _describe_boxes(state: DialogueState, run: RunContext, image_id: str) -> ToolOutput:
    rows = list(zip(state.boxes(run), state.confidences, strict=True))
    boxes = [{"box": list(box), "confidence": confidence} for box, confidence in rows]
    transcript = run.transcript
    none = None if rows or transcript.warnings else run.none_confidence(state.boxes_reply)
    details = {"expression": state.expression, "boxes": boxes, "points": [], "notes": transcript.notes, "confidence": none}
    artifact = build_dialogue_artifact(image_id, state.to_dict(), warnings=transcript.warnings, **details)
    place = f"in the image of {state.size.width} x {state.size.height} pixels"
    count = f"{count_noun(len(rows), 'box', 'boxes')} {place}"
    lines = [f"'{state.expression}': {count if rows else f'there is no such object {place}, {format_confidence(none)}'}"]
    lines += [f"  box {n}: {format_box(box)}, {format_confidence(sure)}" for n, (box, sure) in enumerate(rows, start=1)]
    lines += [f"  warning: {warning}" for warning in transcript.warnings]
    return "\n".join([*lines, f"dialogue {artifact['handle']} (image {image_id})"]), artifact


class CheckPointsInput(ToolInput):
    """The arguments of `check_points`."""

    dialogue: DialogueField = "latest"
    points: Annotated[
        PointsField,
        Field(description="Points to check, [[x, y], ...] in pixels.", default_factory=leave_out),
    ]
    grid: Annotated[
        GridField,
        Field(description="Instead of points: [columns, rows] of a grid in every box.", default_factory=leave_out),
    ]


class CheckPointsTool(Sam4MllmTool):
    """The second turn, which may be repeated: which points are on the object? See `Sam4MllmTool` for its settings."""

    server_tool: ClassVar[str | None] = "check_points"

    name: str = "check_points"
    description: str = (
        "Step 2 of 3, repeatable: asks whether points in the boxes are on the object. Give points, or a grid; by default a "
        "5 x 5 grid. Returns a new dialogue handle and each point's number, place, label and confidence."
    )
    args_schema: type[BaseModel] = CheckPointsInput

    def create_task(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> ToolTask:
        """Ask about `points` or a `grid` in the boxes of `dialogue`."""
        artifact, image = self.open_artifact(arguments.get("dialogue", "latest"), "dialogue", runtime)
        state = DialogueState.from_dict(artifact["state"])
        run = models.start_run(state.size)
        points = _select_points(_require_boxes(state, run), state.size, arguments.get("points"), arguments.get("grid"))
        earlier_count = len(state.numbered_points(run))
        write_event = self.get_event_writer(runtime, str(artifact["picture"]), state.expression)

        def build_output(next_state: DialogueState) -> ToolOutput:
            new_points = next_state.numbered_points(run)[earlier_count:]
            write_event(points_event([entry.point for entry in new_points]))
            details = {"boxes": artifact.get("boxes", []), "notes": run.transcript.notes}
            return _describe_points(next_state, run, str(artifact["picture"]), new_points, details)

        return ToolTask(image, state.check_points(run, points), run, build_output)


def _describe_points(
    state: DialogueState, run: RunContext, image_id: str, new_points: Sequence[NumberedPoint], details: dict[str, Any]
) -> ToolOutput:
    """Build the text and the artifact of a round of points. `details` are the artifact's boxes and notes."""
    points_by_box = state.points(run)
    points = [[point.to_dict() for point in points] for points in points_by_box]
    fields = {"expression": state.expression, **details, "points": points}
    artifact = build_dialogue_artifact(image_id, state.to_dict(), **fields)
    lines = [f"'{state.expression}': {count_noun(len(new_points), 'point')} checked"]
    lines += [_format_point(entry, run, len(points_by_box)) for entry in new_points]
    lines += [f"note: {note}" for note in details["notes"]]
    return "\n".join([*lines, f"dialogue {artifact['handle']} (image {image_id})"]), artifact


def _require_boxes(state: DialogueState, run: RunContext) -> tuple[Box, ...]:
    boxes = state.boxes(run)
    if not boxes:
        raise DialogueError(
            f"'{state.expression}': there is no such object, so there is no box: call propose_boxes with other words"
        )
    return boxes


def _select_points(
    boxes: Sequence[Box], size: Size, points: list[list[float]] | None, grid: list[int] | None
) -> list[tuple[Point, ...]]:
    """Return the points to ask about in each box: the grid's, or each given point in the box that holds it."""
    if points is not None and grid is not None:
        raise DialogueError("give points or a grid, not both")
    if points is None:
        sampler = Grid(*(grid or (5, 5)))
        if len(boxes) * sampler.columns * sampler.rows > _MAX_GRID_POINTS:
            raise DialogueError(
                f"a grid of {sampler.columns} x {sampler.rows} in {len(boxes)} boxes is too many points: take a smaller one"
            )
        return [sampler(box) for box in boxes]
    if not points:
        raise DialogueError("no points to check: give [[x, y], ...] in pixels, or a grid such as [5, 5]")
    check_clicks([PointPrompt(x, y, 1) for x, y in points], (), size, noun="point")
    points_by_box: list[list[Point]] = [[] for _ in boxes]
    for x, y in points:
        points_by_box[find_nearest_box(boxes, x, y)].append(Point(x, y))
    return [tuple(box_points) for box_points in points_by_box]


def _format_point(entry: NumberedPoint, run: RunContext, box_count: int) -> str:
    point = entry.point
    box = f" in box {entry.box_index + 1}" if box_count > 1 else ""
    confidence = "" if point.confidence is None else f" {point.confidence:.0%}"
    unused = "" if run.config.thresholds.keep(point) else ", not sure enough to be used"
    return f"  {entry.number}: ({point.x:.0f}, {point.y:.0f}){box} {'on' if point.label else 'off'}{confidence}{unused}"


class SegmentPromptInput(ToolInput):
    """The arguments of `segment_prompt`."""

    dialogue: DialogueField = "latest"
    drop: Annotated[
        list[int] | None,
        WithJsonSchema({"type": "array", "items": {"type": "integer"}}),
        Field(description="Numbers of checked points not to use.", default_factory=leave_out),
    ]
    points: Annotated[
        ClicksField,
        Field(
            description="Your own points in pixels, label 1 on the object, 0 off it; they overrule checked ones there.",
            default_factory=leave_out,
        ),
    ]
    box: BoxField
    image: ImageField = "latest"


class SegmentPromptTool(Sam4MllmTool):
    """The last turn: masks. See `Sam4MllmTool` for its settings."""

    server_tool: ClassVar[str | None] = "segment_prompt"

    name: str = "segment_prompt"
    description: str = (
        "Step 3 of 3: the masks for a dialogue's boxes and checked points, less the points dropped by number, plus your own. "
        "Or, for a box instead of a dialogue, the mask of what is in it. Returns a result handle, each mask's size and score."
    )
    args_schema: type[BaseModel] = SegmentPromptInput

    def create_task(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> ToolTask:
        """Segment by `dialogue`, `drop` and `points`; or by `box`, `image` and `points`."""
        given = to_point_prompts(arguments.get("points"))
        drop: list[int] = arguments.get("drop") or []
        if (box := to_box(arguments.get("box"))) is not None:
            if not is_default_handle(arguments.get("dialogue")):
                raise DialogueError("give a dialogue or a box, not both: leave dialogue out to segment what is in the box")
            if drop:
                raise DialogueError("a box has no checked points to drop: give a dialogue, or leave drop out")
            image_id, image = self.open_image(arguments.get("image", "latest"), runtime)
            run, expression = models.start_run(Size(*image.size)), _BOX_ONLY
            check_clicks(given, (), run.size, noun="point")
            prompts = [ObjectPrompt(clip_box(box, run.size), tuple(given))]
        else:
            artifact, image = self.open_artifact(arguments.get("dialogue", "latest"), "dialogue", runtime)
            image_id, state = artifact["picture"], DialogueState.from_dict(artifact["state"])
            run, expression = models.start_run(state.size), state.expression
            prompts = _select_prompts(state, run, given, drop)
        write_event = self.get_event_writer(runtime, image_id, expression)

        def segment() -> Flow[Segmentation]:
            objects = yield from run.segment_prompts(prompts)
            cure = "give another box or points, or ask for the object in other words"
            return run.build_result(expression, drop_empty(run, objects, "the mask was asked for in the box", cure))

        def build_output(segmentation: Segmentation) -> ToolOutput:
            refinable = InteractiveState.create(expression, run.size, segmentation.objects, clicks=given)
            return build_mask_output(image_id, segmentation, refinable, write_event)

        return ToolTask(image, segment(), run, build_output)


def clip_box(box: Box, size: Size) -> Box:
    """Return the part of a box on the image.

    Raises:
        DialogueError: It has less than a pixel there, or its numbers are fractions of the image.
    """
    if min(size) > 1 and all(0 <= value <= 1 for value in box) and any(value % 1 for value in box):
        raise DialogueError(
            f"the box [{', '.join(f'{value:.6g}' for value in box)}] seems to be in fractions of the image: "
            f"give pixels of its {size.width} x {size.height}"
        )
    clipped = box.clip(size)
    if not (clipped.x2 - clipped.x1 >= 1 and clipped.y2 - clipped.y1 >= 1):
        raise DialogueError(
            f"expected a box [x1, y1, x2, y2] with x1 < x2 and y1 < y2 on the image of {size.width} x {size.height} pixels, "
            f"got [{', '.join(f'{value:.6g}' for value in box)}]"
        )
    return clipped


def _select_prompts(
    state: DialogueState, run: RunContext, given: Sequence[PointPrompt], drop: Sequence[int]
) -> list[ObjectPrompt]:
    """Return the prompts: sure answers that are neither dropped nor overruled, and each given point in its box."""
    boxes = _require_boxes(state, run)
    check_clicks(given, (), state.size, noun="point")
    numbered = state.numbered_points(run)
    _validate_numbers(drop, len(numbered))
    points: list[list[PointPrompt]] = [[] for _ in boxes]
    for number, box_index, point in numbered:
        overruled = any(_is_same_place(point, other, state.size) for other in given)
        if number not in drop and run.config.thresholds.keep(point) and not overruled:
            points[box_index].append(point)
    for point in given:
        points[find_nearest_box(boxes, point.x, point.y)].append(point)
    return [ObjectPrompt(box, tuple(box_points)) for box, box_points in zip(boxes, points, strict=True)]


def _validate_numbers(drop: Sequence[int], count: int) -> None:
    unknown = sorted({number for number in drop if not 1 <= number <= count})[:_MAX_LISTED]
    if unknown:
        available = f"1 to {count}" if count else "none; call check_points first"
        listed = ", ".join(str(number) if abs(number) < 10**9 else "a huge number" for number in unknown)
        raise DialogueError(f"no checked point {listed} to drop; there are {available}")


def _is_same_place(point: PointPrompt, other: PointPrompt, size: Size) -> bool:
    return max(abs(point.x - other.x), abs(point.y - other.y)) <= _OVERRULING_DISTANCE * max(size)
