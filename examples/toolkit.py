"""Take the dialogue's three turns, one tool call each, drop an answer about a point, and refine the result in words."""

from pathlib import Path
from typing import Any

from sam4mllm_tool import ImagePolicy
from sam4mllm_tool.tools import Sam4MllmToolkit

here = Path(__file__).parent
toolkit = Sam4MllmToolkit(policy=ImagePolicy(allow_paths=(here,)))  # the only folder that a model may name files in
tools = {tool.name: tool for tool in toolkit.get_tools()}


def call_tool(name: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool as an agent does and return the artifact, which stands for its handle outside an agent."""
    message = tools[name].invoke({"name": name, "args": arguments, "id": "1", "type": "tool_call"})
    print(f"{name}: {message.content}\n")
    return message.artifact


boxes = call_tool("propose_boxes", image="scene.png", expression="the orange mug")
points = call_tool("check_points", dialogue=boxes, grid=[3, 3])
result = call_tool("segment_prompt", dialogue=points, drop=[1])
call_tool("refine_segmentation", result=result, instruction="also the black spoon")
call_tool("describe_image_region", result=result)
