"""Pictures in an agent's conversation: taken out of the messages, told to the model by id, opened by the tools.

`PictureMiddleware` belongs into `create_agent`. When a person's message comes in, each picture in it goes into a `PictureStore`
and a line with its id takes its place: the state holds no bytes, and what the tools may open is what its messages name. When
the model is called, the last few pictures are put beside their lines, if its profile says that it sees pictures, and the last
results are drawn over theirs, if it takes pictures from tools. These go to the model alone, never into the state.

A checkpointer also saves what an agent is given, before any middleware sees it. `PictureMiddleware.guard` makes the agent take
the pictures out first.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ExtendedModelResponse, ModelRequest, ModelResponse
from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage, convert_to_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from sam4mllm_tool.agents.image_blocks import DATA_URI, FileId, Sent, read_block
from sam4mllm_tool.agents.image_rendering import Showing, label, refusal
from sam4mllm_tool.errors import ImageError, Sam4MllmError, quote_text
from sam4mllm_tool.images.load import TOOL_POLICY, ImagePolicy, ImageSource, load_image
from sam4mllm_tool.tools.image_store import FACTS_KEY, PICTURES_KEY, PictureStore, known_pictures

__all__ = ["PictureGraph", "PictureMiddleware"]

Graph = CompiledStateGraph[Any, Any, Any, Any]
Handler = Callable[[ModelRequest[Any]], ModelResponse[Any]]
AsyncHandler = Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
OpenFile = Callable[[str], ImageSource]


class PictureMiddleware(AgentMiddleware[Any, Any, Any]):
    """Takes pictures out of people's messages and shows them to the model.

    store: where they are kept, the same that the tools have; by default one in memory. policy: what a message may have opened
    for it; by default neither paths nor URLs. open_file: what gives a picture for a file id of the model's provider; by default
    such blocks are refused. shown, overlays: how many of the newest pictures and results a model sees. longest: of the copies
    that it sees, the longer side in pixels. A picture that can't be taken becomes a line that says why; the others are taken.
    """

    def __init__(
        self,
        store: PictureStore | None = None,
        *,
        policy: ImagePolicy = TOOL_POLICY,
        open_file: OpenFile | None = None,
        shown: int = 4,
        overlays: int = 2,
        longest: int = 1024,
    ) -> None:
        super().__init__()
        self.store = PictureStore() if store is None else store
        self.policy = policy
        self.open_file = open_file
        self.showing = Showing(self.store, shown=shown, overlays=overlays, longest=longest)

    # Taking in

    def take(self, messages: Sequence[AnyMessage]) -> list[AnyMessage]:
        """The messages with ids in the place of pictures; those without a picture are the very same objects."""
        return [self._take_message(message) or message for message in messages]

    def guard(self, graph: Graph) -> "PictureGraph":
        """The same agent, which takes pictures out of what it is given before anything of it is saved, streamed or traced."""
        fields = {name: value for name, value in vars(graph).items() if name != "__orig_class__"}
        return PictureGraph(**(fields | {"pictures": self}))

    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:  # noqa: ARG002
        changed = self._changed(state["messages"])
        return {"messages": changed} if changed else None

    async def abefore_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        return await asyncio.to_thread(self.before_agent, state, runtime)

    def _changed(self, messages: Sequence[AnyMessage]) -> list[AnyMessage]:
        return [taken for message in messages if (taken := self._take_message(message))]

    def _take_message(self, message: AnyMessage) -> AnyMessage | None:
        """The message with its id, None where there was no picture in it."""
        if not isinstance(message, HumanMessage):
            return None
        facts: dict[str, Any] = {}
        content = message.content
        taken = self._take_text(content, facts) if isinstance(content, str) else [self._take_block(b, facts) for b in content]
        if taken == content:
            return None
        extra = message.additional_kwargs
        carried = [*known_pictures([message]), *facts]
        told = {**_mapping(extra.get(FACTS_KEY)), **facts}
        return message.model_copy(
            update={"content": taken, "additional_kwargs": {**extra, PICTURES_KEY: carried, FACTS_KEY: told}}
        )

    def _take_block(self, block: Any, facts: dict[str, Any]) -> Any:
        if isinstance(block, str):
            return self._take_text(block, facts)
        if sent := read_block(block):
            return {"type": "text", "text": self._take(sent, facts)}
        if block.get("type") in ("text", "input_text") and isinstance(block.get("text"), str):
            text = self._take_text(block["text"], facts)
            return block if text == block["text"] else {**block, "text": text}
        return block

    def _take_text(self, text: str, facts: dict[str, Any]) -> str:
        return DATA_URI.sub(lambda uri: self._take(Sent(uri[0]), facts), text) if "data:image/" in text else text

    def _take(self, sent: Sent, facts: dict[str, Any]) -> str:
        """Keeps one picture and notes its size and name; gives the line that takes its place."""
        try:
            image = load_image(self._opened(sent), policy=self.policy)
            name = self.store.put(image, policy=ImagePolicy(max_pixels=self.policy.max_pixels))
        except Sam4MllmError as error:
            return refusal(error, sent.name)
        facts.pop(name, None)
        facts[name] = {"width": image.width, "height": image.height, "name": sent.name}
        return label(name, facts[name])

    def _opened(self, sent: Sent) -> ImageSource:
        if sent.source is None:
            raise ImageError("the block has no picture in it; expected base64, a data URI, url, path or file_id")
        if not isinstance(sent.source, FileId):
            return sent.source
        if self.open_file is None:
            raise ImageError(f"the file {quote_text(sent.source)} lies with a model's provider; send the picture itself")
        try:
            return self.open_file(str(sent.source))
        except Exception as error:  # whatever the provider's client raises
            raise ImageError(f"the file {quote_text(sent.source)} could not be had: {error}") from error

    # Showing

    def wrap_model_call(self, request: ModelRequest[Any], handler: Handler) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        prepared, late = self._prepare(request)
        return _with(handler(prepared), late)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: AsyncHandler
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        prepared, late = await asyncio.to_thread(self._prepare, request)
        return _with(await handler(prepared), late)

    def _prepare(self, request: ModelRequest[Any]) -> tuple[ModelRequest[Any], list[AnyMessage]]:
        """What the model is sent, and the messages of the state that came with pictures since the agent began."""
        messages = self.take(request.messages)
        in_state = {message.id for message in request.state["messages"]}
        late = [new for old, new in zip(request.messages, messages, strict=True) if new is not old and new.id in in_state]
        system = self.showing.instructions(request.system_message, messages)
        return request.override(messages=self.showing.show(messages, request.model.profile), system_message=system), late


def _with(response: ModelResponse[Any], late: list[AnyMessage]) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
    return ExtendedModelResponse(response, Command(update={"messages": late})) if late else response


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


class PictureGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """A compiled graph with `messages` in its state that takes the pictures out of whatever it is given.

    Made by `PictureMiddleware.guard`; otherwise like the graph it was made of.
    """

    def __init__(self, *, pictures: PictureMiddleware, **fields: Any) -> None:
        super().__init__(**fields)
        self.pictures = pictures

    def stream(self, input: Any, *args: Any, **options: Any) -> Iterator[Any]:  # noqa: A002
        """As any graph's; `invoke` and `batch` come through here too."""
        return super().stream(self._taken(input), *args, **options)

    async def astream(self, input: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:  # noqa: A002
        """As any graph's; `ainvoke`, `abatch` and `astream_events` come through here too."""
        taken = await asyncio.to_thread(self._taken, input)
        async for part in super().astream(taken, *args, **options):
            yield part

    def bulk_update_state(self, config: Any, supersteps: Sequence[Sequence[Any]]) -> Any:
        """As any graph's; `update_state` comes through here too."""
        return super().bulk_update_state(config, self._all_taken(supersteps))

    async def abulk_update_state(self, config: Any, supersteps: Sequence[Sequence[Any]]) -> Any:
        """As any graph's; `aupdate_state` comes through here too."""
        return await super().abulk_update_state(config, await asyncio.to_thread(self._all_taken, supersteps))

    def _all_taken(self, supersteps: Sequence[Sequence[Any]]) -> list[list[Any]]:
        return [[update._replace(values=self._taken(update.values)) for update in step] for step in supersteps]

    def _taken(self, given: Any) -> Any:
        """Input, update or command with the pictures of its messages taken out; what has none is left as it is."""
        if isinstance(given, Command):
            return replace(given, update=self._taken(given.update), resume=self._taken(given.resume))
        if not isinstance(given, Mapping) or not given.get("messages"):
            return given
        messages = given["messages"]
        several = isinstance(messages, list)
        taken = [self._message(message) for message in (messages if several else [messages])]
        return {**given, "messages": taken if several else taken[0]}

    def _message(self, message: Any) -> Any:
        """message: anything that LangChain takes for one."""
        if isinstance(message, str) and "data:image/" not in message:
            return message
        like_one = isinstance(message, BaseMessage | Mapping | str | tuple)
        if not like_one:  # the graph will say so
            return message
        converted: Any = convert_to_messages([message])[0]
        taken = self.pictures.take([converted])[0]
        return message if taken is converted else taken
