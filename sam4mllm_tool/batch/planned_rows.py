"""A row of a batch as the plan keeps it: an expression, and where its image is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from sam4mllm_tool.errors import ExpressionError
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.text import parse_json

__all__ = ["PlannedRow", "RowSource", "plan_expressions"]

RowSource: TypeAlias = str | Mapping[str, Any]
"""Where an image is: a path, a URL or a data URI; {"tar", "offset", "size"} or {"parquet", "group", "row"} inside a file."""


@dataclass(frozen=True)
class PlannedRow:
    """An expression about an image.

    Attributes:
        row: Its number in the whole input, from 0.
        place: Where it stands in the input, as in "line 3 of rows.jsonl".
        image: The image as the input names it.
        source: Where the image is.
        expression: What to segment, as the input has it.
        id: The input's own id of the row; "" where it has none.
        error: Why it can't be segmented, if the input alone shows that.
    """

    row: int = -1
    place: str = ""
    image: str = ""
    source: RowSource = ""
    expression: str = ""
    id: str = ""
    error: str = ""

    def to_line(self) -> bytes:
        """Return the row as a line of the plan."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps({name: value for name, value in values.items() if value != ""}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "PlannedRow":
        """Read what `to_line` wrote. Raises ValueError, TypeError."""
        return cls(**parse_json(line))


def plan_expressions(row: PlannedRow, expressions: object) -> Sequence[PlannedRow]:
    """Return a row per expression about the row's image.

    Args:
        row: The image; with an error it stays one row.
        expressions: A text, or a list of them. Anything else, an empty list and an empty text make a row with an error.
    """
    if row.error:
        return [row]
    texts = expressions if isinstance(expressions, list) and expressions else [expressions]
    return [_plan_expression(row, text) for text in texts]


def _plan_expression(row: PlannedRow, text: object) -> PlannedRow:
    expression = text if isinstance(text, str) else ""
    try:
        validate_expression("" if text is None or text == [] else text)
    except ExpressionError as error:
        return replace(row, expression=expression[:1000], error=f"ExpressionError: {error}")
    return replace(row, expression=expression)
