"""What the clients of a server (client.py) send, and how they read its answers and errors. No I/O here."""

import base64
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar, NamedTuple, TypeAlias

import httpx
import numpy as np
from PIL import Image as PILImage

from sam4mllm_tool.config import Method
from sam4mllm_tool.errors import ReplyError, Sam4MllmError, ServiceBusyError, ServiceError
from sam4mllm_tool.images.load import ImageSource, load_image, read_image
from sam4mllm_tool.types import FreeText, Image, PointPrompt, Question, Reply, Segmentation, Turn

__all__ = [
    "EventReader",
    "ServerCall",
    "ServerOutcome",
    "ServerSegmentation",
    "ToolAnswer",
    "check_answer",
    "describe_failure",
    "encode_image",
    "read_fields",
    "read_image_id",
    "read_refined",
    "read_results",
    "read_single",
]

_LARGE_PNG_BYTES = 40 * 2**20
"""As base64 four thirds of that, near the 64 MiB that a server takes by default."""
_MAX_WEBP_SIDE = 16383
"""Pixels of a side that the format can have."""


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


ServerOutcome: TypeAlias = ServerSegmentation | Sam4MllmError
"""What one expression came to."""


class ToolAnswer(NamedTuple):
    """What a tool returned: the text that a chat model reads, and the artifact for the program."""

    text: str
    artifact: dict[str, Any]


@dataclass(frozen=True)
class ServerCall:
    """A request to the API, as both clients send it."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None

    @classmethod
    def segment(cls, image: ImageSource, expressions: Sequence[str], method: Method | None, trace: bool) -> "ServerCall":
        """Segment expressions about one image."""
        return cls(
            "POST",
            "/v1/segment",
            {**encode_image(image), "expressions": list(expressions), "method": method, "trace": trace},
        )

    @classmethod
    def embed(cls, image: ImageSource) -> "ServerCall":
        """Keep an image."""
        return cls("POST", "/v1/embed", encode_image(image))

    @classmethod
    def refine(
        cls,
        result: ServerSegmentation | str,
        instruction: str | None,
        clicks: Sequence[PointPrompt],
        forget_clicks: bool,
        trace: bool,
    ) -> "ServerCall":
        """Correct a result."""
        points = [{"x": click.x, "y": click.y, "label": click.label} for click in clicks]
        name = result if isinstance(result, str) else result.id
        change = {"instruction": instruction, "clicks": points, "forget_clicks": forget_clicks}
        body = {"result": name, **change, "trace": trace}
        return cls("POST", "/v1/refine", body)

    @classmethod
    def get_file(cls, result: ServerSegmentation | str, file: str) -> "ServerCall":
        """Get a file of a result."""
        return cls("GET", f"/v1/results/{result if isinstance(result, str) else result.id}/{file}")

    @classmethod
    def tool(
        cls, name: str, arguments: Mapping[str, Any], artifacts: Sequence[Mapping[str, Any]], method: Method | None
    ) -> "ServerCall":
        """Run a tool of the toolkit."""
        body = {"arguments": dict(arguments), "artifacts": list(artifacts), "method": method}
        return cls("POST", f"/v1/tools/{name}", body)


class EventReader:
    """Reads server-sent events line by line, up to the answer, or the problem, which is the last one.

    Args:
        write_event: Takes each event before the last one.
    """

    headers: ClassVar[dict[str, str]] = {"Accept": "text/event-stream"}
    """Ask for events."""

    def __init__(self, write_event: Callable[[dict[str, Any]], None] | None = None) -> None:
        self._write_event, self._name = write_event, ""
        self._answer: ToolAnswer | None = None

    def read(self, line: str) -> None:
        """Take a line. Raises what the server raised."""
        field, _, value = line.partition(": ")
        if field == "event":
            self._name = value
        elif field == "data":
            with _reading():
                data = dict(json.loads(value))
                if self._name == "problem":
                    raise _read_error(data)
                if self._name == "result":
                    self._answer = ToolAnswer(str(data["text"]), dict(data["artifact"]))
                    return
            if self._write_event is not None:
                self._write_event(data)

    def get_answer(self) -> ToolAnswer:
        """Return the answer. Raises ServiceError where the events ended before it."""
        if self._answer is None:
            raise ServiceError("the server ended its answer too early; its log may say why")
        return self._answer


def encode_image(image: ImageSource) -> dict[str, str]:
    """Encode an image as the fields of a request.

    A handle stays, a data URI, a file and bytes are sent as they are, with the file's name, once they have been opened here; an
    array and a PIL image become a PNG.

    Raises:
        ImageError: It can't be opened.
    """
    if isinstance(image, str) and image.strip().lower().startswith("img-") and not os.path.exists(image):  # noqa: PTH110
        return {"image": image}
    if isinstance(image, PILImage.Image | np.ndarray):
        return {"image": _encode_uri(_encode_pixels(load_image(image)))}
    fields = {"image": _encode_uri(read_image(image))}
    if isinstance(image, str | os.PathLike) and not str(image).strip().lower().startswith("data:"):
        fields["image_name"] = Path(image).name.encode("utf-8", "replace").decode()
    return fields


def _encode_uri(content: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode('ascii')}"


def _encode_pixels(image: Image) -> bytes:
    """Encode an image without loss: as PNG, or, where that may be over a server's limit, as WebP, which takes longer."""
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    if buffer.tell() > _LARGE_PNG_BYTES and max(image.size) <= _MAX_WEBP_SIDE:
        buffer = BytesIO()
        image.save(buffer, "WEBP", lossless=True, quality=0, method=0)
    return buffer.getvalue()


