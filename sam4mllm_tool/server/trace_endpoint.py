"""GET /v1/results/{id}/trace.html and trace.json: how a result came about, where the client asked for a trace."""

import asyncio
import json

from fastapi import APIRouter, Request, Response

from sam4mllm_tool.server.api_description import describe_problems
from sam4mllm_tool.server.service import Service
from sam4mllm_tool.trace.files import to_json
from sam4mllm_tool.trace.page import page

__all__ = ["create_trace_router"]

_PAGE_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
"""The page shows words of others: it may do nothing in the server's name."""


def create_trace_router(service: Service) -> APIRouter:
    """Create the routes about traces. They come before those of a result's other files."""
    router = APIRouter(prefix="/v1/results/{result_id}", tags=["results"])

    @router.get(
        "/trace.html",
        summary="The trace of a result, as a page",
        response_class=Response,
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}, **describe_problems(401, 404, 422)},
    )
    async def get_trace_page(request: Request, result_id: str) -> Response:
        content = await asyncio.to_thread(lambda: page(service.traces.get(request.state.owner, result_id)))
        return Response(content, headers=_PAGE_HEADERS, media_type="text/html; charset=utf-8")

    @router.get(
        "/trace.json",
        summary="The trace of a result, for `sam4mllm trace`",
        response_class=Response,
        responses={200: {"content": {"application/json": {}}}, **describe_problems(401, 404, 422)},
    )
    async def get_trace(request: Request, result_id: str) -> Response:
        content = await asyncio.to_thread(lambda: json.dumps(to_json(service.traces.get(request.state.owner, result_id))))
        return Response(content, media_type="application/json")

    return router
