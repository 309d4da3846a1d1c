"""Holds the protocol's three turns, one tool a turn, drops an answer about a point, and refines the result in words."""

from pathlib import Path
from typing import Any

from sam4mllm_tool import ImagePolicy
from sam4mllm_tool.tools import Sam4MllmToolkit

here = Path(__file__).parent
toolkit = Sam4MllmToolkit(policy=ImagePolicy(allow_paths=(here,)))  # the only folder that a model may name files in
tools = {tool.name: tool for tool in toolkit.get_tools()}


def use(name: str, **arguments: Any) -> dict[str, Any]:
    """Calls a tool as an agent would; outside an agent an artifact stands for its handle."""
    message = tools[name].invoke({"name": name, "args": arguments, "id": "1", "type": "tool_call"})
    print(f"{name}: {message.content}\n")
    return message.artifact


boxes = use("propose_boxes", image="scene.png", expression="the orange ring")
points = use("check_points", dialogue=boxes, grid=[3, 3])
result = use("segment_prompt", dialogue=points, drop=[1])
use("refine_segmentation", result=result, instruction="also the orange circle")
use("describe_image_region", result=result)
