"""What clients send and get, as pydantic models, from which the OpenAPI description is made."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from sam4mllm_tool.config import Method
from sam4mllm_tool.images.output_formats import OUTPUT_FORMATS, check_output_names

__all__ = ["EmbedAnswer", "EmbedBody", "SegmentAnswer", "SegmentBody"]

MAX_EXPRESSIONS = 32
_Image = Annotated[
    str,
    Field(
        min_length=1,
        description="A data URI, the handle that /v1/embed returned, or, where the server allows it, a path or a URL.",
        examples=["img-0123456789ab"],
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class SegmentBody(_Body):
    """What to segment."""

    image: _Image
    expressions: list[str] = Field(min_length=1, max_length=MAX_EXPRESSIONS, examples=[["the red ring"]])
    method: Method | None = Field(default=None, description="How the MLLM is asked; by default the server's.")
    outputs: list[str] = Field(
        default=[],
        max_length=len(OUTPUT_FORMATS),
        description=f"Files to make of each result: {', '.join(OUTPUT_FORMATS)}.",
        examples=[["mask"]],
    )
    trace: bool = Field(default=False, description="Whether to keep a trace: /v1/results/{id}/trace.html and trace.json.")

    def check(self) -> None:
        """Raise OutputFormatError where an output doesn't exist."""
        check_output_names(self.outputs)


class SegmentAnswer(BaseModel):
    """The results, in the order of the expressions. Each is what `Segmentation.to_dict` writes, with more about its handles.

    Of several expressions one that failed alone has its problem details in its place, which `error` tells apart.
    """

    results: list[dict[str, Any]]


class EmbedBody(_Body):
    """An image to keep."""

    image: _Image


class EmbedAnswer(BaseModel):
    """The handle of an image that the server keeps for a while."""

    image: str
    width: int
    height: int
