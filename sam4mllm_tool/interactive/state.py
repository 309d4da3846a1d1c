"""The state of an interactive correction: the objects, and what the next step needs to know of the steps before.

The masks travel in the result itself. Everything else is small plain JSON (`InteractiveState.to_dict`), so that it survives a
checkpointer, a restart and a branch of the conversation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.interactive.interactive_objects import (
    InteractiveObject,
    ObjectCandidate,
    join_expressions,
    match_objects,
    number_objects,
)
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.types import ObjectPrompt, PointPrompt, Segmentation, SegmentedObject, Size

__all__ = ["InteractiveState", "RefineError", "RefineStep"]

_MAX_LEFT_OUT = 8
"""Objects that were left out and can be named by number, the latest ones."""


class RefineError(Sam4MllmError, ValueError):
    """A refinement that can't be made. The state before it stays valid."""


@dataclass(frozen=True, eq=False)
class InteractiveState:
    """A result that can be refined.

    The objects are numbered from 1 in their order, as every listing of a result numbers them. The numbers go on with the
    choices and with the objects that were left out (`numbered`).

    Attributes:
        expression: The expression, as refined so far.
        size: Of the image, in pixels.
        objects: The current objects. Objects without an expression of their own get the state's.
        clicks: All clicks about these objects, oldest first.
        rejected: The objects that were left out, oldest first; never one that is shown, or that is a choice.
        instructions: The user's instructions, oldest first.
        choices: Other objects that the expression may mean, the most probable first; never one that is shown.
        step: Number of refinements so far.
        previous: The state before the last change, for going back; not part of `to_dict`.
    """

    expression: str
    size: Size
    objects: tuple[InteractiveObject, ...]
    clicks: tuple[PointPrompt, ...] = ()
    rejected: tuple[ObjectCandidate, ...] = ()
    instructions: tuple[str, ...] = ()
    choices: tuple[ObjectCandidate, ...] = ()
    step: int = 0
    previous: "InteractiveState | None" = None

    def __post_init__(self) -> None:
        objects = number_objects(self.objects, self.expression)
        choices = tuple(each for each in self.choices if not each.is_among(objects))
        rejected = tuple(each for each in self.rejected if not each.is_among((*objects, *choices)))
        for name, value in {"objects": objects, "choices": choices, "rejected": rejected}.items():
            object.__setattr__(self, name, value)

    @classmethod
    def create(
        cls, expression: str, size: Size, objects: Sequence[SegmentedObject], *, clicks: Sequence[PointPrompt] = ()
    ) -> "InteractiveState":
        """Start from segmented objects, which are numbered in their order."""
        return cls(expression, size, number_objects(objects, expression), tuple(clicks))

    @classmethod
    def from_segmentation(cls, *segmentations: Segmentation) -> "InteractiveState":
        """Start from a first result, or from several on one image: each object keeps its expression, and is shown once.

        Raises:
            RefineError: There is no result, or they are of images of different sizes.
        """
        sizes = {segmentation.size for segmentation in segmentations}
        if len(sizes) != 1:
            raise RefineError(f"expected results on one image, got {len(segmentations)} of {len(sizes)} sizes")
        objects: list[InteractiveObject] = []
        for segmentation in segmentations:
            new = number_objects(segmentation.objects, segmentation.expression)
            duplicates = match_objects(new, objects)
            objects += [each for each in new if not any(each is duplicate for duplicate in duplicates)]
        expression = " and ".join(dict.fromkeys(segmentation.expression for segmentation in segmentations))
        return cls(expression, sizes.pop(), tuple(objects))

    def to_dict(self) -> dict[str, Any]:
        """Return what the result itself doesn't hold, as plain JSON, a few hundred bytes."""
        return {
            "expression": self.expression,
            "clicks": [click.to_dict() for click in self.clicks],
            "rejected": [candidate.to_dict() for candidate in self.rejected],
            "choices": [candidate.to_dict() for candidate in self.choices],
            "instructions": list(self.instructions),
            "step": self.step,
        }

    @classmethod
    def from_dict(cls, result: Mapping[str, Any], values: Mapping[str, Any]) -> "InteractiveState":
        """Read a state back.

        Args:
            result: What `Segmentation.to_dict` wrote of this state's objects.
            values: What `to_dict` wrote. What versions before 0.3 wrote is read, too: it has no choices, and one expression.

        Raises:
            RefineError: They are not what those wrote.
        """
        try:
            segmentation = Segmentation.from_dict(result)
            expression = str(values["expression"])
            objects = [
                InteractiveObject.of(segmented, segmented.expression or "", step=int(fields.get("step", 0)))
                for segmented, fields in zip(number_objects(segmentation.objects, expression), result["objects"], strict=True)
            ]
            rejected, choices = (
                tuple(ObjectCandidate.from_dict(each, expression) for each in values.get(key, ()))
                for key in ("rejected", "choices")
            )
            clicks = tuple(map(PointPrompt.from_dict, values["clicks"]))
            instructions, step = tuple(map(str, values["instructions"])), int(values.get("step", 0))
            return cls(expression, segmentation.size, tuple(objects), clicks, rejected, instructions, choices, step)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RefineError(f"the result can't be read back ({type(error).__name__}: {error}): segment once more") from error

    @property
    def latest_expression(self) -> str:
        """The expression of the object that came last, which "the blue one" completes; the state's where it has none."""
        latest = max(self.objects, key=lambda each: (each.step, each.number), default=None)
        return (latest and latest.expression) or self.expression

    @property
    def left_out(self) -> tuple[ObjectCandidate, ...]:
        """The rejected objects that can be named by number: the latest ones, those of one step in their order."""
        return tuple(sorted(self.rejected, key=lambda candidate: -candidate.step)[:_MAX_LEFT_OUT])

    @property
    def known_prompts(self) -> list[ObjectPrompt]:
        """The prompts of all objects that are not to be found once more: those left out, and those shown."""
        return [*(candidate.prompt for candidate in self.rejected), *(segmented.prompt for segmented in self.objects)]

    @property
    def numbered(self) -> dict[int, InteractiveObject | ObjectCandidate]:
        """Everything that has a number: the objects, then the choices, then the objects that were left out."""
        return dict(enumerate((*self.objects, *self.choices, *self.left_out), start=1))

    def shows_same(self, other: "InteractiveState") -> bool:
        """Whether the other state shows the same masks in the same order."""
        return len(self.objects) == len(other.objects) and all(
            np.array_equal(mine.mask, theirs.mask) for mine, theirs in zip(self.objects, other.objects, strict=True)
        )

    def with_objects(self, objects: Sequence[InteractiveObject]) -> "InteractiveState":
        """Return the state with these objects, and with their expressions as its expression."""
        return replace(self, objects=tuple(objects), expression=join_expressions(objects) or self.expression)

    def add_objects(self, objects: Sequence[SegmentedObject], expression: str) -> "InteractiveState":
        """Return the state with further objects that this expression means; empty for objects that a click alone chose."""
        new = [InteractiveObject.of(segmented, expression, step=self.step) for segmented in objects]
        return self.with_objects([*self.objects, *new])

    def reject(self, objects: Sequence[InteractiveObject]) -> "InteractiveState":
        """Return the state without these objects, which become the latest rejected ones."""
        kept = [segmented for segmented in self.objects if not any(segmented is other for other in objects)]
        new = [segmented.as_candidate(self.step) for segmented in objects]
        prompts: list[ObjectPrompt] = [candidate.prompt for candidate in new]
        earlier = [candidate for candidate in self.rejected if candidate.prompt not in prompts]
        return replace(self.with_objects(kept), rejected=(*earlier, *new))

    def replace_object(self, old: InteractiveObject, new: SegmentedObject) -> "InteractiveState":
        """Return the state with another mask of the object in its place."""
        new = InteractiveObject.of(new, old.expression, old.number, step=old.step)
        return replace(self, objects=tuple(new if segmented is old else segmented for segmented in self.objects))


RefineStep: TypeAlias = Flow[tuple[InteractiveState, str]]
"""Comes to the next state and how the instruction was understood."""
