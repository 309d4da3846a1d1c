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
    ServiceError,
    TooLateError,
)
from sam4mllm_tool.tools.image_references import UnknownImageError

__all__ = ["PROBLEM_TYPE", "Problem", "RequestError", "build_problem", "describe_error", "install_problem_handlers"]

logger = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
UNEXPECTED = "the server failed with an unexpected error, which it logged"
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
    (ServiceError, 500),
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


def describe_error(error: Sam4MllmError) -> Problem:
    """Describe an error; `error` of the problem is the name of its class."""
    status = error.status if isinstance(error, RequestError) else next(s for kind, s in _STATUSES if isinstance(error, kind))
    name = error.error if isinstance(error, RequestError) else type(error).__name__
    return _create_problem(status, name, " ".join(str(error).split()))


def build_problem(error: Sam4MllmError) -> JSONResponse:
    """Build the answer to a request that failed."""
    problem, headers = describe_error(error), {}
    if isinstance(error, ServiceBusyError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="sam4mllm"'
    return _respond(problem, headers)


def describe_validation(faults: Any) -> str:
    """Say in one line what is wrong with a request's fields."""
    places = [".".join(str(part) for part in fault["loc"] if part != "body") for fault in faults[:_MAX_FAULTS]]
    return "; ".join(f"{place or 'body'}: {fault['msg']}" for place, fault in zip(places, faults, strict=False))


def install_problem_handlers(app: FastAPI) -> None:
    """Answer the errors that an application expects by problem details; the gate answers the others."""

    async def handle_own(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Sam4MllmError)
        request.state.error_kind = type(error).__name__
        return build_problem(error)

    async def handle_http(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        assert isinstance(error, HTTPException)
        detail = error.detail if error.detail != HTTPStatus(error.status_code).phrase else _explain(error.status_code)
        return _respond(_create_problem(error.status_code, "BadRequestError", detail), dict(error.headers or {}))

    async def handle_validation(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        assert isinstance(error, RequestValidationError | ValidationError)
        return _respond(_create_problem(422, "BadRequestError", describe_validation(list(error.errors()))), {})

    app.add_exception_handler(Sam4MllmError, handle_own)
    app.add_exception_handler(HTTPException, handle_http)
    app.add_exception_handler(RequestValidationError, handle_validation)


def _explain(status: int) -> str:
    texts = {404: "there is nothing at this path", 405: "this path doesn't take that method"}
    return f"{texts[status]}: see /openapi.json" if status in texts else HTTPStatus(status).phrase


def _create_problem(status: int, name: str, detail: str) -> Problem:
    title = HTTPStatus(status).phrase
    return Problem(type=f"urn:sam4mllm:error:{name}", title=title, status=status, detail=detail, error=name)


def _respond(problem: Problem, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse(problem.model_dump(), problem.status, headers, PROBLEM_TYPE)
