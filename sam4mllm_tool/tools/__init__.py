"""The LangChain tools: what an agent calls to segment, in one call or step by step, to refine, and to check.

segment.py is the whole dialogue in one call; protocol.py the same one turn a call; refine.py corrects and describes; toolkit.py
gives them all. Beneath them: base.py what they share, handles.py and rounds.py their state, inputs.py their arguments,
progress.py their events, pictures.py the pictures of a conversation.
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
