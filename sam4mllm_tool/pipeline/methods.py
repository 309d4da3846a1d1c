"""The methods as flows (flows.py): the paper's `pqpp`, `ppg` and `box`, and `adaptive`; from an expression to a result."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.pipeline.adaptive import Answer, min_confidence, run_adaptive
from sam4mllm_tool.pipeline.requests import Flow, Flows, Transcript
from sam4mllm_tool.protocol import PPG, PQPP, BoxOnly, Dialogue
from sam4mllm_tool.types import Segmentation, SegmentedObject, Size

__all__ = ["METHODS", "Method", "Methods"]

Method: TypeAlias = Literal["pqpp", "ppg", "box", "adaptive"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Methods(Flows):
    """How a pair of models is worked with, from an expression on."""

    def segment(
        self, expression: str, size: Size, method: Method = "pqpp", talk: Transcript | None = None
    ) -> Flow[Segmentation]:
        """The objects that the expression means, as the method finds them, less those that are not sure enough.

        Raises ExpressionError, ReplyError where boxes stay unreadable, BackendError.
        """
        talk = Transcript() if talk is None else talk
        if method == "adaptive":
            found = yield from run_adaptive(self, expression, size, talk)
        else:
            found = yield from self._as_in_the_paper(expression, size, method, talk)
        kept = self._sure_enough(found.objects, talk)
        confidence = found.confidence
        if len(kept) < len(found.objects):
            confidence = min_confidence(kept) if kept else _of_none(found.objects)
        empty = [number for number, thing in enumerate(kept, start=1) if not thing.mask.any()]
        told = self.told(found.expression, size, kept, talk, confidence)
        return replace(told, notes=(*told.notes, *(f"the mask of object {number} is empty" for number in empty)))

    def _as_in_the_paper(self, expression: str, size: Size, method: Method, talk: Transcript) -> Flow[Answer]:
        """Asks until the dialogue is done, then wants masks."""
        dialogue = yield from self.settle(self._start(expression, size, method), talk)
        return Answer(dialogue.expression, (yield from self.masks(dialogue.prompts, size)), None)

    def _start(self, expression: str, size: Size, method: Method) -> Dialogue:
        match method:
            case "pqpp":
                return PQPP.start(expression, size, dialect=self.dialect, sampler=self.sampler, thresholds=self.thresholds)
            case "ppg":
                return PPG.start(expression, size, dialect=self.dialect)
            case "box":
                return BoxOnly.start(expression, size, dialect=self.dialect)
        raise ValueError(f"no such method: {method!r}; there are {', '.join(METHODS)}")

    def _sure_enough(self, objects: Sequence[SegmentedObject], talk: Transcript) -> list[SegmentedObject]:
        kept = []
        for thing in objects:
            if thing.confidence is None or thing.confidence >= self.abstain:
                kept.append(thing)
            else:
                place, sure = format_box(thing.prompt.box), f"confidence {thing.confidence:.2f}"
                talk.notes.append(f"left out the object at {place}: {sure} is below {self.abstain:g}")
        return kept


def _of_none(left_out: Sequence[SegmentedObject]) -> float:
    """How likely none of them is meant, as if they were independent."""
    return math.prod(1 - (thing.confidence or 0.0) for thing in left_out)
