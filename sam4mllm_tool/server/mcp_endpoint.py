"""MCP as one of the server's endpoints: the same models and queue, images and results as the HTTP API's."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from fastapi import FastAPI

from sam4mllm_tool.errors import MissingExtraError
from sam4mllm_tool.server.service import Service

__all__ = ["MCP_PATH", "add_mcp"]

MCP_PATH = "/mcp"


def add_mcp(app: FastAPI, service: Service) -> AbstractAsyncContextManager[Any]:
    """Add the endpoint `/mcp` to an application, if the extra `mcp` is installed.

    Returns:
        What the application's lifespan has to hold.
    """
    from sam4mllm_tool.server import mcp

    settings = service.settings
    shared = mcp.McpSettings(policy=settings.policy, method=settings.method, is_shared=True)
    try:
        server = mcp.create_mcp_server(
            lambda: service.models,
            shared,
            pixels=service.pixels,
            handles=service.handles,
            after_error=service.metrics.count_error,
        )
    except MissingExtraError:
        return nullcontext()
    from sam4mllm_tool.server.mcp.mcp_http import create_mcp_app, run_mcp_app

    # A page that rebinds its name to this server has no token to send; without tokens, only this server's names are answered.
    hosts = ("*",) if settings.tokens else (settings.host, f"{settings.host}:*")
    mcp_app = create_mcp_app(server, settings.policy, hosts=hosts, origins=settings.allow_origin, path=MCP_PATH)
    app.router.routes.extend(mcp_app.routes)
    return run_mcp_app(server)
