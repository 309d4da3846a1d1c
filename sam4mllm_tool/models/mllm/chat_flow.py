"""What chat APIs are asked and what they answer, and how the requests of a flow are sent: blocking or async.

Every backend that asks a chat API shares this: `answer_questions` (chat_questions.py) yields requests, a backend answers each.
"""

import math
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeAlias

from sam4mllm_tool.models.mllm.background_loop import gather_or_cancel
from sam4mllm_tool.protocol.thoughts import strip_thought
from sam4mllm_tool.types import Labels, Question, Reply, Tokens, Turn

__all__ = [
    "TEST_QUESTION",
    "AnswerToken",
    "ChatAnswer",
    "ChatFeatures",
    "ChatFlow",
    "ChatRequest",
    "build_answer",
    "run_flow",
    "run_flow_async",
]

TEST_QUESTION = Question((Turn("user", "Is there a red square in this image? Answer Yes or No."),), Labels(1, ("Yes", "No")))
"""What a model is asked, about `draw_test_image`, to learn whether it answers."""
_MISSES = 3
"""Answers in a row without probabilities after which an API that gave some is taken to give none any more."""


@dataclass(frozen=True)
class AnswerToken:
    """One token of an answer, with the logarithms of the probabilities of what could have stood there, itself included."""

    text: str
    log_probability: float
    alternatives: Mapping[str, float]

    @classmethod
    def read_all(cls, tokens: Iterable[Mapping[str, Any]]) -> "tuple[AnswerToken, ...] | None":
        """Read OpenAI's `logprobs`; None for anything else, and for values that are no logarithms of probabilities."""
        try:
            return tuple(map(cls._from_dict, tokens))
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    @classmethod
    def _from_dict(cls, fields: Mapping[str, Any]) -> "AnswerToken":
        text, logarithm = str(fields["token"]), float(fields["logprob"])
        others = {str(other["token"]): float(other["logprob"]) for other in fields.get("top_logprobs") or ()}
        if not math.isfinite(logarithm) or any(math.isnan(value) for value in others.values()):
            raise ValueError("not a number")
        return cls(text, logarithm, {**others, text: logarithm})


@dataclass(frozen=True)
class ChatRequest:
    """One request to a chat API.

    Args:
        turns: As in `Question`.
        max_tokens: Limit of the answer.
        words: What the answer consists of; empty for free text.
        count: How many of the words.
        is_sampled: Whether the answer is drawn at random, for votes.
    """

    turns: tuple[Turn, ...]
    max_tokens: int
    words: tuple[str, ...] = ()
    count: int = 0
    is_sampled: bool = False


@dataclass(frozen=True)
class ChatAnswer:
    """The answer to a request.

    Args:
        text: Without a thought before it; empty where the thought did not end.
        answer_tokens: None where the API gives no probabilities, or a thought is among them.
        tokens: None where unknown.
        cached_tokens: As in `Reply`.
        requests: How often the request was sent until it was answered.
    """

    text: str
    answer_tokens: tuple[AnswerToken, ...] | None = None
    tokens: Tokens | None = None
    cached_tokens: int | None = None
    requests: int = 1


def build_answer(text: str, answer_tokens: tuple[AnswerToken, ...] | None, *, has_reasoning: bool = False) -> ChatAnswer:
    """Return what a model wrote as its answer, without a thought before it.

    Args:
        text: All that it wrote.
        answer_tokens: Of `text`; not those of the answer, where there is a thought.
        has_reasoning: Whether the API gives a thought apart from the text.
    """
    answer = strip_thought(text)
    if has_reasoning or answer is None or answer != text.strip():
        return ChatAnswer(answer or "")
    return ChatAnswer(text, answer_tokens)


@dataclass
class ChatFeatures:
    """What is known of an API. Whoever learns more updates it.

    Args:
        gives_probabilities: Whether answers come with the probabilities of their tokens.
        answers_numbered: Whether numbered questions are answered so that they can be read.
        votes: Sampled answers from which a probability is estimated where the API gives none; 0 leaves it unknown.
    """

    gives_probabilities: bool = True
    answers_numbered: bool = True
    votes: int = 0
    _misses: int = _MISSES - 1

    def note_answer(self, answer: ChatAnswer) -> None:
        """Learn from an answer for which probabilities were asked.

        An API that never gave any is expected to give none. One that did is forgiven an answer without them, but not several
        in a row; as soon as an answer has them again it is asked as before.
        """
        self._misses = self._misses + 1 if answer.answer_tokens is None else 0
        self.gives_probabilities = self._misses < _MISSES


ChatFlow: TypeAlias = Generator[list[ChatRequest], list[ChatAnswer], list[Reply]]
"""Yields requests, all to be sent at once, is sent their answers in order, and returns a reply per question."""


def run_flow(flow: ChatFlow, submit: Callable[[ChatRequest], "Future[ChatAnswer]"]) -> list[Reply]:
    """Answer a flow's requests in threads; where one fails, cancel those that have not begun."""
    try:
        requests = next(flow)
        while True:
            futures = [submit(request) for request in requests]
            try:
                answers = [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
            requests = flow.send(answers)
    except StopIteration as end:
        replies: list[Reply] = end.value
        return replies


async def run_flow_async(flow: ChatFlow, ask: Callable[[ChatRequest], Coroutine[Any, Any, ChatAnswer]]) -> list[Reply]:
    """Answer a flow's requests at once; where one fails or the caller is cancelled, cancel all."""
    try:
        requests = next(flow)
        while True:
            requests = flow.send(await gather_or_cancel(list(map(ask, requests))))
    except StopIteration as end:
        replies: list[Reply] = end.value
        return replies
