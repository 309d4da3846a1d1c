"""The settings of an MCP server."""

from dataclasses import dataclass

from sam4mllm_tool.config import Method
from sam4mllm_tool.images.load import TOOL_POLICY, ImagePolicy

__all__ = ["McpSettings"]


@dataclass(frozen=True, kw_only=True)
class McpSettings:
    """How an MCP server runs its tools.

    Attributes:
        policy: Which images a client may have opened besides data URIs: the files of some folders, URLs.
        method: How an expression is asked about.
        is_shared: Whether several clients may use the server. Then nothing is "latest": a client names what it means by a
            handle, which can't be guessed.
    """

    policy: ImagePolicy = TOOL_POLICY
    method: Method = "adaptive"
    is_shared: bool = False
