"""A chat about an image on the server: one turn of the chat graph (agents/chat.py), about what the client shows.

Nothing is kept but results: a client sends the result that it shows, and what was said before. The graph is given those as the
conversation that it would have had.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from sam4mllm_tool.agents.chat_results import list_results
from sam4mllm_tool.agents.image_rendering import format_image_line
from sam4mllm_tool.errors import BackendError, Sam4MllmError
from sam4mllm_tool.images.export import summary
from sam4mllm_tool.server.service import Service
from sam4mllm_tool.tools import Sam4MllmToolkit
from sam4mllm_tool.tools.artifacts import Artifact
from sam4mllm_tool.tools.events import EventWriter
from sam4mllm_tool.tools.image_references import IMAGE_DETAILS_KEY
from sam4mllm_tool.types import Segmentation

__all__ = ["ChatTurns", "EarlierMessage", "TurnAnswer"]

logger = logging.getLogger(__name__)

_MAX_STEPS = 40
"""Steps of the graph in one turn, which are about 20 calls of a chat model."""


class EarlierMessage(NamedTuple):
    """What was said before, by the person or by the chat."""

    role: Literal["user", "assistant"]
    text: str


@dataclass
class TurnAnswer:
    """What came of a turn.

    Attributes:
        texts: What the chat says.
        artifacts: The results that changed something, in order.
    """

    texts: list[str] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)


class ChatTurns:
    """Answers the turns of all clients by one graph, which is built on first use.

    Args:
        service: Models, images and results.
        chat_model: Answers what is no plain request; by default that of the settings, if they name one.

    Raises:
        SpecError: The settings' chat model can't be loaded.
    """

    def __init__(self, service: Service, chat_model: BaseChatModel | None = None) -> None:
        self._service, self._chat_model = service, chat_model
        self._graph: Any = None
        self._lock = threading.Lock()
        if chat_model is None and (spec := service.settings.chat_model):
            from sam4mllm_tool.agents.chat import load_chat_model

            self._chat_model = load_chat_model(spec)

    def _get_graph(self) -> Any:
        from sam4mllm_tool.agents.chat import NoChatModel, build_chat_graph  # imports LangGraph

        models = self._service.models
        with self._lock:
            if self._graph is None:
                method = self._service.settings.method
                toolkit = Sam4MllmToolkit(sam4mllm=models, method=method, image_store=self._service.pixels)
                self._graph = build_chat_graph(self._chat_model or NoChatModel(), toolkit)
            return self._graph

    async def answer(self, messages: Sequence[BaseMessage], write_event: EventWriter | None = None) -> TurnAnswer:
        """Run a turn about the last message.

        Args:
            messages: The conversation, as `build_messages` makes it.
            write_event: Takes the events of the tools while they work.

        Raises:
            Sam4MllmError: The chat model failed; what a tool refuses is said by the answer.
        """
        from langgraph.errors import GraphRecursionError

        graph, answer = await asyncio.to_thread(self._get_graph), TurnAnswer()
        options = {"config": {"recursion_limit": _MAX_STEPS}, "stream_mode": ["custom", "updates"]}
        try:
            async for mode, content in graph.astream({"messages": list(messages)}, **options):
                if mode == "updates":
                    _collect(content, answer)
                elif write_event is not None:
                    write_event(content)
        except GraphRecursionError as error:
            raise BackendError(f"the chat model went on for {_MAX_STEPS} steps without an answer: ask for less") from error
        except Sam4MllmError:
            raise
        except Exception as error:
            if self._chat_model is None:
                raise
            logger.exception("the chat model failed")  # servers of chat models raise exceptions of any kind
            raise BackendError(f"the chat model failed ({type(error).__name__}); the server's log says why") from error
        return answer

    def build_messages(
        self, owner: str, image_id: str, result_id: str | None, earlier: Sequence[EarlierMessage], text: str
    ) -> list[BaseMessage]:
        """Build the conversation that ends with a person's message.

        Args:
            owner: Whose.
            image_id: What it is about.
            result_id: The result that a correction is of; None where there is none yet.
            earlier: What was said before.
            text: The message.

        Raises:
            UnknownResultError: This owner has no such result.
        """
        if result_id is not None:
            self._service.get_result(owner, result_id)
        handles = [] if result_id is None else [result_id]
        kept = self._service.handles.build_messages(owner, handles, [image_id])
        conversation: list[BaseMessage] = []
        for extra in (message["additional_kwargs"] for message in kept if message["type"] == "human"):
            lines = [format_image_line(name, details) for name, details in extra[IMAGE_DETAILS_KEY].items()]
            conversation.append(HumanMessage("\n".join(lines), additional_kwargs=extra))
        conversation += [
            HumanMessage(message.text) if message.role == "user" else AIMessage(message.text) for message in earlier
        ]
        for artifact in (message["artifact"] for message in kept if message["type"] == "tool"):
            arguments = {"expression": artifact["expression"], "image": artifact["picture"]}
            call = {"name": "segment_image", "args": arguments, "id": artifact["handle"], "type": "tool_call"}
            content = f"{summary(Segmentation.from_dict(artifact))}\nresult {artifact['handle']} (image {artifact['picture']})"
            conversation.append(AIMessage("", tool_calls=[call]))
            conversation.append(ToolMessage(content, name=call["name"], tool_call_id=artifact["handle"], artifact=artifact))
        return [*conversation, HumanMessage(text)]


def _collect(updates: dict[str, Any], answer: TurnAnswer) -> None:
    """Add the texts and the results among the updates of the graph's nodes."""
    for update in updates.values():
        for message in (update or {}).get("messages", []) if isinstance(update, dict) else []:
            if isinstance(message, AIMessage) and message.text:
                answer.texts.append(str(message.text))
            answer.artifacts += list_results([message])
