"""The LangChain tools: what an agent calls to segment, step by step or in one call."""

from sam4mllm_tool.tools.segment import SegmentTool

__all__ = ["SegmentTool"]
