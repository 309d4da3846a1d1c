"""Which image of a conversation a text means: its id, its name, its number, "the first image", "latest".

A message carries the ids of its images, and their sizes and names, in its `additional_kwargs`. What a conversation may open is
decided by its own messages, never by what a store holds: an id that is merely written in a text gives no access. A model that
never saw these tools writes the name that it was shown, pastes the whole line, or counts; what can mean only one image is taken
as that one, and anything else is answered with the list of images. Nothing here imports LangChain or opens an image.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from sam4mllm_tool.errors import Sam4MllmError, quote_text

__all__ = [
    "IMAGE_DETAILS_KEY",
    "IMAGE_IDS_KEY",
    "IMAGE_STORE_KEY",
    "LATEST",
    "ConversationImage",
    "UnknownImageError",
    "find_image",
    "find_image_id",
    "is_image_id",
    "is_latest",
    "list_image_ids",
    "list_images",
]

IMAGE_IDS_KEY = "sam4mllm_pictures"
"""The key of a message's additional_kwargs that lists the ids of its images, in their order."""
IMAGE_DETAILS_KEY = "sam4mllm_picture_facts"
"""The key that holds their sizes and names, by id: {"width": 640, "height": 480, "name": "cat.jpg"}."""
IMAGE_STORE_KEY = "sam4mllm_image_store"
"""The key that holds the key of the store that they were put in (`ImageStore.key`)."""
LATEST = "latest"
"""What a model writes for the newest image."""

_ID = re.compile(r"img-[0-9a-f]{12}")
_WRITTEN_ID = re.compile(r"\bimg-[0-9a-f]{12}\b", re.IGNORECASE)
_PREFIX = re.compile(r"(?:img-)?(?P<digits>[0-9a-f]{2,11})", re.IGNORECASE)
_NOUN = r"(?:image|img|picture|photo|photograph|file|one)"
_LATEST = re.compile(
    rf"|(?:the |this |that |my )?(?:(?:very )?(?:latest|newest|last|current|most recent|default|attached|uploaded|given)"
    rf"(?: {_NOUN})?|{_NOUN})(?: (?:above|here))?",
    re.IGNORECASE,
)
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_CARDINALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER = re.compile(
    rf"(?:the )?(?:(?P<ordinal>{'|'.join(_ORDINALS)})(?: {_NOUN})?|(?P<place>\d{{1,6}})(?:st|nd|rd|th)(?: {_NOUN})?"
    rf"|(?:{_NOUN}[ _-]?)?(?:number |no\.? ?|#)?(?P<number>\d{{1,6}}|{'|'.join(_CARDINALS)}))",
    re.IGNORECASE,
)
_MAX_LISTED = 8
"""Images that an error lists, the newest ones."""


class UnknownImageError(Sam4MllmError, LookupError):
    """A text that means no image of this conversation, or that could mean several."""


class ConversationImage(NamedTuple):
    """An image of a conversation, as it was noted when it came in."""

    image_id: str
    width: int | None = None
    height: int | None = None
    name: str = ""

    def describe(self) -> str:
        """Return id, size and name for a message: img-0123456789ab, 640 x 480, "cat.jpg"."""
        size = f", {self.width} x {self.height}" if self.width and self.height else ""
        return f"{self.image_id}{size}" + (f', "{self.name}"' if self.name else "")


