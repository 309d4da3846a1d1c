"""Other words for an expression from a chat model, in plain text that is read line by line, since every model can write that.

Whatever a chat model does, a run goes on: lines that are no phrase are left out, and a model that fails gives none.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from sam4mllm_tool.errors import quote_text
from sam4mllm_tool.reasoning.budget import Meter

__all__ = ["Rephraser", "Rephrasings", "parse_rephrasings"]

REQUEST = """\
Somebody asks for something in a picture that you can't see. Say what is asked for in other words: the kind of object, its \
colour, its shape, where it lies, so that somebody who takes everything literally finds it. Never add what the words don't \
say. Write {count} short phrases, each on a line of its own, and nothing else."""

_MAX_LENGTH = 200
"""Characters of a phrase."""
_QUOTES = "\"'`*\u2018\u2019\u201c\u201d"
_ANSWER_TOKENS = 1024
"""Tokens that a chat model is assumed to write, where it doesn't count them."""
_MESSAGE_TOKENS = 16
"""Tokens that a message takes besides its text."""


@dataclass(frozen=True)
class Rephrasings:
    """The phrases that a chat model gave. `fault` says why there are none; empty where nothing went wrong."""

    phrases: tuple[str, ...]
    fault: str = ""


@dataclass(frozen=True)
class Rephraser:
    """Asks a chat model for other words; a call counts as a round of the budget.

    Attributes:
        chat_model: The chat model.
        count: Phrases that are asked for.
        clock: Returns the time in seconds.
    """

    chat_model: BaseChatModel
    count: int
    clock: Callable[[], float]

    def rephrase(self, expression: str, meter: Meter) -> Rephrasings:
        """Return other words for the expression; none where the budget doesn't suffice or the chat model fails."""
        request = self._create_request(expression)
        if not meter.affords(rounds=1, tokens=_estimate_tokens(request)):
            return _OVER_BUDGET
        start = self.clock()
        try:
            answer: AIMessage | Exception = self.chat_model.invoke(request)
        except Exception as error:  # noqa: BLE001 - each provider raises its own, and the run goes on
            answer = error
        return self._parse_answer(expression, meter, start, answer)

    async def arephrase(self, expression: str, meter: Meter) -> Rephrasings:
        """Return what `rephrase` returns, without blocking the event loop."""
        request = self._create_request(expression)
        if not meter.affords(rounds=1, tokens=_estimate_tokens(request)):
            return _OVER_BUDGET
        start = self.clock()
        try:
            answer: AIMessage | Exception = await self.chat_model.ainvoke(request)
        except Exception as error:  # noqa: BLE001 - as above
            answer = error
        return self._parse_answer(expression, meter, start, answer)

    def _create_request(self, expression: str) -> list[BaseMessage]:
        return [SystemMessage(REQUEST.format(count=self.count)), HumanMessage(expression)]

    def _parse_answer(self, expression: str, meter: Meter, start: float, answer: AIMessage | Exception) -> Rephrasings:
        """Count the call on the meter and read the answer."""
        usage = None if isinstance(answer, Exception) else answer.usage_metadata
        tokens = usage["total_tokens"] if usage else _estimate_tokens(self._create_request(expression))
        meter.add(self.clock() - start, rounds=1, tokens=tokens)
        if isinstance(answer, Exception):
            return Rephrasings((), quote_text(f"{type(answer).__name__}: {answer}"))
        return Rephrasings(tuple(parse_rephrasings(str(answer.text), expression, self.count)))


_OVER_BUDGET = Rephrasings((), "the budget doesn't suffice")


def parse_rephrasings(text: str, expression: str, max_count: int) -> list[str]:
    """Return the phrases that a chat model wrote, a line each: at most `max_count`, each once.

    Numbers, bullets and quotes around them are removed. Lines that are too long, have no letter, end like a title or only
    repeat the expression are left out.
    """
    phrases: dict[str, str] = {}
    for line in text.splitlines():
        bare = re.sub(r"^\s*(?:[-*\u2022\u2013]|\(?\d{1,2}[.):])\s*", "", line)
        phrase = " ".join(bare.strip().strip(_QUOTES).split())
        is_title = phrase.endswith(":")
        is_phrase = len(phrase) <= _MAX_LENGTH and any(map(str.isalpha, phrase)) and phrase.isprintable() and not is_title
        if is_phrase and phrase.casefold() != expression.strip().casefold():
            phrases.setdefault(phrase.casefold(), phrase)
    return list(phrases.values())[:max_count]


def _estimate_tokens(request: list[BaseMessage]) -> int:
    """Return more tokens than the call can take: a token is at least a byte of text."""
    texts = [str(message.text).encode("utf-8", "replace") for message in request]
    return sum(len(text) + _MESSAGE_TOKENS for text in texts) + _ANSWER_TOKENS
