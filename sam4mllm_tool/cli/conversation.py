"""A conversation with the chat graph: its pictures, its turns, and the way back. No terminal in it.

The conversation itself is the graph's: what is here is read from its checkpoints, so it goes on in another process. A turn
that is stopped or fails is taken back whole, because a tool call without its answer is something no chat model takes.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphRecursionError
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import StateSnapshot

from sam4mllm_tool.agents.image_rendering import label
from sam4mllm_tool.errors import BackendError, Sam4MllmError
from sam4mllm_tool.images.load import CALLER_POLICY, ImagePolicy, load_image
from sam4mllm_tool.tools.image_store import FACTS_KEY, PICTURES_KEY, PictureStore, is_picture_id, known_pictures
from sam4mllm_tool.types import Image

__all__ = ["Conversation", "Event", "Picture"]

MAX_STEPS = 40
"""Of the graph in one turn: some 20 calls of a chat model."""


@dataclass(frozen=True)
class Picture:
    """name: of its file, as the person gave it. width, height: in pixels. kept: whether it can still be opened."""

    id: str
    name: str
    width: int
    height: int
    kept: bool = True


@dataclass(frozen=True)
class Event:
    """What happens in a turn. kind: "step", told is a tool's progress; "result", its artifact; "text", what is said."""

    kind: str
    told: Any


