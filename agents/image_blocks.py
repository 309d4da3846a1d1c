"""The forms in which a picture comes in a message, whoever wrote it, and the one in which it goes to a chat model.

LangChain's standard blocks (versions 1 and 0), OpenAI's (Chat Completions and Responses), Anthropic's, Google's `media`, those
of LangChain's JavaScript clients, files that say they are images, and data URIs in plain text. Nothing is opened here.
"""

import base64
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from PIL import Image as PILImage

from sam4mllm_tool.types import Image

__all__ = ["DATA_URI", "FileId", "Sent", "image_block", "read_block", "readable_name"]

DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,[A-Za-z0-9+/=]+")
"""A picture pasted into a text."""

_IMAGE_BLOCKS = ("image", "image_url", "input_image")
_FILE_BLOCKS = ("file", "input_file", "media", "document")


class FileId(str):
    """The name of a file that was uploaded elsewhere."""

    __slots__ = ()


class Sent(NamedTuple):
    """A picture as it was sent. source: a data URI, URL, path, bytes or `FileId`; None where the block has none in it."""

    source: str | bytes | None
    name: str = ""


def read_block(block: Any) -> Sent | None:
    """The picture in a content block; None where it is a block of another kind."""
    if not isinstance(block, Mapping) or block.get("type") not in (*_IMAGE_BLOCKS, *_FILE_BLOCKS):
        return None
    inner = _inner(block)
    source = _source(inner)
    if block.get("type") in _FILE_BLOCKS and not _says_image(block, inner, source):
        return None
    return Sent(source, _name(block, inner, source))


def _inner(block: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a block keeps the picture: in itself, or one step further in."""
    for key in ("source", "image_url", "file"):
        value = block.get(key)
        if isinstance(value, Mapping):
            return value
        if key == "image_url" and isinstance(value, str):
            return {"url": value}
    return block


def _source(inner: Mapping[str, Any]) -> str | bytes | None:
    for key in ("base64", "data", "file_data", "bytes"):
        value = inner.get(key)
        if isinstance(value, bytes | bytearray):
            return bytes(value)
        if isinstance(value, str) and value:
            return value if value.lstrip()[:5].lower() == "data:" else f"data:image/unknown;base64,{value}"
    for key in ("url", "image_url", "path"):
        if isinstance(value := inner.get(key), str) and value:
            return value
    names = (inner.get("file_id"), inner.get("fileId"), inner.get("id") if inner.get("source_type") == "id" else None)
    return next((FileId(name) for name in names if isinstance(name, str) and name), None)


def _says_image(block: Mapping[str, Any], inner: Mapping[str, Any], source: str | bytes | None) -> bool:
    if isinstance(source, str) and source.lower().startswith("data:image/") and not source.startswith("data:image/unknown"):
        return True
    kinds = (part.get(key) for part in (block, inner) for key in ("mime_type", "mimeType", "media_type"))
    return any(isinstance(kind, str) and kind.lower().startswith("image/") for kind in kinds)


def _name(block: Mapping[str, Any], inner: Mapping[str, Any], source: str | bytes | None) -> str:
    """The name it was given, else that of its file."""
    places = (block, inner, *(block.get(key) for key in ("metadata", "extras")))
    for place in places:
        for key in ("name", "filename", "title"):
            if isinstance(place, Mapping) and isinstance(value := place.get(key), str) and value.strip():
                return readable_name(value)
    if isinstance(source, bytes | FileId) or source is None or source.lower().startswith("data:"):
        return ""
    try:
        path = unquote(urlsplit(source).path) if "://" in source else source
    except ValueError:  # a malformed URL, which opening it will tell
        return ""
    return readable_name(path)


def readable_name(name: object) -> str:
    """A file's name without its folder, of letters, digits and a few signs, at most 60: it will stand in a model's prompt."""
    last = PurePosixPath(str(name).replace("\\", "/")).name
    return " ".join(re.sub(r"[^\w .,()+-]", " ", last).split())[:60].strip()


def image_block(image: Image, longest: int) -> dict[str, Any]:
    """A standard image block, a JPEG whose longer side has at most `longest` pixels. image: RGB, left as it was."""
    shown = image.copy()
    shown.thumbnail((longest, longest), PILImage.Resampling.LANCZOS)
    file = BytesIO()
    shown.save(file, "JPEG", quality=90)
    return {"type": "image", "base64": base64.b64encode(file.getvalue()).decode("ascii"), "mime_type": "image/jpeg"}
