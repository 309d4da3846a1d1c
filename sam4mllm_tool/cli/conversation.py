"""A conversation with the chat graph: its images, its turns, and undo. Independent of the terminal.

The graph's checkpoints are the only state, so that another process can continue the conversation. A turn that is interrupted
or fails is removed as a whole, because chat models refuse a tool call without its result.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphRecursionError
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import StateSnapshot

from sam4mllm_tool.agents.chat_results import list_results, request_text, result_of, split_turns
from sam4mllm_tool.agents.image_rendering import format_image_line
from sam4mllm_tool.agents.plain_requests import wants_cutout
from sam4mllm_tool.cli.image_arguments import image_name, open_image
from sam4mllm_tool.errors import BackendError, Sam4MllmError
from sam4mllm_tool.images.load import CALLER_POLICY, ImagePolicy
from sam4mllm_tool.tools.image_store import IMAGE_DETAILS_KEY, IMAGE_IDS_KEY, ImageStore, is_image_id, list_image_ids
from sam4mllm_tool.types import Image

__all__ = ["ChatEvent", "ChatImage", "ChatThread", "UndoneChange"]

_UNNAMED = "an image"
"""The name of an image that is no file."""
MAX_STEPS = 40
"""Steps of the graph in one turn, which are about 20 calls of a chat model."""


@dataclass(frozen=True)
class ChatImage:
    """An image of the conversation.

    Attributes:
        id: Its id in the image store, as in "img-0123456789ab".
        name: The name of its file, as the user gave it.
        width: In pixels.
        height: In pixels.
        kept: Whether the store still has it.
    """

    id: str
    name: str
    width: int
    height: int
    kept: bool = True

    @property
    def file_name(self) -> str:
        """The name of its file; empty where it is none."""
        return "" if self.name == _UNNAMED else self.name


@dataclass(frozen=True)
class ChatEvent:
    """What happens during a turn.

    Attributes:
        kind: "step" for a tool's progress, "result" for a tool's result, "text" for a message to the user.
        content: The progress or the result's artifact as plain JSON, or the text.
    """

    kind: Literal["step", "result", "text"]
    content: Any


@dataclass(frozen=True)
class UndoneChange:
    """What was taken back.

    Attributes:
        text: The words of the request; empty where an image was closed.
        image_name: The name of the image that was closed.
        image_ids: The images of the results that were taken back.
    """

    text: str
    image_name: str = ""
    image_ids: tuple[str, ...] = ()


class ChatThread:
    """One thread of a chat graph.

    Args:
        graph: A chat graph with an asynchronous checkpointer.
        store: The image store of the graph's toolkit.
        thread: The thread's id.
        policy: Limits of the images that the user may open.
    """

    def __init__(
        self,
        graph: CompiledStateGraph[Any, Any, Any, Any],
        store: ImageStore,
        thread: str,
        *,
        policy: ImagePolicy = CALLER_POLICY,
    ) -> None:
        self._graph, self._store, self._policy = graph, store, policy
        self._config: RunnableConfig = {"configurable": {"thread_id": thread}, "recursion_limit": MAX_STEPS}
        self._pending: dict[str, Any] = {}  # by id, sizes and names of images that go with the next message

    async def messages(self) -> list[BaseMessage]:
        """Return all messages, oldest first."""
        return _messages_of(await self._graph.aget_state(self._config))

    async def count_requests(self) -> int:
        """Return the number of the user's messages."""
        return sum(isinstance(message, HumanMessage) for message in await self.messages())

    async def last_result(self, image_id: str | None = None) -> dict[str, Any] | None:
        """Return the artifact of an image's newest result, by default of any image; None if there is no result.

        A request that had no object has no result: the one before stays.
        """
        return next(list_results(await self.messages(), image_id), None)

    async def is_cutout(self, image_id: str) -> bool:
        """Whether the newest result of an image, or one that it refines, was asked for as a cut-out."""
        for turn in reversed(split_turns(await self.messages())):
            for result in list_results(turn, image_id):
                if wants_cutout(request_text(turn[0])):
                    return True
                if not result.get("understood"):  # a first result
                    return False
        return False

    # Images -------------------------------------------------------------------------------------------------------------

    async def open(self, source: str) -> ChatImage:
        """Make an image the current one, which the next message is about. It is sent with that message.

        Args:
            source: A path, a data URI, a URL, or the id of an earlier image of this conversation.

        Raises:
            ImageError: The image can't be read.
            Sam4MllmError: The image can't be kept.
        """
        facts_by_id = await self._image_facts()
        if is_image_id(source) and source in facts_by_id:
            image_id, image, facts = source, self._store.get(source), facts_by_id[source]
        else:
            image = open_image(source, self._policy)
            image_id = self._store.put(image, policy=self._policy)
            facts = {"width": image.width, "height": image.height, "name": image_name(source)}
        if [*facts_by_id][-1:] != [image_id]:
            self._pending.pop(image_id, None)
            self._pending[image_id] = facts
        return _chat_image(image_id, facts, kept=True)

    async def images(self) -> list[ChatImage]:
        """Return the images in the order in which they were last opened; the last one is the current one."""
        facts_by_id = await self._image_facts()
        return [_chat_image(image_id, facts, kept=image_id in self._store) for image_id, facts in facts_by_id.items()]

    async def _image_facts(self) -> dict[str, Any]:
        messages = await self.messages()
        facts: dict[str, Any] = {}
        for message in messages:
            facts |= message.additional_kwargs.get(IMAGE_DETAILS_KEY, {})
        sent = {image_id: facts.get(image_id, {}) for image_id in list_image_ids(messages) if image_id not in self._pending}
        return sent | self._pending

    def image_of(self, result: Mapping[str, Any]) -> Image:
        """Return the image of a result's artifact, RGB. Raises LostPictureError."""
        return self._store.get(str(result["picture"]))

    # Turns --------------------------------------------------------------------------------------------------------------

    async def send(self, text: str) -> AsyncIterator[ChatEvent]:
        """Run one turn and yield its events as they happen.

        A turn that fails is removed from the conversation. So is one that is cancelled, once `recover` is called.

        Raises:
            Sam4MllmError: The turn failed; the message is one line.
        """
        message = self._message(text)
        try:
            stream: Any = self._graph.astream({"messages": [message]}, self._config, stream_mode=["custom", "updates"])
            async for mode, content in stream:
                if mode == "custom":
                    yield ChatEvent("step", content)
                else:
                    for event in _read_events(content):
                        yield event
        except GraphRecursionError as error:
            await self.recover()
            raise BackendError(
                f"the chat model went on for {MAX_STEPS} steps without an answer: ask for less at once"
            ) from error
        except Sam4MllmError:
            await self.recover()
            raise
        except Exception as error:  # servers of chat models raise exceptions of any kind
            await self.recover()
            raise BackendError(f"{type(error).__name__}: {error}") from error
        self._pending.clear()

    def _message(self, text: str) -> HumanMessage:
        if not self._pending:
            return HumanMessage(text)
        labels = [{"type": "text", "text": format_image_line(image_id, facts)} for image_id, facts in self._pending.items()]
        metadata = {IMAGE_IDS_KEY: [*self._pending], IMAGE_DETAILS_KEY: dict(self._pending)}
        return HumanMessage([*labels, {"type": "text", "text": text}], additional_kwargs=metadata)

    async def recover(self) -> bool:
        """Remove a turn that never ended, in this process or an earlier one; return whether there was one."""
        state = await self._graph.aget_state(self._config)
        if state.tasks:  # `next` misses tasks that were done but not yet committed when their process ended
            await self._restore_state_before(state)
        return bool(state.tasks)

    async def undo(self) -> UndoneChange | None:
        """Take back the last change: a result, or the opening of an image. Return None if there is none.

        Turns after it, which changed nothing, are removed with it. The first image stays open.
        """
        if self._pending and len(await self._image_facts()) > 1:
            return self._close_image()
        turns = split_turns(_messages_of(await self._graph.aget_state(self._config)))
        image_count = len(await self._image_facts())
        for count, turn in enumerate(reversed(turns), start=1):
            results = list(list_results(turn))
            opens = bool(turn[0].additional_kwargs.get(IMAGE_DETAILS_KEY)) and image_count > 1
            if not results and not opens:
                continue
            for _ in range(count):
                await self._restore_state_before(await self._graph.aget_state(self._config))
            if not results:
                return self._close_image()
            return UndoneChange(request_text(turn[0]), image_ids=tuple({str(result["picture"]) for result in results}))
        return None

    def _close_image(self) -> UndoneChange:
        """Close the image that was opened last and isn't sent yet."""
        image_id = [*self._pending][-1]
        return UndoneChange("", _chat_image(image_id, self._pending.pop(image_id), kept=True).name)

    async def _restore_state_before(self, state: StateSnapshot) -> None:
        """Branch off from the end of the turn before; what is left behind stays in the history alone."""
        before: StateSnapshot | None = None
        config = state.parent_config
        while config is not None and (before is None or before.tasks):
            before = await self._graph.aget_state(config)
            config = before.parent_config
        if before is None or before.tasks:
            checkpointer: Any = self._graph.checkpointer
            await checkpointer.adelete_thread(self._config["configurable"]["thread_id"])
            remaining = 0
        else:
            await self._graph.aupdate_state(before.config, None, as_node="__copy__")
            remaining = len(_messages_of(before))
        for message in _messages_of(state)[remaining:]:
            facts_by_id = message.additional_kwargs.get(IMAGE_DETAILS_KEY, {})
            removed = {image_id: facts for image_id, facts in facts_by_id.items() if image_id not in self._pending}
            self._pending = removed | self._pending


def _chat_image(image_id: str, facts: Mapping[str, Any], *, kept: bool) -> ChatImage:
    name = str(facts.get("name") or _UNNAMED)
    return ChatImage(image_id, name, int(facts.get("width", 0)), int(facts.get("height", 0)), kept)


def _messages_of(state: StateSnapshot) -> list[BaseMessage]:
    return list(state.values.get("messages", []))


def _read_events(updates: Mapping[str, Any]) -> list[ChatEvent]:
    """Return the texts and results among the updates of the graph's nodes."""
    events: list[ChatEvent] = []
    for update in updates.values():
        for message in (update or {}).get("messages", []) if isinstance(update, dict) else []:
            if isinstance(message, AIMessage) and message.text:
                events.append(ChatEvent("text", str(message.text)))
            elif result := result_of(message):
                events.append(ChatEvent("result", result))
    return events
