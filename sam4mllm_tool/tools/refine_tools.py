"""`refine_segmentation` corrects a result by words and clicks; `describe_image_region` has the MLLM describe a region."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field, WithJsonSchema

from sam4mllm_tool.errors import ReplyError, Sam4MllmError
from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.interactive import InteractiveState, RefinementResult, read_instruction, refine
from sam4mllm_tool.interactive.mask_geometry import deepest_point
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.tools.artifacts import Artifact, restore_result
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

__all__ = ["DescribeRegionTool", "RefineTool", "describe_choices"]

_MAX_DESCRIBED = 5
"""Objects of a result that are described."""
_MAX_DESCRIPTION_LENGTH = 500
"""Characters of a description that the text shows."""


class RefineInput(ToolInput):
    """The arguments of `refine_segmentation`."""

    result: ResultField = "latest"
    instruction: Annotated[str | None, WithJsonSchema({"type": "string"})] = Field(
        description="The change in the user's words: 'no, the other one', 'also the left one', 'without the handle', 'bigger', "
        "'undo', 'keep 1 and 2', 'add back 3'.",
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

    server_tool: ClassVar[str | None] = "refine_segmentation"

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
        before = self._find_previous(artifact, arguments.get("instruction"), runtime)
        if before is not None:
            state = replace(state, previous=restore_result(before))
        run = models.start_run(state.size)

        def build_output(refined: RefinementResult) -> ToolOutput:
            prompts = [segmented.prompt for segmented in refined.state.objects]
            write_event(boxes_event([prompt.box for prompt in prompts]))
            write_event(points_event([point for prompt in prompts for point in prompt.points]))
            image_id = str(artifact["picture"])
            text, output = build_mask_output(image_id, refined.segmentation, refined.state, write_event, *refined.understood)
            origin = (before or artifact).get("previous") if before or not refined.is_changed else artifact["handle"]
            output |= {"changed": refined.is_changed, "previous": origin, "choices": describe_choices(refined.state)}
            return text, output

        flow = refine(
            run,
            state,
            instruction=arguments.get("instruction"),
            clicks=to_point_prompts(arguments.get("clicks")),
            forget_clicks=arguments.get("forget_clicks", False),
            method=self.method,
        )
        return ToolTask(image, flow, run, build_output)

    def list_artifacts(self, artifact: Artifact, runtime: Any, **arguments: Any) -> list[Artifact]:
        """Return the artifact, after the one that the instruction goes back to."""
        before = self._find_previous(artifact, arguments.get("instruction"), runtime)
        return [artifact] if before is None else [before, artifact]

    def _find_previous(self, artifact: Artifact, instruction: str | None, runtime: Any) -> Artifact | None:
        """Return the result before the last change, where the instruction asks for it and the conversation still has it."""
        handle = artifact.get("previous")
        if not isinstance(handle, str) or instruction is None or read_instruction(instruction).action != "back":
            return None
        try:
            previous, _ = self.open_artifact(handle, "result", runtime)
        except Sam4MllmError:
            return None
        return previous if previous["picture"] == artifact["picture"] else None


def describe_choices(state: InteractiveState) -> list[dict[str, Any]]:
    """Return the choices with their numbers, which follow those of the objects, as plain JSON."""
    start = len(state.objects) + 1
    return [
        {"number": number, "box": list(choice.box), "expression": choice.expression, "confidence": choice.confidence}
        for number, choice in enumerate(state.choices, start=start)
    ]


class DescribeRegionInput(ToolInput):
    """The arguments of `describe_image_region`."""

    result: ResultField = "latest"
    box: BoxField
    image: ImageField = "latest"


class DescribeRegionTool(Sam4MllmTool):
    """Has the MLLM describe a region. See `Sam4MllmTool` for its settings."""

    server_tool: ClassVar[str | None] = "describe_image_region"

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
            flow = _describe_objects(run, refinable.objects[:_MAX_DESCRIBED])

        def build_output(regions: list[dict[str, Any]]) -> ToolOutput:
            nothing = f"the result holds no object to describe (image {image_id})"
            text = "\n".join([*map(_format_region, regions), f"(image {image_id})"]) if regions else nothing
            return text, {"picture": image_id, "regions": regions}

        return ToolTask(image, flow, run, build_output)


def _describe_box(run: RunContext, box: Box) -> Flow[list[dict[str, Any]]]:
    objects = yield from run.segment_prompts([ObjectPrompt(box)])
    return (yield from _describe_objects(run, objects))


def _describe_objects(run: RunContext, objects: Sequence[SegmentedObject]) -> Flow[list[dict[str, Any]]]:
    """Return for each object its box, the MLLM's description and, where it was found by an expression, how probably it is that.

    Each object is verified by its own expression, whatever was refined since.
    """
    if not objects:
        return []
    boxes = [segmented.prompt.box for segmented in objects]
    places = [deepest_point(segmented) for segmented in objects]
    questions = [run.dialect.ask_region(box, place, run.size) for box, place in zip(boxes, places, strict=True)]
    replies = yield from run.ask(questions)
    expressions = [each.expression or None for each in objects]
    confidences = yield from _verify_objects(run, expressions, boxes)
    for question, reply in zip(questions, replies, strict=True):
        if not reply.text.strip():
            raise ReplyError("expected a few words about the region", question, reply)
    return [
        {"box": list(box), "text": " ".join(reply.text.split()), "expression": expression, "confidence": confidence}
        for box, reply, expression, confidence in zip(boxes, replies, expressions, confidences, strict=True)
    ]


def _verify_objects(run: RunContext, expressions: Sequence[str | None], boxes: Sequence[Box]) -> Flow[list[float | None]]:
    """Return for each box the probability that its expression means the object in it; None where it has no expression."""
    confidences: list[float | None] = [None] * len(boxes)
    for expression in dict.fromkeys(filter(None, expressions)):
        indices = [index for index, other in enumerate(expressions) if other == expression]
        verified = yield from run.verify_boxes(expression, [boxes[index] for index in indices])
        for index, confidence in zip(indices, verified, strict=True):
            confidences[index] = confidence
    return confidences


def _format_region(region: dict[str, Any]) -> str:
    confidence = "" if region["confidence"] is None else f"; is it '{region['expression']}'? {region['confidence']:.0%}"
    return f"{format_box(region['box'])}: {region['text'][:_MAX_DESCRIPTION_LENGTH]}{confidence}"
