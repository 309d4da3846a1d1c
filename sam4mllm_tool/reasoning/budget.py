"""How much work a flow may take, and the meter that holds it to that: rounds, tokens, seconds.

Every need of a flow (flows.py) is weighed before it is met. One that could take more than is left is not met: the flow gets
`OverBudgetError` thrown in where it waits, and gives what it has. What was spent is a plain value that can be stored and gone
on from. No model in here; the clock is given.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from sam4mllm_tool.errors import OverBudgetError
from sam4mllm_tool.pipeline.requests import Flow, MLLMRequest, Request
from sam4mllm_tool.types import FreeText, Question, Reply

__all__ = ["Budget", "Meter", "Spent"]

T = TypeVar("T")

PICTURE_TOKENS = 4096
"""What a picture is taken to cost until a reply tells: more than most models make of one."""
_TURN_TOKENS = 16
"""What a chat template may put around a turn."""
_SLOWER = 2.0
"""How many times the slowest call so far the next one may take."""


@dataclass(frozen=True)
class Budget:
    """What may be spent in all. None: as much as it takes.

    rounds: how often a model is asked, whatever the number of questions side by side. tokens: read and written, the picture's
    counted with every question. seconds: of work, waiting between steps not counted. Raises ValueError for a negative one.
    """

    rounds: int = 6
    tokens: int | None = None
    seconds: float | None = 60.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            whole = name != "seconds"
            fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and value >= 0
            if not fits and not (value is None and name != "rounds"):
                raise ValueError(f"expected {name} of a budget as a number of 0 or more, got {value!r}")

    def at_most(self, limits: Mapping[str, Any]) -> "Budget":
        """With what `limits` has of rounds, tokens and seconds, where that is less. Raises ValueError for anything else."""
        if unknown := set(limits) - {"rounds", "tokens", "seconds"}:
            raise ValueError(f"a budget has rounds, tokens and seconds, not {', '.join(sorted(map(str, unknown)))}")
        asked = Budget(**{"rounds": self.rounds, "tokens": None, "seconds": None} | dict(limits))
        return Budget(
            min(self.rounds, asked.rounds),
            min((n for n in (self.tokens, asked.tokens) if n is not None), default=None),
            min((s for s in (self.seconds, asked.seconds) if s is not None), default=None),
        )


@dataclass(frozen=True)
class Spent:
    """What was spent so far, and what that tells about the next step.

    picture_tokens: the most that the picture can be, None until a reply tells. slowest: seconds of the slowest call so far.
    """

    rounds: int = 0
    tokens: int = 0
    seconds: float = 0.0
    picture_tokens: int | None = None
    slowest: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; `Spent(**...)` reads it."""
        return asdict(self)


class Meter:
    """Holds flows to a budget, going on from what was spent.

    clock: seconds from whenever. picture_tokens: what a picture is taken to cost until a reply tells.
    """

    def __init__(
        self,
        budget: Budget,
        spent: Spent = Spent(),
        *,
        clock: Callable[[], float] = time.monotonic,
        picture_tokens: int = PICTURE_TOKENS,
    ) -> None:
        self.budget, self.spent = budget, spent
        self._clock, self._picture_tokens = clock, picture_tokens

    def affords(self, *, rounds: int = 0, tokens: int = 0) -> bool:
        """Whether so many rounds and tokens are left, and time for one more call as slow as any so far, and half again."""
        budget, spent = self.budget, self.spent
        return (
            spent.rounds + rounds <= budget.rounds
            and (budget.tokens is None or spent.tokens + tokens <= budget.tokens)
            and (budget.seconds is None or spent.seconds + max(_SLOWER * spent.slowest, 1e-9) <= budget.seconds)
        )

    def metered(self, flow: Flow[T]) -> Flow[T]:
        """The flow, with OverBudgetError thrown in at what can't be afforded."""
        try:
            need = next(flow)
            while True:
                if not self._can_meet(need):
                    need = flow.throw(OverBudgetError("the next step could take more than what is left of the budget"))
                    continue
                began = self._clock()
                result = yield need
                self._count(need, result, self._clock() - began)
                need = flow.send(result)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def took(self, seconds: float, *, rounds: int = 0, tokens: int = 0) -> None:
        """Counts a call that is not a flow's."""
        spent = self.spent
        self.spent = replace(
            spent,
            rounds=spent.rounds + rounds,
            tokens=spent.tokens + tokens,
            seconds=spent.seconds + seconds,
            slowest=max(spent.slowest, seconds),
        )

    def _can_meet(self, need: Request) -> bool:
        if isinstance(need, MLLMRequest):
            return self.affords(rounds=1, tokens=self._most(need.questions))
        return self.affords()

    def _count(self, need: Request, result: Any, seconds: float) -> None:
        if not isinstance(need, MLLMRequest):
            return self.took(seconds)
        replies: Sequence[Reply] = result
        told = [reply.tokens for reply in replies if reply.tokens is not None]
        tokens = sum(map(sum, told)) if len(told) == len(need.questions) else self._most(need.questions)
        self.took(seconds, rounds=1, tokens=tokens)
        if told:
            seen = [count.read for count in told]
            known = self.spent.picture_tokens
            self.spent = replace(self.spent, picture_tokens=min(seen if known is None else [known, *seen]))
        return None

    def _most(self, questions: Sequence[Question]) -> int:
        """More tokens than the questions and their answers can take: a token is at least a byte of text."""
        known = self.spent.picture_tokens
        picture = self._picture_tokens if known is None else known
        return sum(picture + _text_tokens(question) for question in questions)


def _text_tokens(question: Question) -> int:
    read = sum(len(turn.text.encode("utf-8", "surrogatepass")) + _TURN_TOKENS for turn in question.turns)
    answer = question.answer
    written = answer.max_tokens if isinstance(answer, FreeText) else answer.count * max(map(len, answer.words))
    return read + written
