"""Other words for an expression from a chat model: as structured output where it has that, else as text.

Whatever a chat model does, a run goes on: what is no wording is left out (wording_checks.py); a model that fails gives none.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable

from sam4mllm_tool.agents.wording_checks import OtherWordings, parse_rephrasings, select_wordings, split_wordings
from sam4mllm_tool.errors import quote_text
from sam4mllm_tool.reasoning.budget import Meter

__all__ = ["Rephraser", "Rephrasings", "parse_rephrasings"]

REQUEST = """\
Somebody asks for something in an image that you can't see. Say what is asked for in other words: the kind of object, its \
colour, its shape, where it lies, so that somebody who takes everything literally finds it. Never add what the words don't \
say. Write {count} short phrases, each on a line of its own, and nothing else."""

_ANSWER_TOKENS = 1024
"""Tokens that a chat model is assumed to write, where it doesn't count them."""
_MESSAGE_TOKENS = 16
"""Tokens that a message takes besides its text."""
_SCHEMA_TOKENS = len(json.dumps(OtherWordings.model_json_schema()))
"""What the schema of a structured answer takes: a token is at least a byte of text."""
_UNSUPPORTED = re.compile(r"tool|function|structured|schema|response.?format|json|support", re.IGNORECASE)
"""What providers say where a model has no structured output."""


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
        request, answer = self._create_request(expression), None
        for runnable in self._list_runnables():
            if not meter.affords(rounds=1, tokens=_estimate_tokens(request)):
                return _refuse(meter, answer)
            start = self.clock()
            try:
                answer = runnable.invoke(request)
            except Exception as error:  # noqa: BLE001 - each provider raises its own, and the run goes on
                answer = error
            self._count_call(request, meter, start, answer)
            if not _is_unsupported(answer):
                break
        return self._read_answer(expression, answer)

    def find_wordings(self, expression: str, meter: Meter) -> tuple[str, ...]:
        """Return the phrases alone, for `reasoning.search.run_reasoning`."""
        return self.rephrase(expression, meter).phrases

    async def arephrase(self, expression: str, meter: Meter) -> Rephrasings:
        """Return what `rephrase` returns, without blocking the event loop."""
        request, answer = self._create_request(expression), None
        for runnable in self._list_runnables():
            if not meter.affords(rounds=1, tokens=_estimate_tokens(request)):
                return _refuse(meter, answer)
            start = self.clock()
            try:
                answer = await runnable.ainvoke(request)
            except Exception as error:  # noqa: BLE001 - as above
                answer = error
            self._count_call(request, meter, start, answer)
            if not _is_unsupported(answer):
                break
        return self._read_answer(expression, answer)

    def _list_runnables(self) -> Iterator[Runnable[Any, Any]]:
        """Yield the chat model with structured output, where it has that, and the chat model as it is."""
        with suppress(Exception):  # a model without it raises what its provider likes
            yield self.chat_model.with_structured_output(OtherWordings, include_raw=True)
        yield self.chat_model

    def _create_request(self, expression: str) -> list[BaseMessage]:
        return [SystemMessage(REQUEST.format(count=self.count)), HumanMessage(expression)]

    def _count_call(self, request: list[BaseMessage], meter: Meter, start: float, answer: Any) -> None:
        message = _get_message(answer)
        usage = None if message is None else message.usage_metadata
        meter.add(self.clock() - start, rounds=1, tokens=usage["total_tokens"] if usage else _estimate_tokens(request))

    def _read_answer(self, expression: str, answer: Any) -> Rephrasings:
        if isinstance(answer, Exception):
            return Rephrasings((), quote_text(f"{type(answer).__name__}: {answer}"))
        return Rephrasings(*select_wordings(_list_candidates(answer), expression, self.count))


def _refuse(meter: Meter, answer: Any) -> Rephrasings:
    meter.refuse()
    reason = f"; it said {quote_text(str(answer))}" if isinstance(answer, Exception) else ""
    return Rephrasings((), f"the budget doesn't suffice for the chat model{reason}")


def _is_unsupported(answer: Any) -> bool:
    """Whether the chat model failed for lack of structured output, so that it is to be asked in plain text."""
    return isinstance(answer, NotImplementedError) or (isinstance(answer, Exception) and bool(_UNSUPPORTED.search(str(answer))))


def _get_message(answer: Any) -> AIMessage | None:
    """The chat model's message, in what structured output returns or by itself."""
    message = answer.get("raw") if isinstance(answer, Mapping) else answer
    return message if isinstance(message, AIMessage) else None


def _list_candidates(answer: Any) -> list[str]:
    """Return what the chat model wrote as wordings: the structured answer, else its tool call's arguments, else its text."""
    parsed = answer.get("parsed") if isinstance(answer, Mapping) else None
    if isinstance(parsed, OtherWordings):
        return split_wordings(parsed.wordings)
    message = _get_message(answer)
    if message is None:
        return []
    arguments = [call["args"] for call in message.tool_calls]
    return split_wordings(arguments) or split_wordings(str(message.text))


def _estimate_tokens(request: list[BaseMessage]) -> int:
    """Return more tokens than the call can take: a token is at least a byte of text."""
    texts = [str(message.text).encode("utf-8", "replace") for message in request]
    return sum(len(text) + _MESSAGE_TOKENS for text in texts) + _SCHEMA_TOKENS + _ANSWER_TOKENS
