"""How much work a run may take, and the hook that holds it to that: MLLM calls, tokens, seconds, requests to a server.

Every request is weighed before it is served. One that could take more than is left is refused: `OverBudgetError` is thrown into
the flow, which returns what it has. What was spent is a plain value that can be stored, and a later run goes on from it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sam4mllm_tool.errors import OverBudgetError
from sam4mllm_tool.pipeline.requests import MLLMRequest, Request, Response, RunHook
from sam4mllm_tool.types import FreeText, Question, Reply

__all__ = ["Budget", "Meter", "Spent"]

IMAGE_TOKENS = 4096
"""What an image is assumed to cost until a reply tells: more than most models make of one."""
_TURN_TOKENS = 16
"""What a chat template may put around a turn."""
_SAFETY_FACTOR = 2.0
"""How many times the slowest call so far the next one may take."""


@dataclass(frozen=True)
class Budget:
    """What may be spent in all. None stands for no limit.

    Args:
        rounds: Calls of the MLLM, however many questions each holds.
        tokens: Tokens read and written, the image's counted with every question.
        seconds: Seconds of work; waiting between steps does not count.
        requests: Requests to the server of a remote MLLM, repeated ones included.

    Raises:
        ValueError: A limit is negative or no number.
    """

    rounds: int = 6
    tokens: int | None = None
    seconds: float | None = 60.0
    requests: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            kind = int | float if name == "seconds" else int
            is_valid = isinstance(value, kind) and not isinstance(value, bool) and value >= 0
            if not is_valid and not (value is None and name != "rounds"):
                raise ValueError(f"expected {name} of a budget as a number of 0 or more, got {value!r}")

    def at_most(self, limits: Mapping[str, Any]) -> "Budget":
        """Return the budget lowered to `limits`, by the names of its fields. Raises ValueError for anything else."""
        own = asdict(self)
        if unknown := set(limits) - set(own):
            raise ValueError(f"a budget has rounds, tokens, seconds and requests, not {', '.join(sorted(map(str, unknown)))}")
        lower = asdict(Budget(**{"rounds": self.rounds, "seconds": None} | dict(limits)))
        lowest: dict[str, Any] = {}
        for name, limit in own.items():
            lowest[name] = min((each for each in (limit, lower[name]) if each is not None), default=None)
        return Budget(**lowest)


@dataclass(frozen=True)
class Spent:
    """What was spent so far, and what that tells about the next request.

    Args:
        rounds: Calls of the MLLM.
        tokens: Tokens read and written.
        seconds: Seconds of work.
        picture_tokens: The most that the image can cost; None until a reply tells.
        slowest: Seconds of the slowest call so far.
        refused: Whether a request was refused because it could have taken more than was left.
        requests: Requests to a server.
        requests_per_question: The most that a question took so far; None until a reply tells.
    """

    rounds: int = 0
    tokens: int = 0
    seconds: float = 0.0
    picture_tokens: int | None = None
    slowest: float = 0.0
    refused: bool = False
    requests: int = 0
    requests_per_question: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; `Spent(**...)` reads it."""
        return asdict(self)


class Meter(RunHook):
    """Holds runs to a budget: refuses what can't be afforded, and counts what is served.

    Args:
        budget: What may be spent in all.
        spent: What was spent before.
        clock: Returns the time in seconds; by default a request takes the seconds that its driver measured.
        image_tokens: What an image is assumed to cost until a reply tells.

    Attributes:
        reserved_rounds: Calls that are kept for later.
    """

    def __init__(
        self,
        budget: Budget,
        spent: Spent = Spent(),
        *,
        clock: Callable[[], float] | None = None,
        image_tokens: int = IMAGE_TOKENS,
    ) -> None:
        self.budget, self.spent = budget, spent
        self._clock, self._image_tokens = clock, image_tokens
        self._request_time = 0.0
        self.reserved_rounds = 0

    def affords(self, *, rounds: int = 0, tokens: int = 0, requests: int = 0) -> bool:
        """Return whether so many calls, tokens and requests are left, and time for a call twice as slow as any so far."""
        budget, spent = self.budget, self.spent
        return (
            spent.rounds + rounds + self.reserved_rounds <= budget.rounds
            and (budget.tokens is None or spent.tokens + tokens <= budget.tokens)
            and (budget.requests is None or spent.requests + requests <= budget.requests)
            and (budget.seconds is None or spent.seconds + max(_SAFETY_FACTOR * spent.slowest, 1e-9) <= budget.seconds)
        )

    def add(self, seconds: float, *, rounds: int = 0, tokens: int = 0) -> None:
        """Count a call that is not a flow's, such as a chat model's."""
        spent = self.spent
        self.spent = replace(
            spent,
            rounds=spent.rounds + rounds,
            tokens=spent.tokens + tokens,
            seconds=spent.seconds + seconds,
            slowest=max(spent.slowest, seconds),
        )

    def refuse(self) -> None:
        """Note that something was left out because it could have taken more than is left."""
        self.spent = replace(self.spent, refused=True)

    def before_request(self, request: Request) -> None:
        """Refuse a request that could take more than is left. Raises OverBudgetError."""
        if isinstance(request, MLLMRequest):
            known = self.spent.requests_per_question
            requests = len(request.questions) * (1 if known is None else known)
            is_affordable = self.affords(rounds=1, tokens=self._bound_tokens(request.questions), requests=requests)
        else:
            is_affordable = self.affords()
        if not is_affordable:
            self.refuse()
            raise OverBudgetError("the next request could take more than what is left of the budget")
        if self._clock is not None:
            self._request_time = self._clock()

    def after_request(self, request: Request, response: Response) -> None:
        """Count a request that was served."""
        seconds = response.seconds if self._clock is None else self._clock() - self._request_time
        if isinstance(request, MLLMRequest):
            self._count_replies(request.questions, response.replies, seconds)
        else:
            self.add(seconds)

    def _count_replies(self, questions: Sequence[Question], replies: Sequence[Reply], seconds: float) -> None:
        counts = [reply.tokens for reply in replies if reply.tokens is not None]
        tokens = sum(map(sum, counts)) if len(counts) == len(questions) else self._bound_tokens(questions)
        self.add(seconds, rounds=1, tokens=tokens)
        requests = [reply.requests or 0 for reply in replies]
        most = max(self.spent.requests_per_question or 0, *requests)
        self.spent = replace(self.spent, requests=self.spent.requests + sum(requests), requests_per_question=most)
        if counts:
            known = self.spent.picture_tokens
            read = [count.read for count in counts if count.read]  # 0 where a question was asked together with another
            self.spent = replace(self.spent, picture_tokens=min([known, *read] if known is not None else read, default=None))

    def _bound_tokens(self, questions: Sequence[Question]) -> int:
        """An upper bound for the questions and their answers: a token is at least a byte of text."""
        known = self.spent.picture_tokens
        image = self._image_tokens if known is None else known
        return sum(image + _bound_text_tokens(question) for question in questions)


def _bound_text_tokens(question: Question) -> int:
    read = sum(len(turn.text.encode("utf-8", "surrogatepass")) + _TURN_TOKENS for turn in question.turns)
    answer = question.answer
    written = answer.max_tokens if isinstance(answer, FreeText) else answer.count * max(map(len, answer.words))
    return read + written
