"""How numbers, boxes and expressions are put into words, for the messages of a refinement and for the text of a result."""

from collections.abc import Iterable, Sequence

from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.interactive.state import InteractiveState
from sam4mllm_tool.types import Box

__all__ = ["format_numbers", "list_boxes", "list_choices", "list_left_out", "list_numbers", "quote_expression"]

_MAX_LISTED = 10
"""Boxes that a text lists at most."""


def quote_expression(text: str) -> str:
    """Return the expression in quotation marks, shortened to 80 characters."""
    return f"'{text}'" if len(text) <= 80 else f"'{text[:80]}...'"


def list_boxes(boxes: Sequence[Box]) -> str:
    """Return "the one at (x1, y1) to (x2, y2), the one at ..."; "nothing" for no box."""
    return ", ".join(f"the one at {format_box(box)}" for box in boxes[:_MAX_LISTED]) or "nothing"


def format_numbers(numbers: Iterable[int]) -> str:
    """Return "1, 2 and 4"."""
    *init, last = [str(number) for number in numbers] or ["none"]
    return f"{', '.join(init)} and {last}" if init else last


def list_numbers(state: InteractiveState) -> str:
    """Say which numbers there are: "the result has 1 and 2; left out: 3"."""
    count, end = len(state.objects), len(state.objects) + len(state.choices)
    shown = f"the result has {format_numbers(range(1, count + 1))}" if count else "the result holds no object"
    choices = f"; possible as well: {format_numbers(range(count + 1, end + 1))}" if state.choices else ""
    left_out = f"; left out: {format_numbers(range(end + 1, end + len(state.left_out) + 1))}" if state.left_out else ""
    return shown + choices + left_out


def list_choices(state: InteractiveState) -> list[str]:
    """Return a line on the choices, with their numbers and with what to say to have one; no line where there are none."""
    start = len(state.objects) + 1
    boxes = [choice.box for choice in state.choices]
    words = f"it could also be {_list_numbered(start, boxes)}; say '{start}' to have it instead, or 'also {start}'"
    return [words][: len(boxes)]


def list_left_out(state: InteractiveState) -> list[str]:
    """Return a line on what was left out, with its numbers and with what to say to have it again; no line for nothing."""
    start = len(state.objects) + len(state.choices) + 1
    boxes = [candidate.box for candidate in state.left_out]
    return [f"left out: {_list_numbered(start, boxes)}; say 'add back {start}' to have it again"][: len(boxes)]


def _list_numbered(start: int, boxes: Sequence[Box]) -> str:
    return ", ".join(f"{number} at {format_box(box)}" for number, box in enumerate(boxes, start=start))
