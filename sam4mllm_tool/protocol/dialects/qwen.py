"""Qwen's vision-language models, whose coordinates changed from one generation to the next."""

from sam4mllm_tool.protocol.dialects.native import PIXELS, build_native, in_json

_JSON = in_json("bbox_2d")
_POINT = '{{"point_2d": [x, y], "label": "..."}} in a JSON list'

QWEN2_VL = build_native("qwen2_vl", answer="(x1,y1),(x2,y2)", box_text="({x1},{y1}),({x2},{y2})", point_text="({x},{y})")
"""0 to 1000, a box as two corners."""

QWEN2_5_VL = build_native(
    "qwen2_5_vl",
    **_JSON,
    point=_POINT,
    units=PIXELS,
    frame="processed",
)
"""Pixels of the image after Qwen's own resizing to multiples of 28."""

QWEN3_VL = build_native("qwen3_vl", **_JSON, point=_POINT)
"""0 to 1000, in JSON."""
