"""Images in an agent's conversation: taken out of the messages, named to the model by id, opened by the tools.

`ImageMiddleware` is given to `create_agent`. When a person's message comes in, each image in it goes into an `ImageStore` and a
line with its id takes its place: the state holds no bytes, and the tools may open what its messages name. When the model is
called, the newest images are put beside their lines if its profile says that it takes images, and the newest results are drawn
if it takes images from tools. These go to the model alone, never into the state.

A checkpointer also saves what an agent is given, before any middleware runs. `ImageMiddleware.guard` makes the agent take the
images out first.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ExtendedModelResponse, ModelRequest, ModelResponse
from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage, convert_to_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from sam4mllm_tool.agents.image_rendering import ImageRenderer, format_image_line, format_refusal
from sam4mllm_tool.deprecation import deprecated_names, rename_arguments
from sam4mllm_tool.errors import ImageError, Sam4MllmError
from sam4mllm_tool.images.load import TOOL_POLICY, ImagePolicy, ImageSource
from sam4mllm_tool.tools.image_blocks import DATA_URI, FileId, MessageLimits, SentImage, parse_block
from sam4mllm_tool.tools.image_references import IMAGE_DETAILS_KEY, IMAGE_IDS_KEY, IMAGE_STORE_KEY, list_image_ids
from sam4mllm_tool.tools.image_store import OPENED_POLICY, ImageStore

__all__ = ["ImageGraph", "ImageMiddleware"]

OLD_NAMES = "PictureMiddleware ImageMiddleware, PictureGraph ImageGraph"
__getattr__ = deprecated_names(__name__, __name__, OLD_NAMES)

logger = logging.getLogger(__name__)

Graph = CompiledStateGraph[Any, Any, Any, Any]
Handler = Callable[[ModelRequest[Any]], ModelResponse[Any]]
AsyncHandler = Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
OpenFile = Callable[[str], ImageSource]


class ImageMiddleware(AgentMiddleware[Any, Any, Any]):
    """Takes images out of people's messages and shows them to the model.

    An image that can't be taken becomes a line that says why; the others are taken.

    Args:
        store: Where the images are kept, the same store that the tools have; by default one in memory.
        policy: What a message may have opened; by default neither paths nor URLs.
        open_file: Returns the image of a file id of the model's provider; by default such blocks are refused.
        max_images: How many of the newest images a model is shown.
        max_overlays: How many of the newest results a model is shown, drawn over their images.
        max_side: The longer side in pixels of the copies that a model is shown.
        old_names: The same limits by their deprecated names.
    """

    def __init__(
        self,
        store: ImageStore | None = None,
        *,
        policy: ImagePolicy = TOOL_POLICY,
        open_file: OpenFile | None = None,
        max_images: int = 4,
        max_overlays: int = 2,
        max_side: int = 1024,
        **old_names: int,
    ) -> None:
        super().__init__()
        limits: dict[str, int] = {"max_images": max_images, "max_overlays": max_overlays, "max_side": max_side}
        limits |= rename_arguments(old_names, "shown max_images, overlays max_overlays, longest max_side")
        self.store = ImageStore() if store is None else store
        self.policy = policy
        self.open_file = open_file
        self.renderer = ImageRenderer(self.store, **limits)

    # Taking images in

    def extract_images(self, messages: Sequence[AnyMessage]) -> list[AnyMessage]:
        """Return the messages with ids in the place of images; those without an image are the very same objects."""
        return [self._extract_from_message(message) or message for message in messages]

    def guard(self, graph: Graph) -> "ImageGraph":
        """Return the same agent, which takes images out of its input before any of it is saved, streamed or traced."""
        fields = {name: value for name, value in vars(graph).items() if name not in ("__orig_class__", "image_middleware")}
        return ImageGraph(image_middleware=self, **fields)

    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:  # noqa: ARG002
        changed = [new for message in state["messages"] if (new := self._extract_from_message(message))]
        return {"messages": changed} if changed else None

    async def abefore_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        return await asyncio.to_thread(self.before_agent, state, runtime)

    def _extract_from_message(self, message: AnyMessage) -> AnyMessage | None:
        """Return the message with ids in the place of its images, None where it has none."""
        if not isinstance(message, HumanMessage):
            return None
        details: dict[str, Any] = {}
        limits = MessageLimits(self.policy)
        old = message.content
        new = (
            self._extract_from_text(old, details, limits)
            if isinstance(old, str)
            else [self._extract(block, details, limits) for block in old]
        )
        if new == old:
            return None
        extra = message.additional_kwargs
        earlier = extra.get(IMAGE_DETAILS_KEY)
        noted = {
            IMAGE_IDS_KEY: [*list_image_ids([message]), *details],
            IMAGE_DETAILS_KEY: {**(earlier if isinstance(earlier, Mapping) else {}), **details},
            IMAGE_STORE_KEY: self.store.key,
        }
        return message.model_copy(update={"content": new, "additional_kwargs": {**extra, **noted}})

    def _extract(self, block: Any, details: dict[str, Any], limits: MessageLimits) -> Any:
        """Return a content block with lines in the place of images."""
        if isinstance(block, str):
            return self._extract_from_text(block, details, limits)
        if sent := parse_block(block):
            return {"type": "text", "text": self._keep(sent, details, limits)}
        if block.get("type") in ("text", "input_text") and isinstance(block.get("text"), str):
            text = self._extract_from_text(block["text"], details, limits)
            return block if text == block["text"] else {**block, "text": text}
        return block

    def _extract_from_text(self, text: str, details: dict[str, Any], limits: MessageLimits) -> str:
        if "data:image/" not in text:
            return text
        return DATA_URI.sub(lambda uri: self._keep(SentImage(uri[0]), details, limits), text)

    def _keep(self, sent: SentImage, details: dict[str, Any], limits: MessageLimits) -> str:
        """Keep one image, note its size and name in `details`, and return the line that takes its place."""
        try:
            image = limits.open(self._open(sent))
            image_id = self.store.put(image, policy=OPENED_POLICY)
        except Sam4MllmError as error:
            return format_refusal(error, sent.name)
        details.pop(image_id, None)
        details[image_id] = {"width": image.width, "height": image.height, "name": sent.name}
        return format_image_line(image_id, details[image_id])

    def _open(self, sent: SentImage) -> ImageSource:
        if sent.source is None:
            raise ImageError("the block has no image in it; expected base64, a data URI, url, path or file_id")
        if not isinstance(sent.source, FileId):
            return sent.source
        if self.open_file is None:
            raise ImageError(f"{sent.source.describe()} is kept by a model's provider; send the image itself")
        try:
            return self.open_file(str(sent.source))
        except Exception as error:  # whatever the provider's client raises; its text is not for a model
            logger.warning("open_file failed", exc_info=error)
            raise ImageError(f"{sent.source.describe()} could not be opened; send the image itself") from error

    # Showing them

    def wrap_model_call(self, request: ModelRequest[Any], handler: Handler) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        prepared, late = self._prepare(request)
        return _update_state(handler(prepared), late)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: AsyncHandler
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        prepared, late = await asyncio.to_thread(self._prepare, request)
        return _update_state(await handler(prepared), late)

    def _prepare(self, request: ModelRequest[Any]) -> tuple[ModelRequest[Any], list[AnyMessage]]:
        """Return what the model is sent, and the state's messages that came with images since the agent began."""
        messages = self.extract_images(request.messages)
        in_state = {message.id for message in request.state["messages"]}
        late = [new for old, new in zip(request.messages, messages, strict=True) if new is not old and new.id in in_state]
        system = self.renderer.extend_instructions(request.system_message, messages)
        return request.override(messages=self.renderer.render(messages, request.model.profile), system_message=system), late


