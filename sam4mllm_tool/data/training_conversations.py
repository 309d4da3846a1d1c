"""What an MLLM is trained on: conversations about pictures, as lines of JSON with a manifest beside them.

A lesson is one picture with the conversations about it. Each conversation is led by protocol/ on true answers, so that it is
byte for byte what inference will ask. All conversations of a lesson, and all branches of a conversation, are independent:
whoever packs them into one sequence must keep them from seeing one another.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Turn

__all__ = ["LESSONS_FILE", "MANIFEST_FILE", "Conversation", "Lesson", "read_lessons"]

LESSONS_FILE = "lessons.jsonl"
MANIFEST_FILE = "manifest.json"
Kind = Literal["pqpp", "ppg", "vqa"]


@dataclass(frozen=True)
class Conversation:
    """What is said about a picture from its first turn on; every assistant turn is to be learnt.

    branches: ways to go on after `turns`, side by side, each beginning with the user's turn: the point questions of a
    dialect that asks them one by one. sample: the id of the sample it was made from. iou: of PPG's points, what the real
    segmenter made of them.
    """

    turns: tuple[Turn, ...]
    branches: tuple[tuple[Turn, ...], ...] = ()
    kind: Kind = "pqpp"
    sample: str = ""
    iou: float | None = None

    def sequences(self) -> tuple[tuple[Turn, ...], ...]:
        """Every way through it, from the first turn to the end of a branch."""
        return tuple((*self.turns, *branch) for branch in self.branches) or (self.turns,)


@dataclass(frozen=True)
class Lesson:
    """A picture and what is learnt about it. image: as written, a path absolute or relative to the lessons' folder."""

    id: str
    image: str
    conversations: tuple[Conversation, ...]
    image_id: str = ""

    def to_json(self) -> str:
        """One line, without its end."""
        conversations = [
            {
                "kind": one.kind,
                "sample": one.sample,
                "turns": _plain(one.turns),
                **({"branches": [_plain(branch) for branch in one.branches]} if one.branches else {}),
                **({"iou": one.iou} if one.iou is not None else {}),
            }
            for one in self.conversations
        ]
        line = {"id": self.id, "image": self.image, "image_id": self.image_id, "conversations": conversations}
        return json.dumps(line, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> "Lesson":
        """Inverse of `to_json`. Raises ValueError naming the fault."""
        try:
            told: dict[str, Any] = json.loads(line)
            conversations = tuple(
                Conversation(
                    _turns(one["turns"]),
                    tuple(_turns(branch) for branch in one.get("branches", ())),
                    one["kind"],
                    one["sample"],
                    one.get("iou"),
                )
                for one in told["conversations"]
            )
            return cls(told["id"], told["image"], conversations, told["image_id"])
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a lesson: {type(error).__name__}: {error}") from error


def _plain(turns: tuple[Turn, ...]) -> list[dict[str, str]]:
    return [{"role": turn.role, "text": turn.text} for turn in turns]


def _turns(told: list[dict[str, Any]]) -> tuple[Turn, ...]:
    turns = tuple(Turn(turn["role"], turn["text"]) for turn in told)
    if any(turn.role not in ("system", "user", "assistant") or not isinstance(turn.text, str) for turn in turns):
        raise ValueError(f"not a lesson: a turn has no role among system, user and assistant, or no text: {told!r:.200}")
    return turns


def read_lessons(folder: Path) -> Iterator[Lesson]:
    """The lessons of a folder, one after another. Raises DataError naming the file and the line."""
    path = folder / LESSONS_FILE
    if not path.is_file():
        raise DataError(f"{path} is not there: expected a folder that 'sam4mllm data build' wrote to its end")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield Lesson.from_json(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from error
