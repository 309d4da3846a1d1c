"""Split an expression that asks for several objects: "the mug and the spoon", "all mugs but not the white one".

A vision model that is asked for all of it at once often gives one of the objects and drops the rest, or gives the very one that
is to be left out. The words are split by explicit English patterns, and only where they leave no doubt: every part has a
determiner of its own, and nothing before an "and" could take both nouns ("the man with the hat and the coat" stays whole, and
so does "the black and white ball"). compound_segmentation.py segments the parts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.protocol.references import (
    complete_expression,
    is_modifier,
    is_plural,
    singularize_noun,
    split_noun_phrase,
)

__all__ = ["MAX_PARTS", "CompoundExpression", "split_expression"]

MAX_PARTS = 10
"""Parts of an expression; one with more stays whole. Each costs as much as an expression of its own."""
_MAX_LENGTH = 500
"""Characters of an expression that is split; a longer one is a description."""

_NUMBERS = r"\d+|one|two|three|four|five|six|seven|eight|nine|ten"
_DETERMINER = re.compile(rf"(?:the|an?|all|every|each|both|this|that|these|those|{_NUMBERS})\s+(?=\S)", re.IGNORECASE)
_AND = r"(?:\b(?:and(?: also| then)?|plus|as well as|together with|along with)\b|&|\+)"
_JOINER = re.compile(_AND, re.IGNORECASE)
_SEPARATOR = re.compile(rf"(?:\s*,?\s*{_AND}|\s*[,;])\s*(?={_DETERMINER.pattern})", re.IGNORECASE)
_TAIL = re.compile(
    r"\s+(?:left of|right of|to the|above|below|under|over|behind|in|on|at|with|without|from|near|next|beside|between|of|that|"
    r"which|who|whose|furthest|farthest|closest|nearest|higher|lower|like|for|by|inside|outside|around|you|made|full|against|"
    r"across|along|before|after|than|through|into|onto|about|is|are|was|were|has|have|can|\w{2,}ing)\b.*",
    re.IGNORECASE,
)
"""What follows a noun and describes it further."""
_CLOSED_TAIL = re.compile(
    r"(?:(?:on|at|in|to|from|near)\s+)?(?:the\s+)?(?:(?:far|very|upper|lower|top|bottom)\s+)?"
    r"(?:left|right|top|bottom|middle|cent(?:re|er)|front|back|background|foreground|corner|edge)(?:\s+(?:side|corner|edge|half))?"
    r"(?:\s+of the (?:image|picture|photo))?|of\s+\w+|(?:furthest|farthest|closest)\s+to the (?:left|right|top|bottom)",
    re.IGNORECASE,
)
"""Such a description that can't take the next part as well, as "left of the spoon" could."""
_SHARED = re.compile(
    r"\b(?:(?:that|which|who)\s+(?:are|were|have|do)|it|its|them|their|they|his|her|him|he|she)\b", re.IGNORECASE
)
"""A clause of all parts, or a word that stands for an earlier part: such an expression can't be taken apart."""
_SHARED_DETERMINER = re.compile(r"(?P<determiner>all|every)\s+(?:the\s+)?(?P<first>\w+)\s+and\s+(?P<second>\w+)", re.IGNORECASE)
_EXCEPT = re.compile(
    r"\s*,?\s*\(?\b(?:but not|but no|except(?:ing)?(?: for)?|excluding|other than|apart from|aside from|and not|not counting|"
    r"leaving out)\s+|\s*,\s*not\s+",
    re.IGNORECASE,
)
_WEAK_EXCEPT = re.compile(r"\s*,?\s*\b(?:but without|but|without|minus)\s+", re.IGNORECASE)
"""Words that may also say how an object looks, as in "the mugs without stones"."""
_NEGATED_CLAUSE = re.compile(r"(?P<kept>.+?)\s+(?:that|which)\s+(?:are|is)(?:\s+not|n't)\s+(?P<modifier>\w+)", re.IGNORECASE)
_ALL = re.compile(r"(?:all|every|each|any)\b", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"ones?", re.IGNORECASE)
_ENDS_IN_PLACEHOLDER = re.compile(r"\bones?$", re.IGNORECASE)
_NEITHER = re.compile(r"(?:\s*,)?\s+(?:(?:and|or)(?: not)?|nor)\s+", re.IGNORECASE)
"""Words between two things that are both left out."""
_SHARED_PLACEHOLDER = re.compile(
    r"the\s+(?P<first>\w+(?:\s*,\s*\w+)*)(?:\s*,)?\s+(?P<joiner>and|or|nor)\s+(?P<last>\w+)\s+(?P<noun>ones?)", re.IGNORECASE
)
"""One determiner for several modifiers, as in "the red and blue ones"."""

_Parts: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class CompoundExpression:
    """An expression by its parts.

    Attributes:
        parts: What to segment, each an expression of its own; a single one where there is nothing to split.
        excluded: What to leave out of all of it.
    """

    parts: _Parts
    excluded: _Parts = ()

    @property
    def is_compound(self) -> bool:
        """Whether it takes more than one question about boxes."""
        return len(self.parts) > 1 or bool(self.excluded)


