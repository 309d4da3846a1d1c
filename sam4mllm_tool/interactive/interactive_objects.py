"""The objects of an interactive correction: those that are shown, each with its expression and number, and those that can be.

An object keeps the expression that it was segmented by through every refinement, so that it is verified and described by that
one, and not by "all mugs and the black spoon". Its number is the one that the result lists it by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from sam4mllm_tool.geometry.boxes import SAME_OBJECT_IOU, mask_iou, mask_to_box
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, SegmentedObject

__all__ = ["InteractiveObject", "ObjectCandidate", "join_expressions", "match_objects", "number_objects"]

_SAME_BOX_IOU = 0.8
"""IoU from which on an object that was left out is the one that is shown; objects around one centre have less."""


@dataclass(frozen=True, eq=False)
class InteractiveObject(SegmentedObject):
    """An object that is shown.

    Attributes:
        expression: What it was segmented by; empty where a click alone chose it.
        step: Number of the refinement that brought it in, 0 for the first result.
        number: The number that the result lists it by, from 1.
    """

    expression: str = ""
    step: int = 0
    number: int = 0

    @property
    def box(self) -> Box:
        """The box that the segmenter was prompted with, in pixels."""
        return self.prompt.box

    @classmethod
    def of(cls, segmented: SegmentedObject, expression: str, number: int = 0, *, step: int = 0) -> "InteractiveObject":
        """Return a segmented object with these facts about it."""
        values = {field.name: getattr(segmented, field.name) for field in fields(SegmentedObject)}
        return cls(**{**values, "expression": expression, "step": step, "number": number})

    def as_candidate(self, step: int) -> "ObjectCandidate":
        """Return the object as one that this step left out."""
        return ObjectCandidate(self.prompt, self.expression, step, self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON, the mask as a COCO RLE."""
        return {**super().to_dict(), "step": self.step, "number": self.number}


@dataclass(frozen=True)
class ObjectCandidate:
    """An object that is not shown and can be: a choice, or an object that was left out.

    Attributes:
        prompt: What the segmenter is prompted with. It has no points where the MLLM was not asked about any yet.
        expression: What it was found by; empty where a click alone chose it.
        step: Number of the refinement that left it out.
        confidence: Probability that the expression means it; None where unknown.
    """

    prompt: ObjectPrompt
    expression: str = ""
    step: int = 0
    confidence: float | None = None

    @property
    def box(self) -> Box:
        """Its box, in pixels."""
        return self.prompt.box

    def is_among(self, others: "Sequence[InteractiveObject | ObjectCandidate]") -> bool:
        """Whether it is one of these: its box is close to the box of one, or of its mask."""
        masks = [each.mask for each in others if isinstance(each, InteractiveObject)]
        boxes = [*(each.box for each in others), *(mask_to_box(mask) for mask in masks if mask.any())]
        return any(self.box.iou(box) >= _SAME_BOX_IOU for box in boxes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        points = [point.to_dict() for point in self.prompt.points]
        facts = {"expression": self.expression, "step": self.step, "confidence": self.confidence}
        return {"box": list(self.box), "points": points, **facts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], expression: str) -> "ObjectCandidate":
        """Read what `to_dict` wrote; `expression` is that of a candidate that was written without its own."""
        prompt = ObjectPrompt(Box(*map(float, values["box"])), tuple(map(PointPrompt.from_dict, values["points"])))
        confidence = values.get("confidence")
        found_by, step = str(values.get("expression", expression)), int(values.get("step", 0))
        return cls(prompt, found_by, step, None if confidence is None else float(confidence))


def match_objects(objects: Sequence[InteractiveObject], others: Sequence[SegmentedObject]) -> list[InteractiveObject]:
    """Return the objects whose mask is also one of the others'."""
    return [each for each in objects if any(mask_iou(each.mask, other.mask) >= SAME_OBJECT_IOU for other in others)]


def join_expressions(objects: Sequence[InteractiveObject]) -> str:
    """Return the expressions of the objects as one, each once: "all mugs and the black spoon"; empty where none has one."""
    return " and ".join(dict.fromkeys(each.expression for each in objects if each.expression))


def number_objects(objects: Sequence[SegmentedObject], expression: str) -> tuple[InteractiveObject, ...]:
    """Number the objects from 1; those that have no expression of their own get this one."""
    numbered = []
    for number, segmented in enumerate(objects, start=1):
        if not isinstance(segmented, InteractiveObject):
            known = expression if segmented.expression is None else segmented.expression
            numbered.append(InteractiveObject.of(segmented, known, number))
        else:
            numbered.append(segmented if segmented.number == number else replace(segmented, number=number))
    return tuple(numbered)
