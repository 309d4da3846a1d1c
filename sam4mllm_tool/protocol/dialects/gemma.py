"""Gemma 3 and 4, and Gemini: 0 to 1000 with y first, in JSON."""

from sam4mllm_tool.protocol.dialects.native import build_native, in_json

GEMMA = build_native(
    "gemma",
    **in_json("box_2d", "y1, x1, y2, x2"),
    point='{{"point": [y, x], "label": "..."}} in a JSON list',
    order="yx",
)
