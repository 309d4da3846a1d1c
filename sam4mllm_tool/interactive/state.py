"""A result that can be refined: the objects, and what of the conversation so far the next step needs.

The masks travel in the result itself; what is kept beside them is small plain JSON (`Found.state`), so that it survives a
checkpointer, a restart and a branch of the conversation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, Segmentation, SegmentedObject, Size

__all__ = ["Found", "RefineError", "point_from", "point_to", "prompt_from", "prompt_to", "start"]


class RefineError(Sam4MllmError, ValueError):
    """A refinement that can't be made. The result it was asked for stays as it was."""


@dataclass(frozen=True, eq=False)
class Found:
    """expression: what was asked for, as refined so far. clicks: all that were given about these objects, oldest first.
    rejected: prompts of objects that were said not to be meant, oldest first. instructions: what was asked, in order."""

    expression: str
    size: Size
    objects: tuple[SegmentedObject, ...]
    clicks: tuple[PointPrompt, ...] = ()
    rejected: tuple[ObjectPrompt, ...] = ()
    instructions: tuple[str, ...] = ()

    def state(self) -> dict[str, Any]:
        """Plain JSON, a few hundred bytes: all but the objects."""
        return {
            "expression": self.expression,
            "clicks": [point_to(click) for click in self.clicks],
            "rejected": [prompt_to(prompt) for prompt in self.rejected],
            "instructions": list(self.instructions),
        }

    @classmethod
    def read(cls, result: Mapping[str, Any], state: Mapping[str, Any]) -> "Found":
        """Inverse of `Segmentation.to_dict` and `state` together. Raises RefineError where they are not what those wrote."""
        try:
            whole = Segmentation.from_dict(result)
            return cls(
                str(state["expression"]),
                whole.size,
                whole.objects,
                tuple(point_from(click) for click in state["clicks"]),
                tuple(prompt_from(prompt) for prompt in state["rejected"]),
                tuple(map(str, state["instructions"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RefineError(f"the result can't be read back ({type(error).__name__}: {error}): segment once more") from error

    def rejecting(self, things: Sequence[SegmentedObject]) -> "Found":
        """Without these objects, which are kept as rejected."""
        left = tuple(thing for thing in self.objects if not any(thing is other for other in things))
        gone = tuple(thing.prompt for thing in things)
        kept = tuple(prompt for prompt in self.rejected if prompt not in gone)
        return replace(self, objects=left, rejected=(*kept, *gone))


def start(segmentation: Segmentation) -> Found:
    """A first result, nothing refined yet."""
    return Found(segmentation.expression, segmentation.size, segmentation.objects)


def point_to(point: PointPrompt) -> dict[str, Any]:
    """As `SegmentedObject.to_dict` writes it."""
    return {"x": point.x, "y": point.y, "label": point.label, "confidence": point.confidence}


def point_from(point: Mapping[str, Any]) -> PointPrompt:
    """Inverse of `point_to`."""
    confidence = point.get("confidence")
    label = int(point["label"])
    if label not in (0, 1):
        raise ValueError(f"expected a label of 0 or 1, got {label}")
    return PointPrompt(
        float(point["x"]), float(point["y"]), 1 if label else 0, None if confidence is None else float(confidence)
    )


def prompt_to(prompt: ObjectPrompt) -> dict[str, Any]:
    """Plain JSON."""
    return {"box": list(prompt.box), "points": [point_to(point) for point in prompt.points]}


def prompt_from(prompt: Mapping[str, Any]) -> ObjectPrompt:
    """Inverse of `prompt_to`."""
    return ObjectPrompt(Box(*map(float, prompt["box"])), tuple(point_from(point) for point in prompt["points"]))
