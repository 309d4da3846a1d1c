"""Frozen values to plain JSON and back by their annotations, strictly, with pydantic.

A dataclass becomes an object without the fields that are None, a tuple a list. Reading accepts nothing that writing would not
have written: an unknown or missing field, a wrong type or an infinite number is a `TraceError` that names the place.
"""

import json
import re
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from sam4mllm_tool.errors import Sam4MllmError

__all__ = ["STRICT", "TraceError", "from_plain", "to_plain"]

T = TypeVar("T")

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""For the outermost dataclass, as its `__pydantic_config__`; the dataclasses in it inherit it."""
_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}
"""By type: building one takes longer than using it."""
_ESCAPE = "\ufdd0"
"""A noncharacter, which no text means anything by."""


class TraceError(Sam4MllmError, ValueError):
    """A trace that can't be read, written, replayed or exported. The message names the file and the place in it."""


def to_plain(value: Any) -> Any:
    """Return the value as JSON: objects, lists, strings and numbers.

    Raises:
        TraceError: It holds a number that is not finite, or an object that has no place in a trace.
    """
    tree = _adapter(type(value)).dump_python(value, by_alias=True, exclude_none=True, warnings=False)
    try:
        return json.loads(json.dumps(tree, allow_nan=False, default=_convert_numpy))
    except ValueError as error:
        raise TraceError("a trace can't hold the number nan or inf, which a model gave") from error


def from_plain(kind: type[T], tree: Any, place: str) -> T:
    """Read what `to_plain` wrote.

    Args:
        kind: The type to read.
        tree: JSON, parsed.
        place: Where the tree stands in the file, for the message.

    Raises:
        TraceError: The tree is not of that type.
    """
    text = json.dumps(tree, ensure_ascii=False)
    # JSON parsers other than Python's refuse a lone surrogate, which an expression or a reply may hold
    escaped = re.sub(f"[\ud800-\udfff{_ESCAPE}]", lambda match: f"{_ESCAPE}{ord(match[0]):04x}", text)
    try:
        value = _adapter(kind).validate_json(escaped)
    except ValidationError as error:
        raise TraceError(_describe_error(error, place)) from error
    result: T = value if escaped == text else _unescape(value)
    return result


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _convert_numpy(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TraceError(f"a trace can't hold a {type(value).__name__}")


def _describe_error(error: ValidationError, place: str) -> str:
    """Describe the first error in one line. Parts of the path that begin with a capital are class names of a union."""
    first = error.errors(include_url=False)[0]
    path = [part for part in first["loc"] if isinstance(part, int) or not part[:1].isupper()]
    where = _format_path(place, path[:-1])
    match first["type"]:
        case "missing":
            return f"{where} has no {f'item {path[-1]}' if isinstance(path[-1], int) else repr(path[-1])}"
        case "unexpected_keyword_argument":
            return f"{where} has {path[-1]!r}, which is not known here"
        case "value_error":
            return f"{_format_path(place, path)}: {first['msg'].removeprefix('Value error, ')}"
    expected = first["msg"].replace("Input should be", "should be")
    return f"{_format_path(place, path)} {expected}, it is {repr(first['input'])[:80]}"


def _format_path(place: str, path: list[int | str]) -> str:
    return place + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _unescape(value: Any) -> Any:
    """Turn escaped surrogates back, in all strings of the value."""
    if isinstance(value, str):
        return re.sub(f"{_ESCAPE}([0-9a-f]{{4}})", lambda match: chr(int(match[1], 16)), value)
    if isinstance(value, tuple):
        items = map(_unescape, value)
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_unescape(item) for item in value]
    if isinstance(value, dict):
        return {_unescape(key): _unescape(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: _unescape(getattr(value, field.name)) for field in fields(value)})
    return value
