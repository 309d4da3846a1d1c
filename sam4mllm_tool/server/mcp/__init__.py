"""MCP: the tools for assistants that are not Python, over stdio and streamable HTTP. Needs the extra `mcp`."""

from typing import TYPE_CHECKING, Any

from sam4mllm_tool.errors import MissingExtraError
from sam4mllm_tool.server.mcp.mcp_settings import McpSettings

if TYPE_CHECKING:
    from sam4mllm_tool.server.mcp.mcp_server import create_mcp_server

__all__ = ["McpSettings", "create_mcp_server"]


def __getattr__(name: str) -> Any:
    if name != "create_mcp_server":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from sam4mllm_tool.server.mcp.mcp_server import create_mcp_server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("mcp", "mcp_types"):
            raise MissingExtraError("mcp", "mcp") from error
        raise
    return create_mcp_server
