"""`segment_image`: an agent names an image and an expression and gets the masks, the whole dialogue in one call.

The model reads a short summary; the program gets the whole result as the message's artifact, plain JSON that survives a
checkpointer. The tool's policy decides what a model may open: by default images of the conversation and data URIs alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from sam4mllm_tool.images.export import summary, write_outputs
from sam4mllm_tool.interactive import InteractiveState, list_choices, list_left_out, segment_compound
from sam4mllm_tool.interactive.mask_sizes import resized_candidates
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.tools.artifacts import build_result_artifact, get_image_name
from sam4mllm_tool.tools.base import Sam4MllmTool, ToolOutput, ToolTask
from sam4mllm_tool.tools.events import EventHook, EventWriter, mask_event
from sam4mllm_tool.tools.inputs import ExpressionsField, ImageField, OutputsField, ToolInput
from sam4mllm_tool.types import Segmentation, SegmentedObject, Size

__all__ = ["SegmentInput", "SegmentToFilesInput", "SegmentTool", "build_mask_output"]

_PURPOSE = (
    "Finds what expressions mean in an image: how many objects there are, and of each its box in pixels, score (how good the "
    "mask is, as the segmenter estimates, 0 to 1) and "
)
_AGREEMENT = (
    "agreement of its mask with the model's answers about points, which is not how likely the box is right. Says when there "
    "is no such object. "
)
"""What the paper's methods report of an object."""
_PROBABILITY = (
    "confidence (calibrated probability that it is the one meant). Says when there is no such object, and how likely that is "
    "right. "
)
"""What the method `adaptive` reports."""
_MASKS = "The masks go to the calling program."


class SegmentInput(ToolInput):
    """The arguments of `segment_image`."""

    expression: ExpressionsField
    image: ImageField = "latest"


class SegmentToFilesInput(SegmentInput):
    """The arguments of `segment_image` where it may write files."""

    outputs: OutputsField = ()


class SegmentTool(Sam4MllmTool):
    """Segments what expressions mean in an image. See `Sam4MllmTool` for its settings.

    Attributes:
        output_folder: Where the argument `outputs` writes files, in a folder per result named by its handle; the artifact lists
            their paths as `files`. None: there is no such argument, and nothing is written.
    """

    server_tool: ClassVar[str | None] = "segment_image"

    output_folder: Path | None = None
    name: str = "segment_image"
    description: str = f"{_PURPOSE}{_PROBABILITY}{_MASKS}"
    args_schema: type[BaseModel] = SegmentInput

    def model_post_init(self, context: Any) -> None:
        """Describe the number that the method gives, unless the caller gave a description."""
        super().model_post_init(context)
        if self.method != "adaptive" and "description" not in self.model_fields_set:
            self.description = f"{_PURPOSE}{_AGREEMENT}{_MASKS}"
        if self.output_folder is not None and self.args_schema is SegmentInput:
            self.args_schema = SegmentToFilesInput

    def create_task(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> ToolTask:
        """Segment `expression` in `image`."""
        image_id, image = self.open_image(arguments.get("image", "latest"), runtime)
        expressions: list[str] = arguments["expression"]
        expression = " and ".join(expressions)
        write_event = self.get_event_writer(runtime, image_id, expression)
        run = models.start_run(Size(*image.size), expression, self.method)

        def build_output(segmentation: Segmentation) -> ToolOutput:
            return build_mask_output(image_id, segmentation, InteractiveState.from_segmentation(segmentation), write_event)

        flow = segment_compound(run, expressions, self.method)
        return ToolTask(image, flow, run, build_output, hooks=(EventHook(write_event, run),))

    def _complete_output(self, output: ToolOutput, runtime: Any, arguments: dict[str, Any]) -> ToolOutput:
        """Write the files asked for, and name them in the text and the artifact. Raises Sam4MllmError."""
        text, artifact = super()._complete_output(output, runtime, arguments)
        formats: Sequence[str] = arguments.get("outputs", ())
        if self.output_folder is None or not formats:
            return text, artifact
        image, result = self.image_store.get(artifact["picture"]), Segmentation.from_dict(artifact)
        folder, name = self.output_folder / artifact["handle"], get_image_name(artifact)
        paths = list(map(str, write_outputs(folder, image, result, formats=formats, image_name=name)))
        return "\n".join([text, *(f"wrote {path}" for path in paths)]), {**artifact, "files": paths}


def build_mask_output(
    image_id: str, segmentation: Segmentation, refinable: InteractiveState, write_event: EventWriter, *understood: str
) -> ToolOutput:
    """Build the text and the artifact of masks, and write them as the last event.

    Args:
        image_id: The image that they are of.
        segmentation: The masks.
        refinable: The same as a result that can be refined.
        write_event: Where the event goes.
        understood: How an instruction or clicks were understood; none for a first result.
    """
    artifact = build_result_artifact(image_id, segmentation, refinable, understood=list(understood))
    write_event(mask_event(artifact, segmentation.objects))
    text = summary(segmentation, none="nothing is left") if understood else summary(segmentation)
    lines = [*(f"understood: {line}" for line in understood), text, *_list_alternatives(segmentation, refinable)]
    return "\n".join([*lines, f"result {artifact['handle']} (image {image_id})"]), artifact


def _list_alternatives(segmentation: Segmentation, refinable: InteractiveState) -> list[str]:
    """Say what refine_segmentation could return instead."""
    lines = []
    for number, segmented in enumerate(segmentation.objects, start=1):
        if sizes := _format_sizes(segmented):
            lines.append(f"  other masks of object {number}: {sizes}; say 'bigger' or 'smaller' to have them")
    return [*lines, *(f"  {line}" for line in (*list_choices(refinable), *list_left_out(refinable)))]


def _format_sizes(segmented: SegmentedObject) -> str:
    candidates = resized_candidates(segmented)
    return ", ".join(f"{int(candidate.mask.sum()):,} pixels (score {candidate.score:.2f})" for candidate in candidates)
