"""Runs the toolkit's tools for the clients of an MCP server."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, ToolException
from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, ImageContent, InputRequiredResult, ResourceLink, TextContent

from sam4mllm_tool.agents.choosing_segment_tool import ChoosingSegmentTool
from sam4mllm_tool.config import METHODS
from sam4mllm_tool.errors import Sam4MllmError, quote_text
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.server.mcp.handle_store import HandleStore, KeptArtifact
from sam4mllm_tool.server.mcp.mcp_settings import McpSettings
from sam4mllm_tool.server.mcp.named_images import NamedImages
from sam4mllm_tool.server.mcp.object_choice import ask_which_object, can_ask, get_choice_handle
from sam4mllm_tool.server.mcp.preview import preview_result
from sam4mllm_tool.server.mcp.progress import ProgressReporter
from sam4mllm_tool.server.mcp.result_resources import RESULT_FILES, result_uri
from sam4mllm_tool.server.mcp.tool_outputs import build_structured_output
from sam4mllm_tool.tools import Sam4MllmToolkit
from sam4mllm_tool.tools.artifacts import restore_result
from sam4mllm_tool.tools.base import Sam4MllmTool, SharedModels
from sam4mllm_tool.tools.error_messages import describe_error
from sam4mllm_tool.tools.image_store import ImageStore
from sam4mllm_tool.types import Image, Segmentation

__all__ = ["ERROR_KEY", "ToolCalls"]

logger = logging.getLogger(__name__)

ERROR_KEY = "sam4mllm/error"
"""The key of an error result's `_meta` that holds the error's type."""
_LINKED = ("mask.png", "overlay.png", "cutout.png", "result.json")
"""Files that a result links to."""


class ArgumentError(Sam4MllmError, ValueError):
    """Arguments that a tool's input schema doesn't allow."""


class UnexpectedError(Sam4MllmError):
    """An error of this package's own, which was logged."""


