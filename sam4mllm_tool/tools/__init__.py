"""The LangChain tools: what an agent calls to segment, in one call or step by step, to refine, and to check.

segment_tool.py is the whole dialogue in one call; dialogue_tools.py the same one turn a call; refine_tools.py corrects and
describes; toolkit.py returns them all. They share base.py (models, errors), artifacts.py and dialogue_state.py (state between
calls), inputs.py (arguments), events.py (progress) and image_store.py (the images of a conversation).
"""

from sam4mllm_tool.tools.dialogue_tools import CheckPointsTool, ProposeBoxesTool, SegmentPromptTool
from sam4mllm_tool.tools.refine_tools import DescribeRegionTool, RefineTool
from sam4mllm_tool.tools.segment_tool import SegmentTool
from sam4mllm_tool.tools.toolkit import Sam4MllmToolkit

__all__ = [
    "CheckPointsTool",
    "DescribeRegionTool",
    "ProposeBoxesTool",
    "RefineTool",
    "Sam4MllmToolkit",
    "SegmentPromptTool",
    "SegmentTool",
]
