"""Molmo and Molmo2: they point. Points are XML tags, in percent of the sides (Molmo) or from 0 to 1000 (Molmo2)."""

from typing import Any

from sam4mllm_tool.protocol.dialects.native import build_native

_POINTING: dict[str, Any] = {
    "answer": "",
    "replies": "points",
    "ask_boxes_text": "Point to the top left corner and the bottom right corner of the object described as: {expression}",
    "ask_prompt_text": "Point to {expression}",
    "ask_pointing_text": "Point to {expression}",
    "ask_points_text": "Answer Yes or No: is the object that {box} encloses also at {points}?",
    "ask_whether_text": "Answer Yes or No: is this, {expression}, what is enclosed by {box}?",
    "ask_other_text": "",
}
"""What is asked for a box is its corners; `ppg` asks for points, as `points` does."""

MOLMO = build_native(
    "molmo",
    scale=100,
    decimals=1,
    box_text='<points x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" alt="object">object</points>',
    point_text='<point x="{x}" y="{y}" alt="object">object</point>',
    **_POINTING,
)
"""Its code is not in transformers: it needs a server that runs it."""

MOLMO2 = build_native(
    "molmo2",
    digits=3,
    box_text='<points coords="1 1 {x1} {y1} 2 {x2} {y2}">object</points>',
    point_text='<points coords="1 1 {x} {y}">object</points>',
    **_POINTING,
)
"""Each point has a number before it, and the first number is the image's."""
