"""POST /v1/segment and POST /v1/embed, each as JSON or as a multipart form."""

from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from sam4mllm_tool.config import METHODS
from sam4mllm_tool.server.api_description import describe_problems
from sam4mllm_tool.server.api_results import EXAMPLE_IMAGE
from sam4mllm_tool.server.api_schemas import EmbedAnswer, EmbedBody, SegmentAnswer, SegmentBody
from sam4mllm_tool.server.event_stream import EVENT_STREAM, answer_request
from sam4mllm_tool.server.problems import RequestError, describe_validation
from sam4mllm_tool.server.service import Service
from sam4mllm_tool.tools.events import EventWriter

__all__ = ["create_segment_router"]

Body = TypeVar("Body", bound=BaseModel)

_LISTS = ("expressions", "outputs")
_BOOLEANS: dict[Any, bool] = {"true": True, "false": False}
"""How a field of a form says yes or no."""
_STATUSES = (400, 401, 404, 415, 422, 429, 502, 503, 504)
_SEGMENTED: dict[str, Any] = {
    "model": SegmentAnswer,
    "content": {EVENT_STREAM: {"schema": {"type": "string"}, "example": 'event: boxes\ndata: {"index": 0, ...}\n\n'}},
    "links": {
        "result": {"operationId": "get_result", "parameters": {"result_id": "$response.body#/results/0/id"}},
        "file": {
            "operationId": "get_file",
            "parameters": {"result_id": "$response.body#/results/0/id", "file": "mask.png"},
        },
        "refinement": {"operationId": "refine_result", "requestBody": {"result": "$response.body#/results/0/id"}},
    },
}
_UPLOAD = "(uploaded)"
"""Stands in a body for an image that came as a file."""
_MAX_NAME_LENGTH = 255


def create_segment_router(service: Service) -> APIRouter:
    """Create the routes about new images."""
    router = APIRouter(prefix="/v1", tags=["segment"])

    @router.post(
        "/segment",
        summary="Segment what expressions mean",
        responses={200: _SEGMENTED, **describe_problems(*_STATUSES)},
        openapi_extra=_describe_body(SegmentBody),
    )
    async def segment(request: Request) -> Response:
        """With `Accept: text/event-stream` boxes and points come as events, and the answer as the last one."""
        body, upload = await _read_body(request, SegmentBody)
        owner, source = request.state.owner, body.image if upload is None else upload

        async def work(write_event: EventWriter | None) -> dict[str, Any]:
            return {"results": await service.segment(owner, source, body, write_event)}

        return await answer_request(request, work, service.metrics)

    @router.post(
        "/embed",
        summary="Keep an image under a handle",
        responses=describe_problems(*_STATUSES),
        openapi_extra=_describe_body(EmbedBody),
    )
    async def embed(request: Request) -> EmbedAnswer:
        body, source = await _read_body(request, EmbedBody)
        content = body.image if source is None else source
        image_id, image = await service.open_image(request.state.owner, content, body.image_name)
        return EmbedAnswer(image=image_id, width=image.width, height=image.height)

    return router


async def _read_body(request: Request, model: type[Body]) -> tuple[Body, bytes | None]:
    """Read a body as JSON or as a form; of a form with a file also the file's content."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    source: bytes | None = None
    if kind == "multipart/form-data":
        fields, source = await _read_form(request)
    elif kind in ("application/json", ""):
        try:
            fields = await request.json()
        except RequestError:  # the gate's, about the body's size or time
            raise
        except (ValueError, RecursionError) as error:
            raise RequestError(400, f"the body is not JSON: {str(error)[:200]}") from error
    else:
        raise RequestError(415, f"expected application/json or multipart/form-data, got {kind[:80]!r}")
    try:
        return model.model_validate(fields), source
    except ValidationError as error:
        raise RequestError(422, describe_validation(error.errors(include_input=False, include_url=False))) from error


async def _read_form(request: Request) -> tuple[dict[str, Any], bytes | None]:
    fields: dict[str, Any] = {}
    source: bytes | None = None
    async with request.form(max_files=1, max_part_size=64 * 2**20) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "image":
                    raise RequestError(422, f"{name[:80]!r} is a file: only image may be one")
                fields.setdefault("image_name", (value.filename or "")[-_MAX_NAME_LENGTH:])
                source, value = await value.read(), _UPLOAD
            if name in _LISTS:
                fields.setdefault(name, []).append(value)
            elif name == "trace":
                fields[name] = _BOOLEANS.get(value, value)
            else:
                fields[name] = value
    return fields, source


def _describe_body(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that is JSON or a form with a file."""
    schema = model.model_json_schema()
    properties = {**schema["properties"], "image": {"type": "string", "format": "binary"}}
    if "method" in properties:  # a form has no null
        properties["method"] = {"type": "string", "enum": list(METHODS)}
    form = {**schema, "properties": properties}
    example = {"image": EXAMPLE_IMAGE, **({"expressions": ["the red square"]} if model is SegmentBody else {})}
    content = {
        "application/json": {"schema": schema, "example": example},
        "multipart/form-data": {"schema": form},
    }
    return {"requestBody": {"required": True, "content": content}}
