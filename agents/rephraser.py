"""Other words for an expression, from a chat model: asked for in plain text and read line by line, since all models can that.

Whatever a chat model does, a run survives it: lines that are no wording are left out, one that fails gives none.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from sam4mllm_tool.errors import quote_text
from sam4mllm_tool.reasoning.budget import Meter

__all__ = ["Rephraser", "Wordings", "read_wordings"]

REQUEST = """\
Somebody asks for something in a picture that you can't see. Say what is asked for in other words: the kind of object, its \
colour, its shape, where it lies, so that somebody who takes everything literally finds it. Never add what the words don't \
say. Write {count} short phrases, each on a line of its own, and nothing else."""

_LONGEST = 200
"""Characters of a wording; a longer line is no short phrase."""
_QUOTES = "\"'`*\u2018\u2019\u201c\u201d"
_WRITTEN = 1024
"""Tokens that a chat model is taken to write."""


@dataclass(frozen=True)
class Wordings:
    """What a chat model gave. fault: why there is nothing of it, empty where nothing went wrong."""

    words: tuple[str, ...]
    fault: str = ""


@dataclass(frozen=True)
class Rephraser:
    """Asks a chat model for at most `count` wordings; a call counts as a round."""

    chat_model: BaseChatModel
    count: int
    clock: Callable[[], float]

    def words(self, expression: str, meter: Meter) -> Wordings:
        """Other words, none where the budget doesn't reach or the chat model fails."""
        request, began, said = self._request(expression), self.clock(), None
        if not meter.affords(rounds=1, tokens=_most(request)):
            return Wordings((), "the budget doesn't reach")
        try:
            said = self.chat_model.invoke(request)
        except Exception as error:  # noqa: BLE001 - each provider raises its own, and the run goes on without it
            return self._read(expression, meter, began, error)
        return self._read(expression, meter, began, said)

    async def awords(self, expression: str, meter: Meter) -> Wordings:
        """As `words`, without blocking the event loop."""
        request, began, said = self._request(expression), self.clock(), None
        if not meter.affords(rounds=1, tokens=_most(request)):
            return Wordings((), "the budget doesn't reach")
        try:
            said = await self.chat_model.ainvoke(request)
        except Exception as error:  # noqa: BLE001 - as above
            return self._read(expression, meter, began, error)
        return self._read(expression, meter, began, said)

    def _request(self, expression: str) -> list[BaseMessage]:
        return [SystemMessage(REQUEST.format(count=self.count)), HumanMessage(expression)]

    def _read(self, expression: str, meter: Meter, began: float, said: AIMessage | Exception) -> Wordings:
        usage = None if isinstance(said, Exception) else said.usage_metadata
        tokens = usage["total_tokens"] if usage else _most(self._request(expression))
        meter.took(self.clock() - began, rounds=1, tokens=tokens)
        if isinstance(said, Exception):
            return Wordings((), quote_text(f"{type(said).__name__}: {said}"))
        return Wordings(tuple(read_wordings(str(said.text), expression, self.count)))


def read_wordings(text: str, expression: str, most: int) -> list[str]:
    """The wordings that a chat model wrote, a line each, as far as they are any: at most `most`, none of them twice.

    What stands around them is taken off: numbers, bullets, quotes. Lines that are too long, have no letter, end as a title
    does or only repeat the expression are left out.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        bare = re.sub(r"^\s*(?:[-*\u2022\u2013]|\(?\d{1,2}[.):])\s*", "", line)
        words = " ".join(bare.strip().strip(_QUOTES).split())
        fits = len(words) <= _LONGEST and any(map(str.isalpha, words)) and words[-1] != ":" and words.isprintable()
        if fits and words.casefold() != expression.strip().casefold():
            found.setdefault(words.casefold(), words)
    return list(found.values())[:most]


def _most(request: list[BaseMessage]) -> int:
    """More tokens than it can well take: a token is at least a byte."""
    return sum(len(str(message.text).encode("utf-8", "replace")) + 16 for message in request) + _WRITTEN
