"""Kimi-VL: shares of the image's sides, from 0 to 1."""

from sam4mllm_tool.protocol.dialects.native import build_native, shares

KIMI_VL = build_native(
    "kimi_vl",
    answer="[x1, y1, x2, y2]",
    **shares(3),
)
