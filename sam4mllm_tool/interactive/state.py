"""The state of an interactive correction: the objects, and what the next step needs to know of the steps before.

The masks travel in the result itself. Everything else is small plain JSON (`InteractiveState.to_dict`), so that it survives a
checkpointer, a restart and a branch of the conversation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, Segmentation, SegmentedObject, Size

__all__ = ["InteractiveState", "RefineError"]


class RefineError(Sam4MllmError, ValueError):
    """A refinement that can't be made. The state before it stays valid."""


@dataclass(frozen=True, eq=False)
class InteractiveState:
    """A result that can be refined.

    Attributes:
        expression: The expression, as refined so far.
        size: Of the image, in pixels.
        objects: The current objects.
        clicks: All clicks about these objects, oldest first.
        rejected: Prompts of the objects that the user rejected, oldest first.
        instructions: The user's instructions, oldest first.
    """

    expression: str
    size: Size
    objects: tuple[SegmentedObject, ...]
    clicks: tuple[PointPrompt, ...] = ()
    rejected: tuple[ObjectPrompt, ...] = ()
    instructions: tuple[str, ...] = ()

    @classmethod
    def from_segmentation(cls, segmentation: Segmentation) -> "InteractiveState":
        """Start from a first result."""
        return cls(segmentation.expression, segmentation.size, segmentation.objects)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the objects as plain JSON, a few hundred bytes."""
        return {
            "expression": self.expression,
            "clicks": [click.to_dict() for click in self.clicks],
            "rejected": [_prompt_to_dict(prompt) for prompt in self.rejected],
            "instructions": list(self.instructions),
        }

    @classmethod
    def from_dict(cls, result: Mapping[str, Any], fields: Mapping[str, Any]) -> "InteractiveState":
        """Read a state back.

        Args:
            result: What `Segmentation.to_dict` wrote.
            fields: What `to_dict` wrote.

        Raises:
            RefineError: They are not what those wrote.
        """
        try:
            segmentation = Segmentation.from_dict(result)
            return cls(
                str(fields["expression"]),
                segmentation.size,
                segmentation.objects,
                tuple(map(PointPrompt.from_dict, fields["clicks"])),
                tuple(map(_prompt_from_dict, fields["rejected"])),
                tuple(map(str, fields["instructions"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RefineError(f"the result can't be read back ({type(error).__name__}: {error}): segment once more") from error

    def reject(self, objects: Sequence[SegmentedObject]) -> "InteractiveState":
        """Return the state without these objects, whose prompts are kept as the latest rejected ones."""
        kept = tuple(segmented for segmented in self.objects if not any(segmented is other for other in objects))
        prompts = tuple(segmented.prompt for segmented in objects)
        earlier = tuple(prompt for prompt in self.rejected if prompt not in prompts)
        return replace(self, objects=kept, rejected=(*earlier, *prompts))

    def replace_object(self, old: SegmentedObject, new: SegmentedObject) -> "InteractiveState":
        """Return the state with `new` in the place of `old`."""
        return replace(self, objects=tuple(new if segmented is old else segmented for segmented in self.objects))


def _prompt_to_dict(prompt: ObjectPrompt) -> dict[str, Any]:
    return {"box": list(prompt.box), "points": [point.to_dict() for point in prompt.points]}


def _prompt_from_dict(fields: Mapping[str, Any]) -> ObjectPrompt:
    return ObjectPrompt(Box(*map(float, fields["box"])), tuple(map(PointPrompt.from_dict, fields["points"])))
