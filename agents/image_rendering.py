"""What a chat model is shown of a conversation's images: a line of text each, copies of the newest, results drawn over them.

All of it is made for one call of the model and goes into no state. A model whose profile doesn't say that it takes images gets
the lines alone. One that does, but takes no images from tools (`image_tool_message`), gets no overlays: for some providers an
image in a tool's message is an error, for others a person's message between a tool's and the model's.
"""

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AnyMessage, SystemMessage, ToolMessage

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.images.draw import overlay
from sam4mllm_tool.interactive.state import RefineError
from sam4mllm_tool.tools.artifacts import validate_extent
from sam4mllm_tool.tools.error_messages import describe_error
from sam4mllm_tool.tools.image_blocks import clean_name, create_image_block
from sam4mllm_tool.tools.image_store import IMAGE_DETAILS_KEY, ImageStore, list_image_ids
from sam4mllm_tool.types import Image, Segmentation, Size

__all__ = ["IMAGE_LINE", "ImageRenderer", "format_image_line", "format_refusal"]

Block = dict[str, Any]

IMAGE_LINE = re.compile(r"\[(?:image|picture) (?:img-[0-9a-f]{12}|refused)\b[^\[\]\n]*\]")
"""A line that `format_image_line` or `format_refusal` wrote; conversations from before write "picture"."""

_MAX_CACHED = 32  # blocks of some 100 kB
_MAX_LISTED = 20
_ASK_AGAIN = "no longer kept: ask for it to be sent again"

_INSTRUCTIONS = """\
Images in this conversation have ids. Where a tool asks for an image, give an id, or "latest" for the newest. Coordinates \
are pixels of an image's full size given here, also where it is shown to you smaller."""
_NO_IMAGE = "There is no image in this conversation yet: where one is needed, ask the person to send it."


def format_image_line(image_id: str, details: Mapping[str, Any]) -> str:
    """Return the line that stands for an image in a message: [image img-0123456789ab, 640 x 480, "cat.jpg"]."""
    return f"[image {_format_details(image_id, details)}]"


def format_refusal(error: Sam4MllmError, name: str = "") -> str:
    """Return the line that stands for an image that could not be taken, with what to do about it."""
    reason = describe_error(error).replace("[", "(").replace("]", ")")
    return f"[image refused{_quote_name(name)}: {reason}]"


def _format_details(image_id: str, details: Mapping[str, Any]) -> str:
    width, height = details.get("width"), details.get("height")
    size = f", {width} x {height}" if isinstance(width, int) and isinstance(height, int) else ""
    return f"{image_id}{size}{_quote_name(details.get('name'))}"


def _quote_name(name: object) -> str:
    return f', "{cleaned}"' if name and (cleaned := clean_name(name)) else ""


