"""What clients do with results: read them and their files, correct them; and what the server offers."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool

from sam4mllm_tool import __version__
from sam4mllm_tool.config import METHODS
from sam4mllm_tool.images.output_formats import (
    OUTPUT_FORMATS,
    check_output_names,
    export_file,
    export_outputs,
    get_media_type,
    list_file_names,
    list_output_files,
)
from sam4mllm_tool.interactive import refine
from sam4mllm_tool.server.api_description import describe_problems
from sam4mllm_tool.server.api_results import EXAMPLE_RESULT, ServerResult
from sam4mllm_tool.server.api_schemas import OutputName
from sam4mllm_tool.server.event_stream import cancel_with_client
from sam4mllm_tool.server.service import Service, UnknownResultError, describe_result, record_traces
from sam4mllm_tool.tools.artifacts import build_result_artifact, get_image_name, restore_result
from sam4mllm_tool.tools.refine_tools import describe_choices
from sam4mllm_tool.trace import Trace
from sam4mllm_tool.types import PointPrompt, Segmentation

__all__ = ["create_result_router"]

_Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
_RESULT_FILES = list_file_names(OUTPUT_FORMATS)
_EXAMPLE_INFO: dict[str, Any] = {
    "version": __version__,
    "mllm": "embedded",
    "segmenter": "embedded",
    "method": "adaptive",
    "methods": list(METHODS),
    "outputs": {"mask": OUTPUT_FORMATS["mask"].description},
    "files": {"mask": ["mask.png"]},
}
_FILE_CONTENTS: dict[str, Any] = {get_media_type(file).partition(";")[0]: {} for file in _RESULT_FILES}
_ResultId = Annotated[str, Path(description="The result's id.", examples=["seg-0123456789abcdef"])]
_FileName = Annotated[
    str, Path(description="One of the files that /v1/info lists.", json_schema_extra={"enum": list(_RESULT_FILES)})
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class ClickBody(_Body):
    """A point in pixels that corrects a result."""

    x: _Coordinate
    y: _Coordinate
    label: Literal[0, 1] = Field(description="1 on the object, 0 off it.")


class RefineBody(_Body):
    """A correction of a result: in words, by clicks, or both."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"result": EXAMPLE_RESULT["id"], "clicks": [{"x": 12, "y": 12, "label": 1}]}]}
    )

    result: str = Field(description="The result's id.")
    instruction: str | None = Field(default=None, max_length=2000, examples=["no, the other one"])
    clicks: list[ClickBody] = Field(default=[], max_length=100)
    forget_clicks: StrictBool = Field(default=False, description="Drop the clicks of earlier corrections.")
    outputs: Annotated[list[OutputName], AfterValidator(check_output_names)] = Field(
        default=[], description="Files to make of the result.", examples=[["mask"]]
    )
    trace: StrictBool = Field(default=False, description="Whether to keep a trace, as in /v1/segment.")


class RefineAnswer(BaseModel):
    """The corrected result; the one before stays."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"result": EXAMPLE_RESULT, "understood": ["1 click on the object"], "changed": True, "choices": []}]
        }
    )

    result: ServerResult
    understood: list[str] = Field(description="How the words and clicks were understood.")
    changed: bool
    choices: list[dict[str, Any]] = Field(description="Other objects that an instruction may choose by their number.")


class ServerInfo(BaseModel):
    """What the server runs and offers."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE_INFO]})

    version: str
    mllm: str
    segmenter: str
    method: str
    methods: list[str]
    outputs: dict[str, str] = Field(description="Format -> what it holds.")
    files: dict[str, tuple[str, ...]] = Field(description="Format -> its files, for /v1/results/{result_id}/{file}.")


