"""Remove, keep and add objects by the numbers that the result lists: "remove 3", "only the second", "add back 4".

Exactly the objects that were named go, stay or come. A number that isn't listed is refused, with the numbers that are.
"""

from collections.abc import Sequence
from dataclasses import replace

from sam4mllm_tool.interactive.instructions import Instruction
from sam4mllm_tool.interactive.interactive_objects import InteractiveObject, ObjectCandidate
from sam4mllm_tool.interactive.number_listing import format_numbers, list_numbers
from sam4mllm_tool.interactive.number_references import NumberItem, NumberReference
from sam4mllm_tool.interactive.other_objects import segment_known_boxes
from sam4mllm_tool.interactive.state import InteractiveState, RefineError, RefineStep
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.protocol.references import pluralize_noun, singularize_noun, split_noun_phrase
from sam4mllm_tool.types import SegmentedObject

__all__ = [
    "add_back",
    "add_candidates",
    "add_numbered",
    "keep_numbered",
    "list_nouns",
    "refuse_unclear",
    "remove_numbered",
    "resolve_numbers",
]


def remove_numbered(_run: RunContext, state: InteractiveState, instruction: Instruction) -> RefineStep:
    """Leave out the objects of these numbers, and no others."""
    yield from ()
    count = len(state.objects)
    numbers = resolve_numbers(state, instruction, range(1, count + 1))
    if absent := [number for number in numbers if number > count]:
        raise RefineError(f"{_number(absent)} can't be removed: {list_numbers(state)}")
    removed = [segmented for segmented in state.objects if segmented.number in numbers]
    return state.reject(removed), f"without {_number(numbers)}"


def keep_numbered(run: RunContext, state: InteractiveState, instruction: Instruction) -> RefineStep:
    """Show exactly these numbers, be they shown, choices or left out; what else is shown is left out."""
    pool = range(1, len(state.objects) + len(state.choices) + 1)
    numbers = resolve_numbers(state, instruction, pool)
    dropped = [segmented for segmented in state.objects if segmented.number not in numbers]
    candidates = _list_candidates(state, numbers)
    words = f"{_number(numbers)} alone"
    if not dropped and not candidates:
        return state, f"{words}, which is the result already"
    return (yield from add_candidates(run, replace(state.reject(dropped), clicks=()), candidates)), words


def add_numbered(run: RunContext, state: InteractiveState, instruction: Instruction) -> RefineStep:
    """Add choices, or objects that were left out, by their numbers."""
    count = len(state.objects)
    latest_last = [*range(count + 1, len(state.numbered) + 1)][::-1]
    numbers = resolve_numbers(state, instruction, latest_last, positions=False)
    if present := [number for number in numbers if number <= count]:
        raise RefineError(f"{_number(present)} is in the result already: {list_numbers(state)}")
    return (yield from add_candidates(run, state, _list_candidates(state, numbers))), f"{_number(numbers)} as well"


def add_back(run: RunContext, state: InteractiveState, instruction: Instruction) -> RefineStep:
    """Add what the latest step left out that left something out, or everything that was left out."""
    if not state.rejected:
        raise RefineError("nothing was left out that could be added back")
    latest = max(candidate.step for candidate in state.rejected)
    candidates = [each for each in state.rejected if instruction.what == "all" or each.step == latest]
    words = "all that was left out" if instruction.what == "all" else "what was left out last"
    return (yield from add_candidates(run, state, candidates)), f"{words} is back"


def refuse_unclear(_run: RunContext, state: InteractiveState, instruction: Instruction) -> RefineStep:
    """Refuse words about numbers that can't be read."""
    yield from ()
    raise RefineError(
        f"'{instruction.what}' isn't clear; the result stays. Say numbers as they are listed, such as 'remove 2', "
        f"'keep 1 and 2' or 'add back 3': {list_numbers(state)}"
    )


def add_candidates(run: RunContext, state: InteractiveState, candidates: Sequence[ObjectCandidate]) -> Flow[InteractiveState]:
    """Return the state with the candidates' objects added, each with the expression that it was found by."""
    for candidate in candidates:
        objects: list[SegmentedObject] = []
        if candidate.expression and not candidate.prompt.points:
            objects = yield from segment_known_boxes(run, candidate.expression, [candidate.box])
        objects = objects or (yield from run.segment_prompts([candidate.prompt]))
        state = state.add_objects(objects, candidate.expression)
    return state


def list_nouns(state: InteractiveState) -> set[str]:
    """Return the nouns that may be said with a number, "mug" and "mugs"."""
    singulars = {_noun(candidate) for candidate in state.numbered.values()}
    return {*singulars, *map(pluralize_noun, singulars)} - {""}


def resolve_numbers(
    state: InteractiveState, instruction: Instruction, pool: Sequence[int], *, positions: bool = True
) -> list[int]:
    """Return the numbers that an instruction says, in order, each once.

    Args:
        state: Has the numbers.
        instruction: One with numbers.
        pool: The numbers that "the first" and "the last" count in.
        positions: Whether "the second" is the second of the pool rather than the number 2.

    Raises:
        RefineError: One of them is not listed.
    """
    reference = instruction.numbers or NumberReference(())
    numbers = [
        number for item in reference.items for number in _resolve_item(state, item, reference.direction, pool, positions)
    ]
    return sorted(set(numbers))


def _resolve_item(
    state: InteractiveState, item: NumberItem, direction: str, pool: Sequence[int], positions: bool
) -> Sequence[int]:
    listed = state.numbered
    noun = singularize_noun(item.noun)
    ordered = [number for number in pool if noun in ("", _noun(listed[number]))]
    if direction:
        axis = 0 if direction in ("left", "right") else 1
        ordered.sort(key=lambda number: listed[number].box.center[axis], reverse=direction in ("right", "bottom"))
    is_listed = item.value in listed and noun in ("", _noun(listed[item.value]))
    is_number = item.kind == "number" or (item.kind == "ordinal" and not (positions or direction or noun))
    if is_number or (item.kind == "ordinal" and item.value > len(ordered) and not direction):
        if not is_listed:
            what = f"number {item.value}" + (f" that is a {noun}" if noun and item.value in listed else "")
            raise RefineError(f"there is no {what}; the result stays: {list_numbers(state)}")
        return [item.value]
    if item.value > len(ordered):
        raise RefineError(f"there are not {item.value} to count; the result stays: {list_numbers(state)}")
    match item.kind:
        case "first":
            return ordered[: item.value]
        case "last":
            return ordered[-item.value :]
        case "from_last":
            return [ordered[-item.value]]
    return [ordered[item.value - 1]]


def _list_candidates(state: InteractiveState, numbers: Sequence[int]) -> list[ObjectCandidate]:
    listed = [state.numbered[number] for number in numbers]
    return [each for each in listed if isinstance(each, ObjectCandidate)]


def _noun(listed: InteractiveObject | ObjectCandidate) -> str:
    """Return the head noun of its expression, in the singular and in lower case."""
    return singularize_noun(split_noun_phrase(listed.expression)[1].lower())


def _number(numbers: Sequence[int]) -> str:
    return f"number{'s' if len(numbers) > 1 else ''} {format_numbers(numbers)}"