class Conversation:
    """One thread of a chat graph whose checkpointer is async.

    graph, store: of the same toolkit. policy: what pictures the person may open.
    """

    def __init__(
        self,
        graph: CompiledStateGraph[Any, Any, Any, Any],
        store: PictureStore,
        thread: str,
        *,
        policy: ImagePolicy = CALLER_POLICY,
    ) -> None:
        self._graph, self._store, self._policy = graph, store, policy
        self._config: RunnableConfig = {"configurable": {"thread_id": thread}, "recursion_limit": MAX_STEPS}
        self._waiting: dict[str, Any] = {}  # pictures that go with the next message, by id

    async def messages(self) -> list[BaseMessage]:
        """All that was said, oldest first."""
        return _said(await self._graph.aget_state(self._config))

    async def turns(self) -> int:
        """How often the person has said something."""
        return sum(isinstance(message, HumanMessage) for message in await self.messages())

    async def result(self) -> dict[str, Any] | None:
        """The newest result's artifact, whatever picture it is of; None where there is none."""
        return next(filter(None, map(_result, reversed(await self.messages()))), None)

    # Pictures -----------------------------------------------------------------------------------------------------------

    async def open(self, source: str) -> Picture:
        """Another picture: what comes next is about it. source: a path or a data URI, or the id of one that was here before.

        It goes with the next message. Raises ImageError, Sam4MllmError where it can't be kept.
        """
        known = await self._known()
        if is_picture_id(source) and source in known:
            name, image, facts = source, self._store.get(source), known[source]
        else:
            image = load_image(source, policy=self._policy)
            name = self._store.put(image, policy=self._policy)
            called = "" if source.strip().lower().startswith("data:") else Path(source).name
            facts = {"width": image.width, "height": image.height, "name": called}
        if [*known][-1:] != [name]:
            self._waiting.pop(name, None)
            self._waiting[name] = facts
        return _picture(name, facts, kept=True)

    async def pictures(self) -> list[Picture]:
        """In the order of their last arrival; the last is the one that is spoken about."""
        return [_picture(name, facts, kept=name in self._store) for name, facts in (await self._known()).items()]

    async def _known(self) -> dict[str, Any]:
        messages = await self.messages()
        facts: dict[str, Any] = {}
        for message in messages:
            facts |= message.additional_kwargs.get(FACTS_KEY, {})
        said = {name: facts.get(name, {}) for name in known_pictures(messages) if name not in self._waiting}
        return said | self._waiting

    def picture_of(self, result: Mapping[str, Any]) -> Image:
        """The picture that a result's artifact is about, RGB. Raises LostPictureError."""
        return self._store.get(str(result["picture"]))

    # Turns --------------------------------------------------------------------------------------------------------------

    async def say(self, text: str) -> AsyncIterator[Event]:
        """One turn: what happens, as it happens.

        A turn that fails is taken back, and raises Sam4MllmError in one line; so is one that is cancelled, by `recover`.
        """
        message = self._message(text)
        try:
            stream: Any = self._graph.astream({"messages": [message]}, self._config, stream_mode=["custom", "updates"])
            async for mode, told in stream:
                if mode == "custom":
                    yield Event("step", told)
                else:
                    for event in _events(told):
                        yield event
        except GraphRecursionError as error:
            await self.recover()
            raise BackendError(
                f"the chat model went on for {MAX_STEPS} steps without an answer: ask for less at once"
            ) from error
        except Sam4MllmError:
            await self.recover()
            raise
        except Exception as error:  # a chat model's server raises what it likes
            await self.recover()
            raise BackendError(f"{type(error).__name__}: {error}") from error
        self._waiting.clear()

    def _message(self, text: str) -> HumanMessage:
        if not self._waiting:
            return HumanMessage(text)
        labels = [{"type": "text", "text": label(name, facts)} for name, facts in self._waiting.items()]
        about = {PICTURES_KEY: [*self._waiting], FACTS_KEY: dict(self._waiting)}
        return HumanMessage([*labels, {"type": "text", "text": text}], additional_kwargs=about)

    async def recover(self) -> bool:
        """Takes back a turn that never ended, here or in a process that is gone; says whether there was one."""
        state = await self._graph.aget_state(self._config)
        if state.tasks:  # `next` leaves out what was done and not yet taken over, where a process ended in between
            await self._branch_off_before(state)
        return bool(state.tasks)

    async def undo(self) -> str | None:
        """Takes back the last turn, and gives the words it began with; None where there is none. Its pictures stay open."""
        state = await self._graph.aget_state(self._config)
        last = next((message for message in reversed(_said(state)) if isinstance(message, HumanMessage)), None)
        if last is None:
            return None
        await self._branch_off_before(state)
        text = last.content[-1] if isinstance(last.content, list) else last.content
        return text if isinstance(text, str) else str(text.get("text", ""))

    async def _branch_off_before(self, state: StateSnapshot) -> None:
        """From the end of the turn before. What is left behind stays in the history, but on no way to what comes next."""
        before: StateSnapshot | None = None
        config = state.parent_config
        while config is not None and (before is None or before.tasks):
            before = await self._graph.aget_state(config)
            config = before.parent_config
        if before is None or before.tasks:
            checkpointer: Any = self._graph.checkpointer
            await checkpointer.adelete_thread(self._config["configurable"]["thread_id"])
            kept = 0
        else:
            await self._graph.aupdate_state(before.config, None, as_node="__copy__")
            kept = len(_said(before))
        for message in _said(state)[kept:]:
            brought = message.additional_kwargs.get(FACTS_KEY, {})
            self._waiting = {name: facts for name, facts in brought.items() if name not in self._waiting} | self._waiting


def _picture(name: str, facts: Mapping[str, Any], *, kept: bool) -> Picture:
    return Picture(name, str(facts.get("name") or "a picture"), int(facts.get("width", 0)), int(facts.get("height", 0)), kept)


def _said(state: StateSnapshot) -> list[BaseMessage]:
    return list(state.values.get("messages", []))


def _result(message: BaseMessage) -> dict[str, Any] | None:
    artifact = message.artifact if isinstance(message, ToolMessage) else None
    return artifact if isinstance(artifact, dict) and artifact.get("kind") == "result" else None


def _events(update: Mapping[str, Any]) -> list[Event]:
    events: list[Event] = []
    for told in update.values():
        for message in (told or {}).get("messages", []) if isinstance(told, dict) else []:
            if isinstance(message, AIMessage) and message.text:
                events.append(Event("text", str(message.text)))
            elif result := _result(message):
                events.append(Event("result", result))
    return events