class ToolCalls:
    """The tools of one server with what they share: models, images, handles.

    Args:
        models: Loaded models, or a function that returns them, which the first call calls in a thread.
        settings: The server's settings.
        pixels: Where images are kept; by default in memory.
        handles: Where results are kept; by default in memory.
    """

    def __init__(
        self,
        models: Sam4Mllm | Callable[[], Sam4Mllm],
        settings: McpSettings,
        pixels: ImageStore | None = None,
        handles: HandleStore | None = None,
    ) -> None:
        self._settings = settings
        self._pixels, self._handles = pixels or ImageStore(), handles or HandleStore()
        self._images = NamedImages(settings, self._pixels, self._handles)
        loaded = models if isinstance(models, Sam4Mllm) else None
        shared = None if isinstance(models, Sam4Mllm) else SharedModels(load=models)
        toolkit = Sam4MllmToolkit(sam4mllm=loaded, method=settings.method, image_store=self._pixels)
        self.tools: dict[str, BaseTool] = {tool.name: tool for tool in ChoosingSegmentTool.replace_in(toolkit.get_tools())}
        for tool in self.tools.values():
            tool.handle_tool_error = False  # errors keep their types
            if shared is not None and isinstance(tool, Sam4MllmTool):
                tool.share_models(shared)

    async def call(
        self, name: str, arguments: Mapping[str, Any], context: Context[Any, Any]
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool. What goes wrong is in the result: its text for the model, its type in `_meta`."""
        try:
            return await self._call(name, arguments, context)
        except Sam4MllmError as error:
            message = describe_error(error)
            details = {"type": type(error).__name__, "message": message}
            return CallToolResult(content=[TextContent(text=message)], is_error=True, _meta={ERROR_KEY: details})

    async def _call(
        self, name: str, arguments: Mapping[str, Any], context: Context[Any, Any]
    ) -> CallToolResult | InputRequiredResult:
        owner = get_owner(context)
        earlier = get_choice_handle(context)
        kept = self._handles.get(owner, earlier) if earlier else None
        kept = kept or await self._run(name, arguments, context)
        if name == "segment_image" and can_ask(context):
            state = await asyncio.to_thread(restore_result, kept.artifact)
            if state.choices:
                answer = await ask_which_object(context, state, kept.artifact["handle"])
                if isinstance(answer, InputRequiredResult):
                    return answer
                if answer is not None:
                    refinement = {"result": kept.artifact["handle"], "instruction": answer}
                    kept = await self._run("refine_segmentation", refinement, context, runs_before=1)
        return await asyncio.to_thread(self._build_result, kept)

    async def _run(
        self, name: str, arguments: Mapping[str, Any], context: Context[Any, Any], *, runs_before: int = 0
    ) -> KeptArtifact:
        """Run a tool and keep its artifact.

        Raises:
            Sam4MllmError: The tool failed, for whatever reason.
        """
        owner, tool = get_owner(context), self.tools[name]
        arguments = dict(arguments)
        if name == "segment_image" and (method := arguments.pop("method", None)) is not None:
            if method not in METHODS:
                raise ArgumentError(f"method: expected one of {', '.join(METHODS)}, got {quote_text(str(method))}")
            tool = tool.model_copy(update={"method": method})
        if isinstance(image := arguments.get("image"), str) and image.strip():
            arguments["image"] = await asyncio.to_thread(self._images.resolve, owner, image)
        async with ProgressReporter(context, runs_before) as reporter:
            messages = self._build_messages(owner, arguments)
            runtime = SimpleNamespace(
                state={"messages": messages}, stream_writer=reporter.write, tool_call_id=context.request_id
            )
            call = {"name": name, "args": {**arguments, "runtime": runtime}, "id": context.request_id, "type": "tool_call"}
            message = await self._invoke(tool, call)
        if message.status == "error":
            raise ArgumentError(str(message.content))
        kept = KeptArtifact(message.artifact, str(message.content))
        if "handle" in kept.artifact:
            self._handles.put(owner, kept.artifact, kept.text)
        return kept

    async def _invoke(self, tool: BaseTool, call: dict[str, Any]) -> ToolMessage:
        try:
            message: ToolMessage = await tool.ainvoke(call)
        except ToolException as error:
            if isinstance(error.__cause__, Sam4MllmError):
                raise error.__cause__  # noqa: B904  # as it is, with its own cause
            raise UnexpectedError(str(error)) from error
        except Exception as error:  # a client must get an answer, and nothing of a traceback
            logger.exception("%s failed with an unexpected error", tool.name)
            text = f"{tool.name} failed with an unexpected error, which was logged: check the arguments, or try another way"
            raise UnexpectedError(text) from error
        return message

    def _build_messages(self, owner: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what the call may use as a conversation; on a shared server only what the arguments name."""
        if not self._settings.is_shared:
            return self._handles.build_messages(owner, None, None)
        handles = [arguments[key].strip() for key in ("result", "dialogue") if isinstance(arguments.get(key), str)]
        images = [arguments["image"]] if isinstance(arguments.get("image"), str) else []
        return self._handles.build_messages(owner, handles, images)

    def read_result(self, owner: str, handle: str) -> tuple[Image, Segmentation] | None:
        """Return a result with its image; None where the owner has none under this handle.

        Raises:
            Sam4MllmError: Its image is no longer kept.
        """
        kept = self._handles.get(owner, handle)
        if kept is None or kept.artifact.get("kind") != "result":
            return None
        return self._pixels.get(kept.artifact["picture"]), Segmentation.from_dict(kept.artifact)

    def _build_result(self, kept: KeptArtifact) -> CallToolResult:
        """Build the answer: text, preview and links for the model and the user, and the structured output."""
        artifact = kept.artifact
        content: list[Any] = [TextContent(text=kept.text)]
        segmentation, choices = None, []
        if artifact.get("kind") == "result":
            image, segmentation = self._pixels.get(artifact["picture"]), Segmentation.from_dict(artifact)
            state = restore_result(artifact)
            choices = [
                {"number": number, "box": list(choice.box), "confidence": choice.confidence}
                for number, choice in enumerate(state.choices, start=len(state.objects) + 1)
            ]
            content += [ImageContent(data=preview_result(image, segmentation), mime_type="image/jpeg")]
            content += [_link(artifact["handle"], file) for file in _LINKED]
        structured = build_structured_output(artifact, segmentation, choices)
        return CallToolResult(content=content, structured_content=structured.model_dump(mode="json"))


def _link(handle: str, name: str) -> ResourceLink:
    file = RESULT_FILES[name]
    return ResourceLink(name=name, uri=result_uri(handle, name), description=file.description, mime_type=file.mime_type)


def get_owner(context: Context[Any, Any]) -> str:
    """Return whose call it is, as the HTTP server notes it in the request's state; over stdio there is one client."""
    state = getattr(context.request_context.request, "state", None)
    return str(getattr(state, "owner", ""))
