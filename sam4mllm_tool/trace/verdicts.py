"""The recorded result, read back: `Segmentation.to_dict()` with its masks as run lengths."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from sam4mllm_tool.trace.codec import from_plain
from sam4mllm_tool.trace.schema import Runs, TraceError
from sam4mllm_tool.types import Box, PointPrompt, Size, Turn

__all__ = ["Answer", "AnsweredObject", "read_answer"]


@dataclass(frozen=True)
class AnsweredObject:
    """One object of the answer, as in `types.SegmentedObject`."""

    box: Box
    points: tuple[PointPrompt, ...]
    score: float
    mask: Runs
    confidence: float | None = None


@dataclass(frozen=True)
class Answer:
    """As in `types.Segmentation`."""

    expression: str
    size: Size
    objects: tuple[AnsweredObject, ...]
    turns: tuple[Turn, ...]
    notes: tuple[str, ...]
    confidence: float | None = None


def read_answer(result: Mapping[str, Any]) -> Answer:
    """Of a result's JSON; what another version adds to it is passed over. Raises TraceError naming the place."""
    size = from_plain(dict[str, int], result.get("size"), "trace.result.size")
    told = {**result, "size": [size.get("width"), size.get("height")]}
    objects = from_plain(tuple[dict[str, Any], ...], told.get("objects"), "trace.result.objects")
    things = [_known(AnsweredObject, one, f"trace.result.objects[{number}]") for number, one in enumerate(objects)]
    rest = _known(Answer, {**told, "objects": []}, "trace.result")
    return Answer(rest.expression, rest.size, tuple(things), rest.turns, rest.notes, rest.confidence)


def _known(kind: Any, told: Mapping[str, Any], where: str) -> Any:
    names = {one.name for one in fields(kind)} & get_type_hints(kind).keys()
    if missing := sorted(names - told.keys() - {"confidence"}):
        raise TraceError(f"{where} has no {missing[0]!r}")
    return from_plain(kind, {name: one for name, one in told.items() if name in names}, where)
