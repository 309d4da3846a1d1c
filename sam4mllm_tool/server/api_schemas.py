"""What clients send and get, as pydantic models, from which the OpenAPI description is made."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from sam4mllm_tool.config import Method
from sam4mllm_tool.images.output_formats import OUTPUT_FORMATS, check_output_names
from sam4mllm_tool.protocol.dialogues import MAX_EXPRESSION_LENGTH
from sam4mllm_tool.server.api_results import EXAMPLE_IMAGE, EXAMPLE_RESULT, ServerResult
from sam4mllm_tool.server.problems import Problem

__all__ = ["Alive", "EmbedAnswer", "EmbedBody", "OutputName", "Ready", "SegmentAnswer", "SegmentBody"]

MAX_EXPRESSIONS = 32
_Image = Annotated[
    str,
    Field(
        min_length=1,
        description="A data URI, the handle that /v1/embed returned, or, where the server allows it, a path or a URL.",
        examples=[EXAMPLE_IMAGE],
    ),
]
_ImageName = Annotated[
    str,
    Field(
        max_length=255,
        description="Name of the image's file, which annotations refer to; by default that of a form's file, a path or a URL.",
        examples=["photo.jpg"],
    ),
]
OutputName = Annotated[str, Field(json_schema_extra={"enum": list(OUTPUT_FORMATS)})]
"""Which there are is checked apart, for an error that lists them."""
_Expression = Annotated[str, Field(json_schema_extra={"minLength": 1, "maxLength": MAX_EXPRESSION_LENGTH})]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class SegmentBody(_Body):
    """What to segment."""

    image: _Image
    image_name: _ImageName = ""
    expressions: list[_Expression] = Field(min_length=1, max_length=MAX_EXPRESSIONS, examples=[["the red square"]])
    method: Method | None = Field(default=None, description="How the MLLM is asked; by default the server's.")
    outputs: list[OutputName] = Field(
        default=[],
        max_length=len(OUTPUT_FORMATS),
        description=f"Files to make of each result: {', '.join(OUTPUT_FORMATS)}.",
        examples=[["mask"]],
    )
    trace: StrictBool = Field(default=False, description="Whether to keep a trace: /v1/results/{id}/trace.html and trace.json.")

    def check(self) -> None:
        """Raise OutputFormatError where an output doesn't exist."""
        check_output_names(self.outputs)


class SegmentAnswer(BaseModel):
    """The results, in the order of the expressions.

    If one of several expressions fails, its entry is a problem, which has the field `error`; the others keep their results.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"results": [EXAMPLE_RESULT]}]})

    results: list[ServerResult | Problem]


class EmbedBody(_Body):
    """An image to keep."""

    image: _Image
    image_name: _ImageName = ""


class EmbedAnswer(BaseModel):
    """The handle of an image that the server keeps for a while."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": "img-0123456789ab", "width": 32, "height": 32}]})

    image: str
    width: int
    height: int


class Alive(BaseModel):
    """The process lives."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """The models are loaded."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "ready", "mllm": "embedded", "segmenter": "embedded"}]}
    )

    status: Literal["ready"] = "ready"
    mllm: str
    segmenter: str