def _update_state(response: ModelResponse[Any], late: list[AnyMessage]) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
    return ExtendedModelResponse(response, Command(update={"messages": late})) if late else response


class ImageGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """A compiled graph with `messages` in its state that takes the images out of whatever it is given.

    `ImageMiddleware.guard` makes it; otherwise it is the graph that it was made of.
    """

    def __init__(self, *, image_middleware: ImageMiddleware, **fields: Any) -> None:
        super().__init__(**fields)
        self.image_middleware = image_middleware

    def stream(self, input: Any, *args: Any, **options: Any) -> Iterator[Any]:  # noqa: A002
        """Stream as any graph; `invoke` and `batch` go through here too."""
        return super().stream(self._extract(input), *args, **options)

    async def astream(self, input: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:  # noqa: A002
        """Stream as any graph; `ainvoke`, `abatch` and `astream_events` go through here too."""
        extracted = await asyncio.to_thread(self._extract, input)
        async for part in super().astream(extracted, *args, **options):
            yield part

    def bulk_update_state(self, config: Any, supersteps: Sequence[Sequence[Any]]) -> Any:
        """Update as any graph; `update_state` goes through here too."""
        return super().bulk_update_state(config, self._extract_all(supersteps))

    async def abulk_update_state(self, config: Any, supersteps: Sequence[Sequence[Any]]) -> Any:
        """Update as any graph; `aupdate_state` goes through here too."""
        return await super().abulk_update_state(config, await asyncio.to_thread(self._extract_all, supersteps))

    def _extract_all(self, supersteps: Sequence[Sequence[Any]]) -> list[list[Any]]:
        return [[update._replace(values=self._extract(update.values)) for update in step] for step in supersteps]

    def _extract(self, value: Any) -> Any:
        """Return an input, update or command with the images of its messages taken out, or itself where it has none."""
        if isinstance(value, Command):
            return replace(value, update=self._extract(value.update), resume=self._extract(value.resume))
        if not isinstance(value, Mapping) or not value.get("messages"):
            return value
        messages = value["messages"]
        if not isinstance(messages, list):
            return {**value, "messages": self._extract_from_message(messages)}
        return {**value, "messages": [self._extract_from_message(message) for message in messages]}

    def _extract_from_message(self, message: Any) -> Any:
        """Return a message in any form that LangChain accepts, converted only where it has an image."""
        if isinstance(message, str) and "data:image/" not in message:
            return message
        if not isinstance(message, BaseMessage | Mapping | str | tuple):  # the graph will refuse it
            return message
        given: Any = message
        converted: Any = convert_to_messages([given])[0]
        extracted = self.image_middleware.extract_images([converted])[0]
        return message if extracted is converted else extracted
