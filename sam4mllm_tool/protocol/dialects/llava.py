"""LLaVA 1.5, LLaVA-NeXT and LLaVA-OneVision: shares of the image's sides, from 0 to 1 with two decimals."""

from sam4mllm_tool.protocol.dialects.native import build_native

LLAVA = build_native(
    "llava",
    answer="[x1, y1, x2, y2]",
    units="shares of the image's width (x) and height (y) from 0 to 1 with two decimals, counted from its top left corner",
    scale=1,
    decimals=2,
)
