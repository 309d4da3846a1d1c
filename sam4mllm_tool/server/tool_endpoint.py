"""POST /v1/tools/{tool}: a tool of the toolkit, for agents whose process has no models (`SegmentTool(server=URL)`)."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sam4mllm_tool.agents.choosing_segment_tool import ChoosingSegmentTool
from sam4mllm_tool.config import Method
from sam4mllm_tool.errors import BadRequestError
from sam4mllm_tool.server.api_description import describe_problems
from sam4mllm_tool.server.api_results import EXAMPLE_IMAGE, EXAMPLE_RESULT
from sam4mllm_tool.server.event_stream import EVENT_STREAM, answer_request
from sam4mllm_tool.server.problems import RequestError
from sam4mllm_tool.server.service import Service
from sam4mllm_tool.tools import (
    CheckPointsTool,
    DescribeRegionTool,
    ProposeBoxesTool,
    RefineTool,
    SegmentPromptTool,
    SegmentTool,
)
from sam4mllm_tool.tools.artifacts import KINDS, list_artifacts
from sam4mllm_tool.tools.base import Sam4MllmTool, describe_faults
from sam4mllm_tool.tools.events import EventWriter

__all__ = ["create_tool_router"]

_CLASSES: tuple[type[Sam4MllmTool], ...] = (
    SegmentTool,
    ChoosingSegmentTool,
    ProposeBoxesTool,
    CheckPointsTool,
    SegmentPromptTool,
    RefineTool,
    DescribeRegionTool,
)
_TOOLS = {str(tool_class.server_tool): tool_class for tool_class in _CLASSES}
_ToolName = Annotated[str, Path(json_schema_extra={"enum": list(_TOOLS)})]
_MAX_ARTIFACTS = 20


class ToolBody(BaseModel):
    """A call of a tool."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"arguments": {"image": EXAMPLE_IMAGE, "expression": "the red square"}}]},
    )

    arguments: dict[str, Any] = Field(
        default={},
        description="As docs/tools.md lists them. `image` is a handle or a data URI; `result` and `dialogue` are handles.",
    )
    artifacts: list[dict[str, Any]] = Field(
        default=[],
        max_length=_MAX_ARTIFACTS,
        description="Artifacts of earlier calls that the handles name, where the server may no longer have them.",
    )
    method: Method | None = Field(default=None, description="How the MLLM is asked; by default the server's.")


class ToolResult(BaseModel):
    """What the tool returned."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text": "1 object for 'the red square': box [8, 8, 24, 24].",
                    "artifact": {"kind": "result", "handle": EXAMPLE_RESULT["id"], "picture": EXAMPLE_RESULT["image"]},
                }
            ]
        }
    )

    text: str = Field(description="For a chat model.")
    artifact: dict[str, Any] = Field(description="For the program; its handle goes into later calls.")


def create_tool_router(service: Service) -> APIRouter:
    """Create the route of the tools."""
    router = APIRouter(prefix="/v1", tags=["tools"])

    @router.post(
        "/tools/{tool}",
        summary="Run a tool of the toolkit",
        responses={
            200: {"model": ToolResult, "content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
            **describe_problems(400, 401, 404, 422, 429, 502, 503, 504),
        },
    )
    async def run_tool(request: Request, tool: _ToolName, body: ToolBody) -> Response:
        """With `Accept: text/event-stream` boxes, points and masks come as events, and the answer as the last one."""

        async def work(write_event: EventWriter | None) -> dict[str, Any]:
            return await _run(service, request.state.owner, tool, body, write_event)

        return await answer_request(request, work, service.metrics)

    return router


async def _run(service: Service, owner: str, name: str, body: ToolBody, write_event: EventWriter | None) -> dict[str, Any]:
    """Run a tool, and keep what it made under its handle. Raises Sam4MllmError."""
    if name not in _TOOLS:
        raise RequestError(404, f"there is no tool {name[:40]!r}: there are {', '.join(_TOOLS)}")
    models = service.models
    tool = _TOOLS[name](method=body.method or service.settings.method, image_store=service.pixels)
    arguments, messages = await asyncio.to_thread(_build_conversation, service, owner, body)
    schema = tool.args_schema
    assert isinstance(schema, type)
    assert issubclass(schema, BaseModel)
    try:
        checked = schema.model_validate(arguments)
    except ValidationError as error:
        raise BadRequestError(describe_faults(error)) from error
    given = {field: getattr(checked, field) for field in checked.model_fields_set}
    runtime = SimpleNamespace(state={"messages": messages}, stream_writer=write_event, tool_call_id=None)
    task = await asyncio.to_thread(tool.create_task, models, runtime, **given)
    result = await models.arun(task.image, task.flow, task.run, hooks=task.hooks)
    text, artifact = await asyncio.to_thread(task.build_output, result)
    if artifact.get("kind") in KINDS:
        artifact = {**artifact, "name": service.handles.get_image_name(owner, artifact["picture"])}
        service.handles.put(owner, artifact, text)
    return {"text": text, "artifact": artifact}


def _build_conversation(service: Service, owner: str, body: ToolBody) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """Return the arguments with the image by its id, and a conversation that has what the call may use.

    Raises:
        Sam4MllmError: This owner doesn't have an image, or it can't be opened.
    """
    arguments, images = dict(body.arguments), []
    if isinstance(source := arguments.get("image"), str) and source.strip():
        arguments["image"] = service.images.resolve(owner, source)
        images.append(arguments["image"])
    sent = [{"type": "tool", "artifact": artifact} for artifact in body.artifacts]
    images += [service.images.resolve(owner, artifact["picture"]) for artifact in list_artifacts(sent)]
    handles = [value.strip() for kind in KINDS if isinstance(value := arguments.get(kind), str)]
    return arguments, [*service.handles.build_messages(owner, handles, images), *sent]
