"""Frozen values to plain JSON and back, by their own annotations, strictly.

A dataclass is an object of its fields, None left out; a NamedTuple and a tuple are lists. Reading takes nothing that writing
would not have written: a field too many or missing, a wrong type, an infinite number are a TraceError naming the place.
"""

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from sam4mllm_tool.protocol import FixedList, Grid, PointsByBox, PoissonDisk, Sampler
from sam4mllm_tool.trace.schema import TraceError

__all__ = ["from_plain", "to_plain"]

_SAMPLERS: dict[str, type] = {"grid": Grid, "fixed list": FixedList, "placed": PointsByBox, "poisson disk": PoissonDisk}
_EXPECTED = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def to_plain(value: Any) -> Any:
    """The value as JSON. Raises TraceError for what has no place in it."""
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TraceError(f"a trace can't hold the number {value}, which a model gave")
        return value
    if isinstance(value, tuple | list):
        return [to_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(one) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        kinds = [{"kind": kind} for kind, known in _SAMPLERS.items() if type(value) is known]
        told = {one.name: getattr(value, one.name) for one in fields(value)}
        return {**(kinds[0] if kinds else {}), **{name: to_plain(one) for name, one in told.items() if one is not None}}
    raise TraceError(f"a trace can't hold a {type(value).__name__}")


def from_plain(kind: Any, told: Any, where: str) -> Any:
    """The value of a type that was written so. where: its place, for the message. Raises TraceError."""
    if kind is Any:
        return told
    if kind is Sampler:
        return _sampler(told, where)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(kind), told, where)
    if origin is Literal:
        fine = any(type(told) is type(one) and told == one for one in get_args(kind))
        return _checked(fine, told, f"one of {get_args(kind)}", where)
    if origin is tuple:
        return _tuple(get_args(kind), told, where)
    if origin is not None and issubclass(origin, Mapping):
        return to_plain(_checked(isinstance(told, dict), told, "an object", where))
    if is_dataclass(kind):
        return _dataclass(kind, told, where)
    if isinstance(kind, type) and issubclass(kind, tuple):  # a NamedTuple
        hints = tuple(get_type_hints(kind).values())
        return _made(kind, _tuple(hints, told, where), where)
    return _scalar(kind, told, where)


def _scalar(kind: type, told: Any, where: str) -> Any:
    if kind is float:
        fine = isinstance(told, int | float) and not isinstance(told, bool) and math.isfinite(told)
    else:
        fine = type(told) is kind
    return _checked(fine, told, _EXPECTED.get(kind, "left out"), where)


def _tuple(kinds: tuple[Any, ...], told: Any, where: str) -> tuple[Any, ...]:
    _checked(isinstance(told, list), told, "a list", where)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(told)
    _checked(len(told) == len(kinds), told, f"a list of {len(kinds)}", where)
    return tuple(from_plain(kind, one, f"{where}[{n}]") for n, (kind, one) in enumerate(zip(kinds, told, strict=True)))


def _one_of(kinds: tuple[Any, ...], told: Any, where: str) -> Any:
    """None where it may be; of several dataclasses the one whose fields these are."""
    if told is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    if len(kinds) > 1:
        _checked(isinstance(told, dict), told, "an object", where)
        kinds = tuple(kind for kind in kinds if told.keys() <= {one.name for one in fields(kind)} and told)
        _checked(len(kinds) == 1, told, "an object of a known kind", where)
    return from_plain(kinds[0], told, where)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _dataclass(kind: Any, told: Any, where: str) -> Any:
    _checked(isinstance(told, dict), told, "an object", where)
    known = {one.name: one for one in fields(kind)}
    if strange := sorted(told.keys() - known.keys()):
        raise TraceError(f"{where} has {strange[0]!r}, which is not known here")
    hints = _hints(kind)
    for name, one in known.items():
        optional = one.default is not MISSING or one.default_factory is not MISSING or type(None) in get_args(hints[name])
        if name not in told and not optional:
            raise TraceError(f"{where} has no {name!r}")
    absent = {name: None for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING}
    values = {name: from_plain(hints[name], one, f"{where}.{name}") for name, one in told.items()}
    return _made(kind, {**absent, **values}, where)


def _made(kind: Callable[..., Any], values: Any, where: str) -> Any:
    try:
        return kind(**values) if isinstance(values, dict) else kind(*values)
    except ValueError as error:  # a value that its own type refuses, as a dialect without a word for yes
        raise TraceError(f"{where}: {error}") from error


def _sampler(told: Any, where: str) -> Any:
    _checked(isinstance(told, dict) and told.get("kind") in _SAMPLERS, told, f"a sampler, {', '.join(_SAMPLERS)}", where)
    return from_plain(_SAMPLERS[told["kind"]], {name: one for name, one in told.items() if name != "kind"}, where)


def _checked(fine: bool, told: Any, expected: str, where: str) -> Any:
    if not fine:
        raise TraceError(f"{where} should be {expected}, it is {repr(told)[:80]}")
    return told
