"""The forms in which an image comes in a message, whoever wrote it, and the one in which it goes to a chat model.

LangChain's standard blocks (versions 1 and 0), OpenAI's (Chat Completions and Responses), Anthropic's, Google's `media`, those
of LangChain's JavaScript clients, files that say they are images, and data URIs in plain text.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from PIL import Image as PILImage

from sam4mllm_tool.errors import ImageError, quote_text
from sam4mllm_tool.images.load import ImagePolicy, ImageSource, load_image
from sam4mllm_tool.types import Image

__all__ = ["DATA_URI", "FileId", "MessageLimits", "SentImage", "clean_name", "create_image_block", "parse_block"]

DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,[A-Za-z0-9+/=]+")
"""An image pasted into a text."""

_IMAGE_BLOCKS = ("image", "image_url", "input_image")
_FILE_BLOCKS = ("file", "input_file", "media", "document")
_MAX_NAME_LENGTH = 60
_SUFFIX = re.compile(r"\.\w{1,7}$")


class FileId(str):
    """The id of a file that was uploaded to a model's provider."""

    __slots__ = ()

    def describe(self) -> str:
        """Return the id for an error message."""
        return f"the file {quote_text(str(self))}"


class SentImage(NamedTuple):
    """An image as it was sent. `source` is a data URI, URL, path, bytes or `FileId`; None where the block has none."""

    source: str | bytes | None
    name: str = ""


class MessageLimits:
    """What is left of a policy's limits for the images of one message, as they are opened one after the other."""

    def __init__(self, policy: ImagePolicy) -> None:
        self._policy = policy
        self._images, self._pixels = policy.max_message_images, policy.max_message_pixels

    def open(self, source: ImageSource) -> Image:
        """Load the message's next image. Raises ImageError, also where nothing is left."""
        if self._images < 1:
            raise ImageError(f"a message may have {self._policy.max_message_images} images (max_message_images of the policy)")
        if self._pixels < 1:
            raise ImageError(f"a message may have {self._policy.max_message_pixels:,} pixels; send the image in another one")
        self._images -= 1
        image = load_image(source, policy=replace(self._policy, max_pixels=min(self._policy.max_pixels, self._pixels)))
        self._pixels -= image.width * image.height
        return image


def parse_block(block: Any) -> SentImage | None:
    """Return the image in a content block, or None for a block of another kind."""
    if not isinstance(block, Mapping) or block.get("type") not in (*_IMAGE_BLOCKS, *_FILE_BLOCKS):
        return None
    inner = _get_inner(block)
    source = _get_source(inner)
    if block.get("type") in _FILE_BLOCKS and not _declares_image(block, inner, source):
        return None
    return SentImage(source, _get_name(block, inner, source))


def _get_inner(block: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return where a block keeps the image: in itself, or one level further in."""
    for key in ("source", "image_url", "file"):
        value = block.get(key)
        if isinstance(value, Mapping):
            return value
        if key == "image_url" and isinstance(value, str):
            return {"url": value}
    return block


def _get_source(inner: Mapping[str, Any]) -> str | bytes | None:
    for key in ("base64", "data", "file_data", "bytes"):
        value = inner.get(key)
        if isinstance(value, bytes | bytearray):
            return bytes(value)
        if isinstance(value, str) and value:
            return value if value.lstrip()[:5].lower() == "data:" else f"data:image/unknown;base64,{value}"
    for key in ("url", "image_url", "path"):
        if isinstance(value := inner.get(key), str) and value:
            return value
    ids = (inner.get("file_id"), inner.get("fileId"), inner.get("id") if inner.get("source_type") == "id" else None)
    return next((FileId(file_id) for file_id in ids if isinstance(file_id, str) and file_id), None)


def _declares_image(block: Mapping[str, Any], inner: Mapping[str, Any], source: str | bytes | None) -> bool:
    """Whether a file block says that its file is an image."""
    if isinstance(source, str) and source.lower().startswith("data:image/") and not source.startswith("data:image/unknown"):
        return True
    types = (part.get(key) for part in (block, inner) for key in ("mime_type", "mimeType", "media_type"))
    return any(isinstance(mime_type, str) and mime_type.lower().startswith("image/") for mime_type in types)


def _get_name(block: Mapping[str, Any], inner: Mapping[str, Any], source: str | bytes | None) -> str:
    """Return the name that the block gives, else its file's."""
    for part in (block, inner, block.get("metadata"), block.get("extras")):
        for key in ("name", "filename", "title"):
            if isinstance(part, Mapping) and isinstance(value := part.get(key), str) and value.strip():
                return clean_name(value)
    if isinstance(source, bytes | FileId) or source is None or source.lower().startswith("data:"):
        return ""
    try:
        path = unquote(urlsplit(source).path) if "://" in source else source
    except ValueError:  # a malformed URL, which opening it will report
        return ""
    return clean_name(path)


def clean_name(name: object) -> str:
    """Return a file's name without its folder, for a model's prompt: at most 60 letters, digits and a few signs.

    The suffix stays.
    """
    last = PurePosixPath(str(name).replace("\\", "/")).name
    cleaned = " ".join(re.sub(r"[^\w .,()+@-]", " ", last).split())
    if len(cleaned) <= _MAX_NAME_LENGTH:
        return cleaned
    suffix = match[0] if (match := _SUFFIX.search(cleaned)) else ""
    return cleaned[: _MAX_NAME_LENGTH - len(suffix)].strip() + suffix


def create_image_block(image: Image, max_side: int) -> dict[str, Any]:
    """Create a standard image block: a JPEG whose longer side has at most `max_side` pixels. `image` is RGB."""
    copy = image.copy()
    copy.thumbnail((max_side, max_side), PILImage.Resampling.LANCZOS)
    file = BytesIO()
    copy.save(file, "JPEG", quality=90)
    return {"type": "image", "base64": base64.b64encode(file.getvalue()).decode("ascii"), "mime_type": "image/jpeg"}
