"""Read words that name listed objects by number: "3", "1 and 2", "the second", "the first two", "the last mug", "das dritte".

What is wholly made of such words is read; anything else is a description. "two" alone may mean the number or how many, and is
not read where a verb stands before it.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

__all__ = ["NumberItem", "NumberReference", "is_made_of_numbers", "parse_numbers"]

_ENGLISH = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_GERMAN = ("eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf")
_ENGLISH_ORDINALS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
)
_GERMAN_STEMS = ("erst", "zweit", "dritt", "viert", "fünft", "sechst", "siebt", "acht", "neunt", "zehnt", "elft", "zwölft")
_CARDINALS = {word: number for words in (_ENGLISH, _GERMAN) for number, word in enumerate(words, start=1)}
_ORDINALS = {word: number for number, word in enumerate(_ENGLISH_ORDINALS, start=1)}
_GERMAN_ORDINALS = {stem: number for number, stem in enumerate(_GERMAN_STEMS, start=1)}
_LAST = ("last", "final", "letzte", "letzten", "letzter", "letztes")
_BOTH = ("beiden", "couple", "pair")
_TO = ("to", "through", "till", "until", "bis")
_MARKERS = ("number", "numbers", "nummer", "nummern", "nr", "object", "objects", "objekt", "objekte", "item", "items")
"""Words that say that what follows is a number: "object one"."""
_FILLERS = (*_MARKERS, "the", "ones", "of", "der", "die", "das", "den", "dem", "des")
_OTHERS = ("but", "or", "not", "except", "them", "these", "those", "aber", "oder", "nicht", "one", "all", "and", "to", "from")
"""Words that may stand among numbers in what can't be understood."""
_DIRECTIONS = {
    "left": "left", "right": "right", "top": "top", "bottom": "bottom",
    "links": "left", "rechts": "right", "oben": "top", "unten": "bottom",
}  # fmt: skip


@dataclass(frozen=True)
class NumberItem:
    """One part of a reference.

    Attributes:
        kind: "number": the number `value`. "ordinal": the `value`-th. "first" and "last": that many from the beginning, or the
            end. "from_last": the `value`-th from the end.
        value: At least 1.
        noun: The noun that was said with it, such as "mug"; empty for none.
    """

    kind: Literal["number", "ordinal", "first", "last", "from_last"]
    value: int
    noun: str = ""


@dataclass(frozen=True)
class NumberReference:
    """Numbers as they were said.

    Attributes:
        items: In the order in which they were said.
        direction: The side from which positions are counted, "left", "right", "top" or "bottom"; empty for the listing's order.
    """

    items: tuple[NumberItem, ...]
    direction: str = ""


def parse_numbers(text: str, nouns: Collection[str] = (), *, bare: bool = False) -> NumberReference | None:
    """Read numbers of listed objects.

    Args:
        text: English, or plain German.
        nouns: Nouns that may be said with a number, in lower case, such as "mug" and "mugs".
        bare: Whether the text stands alone, so that "two" is the number 2 and not how many.

    Returns:
        The numbers; None where the text isn't wholly made of them.
    """
    words, direction = _split_direction(_normalize(text))
    segments = [segment.split() for segment in re.split(r"\b(?:and|und)\b", words)]
    segments = [segment for segment in segments if segment]
    items: list[NumberItem] = []
    for segment in segments:
        parsed = _parse_segment(segment, nouns, certain=bare or len(segments) > 1)
        if not parsed:
            return None
        items += parsed
    is_counted = all(item.kind != "number" for item in items)
    return NumberReference(tuple(items), direction) if items and (is_counted or not direction) else None


def is_made_of_numbers(text: str) -> bool:
    """Whether the text has a number of an object and otherwise only words that stand among numbers: "2 but not 3"."""
    words = _split_direction(_normalize(text))[0].split()
    if words == ["one"]:
        return True
    has_number = [word not in _OTHERS and _is_number(word) for word in words]
    known = (*_FILLERS, *_OTHERS, *_TO, *_BOTH, "und")
    return any(has_number) and all(number or word in known for number, word in zip(has_number, words, strict=True))


def _is_number(word: str) -> bool:
    return bool(word.lstrip("-").isdigit() or _read_cardinal(word) or _read_ordinal(word) or word in _LAST)


