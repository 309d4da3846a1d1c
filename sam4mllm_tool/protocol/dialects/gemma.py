"""Gemma 3 and 4, and Gemini: 0 to 1000 with y first, in JSON."""

from sam4mllm_tool.protocol.dialects.native import build_native

GEMMA = build_native(
    "gemma",
    answer='{{"box_2d": [y1, x1, y2, x2], "label": "..."}} in a JSON list',
    point='{{"point": [y, x], "label": "..."}} in a JSON list',
    order="yx",
    item_text='{{"box_2d": {box}, "label": "object"}}',
    list_text="```json\n[{boxes}]\n```",
)
