"""How results look in the OpenAPI description: what `Segmentation.to_dict` writes, with what the server keeps them under."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["EXAMPLE_IMAGE", "EXAMPLE_RESULT", "ServerObject", "ServerResult"]

EXAMPLE_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEX////XKCi17PabAAAAF0lEQVR42mNgIBb8/8/A"
    "xMDAQCWCWAAA9BUCHTVYa/EAAAAASUVORK5CYII="
)
"""A red square of 16 x 16 pixels in the middle of a white image of 32 x 32."""

EXAMPLE_RESULT: dict[str, Any] = {
    "id": "seg-0123456789abcdef",
    "image": "img-0123456789ab",
    "outputs": {},
    "expression": "the red square",
    "size": {"width": 32, "height": 32},
    "objects": [
        {
            "box": [8.0, 8.0, 24.0, 24.0],
            "points": [{"x": 12.0, "y": 12.0, "label": 1, "confidence": 0.98}],
            "score": 0.97,
            "confidence": 0.93,
            "agreement": 1.0,
            "expression": "the red square",
            "mask": {"size": [32, 32], "counts": "X8`0`000000000000000000000000000000h7"},
        }
    ],
    "confidence": 0.93,
    "abstained": False,
    "warnings": [],
    "turns": [
        {"role": "user", "text": "Give the bounding box of each object that this describes: the red square"},
        {"role": "assistant", "text": "[250,250,750,750]"},
    ],
    "notes": [],
    "point_answers": [
        {"box": [8.0, 8.0, 24.0, 24.0], "x": 12.0, "y": 12.0, "label": 1, "confidence": 0.98, "kept": True},
    ],
    "models": {"mllm": "embedded", "segmenter": "embedded"},
    "dialect": "embedded",
    "questions": 2,
    "rounds": 2,
    "tokens": {"read": 310, "written": 12},
    "seconds": {"mllm": 0.31, "segmenter": 0.12},
}


class MaskRunLengths(BaseModel):
    """A mask in COCO's compressed run lengths."""

    size: tuple[int, int] = Field(description="Height and width in pixels.")
    counts: str


class ServerObject(BaseModel):
    """One object. Boxes and points are in pixels of the image."""

    box: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2.")
    points: list[dict[str, Any]] = Field(description="That the segmenter was prompted with: x, y, label, confidence.")
    score: float = Field(description="The segmenter's predicted IoU.")
    confidence: float | None = Field(description="Calibrated probability that the object is right, where there is one.")
    agreement: float | None = Field(description="Of the mask with the answers about its points.")
    expression: str | None
    mask: MaskRunLengths


class ServerResult(BaseModel):
    """What an expression came to. No objects mean that there is no such object, unless `abstained`."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [EXAMPLE_RESULT]})

    id: str = Field(description="For /v1/results/{result_id} and /v1/refine.")
    image: str = Field(description="The image's handle, for further requests about it.")
    outputs: dict[str, str] = Field(description="File name -> data URI, of the formats that were asked for.")
    expression: str
    size: dict[str, int] = Field(description="Width and height of the image in pixels.")
    objects: list[ServerObject]
    confidence: float | None
    abstained: bool = Field(description="Whether the objects were left out because the models were not sure enough.")
    warnings: list[str]
    turns: list[dict[str, str]] = Field(description="The dialogue with the MLLM.")
    notes: list[str]
    point_answers: list[dict[str, Any]]
    models: dict[str, str]
    dialect: str
    questions: int
    rounds: int
    tokens: dict[str, int] | None
    seconds: dict[str, float]
    weights: dict[str, str] = Field(default={}, description="What identifies the weights that run here: a hash or a commit.")
