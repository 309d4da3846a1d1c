"""What stands before the application: tokens, or else the server's own names, and limits on a request's body."""

import asyncio
import hashlib
import hmac
import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sam4mllm_tool.errors import AccessError, Sam4MllmError, ServiceError
from sam4mllm_tool.server.problems import UNEXPECTED, RequestError, build_problem, logger
from sam4mllm_tool.server.settings import ServerSettings

__all__ = ["Gate"]

_OPEN_PATHS = ("/healthz", "/readyz")
"""Paths that need no token."""
_OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")
_ADDRESS = re.compile(r"[\d.]+|\[[\da-f:.]+\]")
"""An address in place of a name, which no page can rebind."""


class Gate:
    """ASGI middleware that checks the token and limits the body's size and the time that it takes.

    `state.owner` of a request then says whose it is: what one token made, another can't have. A server without tokens answers
    requests to its own names and addresses alone, and none of another site's pages, which a browser sends on its own.

    Args:
        app: The application behind it.
        settings: The server's settings.
        open_paths: Paths that need no token, besides those of health.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, open_paths: Sequence[str] = ()) -> None:
        self._app, self._settings = app, settings
        self._tokens = [(token.encode(), hashlib.sha256(token.encode()).hexdigest()) for token in settings.tokens]
        self._open_paths = {*_OPEN_PATHS, *open_paths}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it by a problem, as an unexpected error of the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def watch(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            headers = dict(scope["headers"])
            scope.setdefault("state", {})["owner"] = self._find_owner(scope["path"], headers.get(b"authorization", b""))
            self._check_site(headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin", b"").decode("latin-1"))
            self._check_length(headers.get(b"content-length"))
            await self._app(scope, self._limit(receive), watch)
        except Sam4MllmError as error:
            if has_begun:
                raise
            await build_problem(error)(scope, receive, send)
        except Exception as error:
            if has_begun:
                raise
            logger.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
            await build_problem(ServiceError(UNEXPECTED))(scope, receive, send)  # and the connection goes on

    def _find_owner(self, path: str, header: bytes) -> str:
        if not self._tokens or path in self._open_paths:
            return ""
        scheme, _, given = header.partition(b" ")
        owners = [owner for token, owner in self._tokens if hmac.compare_digest(token, given.strip())]  # compares with all
        if scheme.lower() != b"bearer" or not owners:
            raise AccessError("this server wants one of its tokens: send the header 'Authorization: Bearer TOKEN'")
        return owners[0]

    def _check_site(self, host: str, origin: str) -> None:
        """Refuse what a page elsewhere could send to a server that wants no token: a browser sends none by itself."""
        if self._tokens:
            return
        name = re.sub(r":\d+$", "", host.lower())
        if name not in (*_OWN_NAMES, self._settings.host.lower()) and not _ADDRESS.fullmatch(name):
            raise RequestError(403, "a server without a token answers requests to its own names alone: give it --auth-token")
        if origin and origin.partition("://")[2] != host and origin not in self._settings.allow_origin:
            raise RequestError(403, "pages of other sites may not use this server: allow theirs by --allow-origin")

    def _check_length(self, header: bytes | None) -> None:
        if header is not None and header.isdigit() and int(header) > self._settings.max_body_bytes:
            self._refuse_size()

    def _refuse_size(self) -> None:
        limit = self._settings.max_body_bytes
        raise RequestError(413, f"the body is over the limit of {limit:,} bytes; send a smaller image, or fewer")

    def _limit(self, receive: Receive) -> Receive:
        total, is_complete = 0, False
        deadline = asyncio.get_running_loop().time() + self._settings.body_timeout_s

        async def limited() -> Message:
            nonlocal total, is_complete
            if is_complete:  # only a disconnection can follow
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise RequestError(408, f"the body did not arrive within {self._settings.body_timeout_s:g} seconds") from None
            total += len(message.get("body", b""))
            is_complete = message["type"] != "http.request" or not message.get("more_body", False)
            if total > self._settings.max_body_bytes:
                self._refuse_size()
            return message

        return limited
