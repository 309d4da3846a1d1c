"""Idefics3 and SmolVLM: shares of the image's sides, from 0 to 1. They were hardly trained to ground, so tune or probe them."""

from sam4mllm_tool.protocol.dialects.native import build_native, shares

IDEFICS = build_native(
    "idefics",
    answer="[x1, y1, x2, y2]",
    **shares(3),
)
