"""The tools' arguments as a model sees them: few, flat, each with a description and an example.

Small models write numbers as text, lists as JSON text and labels as words; what can mean only one value is taken as that.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from langchain_core.tools import InjectedToolArg
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from sam4mllm_tool.images.output_formats import OUTPUT_FORMATS, check_output_names
from sam4mllm_tool.interactive.compound_expression import MAX_PARTS
from sam4mllm_tool.types import Box, PointPrompt

__all__ = [
    "MAX_POINTS",
    "BoxField",
    "Click",
    "ClicksField",
    "DialogueField",
    "ExpressionsField",
    "GridField",
    "ImageField",
    "OutputsField",
    "PointsField",
    "ResultField",
    "ToolInput",
    "is_default_handle",
    "leave_out",
    "to_box",
    "to_point_prompts",
]

MAX_POINTS = 100
"""Points in one call: each may be a question of its own."""


def _parse_json(value: Any) -> Any:
    """Parse a list or an object that was written as text; return any other value unchanged."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None
        except ValueError:
            return value
    return value


def _parse_list(value: Any) -> Any:
    """Parse a list of points or clicks; a single one becomes a list."""
    value = _parse_json(value)
    if isinstance(value, Mapping | BaseModel):
        return [value]
    if isinstance(value, list) and len(value) in (2, 3) and all(isinstance(number, int | float) for number in value):
        return [value]
    return value


def _parse_pair(value: Any) -> Any:
    return [value.get("x"), value.get("y")] if isinstance(value, Mapping) else value


def _parse_click(value: Any) -> Any:
    value = _parse_json(value)
    return dict(zip(("x", "y", "label"), value, strict=False)) if isinstance(value, list) else value


_NULLS = ("null", "none", "undefined")
_LABELS = {"on": 1, "yes": 1, "positive": 1, "true": 1, "1": 1, "off": 0, "no": 0, "negative": 0, "false": 0, "0": 0}


def _parse_label(value: Any) -> Any:
    return _LABELS.get(str(value).strip().lower(), value) if isinstance(value, str | int) else value


def _parse_box(value: Any) -> Any:
    value = _parse_json(value)
    return [value.get(key) for key in ("x1", "y1", "x2", "y2")] if isinstance(value, Mapping) else value


def _parse_grid(value: Any) -> Any:
    """Parse 5, "5x5" and [5, 5] as the same grid."""
    value = _parse_json(value)
    if isinstance(value, str) and len(sides := value.lower().split("x")) in (1, 2):
        value = [side.strip() for side in sides]
    value = [value] if isinstance(value, int) else value
    return value * 2 if isinstance(value, list) and len(value) == 1 else value


def _parse_expressions(value: Any) -> Any:
    """Parse one expression, several separated by semicolons or lines, and a list of them, as a list."""
    value = _parse_json(value)
    if isinstance(value, str):
        parts = [part.strip() for part in re.split(r"[;\n]", value)]
        return [part for part in parts if part] or [value]
    if isinstance(value, list) and value:
        return value
    raise ValueError("expected the expression as text")


def _parse_outputs(value: Any) -> Any:
    """Parse one format, several in one text, and a list of them, as a list of formats that exist."""
    value = _parse_json(value)
    names = re.split(r"[\s,;]+", value.strip()) if isinstance(value, str) else value
    return check_output_names(map(str, names)) if isinstance(names, list | tuple) else names


def _validate_handle(value: Any) -> Any:
    if isinstance(value, str | Mapping):
        return value
    raise ValueError("expected a handle, such as 'seg-0123456789abcdef', or 'latest'")


def is_default_handle(value: Any) -> bool:
    """Whether a handle is left to its default, "latest"."""
    return value is None or (isinstance(value, str) and value.strip().strip("[]'\"` ").lower() in ("latest", ""))


