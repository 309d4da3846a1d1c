"""The images that one tool call may open: those of its conversation's own messages, and those that its tools opened before.

`ImageMiddleware` takes images out of messages and leaves their ids. Where an agent has no such middleware, the images in the
messages are read here. An image whose message was removed is gone: a result that was made from it doesn't bring it back.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.images.load import ImagePolicy
from sam4mllm_tool.tools.artifacts import ORIGIN_KEY, list_artifacts
from sam4mllm_tool.tools.error_messages import describe_error
from sam4mllm_tool.tools.image_blocks import DATA_URI, FileId, MessageLimits, SentImage, parse_block
from sam4mllm_tool.tools.image_references import (
    IMAGE_STORE_KEY,
    ConversationImage,
    UnknownImageError,
    find_image,
    is_latest,
    list_image_ids,
    list_images,
)
from sam4mllm_tool.tools.image_store import OPENED_POLICY, ImageStore, MissingImageError

__all__ = ["ConversationImages", "collect_images"]

_ADD_MIDDLEWARE = (
    "the application has to be mended, the person can do nothing about it: give the agent ImageMiddleware(store) and the tools "
    "image_store=store, with one ImageStore (from sam4mllm_tool import ImageMiddleware, ImageStore)"
)


@dataclass(frozen=True)
class ConversationImages:
    """The images that a call may open.

    Attributes:
        images: In the order of their first arrival: the first one is number 1.
        latest: The id of the newest one; empty where there is none, or where it can't be read.
        opened: The ids of those that came from tools alone, not from a person's message.
        stores: The key of the store that each image was put in by the middleware, where it is known.
        unread: Why an image in a message can't be read, the newest last.
    """

    images: tuple[ConversationImage, ...]
    latest: str
    opened: frozenset[str]
    stores: Mapping[str, str]
    unread: tuple[str, ...] = ()

    def find(self, text: str) -> str:
        """Return the id of the image that a text means. Raises UnknownImageError, as `find_image` does."""
        if self.unread and (not self.images or (not self.latest and is_latest(text))):
            raise UnknownImageError(f"the image in the message can't be opened ({self.unread[-1]}); {_ADD_MIDDLEWARE}")
        return find_image(text, self.images, self.latest)

    def holds(self, image_id: str) -> bool:
        """Return whether the conversation still has that image."""
        return any(image.image_id == image_id for image in self.images)

    def explain_missing(self, image_id: str, store: ImageStore) -> MissingImageError | None:
        """Return the error for an image that is kept in another store than this one; None where the store is the same."""
        key = self.stores.get(image_id)
        if key is None or key == store.key:
            return None
        return MissingImageError(
            f"the image {image_id} is kept in another ImageStore than this tool's, so sending it again doesn't help; "
            f"{_ADD_MIDDLEWARE}"
        )


def collect_images(messages: Sequence[Any], store: ImageStore, policy: ImagePolicy) -> ConversationImages:
    """Collect the images of a conversation.

    Args:
        messages: LangChain's messages or their dicts.
        store: Where images that are still in the messages are put.
        policy: What such a message may have opened.
    """
    images: dict[str, ConversationImage] = {}
    stores: dict[str, str] = {}
    arrivals: list[str] = []
    unread: list[str] = []
    for message in messages:
        for image in list_images([message]):
            images[image.image_id] = image if image.name else images.get(image.image_id, image)
            if isinstance(key := _get_fields(message)["additional_kwargs"].get(IMAGE_STORE_KEY), str):
                stores[image.image_id] = key
        arrivals += list_image_ids([message])
        limits = MessageLimits(policy)
        for sent in _list_sent_images(message):
            try:
                image = _keep(sent, store, limits)
            except Sam4MllmError as error:
                unread.append(describe_error(error))
                arrivals.append("")
            else:
                images.setdefault(image.image_id, image)
                arrivals.append(image.image_id)
    sent_ids = frozenset(images)
    for artifact in list_artifacts(messages):
        if artifact.get(ORIGIN_KEY) == "opened" and artifact["picture"] not in images:
            images[artifact["picture"]] = _describe_opened(artifact)
            arrivals += [] if sent_ids or unread else [artifact["picture"]]
    opened = frozenset(images) - sent_ids
    return ConversationImages(tuple(images.values()), arrivals[-1] if arrivals else "", opened, stores, tuple(unread))


def _get_fields(message: Any) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = message if isinstance(message, Mapping) else getattr(message, "__dict__", {})
    return fields


def _list_sent_images(message: Any) -> Iterator[SentImage]:
    """Yield the images that are still in a person's message."""
    fields = _get_fields(message)
    if (fields.get("type") or fields.get("role")) not in ("human", "user"):
        return
    content = fields.get("content")
    for block in [content] if isinstance(content, str) else content if isinstance(content, list) else ():
        if (sent := parse_block(block)) is not None:
            yield sent
            continue
        text = block if isinstance(block, str) else block.get("text") if isinstance(block, Mapping) else None
        if isinstance(text, str) and "data:image/" in text:
            yield from (SentImage(match[0]) for match in DATA_URI.finditer(text))


def _keep(sent: SentImage, store: ImageStore, limits: MessageLimits) -> ConversationImage:
    if sent.source is None:
        raise UnknownImageError("the block has no image in it")
    if isinstance(sent.source, FileId):
        raise UnknownImageError(f"{sent.source.describe()} is kept by a model's provider")
    image = limits.open(sent.source)
    return ConversationImage(store.put(image, policy=OPENED_POLICY), *image.size, sent.name)


def _describe_opened(artifact: Mapping[str, Any]) -> ConversationImage:
    name, size = artifact.get("name"), artifact.get("size") or artifact["state"].get("size")
    width, height = (size.get("width"), size.get("height")) if isinstance(size, Mapping) else (None, None)
    is_size = isinstance(width, int) and isinstance(height, int)
    return ConversationImage(
        artifact["picture"], width if is_size else None, height if is_size else None, name if isinstance(name, str) else ""
    )
