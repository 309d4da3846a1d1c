"""Errors as RFC 9457 problem details: what was wrong and what to do, never a traceback."""

import logging
import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from sam4mllm_tool.errors import (
    AccessError,
    BackendError,
    BadRequestError,
    EmptyMaskError,
    QueueFullError,
    ReplyError,
    Sam4MllmError,
    ServiceBusyError,
    TooLateError,
)
from sam4mllm_tool.tools.image_references import UnknownImageError

__all__ = ["PROBLEM_TYPE", "Problem", "RequestError", "build_problem", "install_problem_handlers"]

logger = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
_MAX_FAULTS = 5
_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (AccessError, 401),
    (QueueFullError, 429),
    (ServiceBusyError, 503),
    (TooLateError, 504),
    (BackendError, 502),
    (ReplyError, 502),
    (EmptyMaskError, 502),
    (UnknownImageError, 404),
    (LookupError, 404),
    (BadRequestError, 422),
    (Sam4MllmError, 422),
)
"""Error -> status; the first that fits."""


class Problem(BaseModel):
    """Problem details as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    error: str


class RequestError(BadRequestError):
    """A request that is refused with a status of its own.

    Args:
        status: Of the answer.
        message: What is wrong, and what to do.
        error: The class that the answer names.
    """

    def __init__(self, status: int, message: str, error: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status, self.error = status, error


def build_problem(error: Sam4MllmError) -> JSONResponse:
    """Build the answer to a request that failed; `error` in it is the name of the error's class."""
    status = error.status if isinstance(error, RequestError) else next(s for kind, s in _STATUSES if isinstance(error, kind))
    name = error.error if isinstance(error, RequestError) else type(error).__name__
    headers = {}
    if isinstance(error, ServiceBusyError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="sam4mllm"'
    return _respond(status, name, " ".join(str(error).split()), headers)


def describe_validation(faults: Any) -> str:
    """Say in one line what is wrong with a request's fields."""
    places = [".".join(str(part) for part in fault["loc"] if part != "body") for fault in faults[:_MAX_FAULTS]]
    return "; ".join(f"{place or 'body'}: {fault['msg']}" for place, fault in zip(places, faults, strict=False))


def install_problem_handlers(app: FastAPI) -> None:
    """Answer every error of an application by problem details."""

    async def handle_own(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Sam4MllmError)
        request.state.error_kind = type(error).__name__
        return build_problem(error)

    async def handle_http(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        assert isinstance(error, HTTPException)
        detail = error.detail if error.detail != HTTPStatus(error.status_code).phrase else _explain(error.status_code)
        return _respond(error.status_code, "BadRequestError", detail, dict(error.headers or {}))

    async def handle_validation(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        assert isinstance(error, RequestValidationError | ValidationError)
        return _respond(422, "BadRequestError", describe_validation(list(error.errors())), {})

    async def handle_bug(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _respond(500, "ServiceError", "the server failed with an unexpected error, which it logged", {})

    app.add_exception_handler(Sam4MllmError, handle_own)
    app.add_exception_handler(HTTPException, handle_http)
    app.add_exception_handler(RequestValidationError, handle_validation)
    app.add_exception_handler(Exception, handle_bug)


def _explain(status: int) -> str:
    texts = {404: "there is nothing at this path", 405: "this path doesn't take that method"}
    return f"{texts[status]}: see /openapi.json" if status in texts else HTTPStatus(status).phrase


def _respond(status: int, name: str, detail: str, headers: dict[str, str]) -> JSONResponse:
    problem = Problem(
        type=f"urn:sam4mllm:error:{name}", title=HTTPStatus(status).phrase, status=status, detail=detail, error=name
    )
    return JSONResponse(problem.model_dump(), status, headers, PROBLEM_TYPE)