def _normalize(text: str) -> str:
    words = re.sub(r"[,;&+/]", " and ", text.lower())
    words = re.sub(r"\b(?:no|nr)\.\s*(?=\d)|#\s*(?=\d)", "number ", words)
    words = re.sub(r"(?<=\d)\s*[-\u2013]\s*(?=\d)", " to ", words)
    return re.sub(r"[.!?:\"'()\[\]]", " ", words).strip()


def _split_direction(words: str) -> tuple[str, str]:
    """Split off "from the left"."""
    match = re.search(r"\s+(?:(?:counted |counting )?from (?:the )?|von )(\w+)$", words)
    direction = _DIRECTIONS.get(match[1], "") if match else ""
    return (words[: match.start()], direction) if match and direction else (words, "")


def _parse_segment(words: list[str], nouns: Collection[str], *, certain: bool) -> list[NumberItem]:
    """Read what stands between two "and"; empty where it is something else."""
    noun = next((word for word in words if word in nouns), "")
    if noun and any(_read_cardinal(word) for word in words[: words.index(noun)]) and not _has_position(words):
        return []  # "two mugs" says how many
    certain = certain or any(word in _MARKERS for word in words)
    kept = [word for word in words if word not in _FILLERS and word != noun]
    if len(kept) > 1 and kept[-1] == "one" and (kept[0] in _LAST or _read_ordinal(kept[0])):
        kept = kept[:-1]  # "the second one"
    return [NumberItem(item.kind, item.value, noun) for item in _read_items(kept, certain=certain or bool(noun))]


def _has_position(words: list[str]) -> bool:
    return any(word in _LAST or _read_ordinal(word) for word in words)


def _read_items(words: list[str], *, certain: bool) -> list[NumberItem]:
    cardinals, ordinals = [_read_cardinal(word) for word in words], [_read_ordinal(word) for word in words]
    match words:
        case [last] if last in _LAST:
            return [NumberItem("last", 1)]
        case ["next" | "second", *to, last] if last in _LAST and to in ([], ["to"]):
            return [NumberItem("from_last", 2)]
        case ["vorletzte" | "vorletzten" | "vorletztes" | "penultimate"]:
            return [NumberItem("from_last", 2)]
        case [_, "to" | "from", last] if last in _LAST and ordinals[0]:
            return [NumberItem("from_last", ordinals[0])]
        case [last, count] if last in _LAST:
            return _count("last", count)
        case [first, count] if ordinals[0] == 1 and not ordinals[1]:
            return _count("first", count)
        case [count, first] if count in _BOTH:
            kind: Literal["first", "last"] = "last" if first in _LAST else "first"
            return [NumberItem(kind, 2)] if first in _LAST or ordinals[1] == 1 else []
        case [_, to, _] if to in _TO:
            return _read_range(cardinals[0] or ordinals[0], cardinals[2] or ordinals[2])
        case [_] if ordinals[0]:
            return [NumberItem("ordinal", ordinals[0])]
        case [word] if cardinals[0] and not (certain or word.isdigit()):
            return []
    return [NumberItem("number", number) for number in cardinals if number] if all(cardinals) else []


def _count(kind: Literal["first", "last"], word: str) -> list[NumberItem]:
    count = 2 if word in _BOTH else _read_cardinal(word)
    return [NumberItem(kind, count)] if count else []


def _read_range(start: int, end: int) -> list[NumberItem]:
    return [NumberItem("number", number) for number in range(start, end + 1)] if 0 < start <= end else []


def _read_cardinal(word: str) -> int:
    """Return the number; 0 for any other word."""
    if re.fullmatch(r"[0-9]{1,3}", word):
        return int(word)
    return _CARDINALS.get(word, 0)


def _read_ordinal(word: str) -> int:
    """Return which one it is; 0 for any other word."""
    if match := re.fullmatch(r"(\d{1,3})(?:st|nd|rd|th)", word):
        return int(match[1])
    german = re.fullmatch(r"(\w+?)e[rsnm]?", word)
    return _ORDINALS.get(word, 0) or (_GERMAN_ORDINALS.get(german[1], 0) if german else 0)