class ToolInput(BaseModel):
    """The base of the args_schemas: what the agent injects beside the model's arguments."""

    model_config = ConfigDict(allow_inf_nan=False)

    runtime: Annotated[Any, InjectedToolArg] = Field(default=None, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, arguments: Any) -> Any:
        """Take null, in any spelling that models use, as an argument that was left out."""
        if not isinstance(arguments, Mapping):
            return arguments
        return {
            name: value
            for name, value in arguments.items()
            if value is not None and not (isinstance(value, str) and value.strip().lower() in _NULLS)
        }


class Click(BaseModel):
    """A point in pixels with its label: 1 on the object, 0 off it."""

    model_config = ConfigDict(allow_inf_nan=False, extra="ignore")

    x: float
    y: float
    label: Annotated[Literal[0, 1], BeforeValidator(_parse_label)]


def to_point_prompts(clicks: list[Click] | None) -> list[PointPrompt]:
    """Return the clicks as point prompts without a confidence, which are always used."""
    return [PointPrompt(click.x, click.y, click.label) for click in clicks or ()]


def to_box(box: list[float] | None) -> Box | None:
    """Return the argument as a box, unchecked."""
    return None if box is None else Box(*box)


def leave_out() -> None:
    """Return None, the default of an argument that may be left out: as a factory it puts no "default": null in the schema."""


_NUMBERS = {"type": "array", "items": {"type": "number"}}
_CLICK = {
    "type": "object",
    "properties": {"x": {"type": "number"}, "y": {"type": "number"}, "label": {"type": "integer", "enum": [0, 1]}},
    "required": ["x", "y", "label"],
}
_GRID = {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 15}, "minItems": 2, "maxItems": 2}

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Pair = Annotated[Annotated[list[_Number], Field(min_length=2, max_length=2)], BeforeValidator(_parse_pair)]
_Handle = Annotated[Any, BeforeValidator(_validate_handle), WithJsonSchema({"type": "string"})]

ExpressionsField = Annotated[
    Annotated[list[str], Field(max_length=MAX_PARTS)],
    BeforeValidator(_parse_expressions),
    WithJsonSchema({"type": "string"}),
    Field(
        description="What to segment, in plain words: 'the mug behind the laptop', 'all cups but not the red one'. Several: "
        "separate them by semicolons."
    ),
]
ImageField = Annotated[
    str,
    Field(description="'latest', or an image's id, name or number: 'img-0123456789ab', 'cat.jpg', 'image 2'."),
]
OutputsField = Annotated[
    Sequence[str],
    BeforeValidator(_parse_outputs),
    WithJsonSchema({"type": "array", "items": {"type": "string", "enum": list(OUTPUT_FORMATS)}}),
    Field(description="Files to write of the result, such as ['cutout', 'coco']; none unless the user wants files."),
]
DialogueField = Annotated[_Handle, Field(description="Handle from propose_boxes or check_points, or 'latest'.")]
ResultField = Annotated[_Handle, Field(description="Handle of a result, or 'latest'.")]
BoxField = Annotated[
    Annotated[list[_Number], Field(min_length=4, max_length=4)] | None,
    BeforeValidator(_parse_box),
    WithJsonSchema({**_NUMBERS, "minItems": 4, "maxItems": 4}),
    Field(description="[x1, y1, x2, y2] in pixels.", default_factory=leave_out),
]
PointsField = Annotated[
    Annotated[list[_Pair], Field(max_length=MAX_POINTS)] | None,
    BeforeValidator(_parse_list),
    WithJsonSchema({"type": "array", "items": {**_NUMBERS, "minItems": 2, "maxItems": 2}, "maxItems": MAX_POINTS}),
]
ClicksField = Annotated[
    Annotated[list[Annotated[Click, BeforeValidator(_parse_click)]], Field(max_length=MAX_POINTS)] | None,
    BeforeValidator(_parse_list),
    WithJsonSchema({"type": "array", "items": _CLICK, "maxItems": MAX_POINTS}),
]
GridField = Annotated[
    Annotated[list[Annotated[int, Field(ge=1, le=15)]], Field(min_length=2, max_length=2)] | None,
    BeforeValidator(_parse_grid),
    WithJsonSchema(_GRID),
]