def create_result_router(service: Service) -> APIRouter:
    """Create the routes about results that are kept."""
    router = APIRouter(prefix="/v1", tags=["results"])

    @router.get("/info", summary="Models, methods and formats", responses=describe_problems(401, 422, 503))
    async def info() -> ServerInfo:
        models = service.models
        outputs = {name: output.description for name, output in OUTPUT_FORMATS.items()}
        return ServerInfo(
            version=__version__,
            mllm=models.mllm.name,
            segmenter=models.segmenter.name,
            method=service.settings.method,
            methods=list(METHODS),
            outputs=outputs,
            files=list_output_files(OUTPUT_FORMATS),
        )

    @router.post(
        "/refine",
        summary="Correct a result in words or by clicks",
        responses={200: {"model": RefineAnswer}, **describe_problems(400, 401, 404, 422, 429, 502, 503, 504)},
    )
    async def refine_result(request: Request, body: RefineBody) -> Response:
        return JSONResponse(await cancel_with_client(request, _refine(service, request.state.owner, body)))

    @router.get(
        "/results/{result_id}",
        summary="A result as it was answered",
        responses={200: {"model": ServerResult}, **describe_problems(401, 404, 422)},
    )
    async def get_result(request: Request, result_id: _ResultId) -> Response:
        artifact = service.get_result(request.state.owner, result_id)
        content = await asyncio.to_thread(lambda: describe_result(artifact, Segmentation.from_dict(artifact), {}))
        return JSONResponse(content)

    @router.get(
        "/results/{result_id}/{file}",
        summary="A file of a result",
        response_class=Response,
        responses={200: {"content": _FILE_CONTENTS}, **describe_problems(401, 404, 422)},
    )
    async def get_file(request: Request, result_id: _ResultId, file: _FileName) -> Response:
        name, content = await asyncio.to_thread(_make_file, service, request.state.owner, result_id, file)
        headers = {"Content-Disposition": f"inline; filename*=utf-8''{quote(name, safe='')}"}
        return Response(content, media_type=get_media_type(file), headers=headers)

    return router


def _make_file(service: Service, owner: str, result_id: str, file: str) -> tuple[str, bytes]:
    """Return the name and the content of a file of a result. Raises UnknownResultError where there is none."""
    artifact = service.get_result(owner, result_id)
    if file not in _RESULT_FILES:
        raise UnknownResultError(f"a result has no file {file[:40]!r}: there are {', '.join(_RESULT_FILES)}")
    image = service.pixels.get(artifact["picture"])
    return export_file(image, Segmentation.from_dict(artifact), file, image_name=get_image_name(artifact))


async def _refine(service: Service, owner: str, body: RefineBody) -> dict[str, Any]:
    """Correct a result and keep the corrected one beside it; return a `RefineAnswer` as JSON. Raises Sam4MllmError."""
    models, artifact = service.models, service.get_result(owner, body.result)
    image = await asyncio.to_thread(service.pixels.get, artifact["picture"])
    state = await asyncio.to_thread(restore_result, artifact)
    if (before := artifact.get("previous")) and (kept := service.handles.get(owner, str(before))):
        state = replace(state, previous=await asyncio.to_thread(restore_result, kept.artifact))
    run = models.start_run(state.size)
    clicks = tuple(PointPrompt(click.x, click.y, click.label) for click in body.clicks)
    method = service.settings.method
    flow = refine(run, state, instruction=body.instruction, clicks=clicks, forget_clicks=body.forget_clicks, method=method)
    traces: list[Trace] = []
    (refined,) = await record_traces(models, body.trace, traces).arun_group(image, [(flow, run)])
    if isinstance(refined, Exception):
        raise refined
    export = partial(export_outputs, image, refined.segmentation, body.outputs, image_name=get_image_name(artifact))
    files = await asyncio.to_thread(export) if body.outputs else {}
    details = {"understood": list(refined.understood), "previous": artifact["handle"], "name": artifact.get("name", "")}
    corrected = build_result_artifact(artifact["picture"], refined.segmentation, refined.state, **details)
    service.handles.put(owner, corrected, "")
    for trace in traces:
        await asyncio.to_thread(service.traces.put, owner, corrected["handle"], artifact["picture"], trace)
    return {
        "result": describe_result(corrected, refined.segmentation, files),
        "understood": list(refined.understood),
        "changed": refined.is_changed,
        "choices": describe_choices(refined.state),
    }