def split_expression(text: str) -> CompoundExpression:
    """Split an expression where its words allow it.

    "the mug and the spoon" has two parts; "all mugs but not the white one" has the part "all mugs" and excludes "the green
    mug". In doubt an expression stays whole.

    Raises:
        ExpressionError: It is empty or too long.
    """
    expression = validate_expression(text)
    if len(expression) > _MAX_LENGTH:
        return CompoundExpression((expression,))
    kept, excluded = _split_exclusion(expression.rstrip(" .!?"))
    parts = _split_parts(kept)
    if len(parts) == 1 and not excluded:
        return CompoundExpression((expression,))
    completed = (_complete_excluded(words, part) for words in excluded for part in parts)
    return CompoundExpression(parts, tuple(dict.fromkeys(completed)))


def _split_exclusion(text: str) -> tuple[str, _Parts]:
    """Return the words before "but not", and the parts of what comes after it; no parts where nothing is excluded."""
    clause = _NEGATED_CLAUSE.fullmatch(text)
    if clause and is_modifier(clause["modifier"]) and is_plural(clause["kept"]):
        modifiers, noun = split_noun_phrase(clause["kept"])
        return clause["kept"], (" ".join(["the", clause["modifier"], *modifiers, noun]),)
    if (match := _EXCEPT.search(text)) and is_plural(text[: match.start()]) and text[match.end() :].strip(" ,()"):
        return _divide(text, match)
    for match in _WEAK_EXCEPT.finditer(text):
        if _ALL.match(text) and _DETERMINER.match(text, match.end()):
            return _divide(text, match)
    return text, ()


def _divide(text: str, match: re.Match[str]) -> tuple[str, _Parts]:
    return text[: match.start()].strip(), _split_excluded(text[match.end() :].strip(" ,()"))


def _split_excluded(text: str) -> _Parts:
    """Return the parts of what is left out: "the red one" and "the blue one" of "the red or the blue one"."""
    if match := _SHARED_PLACEHOLDER.fullmatch(text):
        modifiers = [*re.split(r"\s*,\s*", match["first"]), match["last"]]
        is_one_object = match["joiner"].lower() == "and" and match["noun"].lower() == "one"  # "the black and white one"
        if all(map(is_modifier, modifiers)) and not is_one_object:
            return tuple(f"the {modifier} {match['noun']}" for modifier in modifiers)
    parts = _split_parts(_NEITHER.sub(" and ", text), by_comma=bool(_ENDS_IN_PLACEHOLDER.search(text)))
    return parts if len(parts) > 1 else (text,)


def _split_parts(text: str, *, by_comma: bool = False) -> _Parts:
    """Return the expressions of a list such as "the mug, the spoon and the cross"; the whole text where it is no clear list.

    With `by_comma` a comma makes a list of two parts as well.
    """
    text = re.sub(r"\bboth\s+(?=(?:the|an?)\s)", "", text, flags=re.IGNORECASE)
    if (shared := _SHARED_DETERMINER.fullmatch(text)) and is_plural(shared["first"]) and is_plural(shared["second"]):
        return tuple(f"{shared['determiner']} {shared[noun]}" for noun in ("first", "second"))
    parts = [part.strip() for part in _SEPARATOR.split(text)]
    is_list = by_comma or len(parts) > 2 or ";" in text or bool(_JOINER.search(text))  # "the dog, the brown one" is one object
    if not is_list or not 1 < len(parts) <= MAX_PARTS or _SHARED.search(text):
        return (text,)
    if not all(map(_is_noun_phrase, parts)) or not all(map(_is_closed, parts[:-1])):
        return (text,)
    return _complete_parts(parts)


def _is_noun_phrase(part: str) -> bool:
    """Whether a part begins with a determiner and holds no list without determiners, such as "the black and white ball"."""
    return bool(_DETERMINER.match(part)) and not _JOINER.search(part) and "," not in part


def _is_closed(part: str) -> bool:
    """Whether the description after the noun, if there is one, can't take the next part as well."""
    tail = _TAIL.search(part)
    return tail is None or _CLOSED_TAIL.fullmatch(tail[0].strip()) is not None


def _complete_parts(parts: Sequence[str]) -> _Parts:
    """Add the noun that a part leaves to another: "the red" of "the red and the blue mug", or "the white one".

    "one" stays where no part before has a noun that it could stand for.
    """
    last_noun = split_noun_phrase(_split_tail(parts[-1])[0])[1]
    completed: list[str] = []
    previous = ""
    for part in parts:
        head, tail = _split_tail(part)
        noun = split_noun_phrase(head)[1]
        if is_modifier(noun) and not is_modifier(last_noun):
            head, noun = f"{head} {last_noun}", last_noun
        expression = f"{head}{tail}"
        if _PLACEHOLDER.fullmatch(noun):
            expression = complete_expression(expression, previous) if previous else expression
        elif not is_modifier(noun):
            previous = expression
        completed.append(expression)
    return tuple(completed)


def _complete_excluded(words: str, part: str) -> str:
    """Return "the white mug" for "the white one", or for "the green", of "all mugs"."""
    noun = split_noun_phrase(words)[1]
    if _JOINER.search(words) and _ENDS_IN_PLACEHOLDER.search(words):  # "the black and white one" keeps its words in order
        part_noun = split_noun_phrase(part)[1]
        return _ENDS_IN_PLACEHOLDER.sub(singularize_noun(part_noun) if words.lower().endswith("one") else part_noun, words)
    return complete_expression(words, part) if _PLACEHOLDER.fullmatch(noun) or is_modifier(noun) else words


def _split_tail(part: str) -> tuple[str, str]:
    tail = _TAIL.search(part)
    return (part[: tail.start()], tail[0]) if tail else (part, "")
