"""What a chat model is shown of a conversation's pictures: a line of text for each, copies of the newest, results drawn over.

All of it is made for one call of the model and goes into no state. A model whose profile doesn't say that it sees pictures gets
the lines alone; one that does, but takes no pictures from tools (`image_tool_message`), gets no overlays: a picture in a tool's
message is an error with some providers, and so is a person's message between a tool's and the model's with others.
"""

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AnyMessage, SystemMessage, ToolMessage

from sam4mllm_tool.agents.image_blocks import image_block, readable_name
from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.images.draw import overlay
from sam4mllm_tool.interactive.state import RefineError
from sam4mllm_tool.tools.image_store import FACTS_KEY, PictureStore, known_pictures
from sam4mllm_tool.types import Image, Segmentation

__all__ = ["PICTURE_LINE", "Showing", "label", "refusal"]

Block = dict[str, Any]

PICTURE_LINE = re.compile(r"\[picture (?:img-[0-9a-f]{12}|refused)\b[^\[\]\n]*\]")
"""What stands in a text for a picture: what `label` or `refusal` wrote."""

_CACHED = 32  # blocks of some 100 kB
_LISTED = 20
_ASK_AGAIN = "no longer kept: ask for it to be sent again"

_HOW = """\
Pictures in this conversation have ids. Where a tool asks for an image, give an id, or "latest" for the newest. Coordinates \
are pixels of a picture's full size given here, also where it is shown to you smaller."""
_NONE_YET = "There is no picture in this conversation yet: where one is needed, ask the person to send it."


def label(name: str, facts: Mapping[str, Any]) -> str:
    """The line that stands in a message for a picture: [picture img-0123456789ab, 640 x 480, "cat.jpg"]."""
    return f"[picture {_described(name, facts)}]"


def refusal(error: Sam4MllmError, name: str = "") -> str:
    """The line that stands for a picture that could not be taken, with what to do about it."""
    reason = " ".join(str(error).split()).replace("[", "(").replace("]", ")")
    return f"[picture refused{_quoted(name)}: {reason}]"


def _described(name: str, facts: Mapping[str, Any]) -> str:
    width, height = facts.get("width"), facts.get("height")
    size = f", {width} x {height}" if isinstance(width, int) and isinstance(height, int) else ""
    return f"{name}{size}{_quoted(facts.get('name'))}"


def _quoted(name: object) -> str:
    return f', "{readable}"' if name and (readable := readable_name(name)) else ""


