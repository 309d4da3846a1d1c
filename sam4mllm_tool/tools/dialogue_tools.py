"""The protocol one turn a call: `propose_boxes`, `check_points`, `segment_prompt`.

Between the turns the agent is free to ask about points of its own, to drop answers, and to overrule them. Each call gives a new
handle; the one before stays as it was and can be taken up again.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, Field

from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.interactive import InteractiveState
from sam4mllm_tool.interactive.clicks import check_clicks
from sam4mllm_tool.interactive.state import point_to
from sam4mllm_tool.pipeline.requests import Flow, Flows, Transcript
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import BoxOnly, Grid
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.tools import inputs
from sam4mllm_tool.tools.artifacts import Artifact, dialogue_artifact
from sam4mllm_tool.tools.base import Result, Sam4MllmTool, Work
from sam4mllm_tool.tools.dialogue_state import DialogueError, Rounds, nearest
from sam4mllm_tool.tools.events import Tell, boxes_event, points_event
from sam4mllm_tool.tools.inputs import BoxField, Clicks, DialogueField, ImageField, Input, Places, prompts_of
from sam4mllm_tool.tools.segment_tool import masks_result
from sam4mllm_tool.types import Box, ObjectPrompt, Point, PointPrompt, Segmentation, Size

__all__ = ["CheckPointsTool", "ProposeBoxesTool", "SegmentPromptTool"]

_OVERRULED = 0.01
"""How near a given point has to be to an answer to take its place, in units of the picture's longer side."""
_BOX_ONLY = "the object in the box"
"""What a result is called that was made from a box without words."""


class ProposeBoxesInput(Input):
    """What the model fills in."""

    expression: str = Field(description="What to look for, in plain words, as in 'the mug behind the laptop'.")
    image: ImageField = "latest"


