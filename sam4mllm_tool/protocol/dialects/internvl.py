"""InternVL 2 to 3.5: 0 to 1000, boxes as nested lists in tags."""

from sam4mllm_tool.protocol.dialects.native import build_native

INTERNVL = build_native("internvl", answer="<box>[[x1, y1, x2, y2]]</box>", item_text="<box>[{box}]</box>", separator=" ")
