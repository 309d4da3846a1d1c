"""Another object in the place of one, all others beside it, and the way back: "no, the other one", "both", "the one before"."""

from collections.abc import Sequence
from dataclasses import replace

from sam4mllm_tool.interactive.instructions import Instruction
from sam4mllm_tool.interactive.interactive_objects import InteractiveObject, ObjectCandidate, match_objects
from sam4mllm_tool.interactive.number_listing import list_boxes, quote_expression
from sam4mllm_tool.interactive.number_selection import add_candidates
from sam4mllm_tool.interactive.other_objects import find_other_boxes, segment_known_boxes
from sam4mllm_tool.interactive.state import InteractiveState, RefineError, RefineStep
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.protocol.references import is_plural, pluralize
from sam4mllm_tool.types import Box, ObjectPrompt

__all__ = ["add_others", "find_choices", "go_back", "take_other"]

_MIN_PROBABILITY = 0.5
"""Probability from which on another object is a choice."""


def take_other(run: RunContext, state: InteractiveState, _instruction: Instruction) -> RefineStep:
    """Reject the objects that came last, and take another one that their expression means: a choice, or one that is found."""
    if not state.objects and not state.rejected:
        raise RefineError("there is no object that another one could replace: describe what to segment")
    expression = state.latest_expression
    remaining = replace(state.reject(_latest_objects(state)), clicks=())
    words = f"another {quote_expression(expression)} than {list_boxes([each.box for each in remaining.rejected])}"
    if state.choices:
        return (yield from add_candidates(run, remaining, state.choices[:1])), words
    boxes = yield from _find_others(run, expression, remaining.known_prompts)
    if not boxes:
        raise RefineError(
            f"no other {quote_expression(expression)} can be found; the result stays. Left out so far: "
            f"{list_boxes([each.box for each in remaining.rejected])}. Describe the object in other words, or click on it"
        )
    choices: tuple[ObjectCandidate, ...] = ()
    if len(boxes) > 1 and not is_plural(expression):
        choices = yield from _rate_choices(run, expression, boxes)
        boxes = [choice.box for choice in choices[:1]]
    objects = yield from segment_known_boxes(run, expression, boxes)
    return replace(remaining, choices=choices).add_objects(objects, expression), words


def _latest_objects(state: InteractiveState) -> list[InteractiveObject]:
    """Return the objects that the latest step brought which brought any: after "also the mug", the mug."""
    latest = max((segmented.step for segmented in state.objects), default=0)
    return [segmented for segmented in state.objects if segmented.step == latest]


def add_others(run: RunContext, state: InteractiveState, _instruction: Instruction) -> RefineStep:
    """Keep the objects, and add all others that the expression means: the choices, or those found, or those left out."""
    expression = state.latest_expression
    words = f"the other {quote_expression(expression)} as well"
    if state.choices:
        return (yield from add_candidates(run, state, state.choices)), words
    if boxes := (yield from _find_others(run, expression, state.known_prompts)):
        return state.add_objects((yield from segment_known_boxes(run, expression, boxes)), expression), words
    if left_out := [candidate for candidate in state.rejected if candidate.expression == expression]:
        return (yield from add_candidates(run, state, left_out)), words
    raise RefineError(f"no further {quote_expression(expression)} can be found; the result stays. Describe it, or click on it")


def find_choices(run: RunContext, state: InteractiveState) -> Flow[InteractiveState]:
    """Look for other objects that a singular expression may mean, where a single object is shown.

    The MLLM is asked for others and about each of them, two rounds at most.

    Returns:
        The state with its choices; the state itself where nothing else may be meant.
    """
    if len(state.objects) != 1 or is_plural(state.expression):
        return state
    boxes = yield from find_other_boxes(run, [state.expression], state.known_prompts)
    if not boxes:
        return state
    choices = yield from _rate_choices(run, state.expression, boxes)
    return replace(state, choices=tuple(each for each in choices if (each.confidence or 0) >= _MIN_PROBABILITY))


def _find_others(run: RunContext, expression: str, known: Sequence[ObjectPrompt]) -> Flow[Sequence[Box]]:
    """Find boxes of other objects, by the expression itself and by its plural."""
    expressions = list(dict.fromkeys((expression, pluralize(expression))))
    return (yield from find_other_boxes(run, expressions, known))


def _rate_choices(run: RunContext, expression: str, boxes: Sequence[Box]) -> Flow[tuple[ObjectCandidate, ...]]:
    """Return the boxes as choices with the probability that the expression means their object, highest first."""
    probabilities = yield from run.verify_boxes(expression, boxes)
    choices = [
        ObjectCandidate(ObjectPrompt(box), expression, confidence=probability)
        for box, probability in zip(boxes, probabilities, strict=True)
    ]
    return tuple(sorted(choices, key=lambda choice: -(choice.confidence or 0)))


def go_back(run: RunContext, state: InteractiveState, _instruction: Instruction) -> RefineStep:
    """Go back to the state before the last change; where that isn't known, undo what the last step left out and added."""
    if state.previous is not None:
        earlier = state.previous
        gone = [each for each in state.objects if not match_objects([each], earlier.objects)]
        rejected = (*earlier.rejected, *(segmented.as_candidate(state.step) for segmented in gone))
        return replace(earlier, rejected=rejected, instructions=state.instructions, step=state.step), "the result before"
    if not state.rejected:
        raise RefineError("there is no earlier result to go back to")
    latest = max(candidate.step for candidate in state.rejected)
    candidates = [candidate for candidate in state.rejected if candidate.step == latest]
    remaining = state.reject([segmented for segmented in state.objects if segmented.step == latest])
    words = f"the one before, {list_boxes([candidate.box for candidate in candidates])}"
    return (yield from add_candidates(run, replace(remaining, clicks=()), candidates)), words
