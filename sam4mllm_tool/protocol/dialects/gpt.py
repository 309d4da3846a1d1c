"""GPT-4o and later: pixels of the image as it is sent."""

from sam4mllm_tool.protocol.dialects.native import PIXELS, build_native, in_json

GPT = build_native(
    "gpt",
    **in_json("box"),
    units=PIXELS,
    frame="processed",
    resizing=(1, 1, 2048 * 768, 2048, 768),
)
"""The limits of the service's documentation: images are shrunk to fit within 2048 x 2048, then to a shorter side of 768."""
