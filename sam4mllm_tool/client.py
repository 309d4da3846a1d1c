"""Segment on a server (`sam4mllm serve`) from a process that needs no torch: the same results, the same errors.

```python
from sam4mllm_tool.client import Client

with Client("http://127.0.0.1:8765") as client:
    result = client.segment("photo.jpg", "the mug behind the laptop")
    other = client.refine(result, instruction="no, the other one")
```

`AsyncClient` does the same without blocking. Requests and answers are made and read by functions that both share.
"""

import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import TracebackType
from typing import Any, Self

import httpx

from sam4mllm_tool.client_messages import (
    EventReader,
    ServerCall,
    ServerOutcome,
    ServerSegmentation,
    ToolAnswer,
    check_answer,
    describe_failure,
    read_fields,
    read_image_id,
    read_refined,
    read_results,
    read_single,
)
from sam4mllm_tool.config import Method
from sam4mllm_tool.errors import EmptyMaskError, ExpressionError, ReplyError
from sam4mllm_tool.images.load import ImageSource
from sam4mllm_tool.types import PointPrompt

__all__ = ["AsyncClient", "Client", "ServerOutcome", "ServerSegmentation", "ToolAnswer"]

_EXPRESSION_ERRORS = (ExpressionError, ReplyError, EmptyMaskError)
"""Errors of one expression alone."""
_TIMEOUT_S = 150.0
"""A little longer than a server lets a request wait."""