@contextmanager
def _reading() -> Iterator[None]:
    """Raise a ServiceError where an answer isn't one that a server gives. Nothing of the answer is in its message."""
    try:
        yield
    except Sam4MllmError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ServiceError(
            "the server's answer can't be read; is it `sam4mllm serve`, of the same version as this client?"
        ) from error


def read_fields(response: httpx.Response) -> dict[str, Any]:
    """Return the fields of an answer. Raises ServiceError where it has none."""
    with _reading():
        return dict(response.json())


def read_image_id(response: httpx.Response) -> str:
    """Read the answer of /v1/embed."""
    with _reading():
        return str(read_fields(response)["image"])


def read_single(response: httpx.Response) -> ServerSegmentation:
    """Read the answer of /v1/segment to one expression."""
    (outcome,) = read_results(response, 1)
    if isinstance(outcome, Sam4MllmError):
        raise outcome
    return outcome


def read_results(response: httpx.Response, count: int) -> list[ServerOutcome]:
    """Read the answer of /v1/segment to so many expressions."""
    with _reading():
        results = read_fields(response)["results"]
        if len(results) != count:
            raise ValueError(f"expected {count} results, got {len(results)}")
        return [_read_error(fields) if "error" in fields else _read_result(fields) for fields in results]


def read_refined(response: httpx.Response) -> ServerSegmentation:
    """Read the answer of /v1/refine."""
    with _reading():
        fields = read_fields(response)
        return replace(_read_result(fields["result"]), understood=tuple(map(str, fields["understood"])))


def _read_result(fields: Mapping[str, Any]) -> ServerSegmentation:
    result = Segmentation.from_dict(fields)
    return ServerSegmentation(**vars(result), id=str(fields["id"]), image=str(fields["image"]))


def _read_error(problem: Mapping[str, Any]) -> Sam4MllmError:
    return _build_error(str(problem["error"]), str(problem["detail"]), "")


def check_answer(response: httpx.Response) -> httpx.Response:
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
    """Return an error of the class of that name where this process has it, and of the base class where it hasn't."""
    kind = next((kind for kind in _list_error_classes(Sam4MllmError) if kind.__name__ == name), Sam4MllmError)
    if kind is ReplyError:
        error = ReplyError(detail, Question((Turn("user", ""),), FreeText(0)), Reply(""))
        error.args = (detail,)  # which has the question and the reply in it
        return error
    if issubclass(kind, ServiceBusyError):
        return kind(detail, float(retry_after) if retry_after.isdecimal() else 1.0)
    takes_more = isinstance(kind.__init__, FunctionType)  # than a message
    return Sam4MllmError(detail) if takes_more else kind(detail)


def _list_error_classes(kind: type[Sam4MllmError]) -> Iterator[type[Sam4MllmError]]:
    yield kind
    for derived in kind.__subclasses__():
        yield from _list_error_classes(derived)


def describe_failure(url: httpx.URL, error: httpx.HTTPError) -> ServiceError:
    """Say why there is no answer."""
    if isinstance(error, httpx.RemoteProtocolError | httpx.DecodingError):  # whose text quotes the answer
        reason = "its answer is cut off or not valid HTTP"
    else:
        reason = (
            "it did not answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__
        )
    return ServiceError(f"the server at {url} can't be reached: {reason}. Is it running (sam4mllm serve)?")
