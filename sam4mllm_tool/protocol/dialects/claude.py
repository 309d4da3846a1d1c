"""Claude: pixels of the image after the service's own resizing, which keeps the image's shape."""

from sam4mllm_tool.protocol.dialects.native import PIXELS, build_native

CLAUDE = build_native(
    "claude",
    answer='{{"box": [x1, y1, x2, y2], "label": "..."}} in a JSON list',
    units=PIXELS,
    frame="processed",
    item_text='{{"box": {box}, "label": "object"}}',
    list_text="```json\n[{boxes}]\n```",
    resizing=(1, 1, 1_150_000, 1568),
)
"""The limits of the service's documentation for all its models; newer ones take more, which a smaller image doesn't need."""