class ProposeBoxesTool(Sam4MllmTool):
    """The first turn: where is it? See `Sam4MllmTool` for its settings."""

    name: str = "propose_boxes"
    description: str = (
        "First step of segmenting step by step: asks the vision model where an expression is in a picture. Returns a "
        "dialogue handle and the boxes in pixels with their confidence, or says that there is no such object. Next: "
        "check_points to have points in the boxes checked, or segment_prompt for the masks."
    )
    args_schema: type[BaseModel] = ProposeBoxesInput

    def work(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> Work:
        """arguments: expression, image."""
        name, picture = self.picture(arguments.get("image", "latest"), runtime)
        talk, expression = Transcript(), validate_expression(arguments["expression"])
        flow = self._boxes(models.flows, name, expression, Size(*picture.size), talk, self.tells(runtime))
        return Work(picture, flow, talk)

    def _boxes(self, flows: Flows, name: str, expression: str, size: Size, talk: Transcript, tell: Tell) -> Flow[Result]:
        asked = yield from flows.settle(BoxOnly.start(expression, size, dialect=flows.dialect), talk)
        boxes = [prompt.box for prompt in asked.prompts]
        tell(boxes_event([list(box) for box in boxes]))
        sure = (yield from flows.whether(expression, boxes, size, talk)) if boxes else []
        state = Rounds(expression, size, asked.history[0].reply, tuple(sure))
        told = [{"box": list(box), "confidence": value} for box, value in zip(boxes, sure, strict=True)]
        artifact = dialogue_artifact(name, state.state(), expression=expression, boxes=told, points=[], notes=talk.notes)
        lines = [f"'{expression}': {_count(len(boxes), 'box', 'boxes')} in the picture of {size.width} x {size.height} pixels"]
        if not boxes:
            lines = [f"'{expression}': there is no such object in the picture of {size.width} x {size.height} pixels"]
        lines += [
            f"  box {n}: {format_box(box)}{_sure(value)}" for n, (box, value) in enumerate(zip(boxes, sure, strict=True), 1)
        ]
        return "\n".join([*lines, f"dialogue {artifact['handle']} (picture {name})"]), artifact


class CheckPointsInput(Input):
    """What the model fills in."""

    dialogue: DialogueField = "latest"
    points: Annotated[
        Places,
        Field(description="Points to check, [[x, y], ...] in pixels of the picture.", examples=[[[120, 80], [60, 200]]]),
    ] = None
    grid: Annotated[
        inputs.Grid,
        Field(
            description="Instead of points: [columns, rows] of a grid that is laid into every box, up to 15.", examples=[[5, 5]]
        ),
    ] = None


class CheckPointsTool(Sam4MllmTool):
    """A second turn: which points are on the object? May be repeated. See `Sam4MllmTool` for its settings."""

    name: str = "check_points"
    description: str = (
        "Second step of segmenting step by step: asks the vision model of points in the proposed boxes whether they are on the "
        "object. Give points, or a grid; without either, a 5 x 5 grid. Returns a new dialogue handle and each point's number, "
        "place, label and confidence. Next: segment_prompt, where points can be dropped by number or overruled."
    )
    args_schema: type[BaseModel] = CheckPointsInput

    def work(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> Work:
        """arguments: dialogue, points, grid."""
        artifact, picture = self.open_artifact(arguments.get("dialogue", "latest"), "dialogue", runtime)
        talk, state = Transcript(), Rounds.read(artifact["state"])
        boxes = _boxes_of(state, models.flows)
        places = _places(boxes, state.size, arguments.get("points"), arguments.get("grid"))
        return Work(picture, self._points(models.flows, artifact, state, places, talk, self.tells(runtime)), talk)

    def _points(
        self, flows: Flows, artifact: Artifact, state: Rounds, places: list[tuple[Point, ...]], talk: Transcript, tell: Tell
    ) -> Flow[Result]:
        before = sum(map(len, state.points(flows)))
        state = yield from state.check(flows, places, talk)
        points = state.points(flows)
        fresh = [numbered for numbered in _numbered(state, flows) if numbered[0] > before]
        tell(points_event([point for _, _, point in fresh]))
        told = {"expression": state.expression, "boxes": artifact.get("boxes", []), "notes": talk.notes}
        listed = [[point_to(point) for point in group] for group in points]
        after = dialogue_artifact(str(artifact["picture"]), state.state(), **told, points=listed)
        lines = [f"'{state.expression}': {_count(len(fresh), 'point', 'points')} checked"]
        lines += [_point_line(number, index, point, flows, len(places)) for number, index, point in fresh]
        lines += [f"note: {note}" for note in talk.notes]
        return "\n".join([*lines, f"dialogue {after['handle']} (picture {after['picture']})"]), after


def _boxes_of(state: Rounds, flows: Flows) -> tuple[Box, ...]:
    boxes = state.boxes(flows)
    if not boxes:
        raise DialogueError(
            f"'{state.expression}': there is no such object, so there is no box: call propose_boxes with other words"
        )
    return boxes


def _places(
    boxes: Sequence[Box], size: Size, points: list[list[float]] | None, grid: list[int] | None
) -> list[tuple[Point, ...]]:
    """The points to ask about in each box: the grid's, or each point in the box it lies in."""
    if points is not None and grid is not None:
        raise DialogueError("give points or a grid, not both")
    if points is None:
        sampler = Grid(*(grid or (5, 5)))
        if len(boxes) * sampler.columns * sampler.rows > 10 * inputs.MAX_POINTS:
            raise DialogueError(
                f"a grid of {sampler.columns} x {sampler.rows} in {len(boxes)} boxes is too many points: take a smaller one"
            )
        return [sampler(box) for box in boxes]
    if not points:
        raise DialogueError("no points to check: give [[x, y], ...] in pixels, or a grid such as [5, 5]")
    check_clicks([PointPrompt(x, y, 1) for x, y in points], (), size)
    places: list[list[Point]] = [[] for _ in boxes]
    for x, y in points:
        places[nearest(boxes, x, y)].append(Point(x, y))
    return [tuple(group) for group in places]


def _numbered(state: Rounds, flows: Flows) -> list[tuple[int, int, PointPrompt]]:
    """Every answered point as (number, index of its box, point): numbers from 1, earlier rounds first, so that they stay."""
    numbered: list[tuple[int, int, PointPrompt]] = []
    for end in range(1, len(state.rounds) + 1):
        groups = replace(state, rounds=state.rounds[end - 1 : end]).points(flows)
        for index, group in enumerate(groups):
            numbered += [(len(numbered) + place, index, point) for place, point in enumerate(group, start=1)]
    return numbered


def _point_line(number: int, index: int, point: PointPrompt, flows: Flows, boxes: int) -> str:
    where = f" in box {index + 1}" if boxes > 1 else ""
    sure = f" {point.confidence:.0%}" if point.confidence is not None else ""
    kept = "" if flows.thresholds.keep(point) else ", not sure enough to be used"
    return f"  {number}: ({point.x:.0f}, {point.y:.0f}){where} {'on' if point.label else 'off'}{sure}{kept}"


class SegmentPromptInput(Input):
    """What the model fills in."""

    dialogue: DialogueField = "latest"
    drop: Annotated[
        list[int] | None,
        Field(description="Numbers of checked points that are not to be used, as check_points listed them.", examples=[[3, 7]]),
    ] = None
    points: Annotated[
        Clicks,
        Field(
            description="Points of your own; at the place of a checked one they overrule it. label 1: on the object, 0: not.",
            examples=[[{"x": 120, "y": 80, "label": 1}]],
        ),
    ] = None
    box: BoxField = None
    image: ImageField = "latest"


class SegmentPromptTool(Sam4MllmTool):
    """The last turn: masks. See `Sam4MllmTool` for its settings."""

    name: str = "segment_prompt"
    description: str = (
        "Last step of segmenting step by step: gives the masks for the boxes and checked points of a dialogue. Points can be "
        "dropped by number and points of your own added. Or give a box instead of a dialogue, to segment what is in it. "
        "Returns a result handle and each mask's size and quality."
    )
    args_schema: type[BaseModel] = SegmentPromptInput

    def work(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> Work:
        """arguments: dialogue, drop, points; or box, image, points."""
        given = prompts_of(arguments.get("points"))
        drop: list[int] = arguments.get("drop") or []
        flows = models.flows
        if (box := inputs.box_of(arguments.get("box"))) is not None:
            if drop:
                raise DialogueError("a box has no checked points to drop: give a dialogue, or leave drop out")
            name, picture = self.picture(arguments.get("image", "latest"), runtime)
            size, expression = Size(*picture.size), _BOX_ONLY
            check_clicks(given, (), size)
            prompts = [ObjectPrompt(check_box(box, size), tuple(given))]
        else:
            artifact, picture = self.open_artifact(arguments.get("dialogue", "latest"), "dialogue", runtime)
            name, state = artifact["picture"], Rounds.read(artifact["state"])
            size, expression = state.size, state.expression
            prompts = _chosen(state, flows, given, drop)
        talk, tell = Transcript(), self.tells(runtime)

        def flow() -> Flow[Segmentation]:
            return flows.told(expression, size, (yield from flows.masks(prompts, size)), talk)

        def told(whole: Segmentation) -> Result:
            return masks_result(name, whole, InteractiveState(expression, size, whole.objects, clicks=tuple(given)), tell)

        return Work(picture, flow(), talk, told)


def check_box(box: Box, size: Size) -> Box:
    """The box, cut to the picture. Raises DialogueError where it has no area there."""
    cut = Box(max(box.x1, 0.0), max(box.y1, 0.0), min(box.x2, float(size.width)), min(box.y2, float(size.height)))
    if not (cut.x1 < cut.x2 and cut.y1 < cut.y2):
        raise DialogueError(
            f"expected a box [x1, y1, x2, y2] with x1 < x2 and y1 < y2 on the picture of {size.width} x {size.height} pixels, "
            f"got {[round(v, 1) for v in box]}"
        )
    return cut


def _chosen(state: Rounds, flows: Flows, given: Sequence[PointPrompt], drop: Sequence[int]) -> list[ObjectPrompt]:
    """The prompts: sure answers less those dropped and overruled, and the given points, each in its box."""
    boxes = _boxes_of(state, flows)
    check_clicks(given, (), state.size)
    numbered = _numbered(state, flows)
    if unknown := sorted(set(drop) - {number for number, _, _ in numbered}):
        there = f"1 to {len(numbered)}" if numbered else "none; call check_points first"
        raise DialogueError(f"no checked point {', '.join(map(str, unknown))} to drop; there are {there}")
    points: list[list[PointPrompt]] = [[] for _ in boxes]
    for number, index, point in numbered:
        if (
            number not in drop
            and flows.thresholds.keep(point)
            and not any(_same_place(point, one, state.size) for one in given)
        ):
            points[index].append(point)
    for point in given:
        points[nearest(boxes, point.x, point.y)].append(point)
    return [ObjectPrompt(box, tuple(group)) for box, group in zip(boxes, points, strict=True)]


def _same_place(a: PointPrompt, b: PointPrompt, size: Size) -> bool:
    return max(abs(a.x - b.x), abs(a.y - b.y)) <= _OVERRULED * max(size)


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _sure(value: float | None) -> str:
    return "" if value is None else f", confidence {value:.0%}"
