"""Mistral Small 3.1 and later, and Pixtral: 0 to 1000 as the question asks; no format of their own is published."""

from sam4mllm_tool.protocol.dialects.native import build_native

MISTRAL = build_native("mistral", answer="[x1, y1, x2, y2]")
