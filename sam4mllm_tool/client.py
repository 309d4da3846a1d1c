"""Segment on a server (`sam4mllm serve`) from a process that needs no torch: the same results, the same errors.

```python
from sam4mllm_tool.client import Client

with Client("http://127.0.0.1:8765") as client:
    result = client.segment("photo.jpg", "the mug behind the laptop")
    other = client.refine(result, instruction="no, the other one")
```

`AsyncClient` does the same without blocking. Requests and answers are made and read by functions that both share.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from types import TracebackType
from typing import Any, Self

import httpx
from PIL import Image as PILImage

from sam4mllm_tool import errors
from sam4mllm_tool.config import Method
from sam4mllm_tool.errors import ReplyError, Sam4MllmError, ServiceBusyError, ServiceError
from sam4mllm_tool.images.load import CALLER_POLICY, ImageSource, load_image
from sam4mllm_tool.types import FreeText, PointPrompt, Question, Reply, Segmentation, Turn

__all__ = ["AsyncClient", "Client", "ServerSegmentation"]

_TIMEOUT_S = 150.0
"""A little longer than a server lets a request wait."""


@dataclass(frozen=True, eq=False)
class ServerSegmentation(Segmentation):
    """A result with what the server keeps it under.

    Attributes:
        id: Of the result.
        image: Of its image, for further requests about it.
        understood: How the words and clicks of a correction were understood.
    """

    id: str = ""
    image: str = ""
    understood: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Call:
    """A request to the API."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None


class _Requests:
    """Makes the requests that both clients send."""

    @staticmethod
    def segment(image: ImageSource, expressions: Sequence[str], method: Method | None) -> _Call:
        body = {"image": _encode_image(image), "expressions": list(expressions), "method": method}
        return _Call("POST", "/v1/segment", body)

    @staticmethod
    def embed(image: ImageSource) -> _Call:
        return _Call("POST", "/v1/embed", {"image": _encode_image(image)})

    @staticmethod
    def refine(
        result: ServerSegmentation | str, instruction: str | None, clicks: Sequence[PointPrompt], forget_clicks: bool
    ) -> _Call:
        points = [{"x": click.x, "y": click.y, "label": click.label} for click in clicks]
        name = result if isinstance(result, str) else result.id
        body = {"result": name, "instruction": instruction, "clicks": points, "forget_clicks": forget_clicks}
        return _Call("POST", "/v1/refine", body)

    @staticmethod
    def get_file(result: ServerSegmentation | str, file: str) -> _Call:
        return _Call("GET", f"/v1/results/{result if isinstance(result, str) else result.id}/{file}")


