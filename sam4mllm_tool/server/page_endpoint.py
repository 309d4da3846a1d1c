"""The web page at `/`: static files under a strict policy. They talk to the server through its HTTP API alone."""

from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["PAGE_PATHS", "add_page"]

_FOLDER = Path(__file__).parent / "web"
PAGE_PATHS = ("/", *(f"/{path.relative_to(_FOLDER).as_posix()}" for path in sorted(_FOLDER.rglob("*")) if path.is_file()))
"""What the page is loaded from, which needs no token."""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Serve the page's files, each at a route of its own, so that other paths and methods stay the API's."""
    files = _AddHeaders(StaticFiles(directory=_FOLDER, html=True))
    app.router.routes.extend(Route(path, files, methods=["GET"], include_in_schema=False) for path in PAGE_PATHS)


class _AddHeaders:
    """ASGI middleware that adds the page's headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, add)
