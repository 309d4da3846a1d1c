"""Read an instruction such as "no, the other one" by an explicit table of English patterns.

The first pattern that matches decides. Text that matches none of them is a new description, which is completed from the
previous expression (`references.complete_expression`). No model takes part: the same words always have the same meaning, and
the text of a refined result reports how they were understood.
"""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sam4mllm_tool.protocol.dialogues import validate_expression

__all__ = ["Action", "Instruction", "read_instruction"]

Action: TypeAlias = Literal["other", "also", "also_other", "without", "bigger", "smaller", "back", "describe"]


@dataclass(frozen=True)
class Instruction:
    """An instruction that was read.

    Attributes:
        action: What to do.
        what: The words that say what to do it to, such as "the handle"; empty for actions that need none.
    """

    action: Action
    what: str = ""


_NOT_IT = r"not (?:that|this|it)(?: one| object| thing)?"
_NO = rf"(?:(?:no|nope|wrong|sorry|actually|please|use|take|try|give me|i (?:meant|mean|wanted|want)|{_NOT_IT})\b[\s,.;:!-]*)*"
_IT = r"(?:it|that|this|the mask)(?:'s| is| was)"
_TOO = r"(?: too| as well)?"
_PATTERNS: tuple[tuple[Action, str], ...] = (
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
_COMPILED = [(action, re.compile(pattern, re.IGNORECASE)) for action, pattern in _PATTERNS]


def read_instruction(text: object) -> Instruction:
    """Read what the user wants changed.

    Raises:
        ExpressionError: `text` is not a string, or it is empty or too long.
    """
    expression = validate_expression(text)
    stripped = expression.strip(" .,;!?\"'")
    for action, pattern in _COMPILED:
        if match := pattern.fullmatch(stripped):
            return Instruction(action, (match.groupdict().get("what") or "").strip(" .,;"))
    return Instruction("describe", expression)
