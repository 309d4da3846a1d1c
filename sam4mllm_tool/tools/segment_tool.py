"""`segment_image`: an agent names a picture and an expression and gets the masks, the whole dialogue in one call.

The model reads a short summary; the program gets the whole result as the message's artifact, plain JSON that survives a
checkpointer. What a model may open is decided by the tool's policy: pictures of the conversation and data URIs alone, unless
paths or URLs are configured.
"""

from typing import Any

from pydantic import BaseModel, Field

from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.images.export import summary
from sam4mllm_tool.interactive import InteractiveState, start
from sam4mllm_tool.interactive.alternatives import resized_candidates
from sam4mllm_tool.pipeline.requests import Transcript
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.tools.artifacts import result_artifact
from sam4mllm_tool.tools.base import Result, Sam4MllmTool, Work
from sam4mllm_tool.tools.events import Tell, mask_event, observe
from sam4mllm_tool.tools.inputs import ImageField, Input
from sam4mllm_tool.types import Segmentation, SegmentedObject, Size

__all__ = ["SegmentInput", "SegmentTool", "masks_result"]


_FINDS = "Finds what an expression means in a picture and returns how many objects there are, the box of each in pixels, and "
_AGREEMENT = (
    "how far its mask agrees with the model's answers about points in that box, which is not how likely the box is right. "
    "It also says when there is no such object. "
)
"""What the paper's methods tell of an object."""
_PROBABILITY = (
    "its confidence, the calibrated probability that it is the one meant. It also says when there is no such object, and how "
    "likely that is right. "
)
"""What `adaptive` tells."""
_TELLS = "The exact masks go to the program that called it."


class SegmentInput(Input):
    """What the model fills in."""

    expression: str = Field(
        description="What to segment, in plain words, as in 'the mug behind the laptop' or 'all red shapes'."
    )
    image: ImageField = "latest"


class SegmentTool(Sam4MllmTool):
    """Segments what an expression means in a picture. See `Sam4MllmTool` for its settings."""

    name: str = "segment_image"
    description: str = f"{_FINDS}{_AGREEMENT}{_TELLS}"
    args_schema: type[BaseModel] = SegmentInput

    def model_post_init(self, context: Any) -> None:
        """The description says what the method's confidence is, where the caller gave none of its own."""
        super().model_post_init(context)
        if self.method == "adaptive" and "description" not in self.model_fields_set:
            self.description = f"{_FINDS}{_PROBABILITY}{_TELLS}"

    def work(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> Work:
        """arguments: expression, image."""
        name, picture = self.picture(arguments.get("image", "latest"), runtime)
        talk, size, tell = Transcript(), Size(*picture.size), self.tells(runtime)

        def told(found: Segmentation) -> Result:
            return masks_result(name, found, start(found), tell)

        flow = models.flows.segment(arguments["expression"], size, self.method, talk)
        return Work(picture, observe(flow, tell, models.dialect, size), talk, told)


def masks_result(picture: str, segmentation: Segmentation, found: InteractiveState, tell: Tell, *understood: str) -> Result:
    """The text and the artifact of masks, which are told of as the last event.

    picture: its id. understood: what was made of an instruction or clicks.
    """
    artifact = result_artifact(picture, segmentation, found, understood=list(understood))
    tell(mask_event(artifact))
    told = summary(segmentation, none="nothing is left") if understood else summary(segmentation)
    lines = [*(f"understood: {line}" for line in understood), told, *_offered(segmentation, found)]
    return "\n".join([*lines, f"result {artifact['handle']} (picture {picture})"]), artifact


def _offered(segmentation: Segmentation, found: InteractiveState) -> list[str]:
    """What refine_segmentation could bring instead."""
    lines = []
    for number, thing in enumerate(segmentation.objects, start=1):
        if sizes := _sizes(thing):
            lines.append(f"  other masks of object {number}: {sizes}; say 'bigger' or 'smaller' to have them")
    if found.rejected:
        listed = ", ".join(format_box(prompt.box) for prompt in found.rejected[-4:])
        lines.append(f"  left out: {listed}; say 'the one before' to have the last one back")
    return lines


def _sizes(thing: SegmentedObject) -> str:
    return ", ".join(f"{int(one.mask.sum()):,} pixels (score {one.score:.2f})" for one in resized_candidates(thing))
