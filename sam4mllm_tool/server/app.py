"""The server as an ASGI application: `create_app` puts the endpoints, the gate and the models together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sam4mllm_tool import __version__
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.server.api_description import describe_problems, install_description
from sam4mllm_tool.server.api_schemas import Alive, Ready
from sam4mllm_tool.server.chat_endpoint import create_chat_router
from sam4mllm_tool.server.dialogue_endpoint import create_dialogue_router
from sam4mllm_tool.server.gate import Gate
from sam4mllm_tool.server.mcp_endpoint import add_mcp
from sam4mllm_tool.server.page_endpoint import PAGE_PATHS, add_page
from sam4mllm_tool.server.problems import install_problem_handlers
from sam4mllm_tool.server.result_endpoints import create_result_router
from sam4mllm_tool.server.segment_endpoints import create_segment_router
from sam4mllm_tool.server.server_metrics import METRICS_TYPE, ServerMetrics
from sam4mllm_tool.server.service import Service
from sam4mllm_tool.server.settings import ServerSettings
from sam4mllm_tool.server.tool_endpoint import create_tool_router
from sam4mllm_tool.server.trace_endpoint import create_trace_router

__all__ = ["create_app"]

_MCP_HEADERS = ("Last-Event-ID", "Mcp-Method", "Mcp-Name", "Mcp-Protocol-Version", "Mcp-Session-Id")
"""Headers that a web page sends to use the endpoint of MCP."""


def create_app(
    models: Sam4Mllm | Callable[[], Sam4Mllm], settings: ServerSettings, *, waits_for_models: bool = False
) -> FastAPI:
    """Create the application. Its lifespan loads the models, and finishes at the end what was begun.

    Args:
        models: Loaded models, or a function that loads them, which is called in a thread.
        settings: The server's settings.
        waits_for_models: Whether the lifespan begins only once the models are loaded; otherwise requests before that are
            answered by status 503.

    Raises:
        SettingsError: The tokens can't be read.
    """
    service = Service(models, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        service.start()
        if waits_for_models:
            await asyncio.to_thread(service.wait_until_loaded)
        try:
            async with mcp_lifespan:
                yield
        finally:
            service.stop()

    app = FastAPI(
        title="SAM4MLLM",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    install_problem_handlers(app)
    app.include_router(create_segment_router(service))
    app.include_router(create_trace_router(service))
    app.include_router(create_result_router(service))
    app.include_router(create_dialogue_router(service))
    app.include_router(create_tool_router(service))
    app.include_router(create_chat_router(service))
    _add_health(app, service)
    install_description(app, wants_token=bool(settings.tokens))
    mcp_lifespan = add_mcp(app, service)
    add_page(app)
    app.add_middleware(Gate, settings=settings, open_paths=PAGE_PATHS)
    app.add_middleware(_CountRequests, metrics=service.metrics)
    if settings.allow_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allow_origin),
            allow_methods=["*"],
            allow_headers=["Authorization", "Content-Type", *_MCP_HEADERS],
            expose_headers=["Mcp-Session-Id"],
        )
    return app


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Whether the process lives", tags=["health"], responses=describe_problems())
    async def healthz() -> Alive:
        return Alive()

    @app.get("/readyz", summary="Whether the models are loaded", tags=["health"], responses=describe_problems(422, 503))
    async def readyz() -> Ready:
        models = service.models
        return Ready(mllm=models.mllm.name, segmenter=models.segmenter.name)

    text = {"schema": {"type": "string"}, "example": 'sam4mllm_requests_total{path="/v1/segment",status="200"} 5.0\n'}
    metrics_responses = {200: {"content": {"text/plain": text}}, **describe_problems(401)}

    @app.get(
        "/metrics", summary="Metrics for Prometheus", tags=["health"], response_class=Response, responses=metrics_responses
    )
    async def metrics() -> Response:
        return Response(service.metrics.write(), media_type=METRICS_TYPE)


class _CountRequests:
    """ASGI middleware that counts requests by the route's path and the status."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # of a request that an unexpected error ends

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            self._metrics.requests.labels(getattr(scope.get("route"), "path", "other"), str(status)).inc()
            if status >= 400:
                self._metrics.errors.labels(scope.get("state", {}).get("error_kind", f"status {status}")).inc()