class ImageRenderer:
    """Adds images and overlays to what a model is sent. Thread-safe; a pickled renderer leaves its cache behind.

    Args:
        store: Where the images are kept.
        max_images: How many of the newest images are shown.
        max_overlays: How many of the newest results are drawn.
        max_side: The longer side of a shown copy in pixels.
    """

    def __init__(self, store: ImageStore, *, max_images: int = 4, max_overlays: int = 2, max_side: int = 1024) -> None:
        if max_images < 0 or max_overlays < 0 or max_side < 1:
            raise ValueError(
                "expected max_images and max_overlays from 0 and max_side from 1, "
                f"got {max_images}, {max_overlays} and {max_side}"
            )
        self.store = store
        self.max_images, self.max_overlays, self.max_side = max_images, max_overlays, max_side
        self._cache: OrderedDict[str, Block] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _create_renderer, (self.store, self.max_images, self.max_overlays, self.max_side)

    def extend_instructions(self, system: SystemMessage | None, messages: Sequence[AnyMessage]) -> SystemMessage:
        """Return the system message with a section on the conversation's images."""
        text = f"{_INSTRUCTIONS}\n{self._list_images(messages)}"
        if system is None:
            return SystemMessage(text)
        content = system.content
        extended = f"{content}\n\n{text}" if isinstance(content, str) else [*content, {"type": "text", "text": text}]
        return system.model_copy(update={"content": extended})

    def _list_images(self, messages: Sequence[AnyMessage]) -> str:
        ids = list_image_ids(messages)
        if not ids:
            return _NO_IMAGE
        details = _collect_details(messages)
        lines = [f"- {_format_details(name, details.get(name, {}))}{self._remark(name, ids)}" for name in ids[-_MAX_LISTED:]]
        return "\n".join([f"- {len(ids) - _MAX_LISTED} earlier ones"] * (len(ids) > _MAX_LISTED) + lines)

    def _remark(self, image_id: str, ids: Sequence[str]) -> str:
        missing = "" if image_id in self.store else f" ({_ASK_AGAIN})"
        return f" (latest){missing}" if image_id == ids[-1] else missing

    def render(self, messages: Sequence[AnyMessage], profile: Mapping[str, Any] | None) -> list[AnyMessage]:
        """Return the messages as the model is sent them, new ones where an image was added.

        Args:
            messages: The conversation.
            profile: The model's profile, if it has one.
        """
        profile = profile or {}
        rendered = list(messages)
        if not profile.get("image_inputs"):
            return rendered
        for image_id in list_image_ids(messages)[-self.max_images :] if self.max_images else []:
            index = max(index for index, message in enumerate(messages) if image_id in list_image_ids([message]))
            rendered[index] = _insert_after_line(rendered[index], image_id, self._render_image(image_id))
        if profile.get("image_tool_message"):
            self._add_overlays(rendered)
        return rendered

    def _add_overlays(self, messages: list[AnyMessage]) -> None:
        ids = list_image_ids(messages)
        results = [index for index, message in enumerate(messages) if _is_result(message, ids)]
        for index in results[-self.max_overlays :] if self.max_overlays else []:
            message = messages[index]
            block = self._render_overlay(message.artifact)  # type: ignore[union-attr]
            messages[index] = message.model_copy(update={"content": [*_list_blocks(message), block]})

    def _render_image(self, image_id: str) -> Block:
        return self._render_once(image_id, lambda: self.store.get(image_id))

    def _render_overlay(self, artifact: Mapping[str, Any]) -> Block:
        try:
            content = json.dumps([artifact["picture"], artifact["objects"]], sort_keys=True).encode()
        except (TypeError, ValueError, RecursionError):  # a client wrote it
            return {"type": "text", "text": "[can't be shown: the result is not plain JSON]"}
        return self._render_once(hashlib.sha256(content).hexdigest(), lambda: self._draw_overlay(artifact))

    def _draw_overlay(self, artifact: Mapping[str, Any]) -> Image:
        image = self.store.get(artifact["picture"])
        return overlay(image, _restore_segmentation(artifact, image))

    def _render_once(self, key: str, create_image: Callable[[], Image]) -> Block:
        """Return the cached block of an image; a text block where the image can't be made."""
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        try:
            block = create_image_block(create_image(), self.max_side)
        except Sam4MllmError as error:  # not cached: the person may send the image again
            return {"type": "text", "text": f"[can't be shown: {describe_error(error)}]"}
        with self._lock:
            self._cache[key] = block
            while len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        return block


def _create_renderer(store: ImageStore, max_images: int, max_overlays: int, max_side: int) -> ImageRenderer:
    """Rebuild a pickled renderer, whose arguments are keyword-only."""
    return ImageRenderer(store, max_images=max_images, max_overlays=max_overlays, max_side=max_side)


def _collect_details(messages: Sequence[AnyMessage]) -> dict[str, Mapping[str, Any]]:
    """Return sizes and names by id, as they were noted when the images came in."""
    collected: dict[str, Mapping[str, Any]] = {}
    for message in messages:
        noted = message.additional_kwargs.get(IMAGE_DETAILS_KEY)
        if isinstance(noted, Mapping):
            collected |= {image_id: details for image_id, details in noted.items() if isinstance(details, Mapping)}
    return collected


def _list_blocks(message: AnyMessage) -> list[Any]:
    content = message.content
    return list(content) if isinstance(content, list) else [{"type": "text", "text": content}] if content else []


def _insert_after_line(message: AnyMessage, image_id: str, block: Block) -> AnyMessage:
    """Return the message with the block after the text that holds the image's line, or else at its end."""
    blocks = _list_blocks(message)
    texts = [part if isinstance(part, str) else part.get("text") or "" for part in blocks]
    lines = (f"[image {image_id}", f"[picture {image_id}")
    index = next((n for n, text in enumerate(texts, start=1) if any(line in text for line in lines)), len(blocks))
    return message.model_copy(update={"content": [*blocks[:index], block, *blocks[index:]]})


def _is_result(message: AnyMessage, image_ids: Sequence[str]) -> bool:
    """Whether a tool's message holds a result with masks of one of the images."""
    artifact = message.artifact if isinstance(message, ToolMessage) and message.status == "success" else None
    if not isinstance(artifact, Mapping) or artifact.get("kind") != "result" or artifact.get("picture") not in image_ids:
        return False
    return bool(artifact.get("objects"))


def _restore_segmentation(result: Mapping[str, Any], image: Image) -> Segmentation:
    """Rebuild the result of an artifact.

    Raises:
        Sam4MllmError: It is none, or not of this image, or too large; before any mask is decoded.
    """
    validate_extent(dict(result), Size(*image.size))
    try:
        return Segmentation.from_dict(result)
    except ValueError as error:
        raise RefineError(f"the result can't be read back ({error}): segment once more") from error
    except (ArithmeticError, LookupError, RecursionError) as error:
        raise RefineError("the result can't be read back: segment once more") from error
