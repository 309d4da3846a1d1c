"""The tools' names, descriptions and input schemas as an MCP client sees them: those of the LangChain tools, images aside.

An image comes into an agent's conversation with a message; over MCP a call names it, so what may be named is said here.
"""

import copy
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from sam4mllm_tool.config import METHODS
from sam4mllm_tool.images.load import ImagePolicy
from sam4mllm_tool.server.mcp.mcp_settings import McpSettings

__all__ = ["TITLES", "build_input_schema"]

TITLES = {
    "segment_image": "Segment an image",
    "propose_boxes": "Find boxes",
    "check_points": "Check points",
    "segment_prompt": "Segment boxes and points",
    "refine_segmentation": "Correct a segmentation",
    "describe_image_region": "Describe a region",
}
"""The tools' titles by their names."""


def build_input_schema(tool: BaseTool, settings: McpSettings) -> dict[str, Any]:
    """Return the JSON schema of a tool's arguments."""
    schema: dict[str, Any] = copy.deepcopy(convert_to_openai_tool(tool)["function"]["parameters"])
    properties: dict[str, Any] = schema["properties"]
    if "image" in properties:
        properties["image"]["description"] = _describe_image_argument(settings.policy, is_shared=settings.is_shared)
    if tool.name == "segment_image":
        description = f"Leave it out unless the user names a method; by default {settings.method}."
        properties["method"] = {"type": "string", "enum": list(METHODS), "description": description}
    for name in ("image", "result", "dialogue") if settings.is_shared else ():
        if name in properties:
            properties[name].pop("default", None)
            properties[name]["description"] = properties[name]["description"].replace(", or 'latest'", "")
    return schema


def _describe_image_argument(policy: ImagePolicy, *, is_shared: bool) -> str:
    """Say what an argument `image` may be."""
    sources = ["a file's path"] * bool(policy.allow_paths) + ["an http(s) URL"] * policy.allow_urls + ["a data URI"]
    known = ["the id of an image of an earlier call, such as 'img-0123456789ab'", *([] if is_shared else ["'latest'"])]
    *init, last = [*sources, *known]
    return f"The image: {', '.join(init)} or {last}."
