"""Builds the MCP server: the tools, their results' files as resources, and the page that shows them."""

from collections.abc import Callable
from typing import Any

from langchain_core.tools import BaseTool
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp_types import CallToolResult, InputRequiredResult, ToolAnnotations
from pydantic import ConfigDict

from sam4mllm_tool import __version__
from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.server.mcp.handle_store import HandleStore
from sam4mllm_tool.server.mcp.mcp_settings import McpSettings
from sam4mllm_tool.server.mcp.result_app import APP_TOOLS, APP_URI, create_result_app
from sam4mllm_tool.server.mcp.result_resources import RESULT_FILES, ResultFile, encode_file, result_uri
from sam4mllm_tool.server.mcp.tool_calls import ToolCalls, get_owner
from sam4mllm_tool.server.mcp.tool_outputs import OUTPUTS
from sam4mllm_tool.server.mcp.tool_schemas import TITLES, build_input_schema
from sam4mllm_tool.tools.image_store import ImageStore

__all__ = ["create_mcp_server"]

_INSTRUCTIONS = (
    "Segments what plain words mean in an image, to the pixel. Call segment_image with the image and an expression; correct "
    "its result with refine_segmentation, in the user's words ('no, the other one') or by points in pixels. Each result has a "
    "handle for later calls, and links to its mask, overlay and cut-out of full size."
)


class _AnyArguments(ArgModelBase):
    """Leaves the arguments to the tool, which reads what small models write."""

    model_config = ConfigDict(extra="allow")

    def model_dump_one_level(self) -> dict[str, Any]:
        """Return all arguments as one."""
        return {"arguments": dict(self.model_extra or {})}


def create_mcp_server(
    models: Sam4Mllm | Callable[[], Sam4Mllm],
    settings: McpSettings,
    *,
    pixels: ImageStore | None = None,
    handles: HandleStore | None = None,
    after_error: Callable[[Sam4MllmError], None] | None = None,
) -> MCPServer[Any]:
    """Create an MCP server for the tools of `Sam4MllmToolkit`.

    Run it over stdio with `.run()`, or in a web application with `create_mcp_app`.

    Args:
        models: Loaded models, or a function that returns them, which the first call calls in a thread.
        settings: What may be opened, and how expressions are asked about.
        pixels: Where images are kept, if they are shared with other surfaces.
        handles: Where results are kept, if they are shared with other surfaces.
        after_error: Takes the error of each call of a tool that fails.
    """
    calls = ToolCalls(models, settings, pixels, handles, after_error)
    server: MCPServer[Any] = MCPServer(
        "sam4mllm-tool",
        title="SAM4MLLM",
        instructions=_INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
        tools=[_build_tool(tool, calls, settings) for tool in calls.tools.values()],
        extensions=[create_result_app(settings.method)],
    )
    for name, file in RESULT_FILES.items():
        server.resource(result_uri("{handle}", name), name=name, description=file.description, mime_type=file.mime_type)(
            _build_reader(calls, file)
        )
    return server


def _build_tool(tool: BaseTool, calls: ToolCalls, settings: McpSettings) -> Tool:
    async def call(arguments: dict[str, Any], context: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
        return await calls.call(tool.name, arguments, context)

    hints = ToolAnnotations(read_only_hint=True, destructive_hint=False, open_world_hint=settings.policy.allow_urls)
    return Tool(
        fn=call,
        name=tool.name,
        title=TITLES[tool.name],
        description=tool.description,
        parameters=build_input_schema(tool, settings),
        fn_metadata=FuncMetadata(arg_model=_AnyArguments, output_model=OUTPUTS[tool.name]),
        is_async=True,
        context_kwarg="context",
        annotations=hints,
        meta={"ui": {"resourceUri": APP_URI}} if tool.name in APP_TOOLS else None,
    )


def _build_reader(calls: ToolCalls, file: ResultFile) -> Callable[..., bytes | str]:
    def read(handle: str, context: Context[Any, Any]) -> bytes | str:
        try:
            result = calls.read_result(get_owner(context), handle)
        except Sam4MllmError as error:
            raise ResourceNotFoundError(str(error)) from error
        if result is None:
            raise ResourceNotFoundError(f"no result {handle!r} is kept: call segment_image once more")
        return encode_file(file, *result)

    return read
