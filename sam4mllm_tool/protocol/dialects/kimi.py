"""Kimi-VL: shares of the image's sides, from 0 to 1."""

from sam4mllm_tool.protocol.dialects.native import build_native

KIMI_VL = build_native(
    "kimi_vl",
    answer="[x1, y1, x2, y2]",
    units="shares of the image's width (x) and height (y) from 0 to 1 with three decimals, counted from its top left corner",
    scale=1,
    decimals=3,
)
