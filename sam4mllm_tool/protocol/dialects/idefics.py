"""Idefics3 and SmolVLM: shares of the image's sides, from 0 to 1. They were hardly trained to ground, so tune or probe them."""

from sam4mllm_tool.protocol.dialects.native import build_native

IDEFICS = build_native(
    "idefics",
    answer="[x1, y1, x2, y2]",
    units="shares of the image's width (x) and height (y) from 0 to 1 with three decimals, counted from its top left corner",
    scale=1,
    decimals=3,
)