class Showing:
    """Makes what the model sees. store: where the pictures are. shown, overlays: how many of the newest pictures and results.
    longest: of a copy, the longer side in pixels. Safe for threads; a pickled one leaves its cache behind."""

    def __init__(self, store: PictureStore, *, shown: int = 4, overlays: int = 2, longest: int = 1024) -> None:
        if shown < 0 or overlays < 0 or longest < 1:
            raise ValueError(f"expected shown and overlays from 0 and longest from 1, got {shown}, {overlays} and {longest}")
        self.store = store
        self.shown, self.overlays, self.longest = shown, overlays, longest
        self._made: OrderedDict[str, Block] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _showing, (self.store, self.shown, self.overlays, self.longest)

    def instructions(self, system: SystemMessage | None, messages: Sequence[AnyMessage]) -> SystemMessage:
        """The system message with a section on the pictures of the conversation."""
        text = f"{_HOW}\n{self._listed(messages)}"
        if system is None:
            return SystemMessage(text)
        content = system.content
        joined = f"{content}\n\n{text}" if isinstance(content, str) else [*content, {"type": "text", "text": text}]
        return system.model_copy(update={"content": joined})

    def _listed(self, messages: Sequence[AnyMessage]) -> str:
        known = known_pictures(messages)
        if not known:
            return _NONE_YET
        facts = _facts(messages)
        lines = [f"- {_described(name, facts.get(name, {}))}{self._remark(name, known)}" for name in known[-_LISTED:]]
        return "\n".join([f"- {len(known) - _LISTED} earlier ones"] * (len(known) > _LISTED) + lines)

    def _remark(self, name: str, known: Sequence[str]) -> str:
        gone = "" if name in self.store else f" ({_ASK_AGAIN})"
        return f" (latest){gone}" if name == known[-1] else gone

    def show(self, messages: Sequence[AnyMessage], profile: Mapping[str, Any] | None) -> list[AnyMessage]:
        """The messages as the model is to see them, new ones where a picture was added. profile: the model's, if it has one."""
        profile = profile or {}
        if not profile.get("image_inputs"):
            return list(messages)
        told = list(messages)
        for name in known_pictures(messages)[-self.shown :] if self.shown else []:
            place = max(place for place, message in enumerate(messages) if name in known_pictures([message]))
            told[place] = _beside_label(told[place], name, self._copy(name))
        if profile.get("image_tool_message"):
            self._add_overlays(told)
        return told

    def _add_overlays(self, messages: list[AnyMessage]) -> None:
        known = known_pictures(messages)
        results = [place for place, message in enumerate(messages) if _is_result(message, known)]
        for place in results[-self.overlays :] if self.overlays else []:
            message = messages[place]
            drawn = self._overlay(message.artifact)  # type: ignore[union-attr]
            messages[place] = message.model_copy(update={"content": [*_blocks(message), drawn]})

    def _copy(self, name: str) -> Block:
        return self._once(name, lambda: self.store.get(name))

    def _overlay(self, artifact: Mapping[str, Any]) -> Block:
        drawn = json.dumps([artifact["picture"], artifact["objects"]], sort_keys=True).encode()
        return self._once(hashlib.sha256(drawn).hexdigest(), lambda: self._draw(artifact))

    def _draw(self, artifact: Mapping[str, Any]) -> Image:
        image = self.store.get(artifact["picture"])
        return overlay(image, _segmentation(artifact, image))

    def _once(self, key: str, make: Callable[[], Image]) -> Block:
        """The block of what `make` gives, made once for many calls of a model; a text block where it can't be made."""
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        try:
            made = image_block(make(), self.longest)
        except Sam4MllmError as error:  # not kept: the person may send the picture again
            return {"type": "text", "text": f"[can't be shown: {error}]"}
        with self._lock:
            self._made[key] = made
            while len(self._made) > _CACHED:
                self._made.popitem(last=False)
        return made


def _showing(store: PictureStore, shown: int, overlays: int, longest: int) -> Showing:
    return Showing(store, shown=shown, overlays=overlays, longest=longest)


def _facts(messages: Sequence[AnyMessage]) -> dict[str, Mapping[str, Any]]:
    """Sizes and names as they were noted when the pictures came."""
    facts: dict[str, Mapping[str, Any]] = {}
    for message in messages:
        noted = message.additional_kwargs.get(FACTS_KEY)
        if isinstance(noted, Mapping):
            facts |= {name: told for name, told in noted.items() if isinstance(told, Mapping)}
    return facts


def _blocks(message: AnyMessage) -> list[Any]:
    content = message.content
    return list(content) if isinstance(content, list) else [{"type": "text", "text": content}] if content else []


def _beside_label(message: AnyMessage, name: str, block: Block) -> AnyMessage:
    """The message with the block after the text that holds the picture's line, or else at its end."""
    blocks = _blocks(message)
    texts = [part if isinstance(part, str) else part.get("text") or "" for part in blocks]
    place = next((place for place, text in enumerate(texts, start=1) if f"[picture {name}" in text), len(blocks))
    return message.model_copy(update={"content": [*blocks[:place], block, *blocks[place:]]})


def _is_result(message: AnyMessage, known: Sequence[str]) -> bool:
    """Whether a tool's message holds a result with masks of one of the known pictures."""
    artifact = message.artifact if isinstance(message, ToolMessage) and message.status == "success" else None
    if not isinstance(artifact, Mapping) or artifact.get("kind") != "result" or artifact.get("picture") not in known:
        return False
    return bool(artifact.get("objects"))


def _segmentation(result: Mapping[str, Any], image: Image) -> Segmentation:
    """The result of an artifact read back.

    Raises RefineError where it is none, or not of this picture, before any mask is decoded.
    """
    size = {"width": image.width, "height": image.height}
    if result.get("size") != size:
        raise RefineError(f"the result is not of a picture of {image.width} x {image.height} pixels: segment once more")
    try:
        return Segmentation.from_dict(result)
    except ValueError as error:
        raise RefineError(f"the result can't be read back ({error}): segment once more") from error
