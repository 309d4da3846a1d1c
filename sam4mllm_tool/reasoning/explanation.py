"""A run in plain words: what each step gave, and why the answer is the answer."""

from collections.abc import Mapping, Sequence

from sam4mllm_tool.errors import count_noun, quote_text
from sam4mllm_tool.images.export import format_confidence
from sam4mllm_tool.reasoning.attempts import Attempt
from sam4mllm_tool.reasoning.decision import BestAnswer, EndReason, choose_best

__all__ = ["explain_answer", "explain_attempt", "explain_step"]

_ACTIONS: Mapping[str, str] = {
    "look": "asked for it on the whole image",
    "count": "counted all of its kind",
    "verify": "showed the answer drawn on the image, and asked whether it is meant",
    "zoom": "asked again in a crop",
    "other": "asked for another object than those so far",
    "rephrase": "asked in other words",
}


def explain_step(step: str, before: Sequence[Attempt], after: Sequence[Attempt]) -> str:
    """Say what a step did and what it gave.

    Args:
        step: `look`, or the name of the strategy.
        before: The attempts before the step.
        after: The attempts after it.
    """
    changed = [index for index, attempt in enumerate(after) if index >= len(before) or attempt is not before[index]]
    outcomes = "; ".join(explain_attempt(after[index], index + 1) for index in changed)
    return f"{_ACTIONS.get(step, step)}: {outcomes or 'nothing new'}"


def explain_attempt(attempt: Attempt, number: int) -> str:
    """Say what an attempt gave, and how sure that is.

    Args:
        attempt: The attempt.
        number: Its number, from 1 on.
    """
    wording = f" {quote_text(attempt.expression)}," if attempt.step == "rephrase" else ""
    if attempt.note or attempt.result is None:
        return f"attempt {number},{wording} {attempt.note or 'no readable reply'}"
    if attempt.count is not None:
        enough = "too few for" if attempt.is_too_few else "enough for"
        return f"attempt {number}, {_describe_count(attempt)}, {enough} number {attempt.place}"
    count = len(attempt.boxes)
    answer = count_noun(count, "object") if count else "no such object"
    return f"attempt {number},{wording} {answer}, {_format_confidence(attempt.confidence)}"


def explain_answer(attempts: Sequence[Attempt], ended: EndReason) -> str:
    """Say why a run that ended so has this answer.

    Args:
        attempts: All attempts, in order.
        ended: Why the run ended.
    """
    best = choose_best(attempts)
    if not best.exists:
        return _explain_nothing(attempts, ended)
    answer = _describe_answer(attempts, best)
    match ended:
        case "confident":
            return answer
        case "exhausted":
            return f"{answer}; nothing is left to try, and this is the most probable answer"
        case "abstained":
            return f"not sure enough to answer: {answer}, and nothing is left to try"
        case "budget":
            return f"{answer}; the budget doesn't allow what is left to try"
    return f"{answer}: {_explain_unverified(attempts)}"


def _explain_nothing(attempts: Sequence[Attempt], ended: EndReason) -> str:
    if ended == "budget" and not attempts:
        return "the budget doesn't reach to a first answer"
    notes = dict.fromkeys(attempt.note for attempt in attempts if attempt.note)
    budget = "; the budget doesn't allow what is left to try" if ended == "budget" else ""
    return f"no attempt gave an answer: {'; '.join(notes) or 'no readable reply'}{budget}"


def _describe_answer(attempts: Sequence[Attempt], best: BestAnswer) -> str:
    confidence = _format_confidence(best.confidence)
    if best.is_inferred:
        return f"the MLLM takes back every object that it named, so there is no such object, {confidence}"
    if best.attempt is not None and attempts[best.attempt].is_too_few:
        counted = attempts[best.attempt]
        return f"there are {_describe_count(counted)}, so there is no number {counted.place}, {confidence}"
    if best.is_none:
        return f"the MLLM says that there is no such object, {confidence}"
    index = best.attempt or 0
    attempt = attempts[index]
    count = len(attempt.kept)
    objects = count_noun(count, "object")
    if best.confidence is None:
        return f"the MLLM names {objects}, {confidence}"
    checks = min(len(attempt.checks[kept]) for kept in attempt.kept)
    times = "" if checks == 1 else f" {checks} times"
    source = "" if index == 0 else f", which attempt {index + 1} ({attempt.step}) gave,"
    return (
        f"the MLLM was asked{times} whether the {objects}{source} {'is' if count == 1 else 'are'} what was meant, {confidence}"
    )


def _describe_count(attempt: Attempt) -> str:
    return f"{attempt.count} object{'' if attempt.count == 1 else 's'} in all for {quote_text(attempt.expression)}"


def _explain_unverified(attempts: Sequence[Attempt]) -> str:
    if any(attempt.result is not None and attempt.result.warnings for attempt in attempts):
        return "probabilities mean nothing here, as the warning says"
    return "the MLLM gives no probabilities to verify it by"


def _format_confidence(confidence: float | None) -> str:
    return "never verified" if confidence is None else format_confidence(confidence)