class Client:
    """A client of one server. Close it, or use it in a `with` block.

    Args:
        url: Where the server listens, as in "http://127.0.0.1:8765".
        token: One of the server's tokens, where it has any.
        timeout_s: How long to wait for an answer, in seconds.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = _TIMEOUT_S) -> None:
        self._http = httpx.Client(**_settings(url, token, timeout_s))

    def segment(self, image: ImageSource, expression: str, *, method: Method | None = None) -> ServerSegmentation:
        """Segment the objects that the expression means, as `Sam4Mllm.segment` does.

        Args:
            image: Whatever `load_image` takes, or the handle that `embed` returned.
            expression: Plain words.
            method: By default the server's.

        Raises:
            Sam4MllmError: What `Sam4Mllm.segment` raises.
            ServiceError: The server can't serve the request, or can't be reached.
        """
        return self.segment_group(image, [expression], method=method)[0]

    def segment_group(
        self, image: ImageSource, expressions: Sequence[str], *, method: Method | None = None
    ) -> list[ServerSegmentation]:
        """Segment several expressions about one image, in order. Raises as `segment` does, for the first that fails."""
        return _read_results(self._send(_Requests.segment(image, expressions, method)).json())

    def embed(self, image: ImageSource) -> str:
        """Have the server keep an image for a while, and return its handle. Raises as `segment` does."""
        return str(self._send(_Requests.embed(image)).json()["image"])

    def refine(
        self,
        result: ServerSegmentation | str,
        *,
        instruction: str | None = None,
        clicks: Sequence[PointPrompt] = (),
        forget_clicks: bool = False,
    ) -> ServerSegmentation:
        """Correct a result by an instruction, by clicks in pixels, or by both; the result before stays.

        Raises:
            Sam4MllmError: The result is not kept any more, or can't be corrected so.
            ServiceError: As `segment`.
        """
        return _read_refined(self._send(_Requests.refine(result, instruction, clicks, forget_clicks)).json())

    def get_file(self, result: ServerSegmentation | str, file: str) -> bytes:
        """Return a file of a result, such as "cutout.png". Raises as `refine` does."""
        return self._send(_Requests.get_file(result, file)).content

    def info(self) -> dict[str, Any]:
        """Return the server's models, methods and output formats. Raises ServiceError."""
        return dict(self._send(_Call("GET", "/v1/info")).json())

    def _send(self, call: _Call) -> httpx.Response:
        try:
            return _check(self._http.request(call.method, call.path, json=call.body))
        except httpx.HTTPError as error:
            raise _describe_failure(self._http.base_url, error) from error

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

    async def segment(self, image: ImageSource, expression: str, *, method: Method | None = None) -> ServerSegmentation:
        """Do as `Client.segment` does."""
        return (await self.segment_group(image, [expression], method=method))[0]

    async def segment_group(
        self, image: ImageSource, expressions: Sequence[str], *, method: Method | None = None
    ) -> list[ServerSegmentation]:
        """Do as `Client.segment_group` does."""
        return _read_results((await self._send(_Requests.segment(image, expressions, method))).json())

    async def embed(self, image: ImageSource) -> str:
        """Do as `Client.embed` does."""
        return str((await self._send(_Requests.embed(image))).json()["image"])

    async def refine(
        self,
        result: ServerSegmentation | str,
        *,
        instruction: str | None = None,
        clicks: Sequence[PointPrompt] = (),
        forget_clicks: bool = False,
    ) -> ServerSegmentation:
        """Do as `Client.refine` does."""
        return _read_refined((await self._send(_Requests.refine(result, instruction, clicks, forget_clicks))).json())

    async def get_file(self, result: ServerSegmentation | str, file: str) -> bytes:
        """Do as `Client.get_file` does."""
        return (await self._send(_Requests.get_file(result, file))).content

    async def info(self) -> dict[str, Any]:
        """Do as `Client.info` does."""
        return dict((await self._send(_Call("GET", "/v1/info"))).json())

    async def _send(self, call: _Call) -> httpx.Response:
        try:
            return _check(await self._http.request(call.method, call.path, json=call.body))
        except httpx.HTTPError as error:
            raise _describe_failure(self._http.base_url, error) from error

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
    return {"base_url": url, "headers": headers, "timeout": timeout_s}


def _encode_image(image: ImageSource) -> str:
    """Return a handle or a data URI as it is, and any other image as the data URI of a PNG. Raises ImageError."""
    if isinstance(image, str) and image.strip().lower().startswith(("img-", "data:")) and not os.path.exists(image):  # noqa: PTH110
        return image
    buffer = BytesIO()
    loaded: PILImage.Image = load_image(image, policy=replace(CALLER_POLICY, allow_urls=False))
    loaded.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _read_result(fields: Mapping[str, Any]) -> ServerSegmentation:
    result = Segmentation.from_dict(fields)
    return ServerSegmentation(**vars(result), id=str(fields["id"]), image=str(fields["image"]))


def _read_results(answer: Mapping[str, Any]) -> list[ServerSegmentation]:
    return [_read_result(fields) for fields in answer["results"]]


def _read_refined(answer: Mapping[str, Any]) -> ServerSegmentation:
    return replace(_read_result(answer["result"]), understood=tuple(map(str, answer["understood"])))


def _check(response: httpx.Response) -> httpx.Response:
    """Return an answer, or raise what the server raised."""
    if response.is_success:
        return response
    try:
        problem = response.json()
        detail, name = str(problem["detail"]), str(problem["error"])
    except (ValueError, KeyError, TypeError):
        raise ServiceError(
            f"{response.url.host} answered with status {response.status_code}, and not as `sam4mllm serve` does"
        ) from None
    raise _build_error(name, detail, response.headers.get("Retry-After", ""))


def _build_error(name: str, detail: str, retry_after: str) -> Sam4MllmError:
    kind = getattr(errors, name, Sam4MllmError)
    if kind is ReplyError:
        return ReplyError(detail, Question((Turn("user", ""),), FreeText(0)), Reply(""))
    if isinstance(kind, type) and issubclass(kind, ServiceBusyError):
        return kind(detail, float(retry_after) if retry_after.isdecimal() else 1.0)
    is_plain = isinstance(kind, type) and issubclass(kind, Sam4MllmError) and not issubclass(kind, ImportError)
    return kind(detail) if is_plain else Sam4MllmError(detail)


def _describe_failure(url: httpx.URL, error: httpx.HTTPError) -> ServiceError:
    reason = "it did not answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__
    return ServiceError(f"the server at {url} can't be reached: {reason}. Is it running (sam4mllm serve)?")
