"""Claude: pixels of the image after the service's own resizing, which keeps the image's shape."""

from sam4mllm_tool.protocol.dialects.native import PIXELS, build_native, in_json

CLAUDE = build_native(
    "claude",
    **in_json("box"),
    units=PIXELS,
    frame="processed",
    resizing=(1, 1, 1_150_000, 1568),
)
"""The limits of the service's documentation for all its models; newer ones take more, which a smaller image doesn't need."""
