"""The OpenAPI description: what FastAPI derives from the endpoints, with problem details, tokens and links added."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from sam4mllm_tool.server.problems import PROBLEM_TYPE, Problem

__all__ = ["describe_problems", "install_description"]

_PROBLEMS = {
    400: ("BadRequestError", "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
    401: ("AccessError", "this server wants one of its tokens: send the header 'Authorization: Bearer TOKEN'"),
    404: ("UnknownImageError", "no image img-0123456789ab was given before: give the image itself"),
    408: ("BadRequestError", "the body did not arrive within 30 seconds"),
    413: ("BadRequestError", "the body is over the limit of 67,108,864 bytes; send a smaller image, or fewer"),
    415: ("BadRequestError", "expected application/json or multipart/form-data, got 'text/plain'"),
    422: ("ExpressionError", "the expression is empty: say what to segment, as in 'the red mug'"),
    429: ("QueueFullError", "64 requests wait already, which is the limit; try again in a while"),
    500: ("ServiceError", "the server failed with an unexpected error, which it logged"),
    502: ("ReplyError", "the model's reply has no box: 'I can't see it'"),
    503: ("ServiceBusyError", "the server is loading its models; try again"),
    504: ("TooLateError", "the request was not done within 120 seconds; try again in a while"),
}
"""Status -> error and detail of an example."""
_EVERYWHERE = (408, 413, 500)
_PUBLIC = ("/healthz", "/readyz")
_RETRY = {"Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 1}}}


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems that an endpoint may answer with, besides those of every endpoint."""
    return {status: {"$ref": f"#/components/responses/Problem{status}"} for status in sorted({*statuses, *_EVERYWHERE})}


def install_description(app: FastAPI, *, wants_token: bool) -> None:
    """Have an application describe its problems, and the token where it wants one."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app, wants_token)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]  # as FastAPI's documentation extends it


def _describe(app: FastAPI, wants_token: bool) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
    components["responses"] = {f"Problem{status}": _describe_problem(status) for status in _PROBLEMS}
    if wants_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, operations in schema["paths"].items():
            for operation in operations.values() if path not in _PUBLIC else ():
                operation["security"] = [{"token": []}]
    return schema


def _describe_problem(status: int) -> dict[str, Any]:
    name, detail = _PROBLEMS[status]
    title = HTTPStatus(status).phrase
    example = Problem(type=f"urn:sam4mllm:error:{name}", title=title, status=status, detail=detail, error=name)
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example.model_dump()}}
    return {"description": title, "content": content, **({"headers": _RETRY} if status in (429, 503) else {})}