def is_image_id(text: object) -> bool:
    """Return whether a value has the exact form of an id, whether or not there is such an image."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def is_latest(text: str) -> bool:
    """Return whether a text means the newest image: "latest", "the last image", "this picture", or nothing at all."""
    return _LATEST.fullmatch(_clean(text)) is not None


def list_image_ids(messages: Sequence[Any]) -> list[str]:
    """Return the ids that the messages carry, each once, in the order of their last arrival: the last one is "latest".

    Only a person's messages count, and only the ids that were put on them when their images were taken in.

    Args:
        messages: LangChain's messages or their dicts.
    """
    arrivals: dict[str, None] = {}
    for message in messages:
        for image_id in _get_carried_ids(message):
            arrivals.pop(image_id, None)
            arrivals[image_id] = None
    return list(arrivals)


def list_images(messages: Sequence[Any]) -> list[ConversationImage]:
    """Return the images that the messages carry, each once, in the order of their first arrival: the first one is number 1."""
    images: dict[str, ConversationImage] = {}
    for message in messages:
        details = _get_extra(message).get(IMAGE_DETAILS_KEY)
        for image_id in _get_carried_ids(message):
            noted = details.get(image_id) if isinstance(details, Mapping) else None
            image = _read_details(image_id, noted)
            images[image_id] = image if image.name or image_id not in images else images[image_id]
    return list(images.values())


def _get_extra(message: Any) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = message if isinstance(message, Mapping) else getattr(message, "__dict__", {})
    extra = fields.get("additional_kwargs")
    is_person = (fields.get("type") or fields.get("role")) in ("human", "user")
    return extra if is_person and isinstance(extra, Mapping) else {}


def _get_carried_ids(message: Any) -> list[str]:
    ids = _get_extra(message).get(IMAGE_IDS_KEY)
    return [image_id for image_id in ids if is_image_id(image_id)] if isinstance(ids, list | tuple) else []


def _read_details(image_id: str, noted: object) -> ConversationImage:
    if not isinstance(noted, Mapping):
        return ConversationImage(image_id)
    width, height = (side if isinstance(side, int) else None for side in (noted.get("width"), noted.get("height")))
    return ConversationImage(image_id, width, height, noted["name"] if isinstance(noted.get("name"), str) else "")


def find_image_id(image: str, messages: Sequence[Any]) -> str:
    """Return the id that `image` means in this conversation. See `find_image`; `messages` are LangChain's or their dicts."""
    return find_image(image, list_images(messages), (list_image_ids(messages) or [""])[-1])


def find_image(text: str, images: Sequence[ConversationImage], latest: str) -> str:
    """Return the id of the image that a text means.

    Args:
        text: What a model wrote: an id or its unique beginning, in any case or inside a longer text, a name, "image 2", "the
            first image", or "latest".
        images: The images of the conversation; the first one is number 1.
        latest: The id of the newest one.

    Raises:
        UnknownImageError: The text means none of them, or several; the message lists them.
    """
    if not images:
        raise UnknownImageError("there is no image in this conversation yet; ask for one to be sent with the next message")
    name = _clean(text)
    if name.lower() == LATEST:
        return latest
    for find_matches in (_match_written_id, _match_name, _match_number, _match_prefix, _match_stem):
        if matches := find_matches(name, images):
            break
    else:
        if is_latest(name):
            return latest
        raise UnknownImageError(
            f"no image {quote_text(text)} in this conversation; its images are {_describe_all(images, latest)}"
        )
    if len(matches) > 1:
        raise UnknownImageError(
            f"{quote_text(text)} can mean several images: give the id of one of {_describe_all(images, latest)}"
        )
    return matches[0]


def _clean(text: str) -> str:
    """Return a text without the signs that models put around it."""
    return " ".join(text.strip().strip("[](){}<>'\"`*.,; ").split())


def _match_written_id(text: str, images: Sequence[ConversationImage]) -> list[str]:
    """An id anywhere in the text, as in a pasted line."""
    ids = {written.lower() for written in _WRITTEN_ID.findall(text)}
    return [image.image_id for image in images if image.image_id in ids]


def _match_name(text: str, images: Sequence[ConversationImage]) -> list[str]:
    return [
        image.image_id for image in images if image.name and image.name.casefold() in (text.casefold(), _get_file_name(text))
    ]


def _match_stem(text: str, images: Sequence[ConversationImage]) -> list[str]:
    """A name without its ending."""
    return [image.image_id for image in images if image.name and PurePosixPath(image.name).stem.casefold() == text.casefold()]


def _match_number(text: str, images: Sequence[ConversationImage]) -> list[str]:
    if not (match := _NUMBER.fullmatch(text)):
        return []
    word = (match["ordinal"] or match["place"] or match["number"]).lower()
    words = _ORDINALS if match["ordinal"] else _CARDINALS
    number = words.index(word) + 1 if word in words else int(word)
    return [images[number - 1].image_id] if 1 <= number <= len(images) else []


def _match_prefix(text: str, images: Sequence[ConversationImage]) -> list[str]:
    """The beginning of an id, with "img-" or without."""
    match = _PREFIX.fullmatch(text)
    return [image.image_id for image in images if image.image_id.startswith(f"img-{match['digits'].lower()}")] if match else []


def _get_file_name(text: str) -> str:
    return PurePosixPath(text.replace("\\", "/")).name.casefold()


def _describe_all(images: Sequence[ConversationImage], latest: str) -> str:
    """List the newest images with their numbers."""
    numbered = list(enumerate(images, start=1))
    lines = [
        f"{number}: {image.describe()}{' (latest)' if image.image_id == latest else ''}"
        for number, image in numbered[-_MAX_LISTED:]
    ]
    return "; ".join(lines)
