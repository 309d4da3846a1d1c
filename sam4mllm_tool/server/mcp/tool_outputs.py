"""The structured output of each tool, as its output schema describes it, and how it is made from the tool's artifact."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from sam4mllm_tool.server.mcp.result_resources import RESULT_FILES, result_uri
from sam4mllm_tool.tools.artifacts import Artifact
from sam4mllm_tool.types import Segmentation

__all__ = ["OUTPUTS", "DialogueOutput", "RegionsOutput", "ResultOutput", "build_structured_output"]

BoxOutput = Annotated[list[float], Field(min_length=4, max_length=4, description="[x1, y1, x2, y2] in pixels.")]
Probability = Annotated[float | None, Field(ge=0, le=1, description="Probability from 0 to 1; null where it is unknown.")]
Confidence = Annotated[Probability, Field(default=None)]
ImageId = Annotated[str, Field(description="The image's id, to be given as `image` in later calls.")]
Handle = Annotated[str, Field(description="The handle, to be given in later calls.")]


class SizeOutput(BaseModel):
    """An image's size in pixels."""

    width: int
    height: int


class ObjectOutput(BaseModel):
    """One object of a result."""

    number: Annotated[int, Field(description="Its number in instructions, as in 'remove 2'.")]
    box: BoxOutput
    pixels: Annotated[int, Field(description="Pixels of its mask.")]
    score: Annotated[float, Field(description="How good the mask is, as the segmenter estimates, from 0 to 1.")]
    confidence: Confidence
    agreement: Annotated[Probability, Field(default=None, description="Of the mask with the answers about points.")]
    expression: Annotated[str | None, Field(default=None, description="The part of the expression that means it.")]


class ChoiceOutput(BaseModel):
    """Another object that the expression may mean."""

    number: Annotated[int, Field(description="To be said to refine_segmentation to have it instead.")]
    box: BoxOutput
    confidence: Confidence


class ResultOutput(BaseModel):
    """A result: the objects that an expression means. No objects: there is no such object, unless `abstained`."""

    result: Handle
    image: ImageId
    expression: str
    size: SizeOutput
    objects: list[ObjectOutput]
    confidence: Confidence
    abstained: Annotated[bool, Field(description="Whether objects were left out because none is sure enough.")]
    choices: Annotated[list[ChoiceOutput], Field(description="Other objects that the expression may mean.")]
    understood: Annotated[list[str], Field(description="How an instruction and clicks were understood.")]
    notes: list[str]
    warnings: list[str]
    files: Annotated[dict[str, str], Field(description="URIs of resources: masks and images of full size.")]


class ProposedBoxOutput(BaseModel):
    """A box that the vision model named."""

    box: BoxOutput
    confidence: Confidence


class PointOutput(BaseModel):
    """A point with the vision model's answer."""

    x: float
    y: float
    label: Annotated[int, Field(ge=0, le=1, description="1 on the object, 0 off it.")]
    confidence: Confidence
    box: Annotated[int, Field(description="The number of the box that it was asked about in, from 1.")]


class DialogueOutput(BaseModel):
    """A dialogue that can go on. No boxes: there is no such object."""

    dialogue: Handle
    image: ImageId
    expression: str
    boxes: list[ProposedBoxOutput]
    points: Annotated[list[PointOutput], Field(description="All points checked so far, box by box.")]
    confidence: Annotated[Probability, Field(default=None, description="That there is no such object.")]
    notes: list[str]


class RegionOutput(BaseModel):
    """A region in the vision model's words."""

    box: BoxOutput
    text: str
    expression: str | None
    confidence: Annotated[Probability, Field(default=None, description="That the expression means it.")]


class RegionsOutput(BaseModel):
    """Descriptions of regions."""

    image: ImageId
    regions: list[RegionOutput]


OUTPUTS: dict[str, type[BaseModel]] = {
    "segment_image": ResultOutput,
    "segment_prompt": ResultOutput,
    "refine_segmentation": ResultOutput,
    "propose_boxes": DialogueOutput,
    "check_points": DialogueOutput,
    "describe_image_region": RegionsOutput,
}
"""The structured output of each tool by its name."""


def build_structured_output(artifact: Artifact, segmentation: Segmentation | None, choices: list[dict[str, Any]]) -> BaseModel:
    """Build the structured output from a tool's artifact.

    Args:
        artifact: A result's, a dialogue's, or that of descriptions.
        segmentation: A result's artifact, read back; None for other artifacts.
        choices: Of a result, by number.
    """
    if segmentation is not None:
        return _build_result(artifact, segmentation, choices)
    if artifact.get("kind") == "dialogue":
        return _build_dialogue(artifact)
    return RegionsOutput(image=artifact["picture"], regions=[RegionOutput(**region) for region in artifact["regions"]])


def _build_result(artifact: Artifact, segmentation: Segmentation, choices: list[dict[str, Any]]) -> ResultOutput:
    objects = [
        ObjectOutput(
            number=number,
            box=list(segmented.prompt.box),
            pixels=int(segmented.mask.sum()),
            score=segmented.score,
            confidence=segmented.confidence,
            agreement=segmented.agreement,
            expression=segmented.expression,
        )
        for number, segmented in enumerate(segmentation.objects, start=1)
    ]
    return ResultOutput(
        result=artifact["handle"],
        image=artifact["picture"],
        expression=segmentation.expression,
        size=SizeOutput(width=segmentation.size.width, height=segmentation.size.height),
        objects=objects,
        confidence=segmentation.confidence,
        abstained=segmentation.abstained,
        choices=[ChoiceOutput(**choice) for choice in choices],
        understood=artifact.get("understood", []),
        notes=list(segmentation.notes),
        warnings=list(segmentation.warnings),
        files={name: result_uri(artifact["handle"], name) for name in RESULT_FILES},
    )


def _build_dialogue(artifact: Artifact) -> DialogueOutput:
    points = [PointOutput(**point, box=number) for number, points in enumerate(artifact["points"], start=1) for point in points]
    return DialogueOutput(
        dialogue=artifact["handle"],
        image=artifact["picture"],
        expression=artifact["expression"],
        boxes=[ProposedBoxOutput(**box) for box in artifact["boxes"]],
        points=points,
        confidence=artifact.get("confidence"),
        notes=list(artifact.get("notes", [])),
    )
