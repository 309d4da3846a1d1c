"""What the dialects of off-the-shelf families share: plain questions that state the frame and the format of the answer.

Saying the range, the order and the origin of coordinates in the question makes models keep to them far more often than relying
on what they were trained on. What differs between questions about an image comes last, as in `plain`.
"""

from typing import Any, Literal

from sam4mllm_tool.protocol.dialect import Dialect

__all__ = ["PIXELS", "build_native", "in_json", "shares"]

_LINES = "integers from 0 to 1000 of the image's width (x) and height (y), counted from its top left corner"

PIXELS = "pixels of the image, counted from its top left corner"

_NONE = "There is none."


def shares(decimals: int) -> dict[str, Any]:
    """Return the settings of a family that counts shares of the image's sides."""
    words = {2: "two", 3: "three"}[decimals]
    sides = "the image's width (x) and height (y) from 0 to 1"
    units = f"shares of {sides} with {words} decimals, counted from its top left corner"
    return {"units": units, "scale": 1, "decimals": decimals}


def in_json(key: str, corners: str = "x1, y1, x2, y2") -> dict[str, Any]:
    """Return the settings of a family that writes boxes in a JSON list, each under a key of its own."""
    return {
        "answer": f'{{{{"{key}": [{corners}], "label": "..."}}}} in a JSON list',
        "item_text": f'{{{{"{key}": {{box}}, "label": "object"}}}}',
        "list_text": "```json\n[{boxes}]\n```",
    }


def build_native(
    name: str,
    *,
    answer: str,
    units: str = _LINES,
    order: Literal["xy", "yx"] = "xy",
    point: str = "",
    **settings: Any,
) -> Dialect:
    """Build the dialect of a family that answers in its own format.

    Args:
        name: The key in `DIALECTS`.
        answer: How each box shall be written, in the family's own format; braces doubled.
        units: What coordinates count, in words.
        order: Whether x or y comes first.
        point: How each point shall be written where only points are asked for, braces doubled; by default as (x, y).
        settings: Further fields of `Dialect`, such as `frame` and `scale`; they win over those made here.
    """
    corners = ("x1", "y1", "x2", "y2") if order == "xy" else ("y1", "x1", "y2", "x2")
    x, y = order
    form, pointed = (
        f"{ask} as {written}; coordinates are {units}. If there is no such object, answer: {_NONE}"
        for ask, written in (("Answer with each", answer), ("Answer with one point on each", point or f"({x}, {y})"))
    )
    locate, description = "Locate every object in the image that the description below fits.", "\nDescription: {expression}"
    defaults: dict[str, Any] = {
        "name": name,
        "frame": "lines",
        "scale": 1000,
        "digits": 0,
        "replies": "native",
        "box_text": "[" + ", ".join(f"{{{corner}}}" for corner in corners) + "]",
        "point_text": f"({{{x}}}, {{{y}}})",
        "none_text": _NONE,
        "separator": ", ",
        "ask_boxes_text": f"{locate} {form}{description}",
        "ask_points_text": (
            "Look at the object in the bounding box below. Is the point below on that object, rather than on something else "
            "inside the box? Answer Yes or No. The bounding box: {box}. The point: {points}"
        ),
        "ask_prompt_text": (
            f"{locate} {form} After each box write: on, {{on}} points on the object; off, {{off}} points beside it but inside "
            f"the box; each point as ({x}, {y}){description}"
        ),
        "ask_pointing_text": f"Point to every object in the image that the description below fits. {pointed}{description}",
        "yes": "Yes",
        "no": "No",
        "points": "each",
        "ask_again_text": (
            "That answer can't be read: {reason}. Answer the question again, in the format that it asks for. If there is no "
            "such object, answer: " + _NONE
        ),
        "ask_whether_text": (
            "Is the object in the bounding box below what this describes, or one of those it describes: "
            "{expression}\nAnswer Yes or No. The bounding box: {box}"
        ),
        "ask_other_text": (
            f"{locate} {form}{description}\nLeave out what is in {{boxes}}. If there is no other object, answer: {_NONE}"
        ),
    }
    return Dialect(**{**defaults, **settings})
