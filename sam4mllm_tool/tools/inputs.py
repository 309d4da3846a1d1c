"""What the arguments of the tools look like to a model: few, flat, each with a description and an example.

Small models write numbers as text, lists as JSON text and labels as words; what can only mean one thing is taken for that.
Nothing here imports LangChain but the mark of what it injects.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from langchain_core.tools import InjectedToolArg
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from sam4mllm_tool.types import Box, PointPrompt

__all__ = ["MAX_POINTS", "BoxField", "Click", "DialogueField", "ImageField", "Input", "Places", "ResultField", "prompts_of"]

MAX_POINTS = 100
"""Points in one call: each may be a question of its own."""


def _from_json(value: Any) -> Any:
    """A list or an object that was written as text."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _as_list(value: Any) -> Any:
    """One point, or one click, is a list of one."""
    value = _from_json(value)
    if isinstance(value, Mapping | BaseModel):
        return [value]
    if isinstance(value, list) and len(value) in (2, 3) and all(isinstance(number, int | float) for number in value):
        return [value]
    return value


def _as_pair(value: Any) -> Any:
    return [value.get("x"), value.get("y")] if isinstance(value, Mapping) else value


def _as_click(value: Any) -> Any:
    value = _from_json(value)
    return dict(zip(("x", "y", "label"), value, strict=False)) if isinstance(value, list) else value


_LABELS = {"on": 1, "yes": 1, "positive": 1, "true": 1, "1": 1, "off": 0, "no": 0, "negative": 0, "false": 0, "0": 0}


def _as_label(value: Any) -> Any:
    return _LABELS.get(str(value).strip().lower(), value)


def _as_box(value: Any) -> Any:
    value = _from_json(value)
    return [value.get(key) for key in ("x1", "y1", "x2", "y2")] if isinstance(value, Mapping) else value


def _as_grid(value: Any) -> Any:
    """5, "5x5" and [5, 5] are one grid."""
    value = _from_json(value)
    if isinstance(value, str) and len(sides := value.lower().split("x")) in (1, 2):
        value = [side.strip() for side in sides]
    value = [value] if isinstance(value, int) else value
    return value * 2 if isinstance(value, list) and len(value) == 1 else value


def _as_handle(value: Any) -> Any:
    if isinstance(value, str | Mapping):
        return value
    raise ValueError("expected a handle, such as 'seg-0123456789abcdef', or 'latest'")


class Input(BaseModel):
    """Beside what the model fills in: what the agent injects."""

    model_config = ConfigDict(allow_inf_nan=False)

    runtime: Annotated[Any, InjectedToolArg] = Field(default=None, exclude=True)


class Click(BaseModel):
    """A point with its label."""

    model_config = ConfigDict(allow_inf_nan=False, extra="ignore")

    x: float = Field(description="Pixels from the left edge of the picture.")
    y: float = Field(description="Pixels from the top edge of the picture.")
    label: Annotated[Literal[0, 1], BeforeValidator(_as_label)] = Field(description="1: on the object. 0: not on it.")


def prompts_of(clicks: list[Click] | None) -> list[PointPrompt]:
    """The clicks as the core takes them; certain, since somebody said so."""
    return [PointPrompt(click.x, click.y, click.label) for click in clicks or ()]


_Pair = Annotated[
    Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=2, max_length=2)], BeforeValidator(_as_pair)
]
_Handle = Annotated[Any, BeforeValidator(_as_handle), WithJsonSchema({"type": "string"})]

ImageField = Annotated[
    str,
    Field(
        description="The picture: 'latest', or its id such as 'img-0123456789ab'; also a data URI, or a path or URL where this "
        "tool is configured to open them."
    ),
]
DialogueField = Annotated[_Handle, Field(description="The handle that propose_boxes or check_points gave, or 'latest'.")]
ResultField = Annotated[_Handle, Field(description="The handle of the result, as the tool gave it, or 'latest'.")]
BoxField = Annotated[
    Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=4, max_length=4)] | None,
    BeforeValidator(_as_box),
    Field(
        description="A box in pixels, [x1, y1, x2, y2], from its top left to its bottom right corner.",
        examples=[[10, 20, 110, 220]],
    ),
]
Places = Annotated[Annotated[list[_Pair], Field(max_length=MAX_POINTS)] | None, BeforeValidator(_as_list)]
Clicks = Annotated[
    Annotated[list[Annotated[Click, BeforeValidator(_as_click)]], Field(max_length=MAX_POINTS)] | None,
    BeforeValidator(_as_list),
]
Grid = Annotated[
    Annotated[list[Annotated[int, Field(ge=1, le=15)]], Field(min_length=2, max_length=2)] | None, BeforeValidator(_as_grid)
]


def box_of(box: list[float] | None) -> Box | None:
    """The box as the core takes it, unchecked."""
    return None if box is None else Box(*box)
