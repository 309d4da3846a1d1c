"""The training set's file format: conversations about images as lines of JSON, with a manifest beside them.

A line holds one image and the conversations about it. Each conversation is produced by running the states of `protocol` on
true answers, so that it equals, byte for byte, what inference asks. The conversations of an image, and the branches of a
conversation, are independent: whoever packs them into one sequence must mask them from one another.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from typing_extensions import deprecated

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.types import Turn

__all__ = ["CONVERSATIONS_FILE", "MANIFEST_FILE", "ImageConversations", "TrainingConversation", "read_conversations"]

CONVERSATIONS_FILE = "lessons.jsonl"
MANIFEST_FILE = "manifest.json"
ConversationKind = Literal["pqpp", "ppg", "vqa"]


@dataclass(frozen=True)
class TrainingConversation:
    """A conversation about an image from its first turn on. The model is trained on every assistant turn.

    Attributes:
        turns: The turns that all branches share.
        branches: Alternative continuations of `turns`, each beginning with a user turn: the point questions of a dialect that
            asks about one point at a time.
        kind: How the conversation was made.
        sample: The id of the sample that it was made from.
        iou: For PPG, the IoU that the real segmenter reaches with the points, in [0, 1].
    """

    turns: tuple[Turn, ...]
    branches: tuple[tuple[Turn, ...], ...] = ()
    kind: ConversationKind = "pqpp"
    sample: str = ""
    iou: float | None = None

    def sequences(self) -> tuple[tuple[Turn, ...], ...]:
        """Return every path from the first turn to the end of a branch."""
        return tuple((*self.turns, *branch) for branch in self.branches) or (self.turns,)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "kind": self.kind,
            "sample": self.sample,
            "turns": _turns_to_json(self.turns),
            **({"branches": [_turns_to_json(branch) for branch in self.branches]} if self.branches else {}),
            **({"iou": self.iou} if self.iou is not None else {}),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "TrainingConversation":
        """Invert `to_dict`. Raises KeyError, TypeError or ValueError for other values."""
        branches = tuple(_turns_from_json(branch) for branch in value.get("branches", ()))
        return cls(_turns_from_json(value["turns"]), branches, value["kind"], value["sample"], value.get("iou"))


@dataclass(frozen=True)
class ImageConversations:
    """An image and the conversations about it. `image` is a path, absolute or relative to the folder of the file."""

    id: str
    image: str
    conversations: tuple[TrainingConversation, ...]
    image_id: str = ""

    def to_json(self) -> str:
        """Return one line without its newline."""
        conversations = [conversation.to_dict() for conversation in self.conversations]
        line = {"id": self.id, "image": self.image, "image_id": self.image_id, "conversations": conversations}
        return json.dumps(line, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> "ImageConversations":
        """Invert `to_json`. Raises ValueError describing the fault."""
        try:
            value: dict[str, Any] = parse_json(line)
            conversations = tuple(map(TrainingConversation.from_dict, value["conversations"]))
            return cls(value["id"], value["image"], conversations, value["image_id"])
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a training conversation: {type(error).__name__}: {error}") from error


def _turns_to_json(turns: tuple[Turn, ...]) -> list[dict[str, str]]:
    return [{"role": turn.role, "text": turn.text} for turn in turns]


def _turns_from_json(values: list[dict[str, Any]]) -> tuple[Turn, ...]:
    turns = tuple(Turn(value["role"], value["text"]) for value in values)
    if any(turn.role not in ("system", "user", "assistant") or not isinstance(turn.text, str) for turn in turns):
        raise ValueError(f"not a training conversation: a turn's role or text is invalid: {values!r:.200}")
    return turns


def read_conversations(folder: Path) -> Iterator[ImageConversations]:
    """Yield the images with their conversations that `sam4mllm data build` wrote to a folder.

    Raises:
        DataError: The file is missing, or a line is damaged. The message names the file and the line.
    """
    path = folder / CONVERSATIONS_FILE
    if not path.is_file():
        raise DataError(f"{path} does not exist: expected a folder where 'sam4mllm data build' has finished")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield ImageConversations.from_json(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from error


@deprecated("read_lessons is now read_conversations")
def read_lessons(folder: Path) -> Iterator[ImageConversations]:
    """Call `read_conversations`, the new name."""
    return read_conversations(folder)
