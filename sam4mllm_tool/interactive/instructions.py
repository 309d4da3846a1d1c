"""Read an instruction such as "no, the other one" or "remove 3" by explicit tables of patterns.

The first pattern that matches decides. Numbers of listed objects come first, in English and plain German; then English words.
Text that matches nothing is a new description, which is completed from the previous expression
(`references.complete_expression`). No model takes part: the same words always have the same meaning, and the text of a refined
result reports how they were understood. Words about numbers that can't be read are "unclear", never a description.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sam4mllm_tool.interactive.number_references import NumberReference, is_made_of_numbers, parse_numbers
from sam4mllm_tool.protocol.dialogues import validate_expression

__all__ = ["Action", "Instruction", "read_instruction"]

Action: TypeAlias = Literal[
    "other",
    "also",
    "also_other",
    "without",
    "bigger",
    "smaller",
    "back",
    "describe",
    "keep",
    "remove_numbers",
    "keep_numbers",
    "add_numbers",
    "add_back",
    "unclear",
]


@dataclass(frozen=True)
class Instruction:
    """An instruction that was read.

    Attributes:
        action: What to do.
        what: The words that say what to do it to, such as "the handle"; empty for actions that need none.
        numbers: The numbers that `what` says; None for any other words.
    """

    action: Action
    what: str = ""
    numbers: NumberReference | None = None


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
    ("keep", rf"{_NO}(?:keep|leave|retain)(?: (?:only|just))?\s+(?P<what>.+?)(?:\s+only)?"),
    ("describe", rf"{_NO}(?:(?:just|only)\s+)?(?P<what>.+)"),
)
_MAX_NUMBERS_LENGTH = 200
"""Characters of an instruction about numbers; longer ones are descriptions."""
_COMPILED = [(action, re.compile(pattern, re.IGNORECASE)) for action, pattern in _PATTERNS]

_PLEASE = rf"(?:(?:ok|okay|now|then|and|but|aber|und|nein|bitte|(?:can|could|would) you|let's|i want(?: to)?)\b[\s,.]*)*{_NO}"
_WHAT = r"(?P<what>.+?)(?:,? (?:please|bitte|instead|again|wieder))*"
_ALL = r"(?:them all|them|it|that|those|these|all(?: of them)?|everything|alles?)"
_NUMBER_PATTERNS: tuple[tuple[Action, str], ...] = (
    ("add_back", rf"{_PLEASE}(?:add|bring|put|take|get)\s+(?:back(?:\s+{_ALL})?|{_ALL}\s+back(?:\s+in)?)"),
    ("add_numbers", rf"{_PLEASE}(?:(?:add|bring|put) back|restore)\s+{_WHAT}"),
    ("add_numbers", rf"{_PLEASE}(?:add|bring|put|take|get)\s+{_WHAT}\s+back(?:\s+in)?"),
    ("add_numbers", rf"{_PLEASE}(?:also|add|plus|include|together with|auch)\s+{_WHAT}(?:\s+(?:too|as well|dazu|hinzu))?"),
    ("add_numbers", rf"(?:and|und)\s+{_WHAT}"),
    ("add_numbers", rf"{_PLEASE}{_WHAT}\s+(?:too|as well|auch|dazu)"),
    ("add_numbers", rf"{_PLEASE}(?:hole?|bringe?|füge?|nimm)\s+{_WHAT}\s+(?:zurück|dazu|hinzu)"),
    ("remove_numbers", rf"{_PLEASE}(?:take|leave|throw)\s+{_WHAT}\s+(?:out|away|off)"),
    ("remove_numbers", rf"{_PLEASE}(?:nimm|lass(?:e)?)\s+{_WHAT}\s+(?:weg|raus|heraus|aus)"),
    ("remove_numbers", rf"{_PLEASE}(?:remove|delete|drop|discard|hide|erase|exclude|excluding|subtract|minus)\s+{_WHAT}"),
    ("remove_numbers", rf"{_PLEASE}(?:leave out|take (?:out|away|off)|throw (?:out|away)|get rid of)\s+{_WHAT}"),
    ("remove_numbers", rf"{_PLEASE}(?:without|except(?: for)?|not|entferne|lösche|streiche|ohne|nicht)\s+{_WHAT}"),
    ("remove_numbers", rf"{_PLEASE}(?:all|all of them|every one|everything),? (?:but|except(?: for)?|without)\s+{_WHAT}"),
    ("remove_numbers", rf"{_PLEASE}(?:alle|alles),? (?:außer|ausser|bis auf|ohne)\s+{_WHAT}"),
    ("remove_numbers", rf"{_PLEASE}{_WHAT}\s+(?:is|are) (?:wrong|not (?:right|it|meant|correct))"),
    ("bigger", rf"{_PLEASE}(?:make\s+)?{_WHAT}\s+(?:(?:is|are)\s+)?(?:bigger|larger|too small)"),
    ("smaller", rf"{_PLEASE}(?:make\s+)?{_WHAT}\s+(?:(?:is|are)\s+)?(?:smaller|tighter|too (?:big|large))"),
    (
        "keep_numbers",
        rf"{_PLEASE}(?:(?:keep|leave|retain|use|take|select|choose|pick|show(?: me)?|behalte|nimm|wähle|zeige?)\s+"
        rf"(?:(?:only|just|nur)\s+)?|(?:only|just|nur)(?: noch)?\s+(?:(?:keep|take|use|show)\s+)?){_WHAT}(?:\s+only)?",
    ),
)
_COMPILED_NUMBERS = [(action, re.compile(pattern, re.IGNORECASE)) for action, pattern in _NUMBER_PATTERNS]
_BARE_NUMBERS = re.compile(rf"{_PLEASE}{_WHAT}(?:\s+(?:only|alone))?", re.IGNORECASE)


def read_instruction(text: object, nouns: Collection[str] = ()) -> Instruction:
    """Read what the user wants changed.

    Args:
        text: The user's words.
        nouns: Nouns of the listed objects, in lower case, which may be said with a number: "the second mug".

    Raises:
        ExpressionError: `text` is not a string, or it is empty or too long.
    """
    expression = validate_expression(text)
    stripped = expression.strip(" .,;!?\"'")
    if numbered := _read_numbers(stripped, nouns):
        return numbered
    for action, pattern in _COMPILED:
        if match := pattern.fullmatch(stripped):
            return Instruction(action, (match.groupdict().get("what") or "").strip(" .,;"))
    return Instruction("describe", expression)


def _read_numbers(text: str, nouns: Collection[str]) -> Instruction | None:
    """Read an instruction about listed numbers; None for any other."""
    if len(text) > _MAX_NUMBERS_LENGTH:
        return None
    for action, pattern in _COMPILED_NUMBERS:
        if not (match := pattern.fullmatch(text)):
            continue
        if action == "add_back":
            return Instruction("add_back", "all" if re.search(r"\b(?:all|alles?|everything)\b", text, re.IGNORECASE) else "")
        if numbers := parse_numbers(match["what"], nouns):
            return Instruction(action, match["what"], numbers)
        if is_made_of_numbers(match["what"]):
            return Instruction("unclear", match["what"])
    match = _BARE_NUMBERS.fullmatch(text)
    words = match["what"] if match else text
    if words.lower() == "one":  # the end of "not this one"
        return None
    numbers = parse_numbers(words, nouns, bare=True)
    if numbers and not numbers.direction:  # "the second mug from the left" may be one that isn't listed
        return Instruction("keep_numbers", words, numbers)
    return Instruction("unclear", words) if is_made_of_numbers(words) else None
