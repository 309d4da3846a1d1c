"""GLM-4.1V and later: 0 to 1000, boxes as nested lists between box marks, which decoding leaves out."""

from sam4mllm_tool.protocol.dialects.native import build_native

GLM4V = build_native(
    "glm4v", answer="[[x1,y1,x2,y2]]", box_text="[{x1},{y1},{x2},{y2}]", item_text="[{box}]", point_text="({x},{y})"
)
