"""`refine_segmentation` corrects a result by words and clicks; `describe_image_region` says what the MLLM sees in a region."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.interactive import InteractiveState, RefinementResult, refine
from sam4mllm_tool.interactive.alternatives import deepest_point
from sam4mllm_tool.pipeline.requests import Flow, Flows, Transcript
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.tools import inputs
from sam4mllm_tool.tools.base import Result, Sam4MllmTool, Work
from sam4mllm_tool.tools.dialogue_tools import check_box
from sam4mllm_tool.tools.events import boxes_event, points_event
from sam4mllm_tool.tools.inputs import BoxField, Clicks, ImageField, Input, ResultField, prompts_of
from sam4mllm_tool.tools.segment_tool import masks_result
from sam4mllm_tool.types import ObjectPrompt, SegmentedObject, Size

__all__ = ["DescribeRegionTool", "RefineTool"]

_NOTHING = "the result holds no object to describe (picture {})"
_DESCRIBED = 5
"""Objects of a result that are described, at most."""


class RefineInput(Input):
    """What the model fills in."""

    result: ResultField = "latest"
    instruction: str | None = Field(
        default=None,
        description="What to change, in the user's words: 'no, the other one', 'also the left one', 'without the handle', "
        "'bigger', 'the blue one', 'the one before'.",
        examples=["no, the other one"],
    )
    clicks: Annotated[
        Clicks,
        Field(
            description="Points that are on the object (label 1) or not (label 0), in pixels; earlier ones still count.",
            examples=[[{"x": 120, "y": 80, "label": 1}]],
        ),
    ] = None
    forget_clicks: bool = Field(default=False, description="Whether clicks of earlier refinements no longer count.")


class RefineTool(Sam4MllmTool):
    """Corrects a result. See `Sam4MllmTool` for its settings."""

    name: str = "refine_segmentation"
    description: str = (
        "Corrects an earlier result by an instruction ('no, the other one', 'also the left one', 'without the handle'), "
        "or by clicks on the object and beside it, or by both. Returns a new result handle and says what was understood; the "
        "earlier result stays and can be refined in another way."
    )
    args_schema: type[BaseModel] = RefineInput

    def work(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> Work:
        """arguments: result, instruction, clicks, forget_clicks."""
        artifact, picture = self.open_artifact(arguments.get("result", "latest"), "result", runtime)
        flows, talk, tell = models.flows, Transcript(), self.tells(runtime)
        before = InteractiveState.read(artifact, artifact["state"])

        def told(refined: RefinementResult) -> Result:
            objects = refined.found.objects
            tell(boxes_event([list(thing.prompt.box) for thing in objects]))
            tell(points_event([point for thing in objects for point in thing.prompt.points]))
            whole = refined.segmentation(flows)
            return masks_result(str(artifact["picture"]), whole, refined.found, tell, *refined.understood)

        flow = refine(
            flows,
            before,
            talk,
            instruction=arguments.get("instruction"),
            clicks=prompts_of(arguments.get("clicks")),
            forget_clicks=arguments.get("forget_clicks", False),
            method=self.method,
        )
        return Work(picture, flow, talk, told)


class DescribeRegionInput(Input):
    """What the model fills in."""

    result: ResultField = "latest"
    box: BoxField = None
    image: ImageField = "latest"


class DescribeRegionTool(Sam4MllmTool):
    """What the MLLM says is in a region. See `Sam4MllmTool` for its settings."""

    name: str = "describe_image_region"
    description: str = (
        "Asks the vision model what is in a region, to check a result: give a result's handle to have each of its objects "
        "described, or a box in pixels. For a result it also says how sure the model is that each object is the one asked for."
    )
    args_schema: type[BaseModel] = DescribeRegionInput

    def work(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> Work:
        """arguments: result; or box, image."""
        flows, talk = models.flows, Transcript()
        expression: str | None = None
        objects: list[SegmentedObject] = []
        if (box := inputs.box_of(arguments.get("box"))) is not None:
            name, picture = self.picture(arguments.get("image", "latest"), runtime)
            prompts = [ObjectPrompt(check_box(box, Size(*picture.size)))]
        else:
            artifact, picture = self.open_artifact(arguments.get("result", "latest"), "result", runtime)
            name = artifact["picture"]
            found = InteractiveState.read(artifact, artifact["state"])
            expression, objects, prompts = found.expression, list(found.objects[:_DESCRIBED]), []
        size = Size(*picture.size)

        def flow() -> Flow[list[dict[str, Any]]]:
            things = objects or (yield from flows.masks(prompts, size))
            return (yield from _described(flows, expression, things, size, talk)) if things else []

        def told(regions: list[dict[str, Any]]) -> Result:
            lines = [*map(_line, regions), f"(picture {name})"] if regions else [_NOTHING.format(name)]
            return "\n".join(lines), {"picture": name, "regions": regions}

        return Work(picture, flow(), talk, told)


def _described(
    flows: Flows, expression: str | None, objects: list[SegmentedObject], size: Size, talk: Transcript
) -> Flow[list[dict[str, Any]]]:
    """For each object its box, what the model says is there and, of an expression, the probability that this is meant."""
    places = [deepest_point(thing) for thing in objects]
    asked = [flows.dialect.ask_region(thing.prompt.box, place, size) for thing, place in zip(objects, places, strict=True)]
    replies = yield from flows.ask(asked, talk)
    boxes = [thing.prompt.box for thing in objects]
    sure: list[float | None] = [None] * len(boxes)
    if expression is not None:
        sure = yield from flows.whether(expression, boxes, size, talk)
    for question, reply in zip(asked, replies, strict=True):
        if not reply.text.strip():
            raise ReplyError("expected a few words about the region", question, reply)
    return [
        {"box": list(box), "text": " ".join(reply.text.split()), "expression": expression, "confidence": value}
        for box, reply, value in zip(boxes, replies, sure, strict=True)
    ]


def _line(region: dict[str, Any]) -> str:
    sure = "" if region["confidence"] is None else f"; is it '{region['expression']}'? {region['confidence']:.0%}"
    return f"{format_box(region['box'])}: {region['text'][:500]}{sure}"
