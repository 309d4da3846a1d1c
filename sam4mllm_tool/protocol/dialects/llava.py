"""LLaVA 1.5, LLaVA-NeXT and LLaVA-OneVision: shares of the image's sides, from 0 to 1 with two decimals."""

from sam4mllm_tool.protocol.dialects.native import build_native, shares

LLAVA = build_native(
    "llava",
    answer="[x1, y1, x2, y2]",
    **shares(2),
)
