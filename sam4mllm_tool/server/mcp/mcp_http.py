"""The MCP server as a web application: streamable HTTP, for `create_app` to mount, in both eras of the protocol."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette

from sam4mllm_tool.images.load import ImagePolicy

__all__ = ["create_mcp_app", "run_mcp_app"]

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_BASE64 = 4 / 3
_ENVELOPE_BYTES = 2**20
"""Bytes of a call besides its image."""


def create_mcp_app(
    server: MCPServer[Any],
    policy: ImagePolicy,
    *,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    path: str = "/",
) -> Starlette:
    """Create the application, which has one route.

    Mount it in another application, or give its `routes` to that one, whose lifespan has to hold `run_mcp_app`. Authentication
    is that application's: it sets a request's `state.owner`.

    Args:
        server: From `create_mcp_server`.
        policy: The server's, for the size of requests.
        hosts: `Host` headers that are answered besides this machine's own names; "*" answers all of them, for a server behind
            a proxy that checks them. Others are refused, so that a page of another site can't reach a server on this machine
            by rebinding its name.
        origins: Origins of pages that may call the server besides those on this machine, as in https://example.org.
        path: The route's path.
    """
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection="*" not in hosts,
        allowed_hosts=[*_LOOPBACK, *(f"{host}:*" for host in _LOOPBACK), *hosts],
        allowed_origins=[*(f"http://{host}{port}" for host in _LOOPBACK for port in ("", ":*")), *origins],
    )
    return server.streamable_http_app(
        streamable_http_path=path,
        transport_security=security,
        max_request_body_size=int(policy.max_bytes * _BASE64) + _ENVELOPE_BYTES,
    )


@asynccontextmanager
async def run_mcp_app(server: MCPServer[Any]) -> AsyncIterator[None]:
    """Serve the application that `create_mcp_app` made, as long as the context is open."""
    async with server.session_manager.run():
        yield