class Client:
    """A client of one server. Close it, or use it in a `with` block.

    Args:
        url: Where the server listens, as in "http://127.0.0.1:8765".
        token: One of the server's tokens, where it has any.
        timeout_s: How long to wait for an answer, in seconds.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = _TIMEOUT_S) -> None:
        self._http = httpx.Client(**_settings(url, token, timeout_s))

    def segment(
        self, image: ImageSource, expression: str, *, method: Method | None = None, trace: bool = False
    ) -> ServerSegmentation:
        """Segment the objects that the expression means, as `Sam4Mllm.segment` does.

        Args:
            image: Whatever `load_image` takes, or the handle that `embed` returned.
            expression: Plain words.
            method: By default the server's.
            trace: Whether the server keeps a trace, which `get_file` returns as "trace.html" and "trace.json".

        Raises:
            Sam4MllmError: What `Sam4Mllm.segment` raises.
            ServiceError: The server can't serve the request, or can't be reached.
        """
        return read_single(self._send(ServerCall.segment(image, [expression], method, trace)))

    def segment_group(
        self, image: ImageSource, expressions: Sequence[str], *, method: Method | None = None, trace: bool = False
    ) -> list[ServerOutcome]:
        """Segment several expressions about one image, as `Sam4Mllm.segment_group` does.

        Returns:
            One result per expression, in order; an error in the place of a bad expression, an unreadable reply or empty masks.

        Raises:
            Sam4MllmError: The image can't be read, or a model failed.
            ServiceError: As `segment`.
        """
        try:
            return read_results(self._send(ServerCall.segment(image, expressions, method, trace)), len(expressions))
        except _EXPRESSION_ERRORS as error:  # of a single expression
            return [error]

    def embed(self, image: ImageSource) -> str:
        """Have the server keep an image for a while, and return its handle. Raises as `segment` does."""
        return read_image_id(self._send(ServerCall.embed(image)))

    def refine(
        self,
        result: ServerSegmentation | str,
        *,
        instruction: str | None = None,
        clicks: Sequence[PointPrompt] = (),
        forget_clicks: bool = False,
        trace: bool = False,
    ) -> ServerSegmentation:
        """Correct a result by an instruction, by clicks in pixels, or by both; the result before stays.

        Raises:
            Sam4MllmError: The result is not kept any more, or can't be corrected so.
            ServiceError: As `segment`.
        """
        return read_refined(self._send(ServerCall.refine(result, instruction, clicks, forget_clicks, trace)))

    def get_file(self, result: ServerSegmentation | str, file: str) -> bytes:
        """Return a file of a result, such as "cutout.png". Raises as `refine` does."""
        return self._send(ServerCall.get_file(result, file)).content

    def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        artifacts: Sequence[Mapping[str, Any]] = (),
        method: Method | None = None,
        write_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> ToolAnswer:
        """Run a tool of `Sam4MllmToolkit`; `SegmentTool(server=URL)` and the others do so for an agent.

        Args:
            name: The tool's, as in "segment_image".
            arguments: The tool's. `image` is a handle of `embed` or a data URI, `result` and `dialogue` are handles.
            artifacts: Those that the handles name, where the server may no longer have them, the earliest first.
            method: By default the server's.
            write_event: Takes the events of tools/events.py while the tool works.

        Raises:
            Sam4MllmError: What the tool raises.
            ServiceError: As `segment`.
        """
        return self._stream(ServerCall.tool(name, arguments, artifacts, method), EventReader(write_event))

    def info(self) -> dict[str, Any]:
        """Return the server's models, methods and output formats. Raises ServiceError."""
        return read_fields(self._send(ServerCall("GET", "/v1/info")))

    def _send(self, call: ServerCall) -> httpx.Response:
        try:
            return check_answer(self._http.request(call.method, call.path, json=call.body))
        except httpx.HTTPError as error:
            raise describe_failure(self._http.base_url, error) from error

    def _stream(self, call: ServerCall, reader: EventReader) -> ToolAnswer:
        try:
            with self._http.stream(call.method, call.path, json=call.body, headers=EventReader.headers) as response:
                if not response.is_success:
                    response.read()
                for line in check_answer(response).iter_lines():
                    reader.read(line)
        except httpx.HTTPError as error:
            raise describe_failure(self._http.base_url, error) from error
        return reader.get_answer()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """`Client` without blocking. Close it, or use it in an `async with` block.

    Args:
        url: As in `Client`.
        token: As in `Client`.
        timeout_s: As in `Client`.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = _TIMEOUT_S) -> None:
        self._http = httpx.AsyncClient(**_settings(url, token, timeout_s))

    async def segment(
        self, image: ImageSource, expression: str, *, method: Method | None = None, trace: bool = False
    ) -> ServerSegmentation:
        """Do as `Client.segment` does."""
        return read_single(await self._send(ServerCall.segment(image, [expression], method, trace)))

    async def segment_group(
        self, image: ImageSource, expressions: Sequence[str], *, method: Method | None = None, trace: bool = False
    ) -> list[ServerOutcome]:
        """Do as `Client.segment_group` does."""
        try:
            return read_results(await self._send(ServerCall.segment(image, expressions, method, trace)), len(expressions))
        except _EXPRESSION_ERRORS as error:
            return [error]

    async def embed(self, image: ImageSource) -> str:
        """Do as `Client.embed` does."""
        return read_image_id(await self._send(ServerCall.embed(image)))

    async def refine(
        self,
        result: ServerSegmentation | str,
        *,
        instruction: str | None = None,
        clicks: Sequence[PointPrompt] = (),
        forget_clicks: bool = False,
        trace: bool = False,
    ) -> ServerSegmentation:
        """Do as `Client.refine` does."""
        return read_refined(await self._send(ServerCall.refine(result, instruction, clicks, forget_clicks, trace)))

    async def get_file(self, result: ServerSegmentation | str, file: str) -> bytes:
        """Do as `Client.get_file` does."""
        return (await self._send(ServerCall.get_file(result, file))).content

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        artifacts: Sequence[Mapping[str, Any]] = (),
        method: Method | None = None,
        write_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> ToolAnswer:
        """Do as `Client.call_tool` does."""
        call = ServerCall.tool(name, arguments, artifacts, method)
        return await self._stream(call, EventReader(write_event))

    async def info(self) -> dict[str, Any]:
        """Do as `Client.info` does."""
        return read_fields(await self._send(ServerCall("GET", "/v1/info")))

    async def _send(self, call: ServerCall) -> httpx.Response:
        try:
            return check_answer(await self._http.request(call.method, call.path, json=call.body))
        except httpx.HTTPError as error:
            raise describe_failure(self._http.base_url, error) from error

    async def _stream(self, call: ServerCall, reader: EventReader) -> ToolAnswer:
        try:
            async with self._http.stream(call.method, call.path, json=call.body, headers=EventReader.headers) as response:
                if not response.is_success:
                    await response.aread()
                async for line in check_answer(response).aiter_lines():
                    reader.read(line)
        except httpx.HTTPError as error:
            raise describe_failure(self._http.base_url, error) from error
        return reader.get_answer()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _settings(url: str, token: str | None, timeout_s: float) -> dict[str, Any]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return {"base_url": url, "headers": headers, "timeout": timeout_s, "verify": _create_ssl_context()}


@cache
def _create_ssl_context() -> ssl.SSLContext:
    """Create what all clients share: it takes a tenth of a second."""
    return httpx.create_ssl_context()
