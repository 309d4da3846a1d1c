"""What an instruction such as "no, the other one" asks for, by an explicit table of English patterns.

The first row that fits decides. What no row fits is a new description, to be put together with the old one (`words.combine`).
No model has a say here: the same words always mean the same, and the text of a refined result says what was understood.
"""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sam4mllm_tool.protocol.dialogues import checked_expression

__all__ = ["Action", "Instruction", "read_instruction"]

Action: TypeAlias = Literal["other", "also", "also_other", "without", "bigger", "smaller", "back", "describe"]


@dataclass(frozen=True)
class Instruction:
    """action: what to do. what: about what, in the user's words; empty for an action that needs none."""

    action: Action
    what: str = ""


_NOT_IT = r"not (?:that|this|it)(?: one| object| thing)?"
_NO = rf"(?:(?:no|nope|wrong|sorry|actually|please|use|take|try|give me|i (?:meant|mean|wanted|want)|{_NOT_IT})\b[\s,.;:!-]*)*"
_IT = r"(?:it|that|this|the mask)(?:'s| is| was)"
_TOO = r"(?: too| as well)?"
_TABLE: tuple[tuple[Action, str], ...] = (
    ("back", r"(?:go )?back|undo(?: that)?"),
    ("back", rf"{_NO}(?:the )?(?:previous|former|earlier) one(?: again)?|{_NO}(?:the )?one before(?: again)?"),
    ("back", rf"{_NO}(?:the )?first one was (?:right|better|correct)"),
    ("also_other", r"both(?: of them)?|all(?: of them)?|every one(?: of them)?"),
    ("also_other", rf"(?:(?:and|also|add|plus|include) )+(?:the |an?)?other(?:s| ones?| \w+)?{_TOO}"),
    ("also_other", r"(?:the |an?)?other(?:s| ones?)? (?:too|as well)|the others"),
    ("other", rf"{_NO}(?:(?:the|an?) )?(?:other|another|different|next)(?: one| \w+)?"),
    ("other", rf"(?:no|nope|wrong|{_NOT_IT})(?:[\s,]+(?:wrong|{_NOT_IT}))*"),
    ("other", rf"{_NO}{_IT} (?:wrong|not (?:it|that|right|(?:the )?(?:right )?one))"),
    ("other", rf"{_NO}(?:{_IT} )?the wrong (?:one|object|thing)|wrong (?:one|object|thing)"),
    ("bigger", rf"(?:{_IT} )?too small|(?:make (?:it|the mask) |a )?(?:bigger|larger|wider)(?: mask)?"),
    ("bigger", r"grow(?: it)?|expand(?: it)?|(?:include )?more(?: of it)?|all of it"),
    ("bigger", rf"{_NO}the (?:whole|entire|complete|full)(?: of it| \w+)?"),
    ("smaller", rf"(?:{_IT} )?too (?:big|large)|(?:make (?:it|the mask) |a )?(?:smaller|tighter|narrower)(?: mask)?"),
    ("smaller", r"shrink(?: it)?|less(?: of it)?|(?:(?:just|only) )?(?:the|a) (?:part|piece|bit)(?: of it)?"),
    ("also", r"(?:and(?: also)?|also|add|include|plus|together with|as well as)\s+(?P<what>.+?)(?:\s+(?:too|as well))?"),
    ("also", r"(?P<what>.+?),?\s+(?:too|as well)"),
    (
        "without",
        r"(?:(?:but|now|and|no),? )?(?:without|except(?: for)?|excluding|exclude|remove|minus|leave out)\s+(?P<what>.+)",
    ),
    ("without", r"(?:all|all of them|every one|everything),? (?:but|except(?: for)?|without)\s+(?P<what>.+)"),
    ("without", r"(?:(?:but|now|and|no),? )?(?:drop|subtract|cut off|take away|not)\s+(?P<what>.+)"),
    ("describe", rf"{_NO}(?:(?:just|only)\s+)?(?P<what>.+)"),
)
_ROWS = [(action, re.compile(pattern, re.IGNORECASE)) for action, pattern in _TABLE]


def read_instruction(text: object) -> Instruction:
    """What the instruction asks for. Raises ExpressionError for one that is no text, empty or too long."""
    tidy = checked_expression(text).strip(" .,;!?\"'")
    for action, pattern in _ROWS:
        if fits := pattern.fullmatch(tidy):
            return Instruction(action, (fits.groupdict().get("what") or "").strip(" .,;"))
    return Instruction("describe", checked_expression(text))
