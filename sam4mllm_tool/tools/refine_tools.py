"""`refine_segmentation` corrects a result by words and clicks; `describe_image_region` has the MLLM describe a region."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field, WithJsonSchema

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.interactive import RefinementResult, refine
from sam4mllm_tool.interactive.alternatives import deepest_point
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.tools.artifacts import restore_result
from sam4mllm_tool.tools.base import Sam4MllmTool, ToolOutput, ToolTask
from sam4mllm_tool.tools.dialogue_state import DialogueError
from sam4mllm_tool.tools.dialogue_tools import clip_box
from sam4mllm_tool.tools.events import boxes_event, points_event
from sam4mllm_tool.tools.inputs import (
    BoxField,
    ClicksField,
    ImageField,
    ResultField,
    ToolInput,
    is_default_handle,
    leave_out,
    to_box,
    to_point_prompts,
)
from sam4mllm_tool.tools.segment_tool import build_mask_output
from sam4mllm_tool.types import Box, ObjectPrompt, SegmentedObject, Size

__all__ = ["DescribeRegionTool", "RefineTool"]

_MAX_DESCRIBED = 5
"""Objects of a result that are described."""
_MAX_DESCRIPTION_LENGTH = 500
"""Characters of a description that the text shows."""


class RefineInput(ToolInput):
    """The arguments of `refine_segmentation`."""

    result: ResultField = "latest"
    instruction: Annotated[str | None, WithJsonSchema({"type": "string"})] = Field(
        description="The change in the user's words: 'no, the other one', 'also the left one', 'without the handle', 'bigger', "
        "'the one before'.",
        default_factory=leave_out,
    )
    clicks: Annotated[
        ClicksField,
        Field(
            description="Points in pixels, label 1 on the object, 0 off it; earlier clicks still count.",
            default_factory=leave_out,
        ),
    ]
    forget_clicks: bool = Field(default=False, description="Drop the earlier clicks.")


class RefineTool(Sam4MllmTool):
    """Corrects a result. See `Sam4MllmTool` for its settings."""

    name: str = "refine_segmentation"
    description: str = (
        "Corrects a result by an instruction, by clicks, or by both. Returns a new result handle and how the words were "
        "understood; the earlier result stays as it was."
    )
    args_schema: type[BaseModel] = RefineInput

    def create_task(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> ToolTask:
        """Refine `result` by `instruction` and `clicks`."""
        artifact, image = self.open_artifact(arguments.get("result", "latest"), "result", runtime)
        state = restore_result(artifact)
        write_event = self.get_event_writer(runtime, str(artifact["picture"]), state.expression)
        run = models.start_run(state.size)

        def build_output(refined: RefinementResult) -> ToolOutput:
            prompts = [segmented.prompt for segmented in refined.state.objects]
            write_event(boxes_event([prompt.box for prompt in prompts]))
            write_event(points_event([point for prompt in prompts for point in prompt.points]))
            image_id = str(artifact["picture"])
            return build_mask_output(image_id, refined.segmentation, refined.state, write_event, *refined.understood)

        flow = refine(
            run,
            state,
            instruction=arguments.get("instruction"),
            clicks=to_point_prompts(arguments.get("clicks")),
            forget_clicks=arguments.get("forget_clicks", False),
            method=self.method,
        )
        return ToolTask(image, flow, run, build_output)


class DescribeRegionInput(ToolInput):
    """The arguments of `describe_image_region`."""

    result: ResultField = "latest"
    box: BoxField
    image: ImageField = "latest"


class DescribeRegionTool(Sam4MllmTool):
    """Has the MLLM describe a region. See `Sam4MllmTool` for its settings."""

    name: str = "describe_image_region"
    description: str = (
        "Asks the vision model what is in a region: describes each object of a result, with the confidence that it is the one "
        "asked for, to check it; or what is in a box."
    )
    args_schema: type[BaseModel] = DescribeRegionInput

    def create_task(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> ToolTask:
        """Describe the objects of `result`; or what is in `box` of `image`."""
        if (box := to_box(arguments.get("box"))) is not None:
            if not is_default_handle(arguments.get("result")):
                raise DialogueError("give a result or a box, not both: leave result out to describe what is in the box")
            image_id, image = self.open_image(arguments.get("image", "latest"), runtime)
            run = models.start_run(Size(*image.size))
            flow = _describe_box(run, clip_box(box, run.size))
        else:
            artifact, image = self.open_artifact(arguments.get("result", "latest"), "result", runtime)
            image_id, refinable = artifact["picture"], restore_result(artifact)
            run = models.start_run(refinable.size)
            flow = _describe_objects(run, refinable.expression, refinable.objects[:_MAX_DESCRIBED])

        def build_output(regions: list[dict[str, Any]]) -> ToolOutput:
            nothing = f"the result holds no object to describe (image {image_id})"
            text = "\n".join([*map(_format_region, regions), f"(image {image_id})"]) if regions else nothing
            return text, {"picture": image_id, "regions": regions}

        return ToolTask(image, flow, run, build_output)


def _describe_box(run: RunContext, box: Box) -> Flow[list[dict[str, Any]]]:
    objects = yield from run.segment_prompts([ObjectPrompt(box)])
    return (yield from _describe_objects(run, None, objects))


def _describe_objects(
    run: RunContext, expression: str | None, objects: Sequence[SegmentedObject]
) -> Flow[list[dict[str, Any]]]:
    """Return for each object its box, the MLLM's description and, given an expression, the probability that it is meant."""
    if not objects:
        return []
    boxes = [segmented.prompt.box for segmented in objects]
    places = [deepest_point(segmented) for segmented in objects]
    questions = [run.dialect.ask_region(box, place, run.size) for box, place in zip(boxes, places, strict=True)]
    replies = yield from run.ask(questions)
    confidences: list[float | None] = [None] * len(boxes)
    if expression is not None:
        confidences = yield from run.verify_boxes(expression, boxes)
    for question, reply in zip(questions, replies, strict=True):
        if not reply.text.strip():
            raise ReplyError("expected a few words about the region", question, reply)
    return [
        {"box": list(box), "text": " ".join(reply.text.split()), "expression": expression, "confidence": confidence}
        for box, reply, confidence in zip(boxes, replies, confidences, strict=True)
    ]


def _format_region(region: dict[str, Any]) -> str:
    confidence = "" if region["confidence"] is None else f"; is it '{region['expression']}'? {region['confidence']:.0%}"
    return f"{format_box(region['box'])}: {region['text'][:_MAX_DESCRIPTION_LENGTH]}{confidence}"
