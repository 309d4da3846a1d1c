"""A chat model that gives scripted answers: a real `BaseChatModel`, for real agents."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from pydantic import PrivateAttr

Answer = AIMessage | str | Callable[[list[BaseMessage]], AIMessage | str]


class ScriptedChatModel(BaseChatModel):
    """Gives its answers in order; a call beyond them is an AssertionError. `profile` is set as on any chat model.

    Attributes:
        answers: Each is a message, a text, or a function of the messages that the model is sent.
        requests: The messages of every call so far.
        tools: The tools that were bound at every call.
    """

    answers: list[Any]

    _requests: list[list[BaseMessage]] = PrivateAttr(default_factory=list)
    _tools: list[list[Any]] = PrivateAttr(default_factory=list)

    @property
    def requests(self) -> list[list[BaseMessage]]:
        return self._requests

    @property
    def tools(self) -> list[list[Any]]:
        return self._tools

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=list(tools), **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        self._requests.append(list(messages))
        self._tools.append(kwargs.get("tools", []))
        assert len(self._requests) <= len(self.answers), f"called more than the {len(self.answers)} times that were scripted"
        answer = self.answers[len(self._requests) - 1]
        answer = answer(list(messages)) if callable(answer) else answer
        message = AIMessage(answer) if isinstance(answer, str) else answer.model_copy(deep=True)
        return ChatResult(generations=[ChatGeneration(message=message)])


_call_numbers = count()


def call(tool: str, **arguments: Any) -> AIMessage:
    """Return a message that calls a tool."""
    call_id = f"call-{next(_call_numbers)}"
    return AIMessage("", tool_calls=[{"name": tool, "args": arguments, "id": call_id, "type": "tool_call"}])
