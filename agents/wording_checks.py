"""What a chat model wrote as other words for an expression, and which of it can be asked about.

Chat models refuse, greet, explain themselves, or write JSON where lines were asked for. Whatever is no short phrase for an
object is left out: asked about, it would be an object that isn't there.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from sam4mllm_tool.errors import quote_text

__all__ = ["OtherWordings", "find_fault", "parse_rephrasings", "select_wordings", "split_wordings"]

_MAX_LENGTH = 120
"""Characters of a wording."""
_MAX_WORDS = 20
_BULLET = re.compile(r"^\s*(?:[-*\u2022\u2013]|\(?\d{1,2}[.):])\s*")
_QUOTES = "\"'`*\u2018\u2019\u201c\u201d"
_DETERMINER = re.compile(r"(?:the|an?|that|this)\s+")
_MARKUP = re.compile(r"[<>{}\[\]|\\`]")
"""Characters of control tokens, code and markup, which no phrase has."""
_REFUSAL = re.compile(
    r"\b(?:sorry|apolog(?:y|ies|i[sz]e)|unable to|not able to|as an? (?:ai|assistant|language model))\b"
    r"|\b(?:can ?not|can't|won't|will not|could not|couldn't|do not|don't)"
    r" (?:help|assist|see|view|access|provide|comply|answer|identify|do|know)"
    r"|\b(?:tut mir leid|ich kann|je ne peux|lo siento|no puedo|mi dispiace|non posso|desculpe)\b|d\u00e9sol\u00e9"
    r"|\u62b1\u6b49|\u65e0\u6cd5|\u7533\u3057\u8a33|\u043d\u0435 \u043c\u043e\u0433\u0443",
    re.IGNORECASE,
)
_FRAME = re.compile(
    r"(?:sure|certainly|of course|ok|okay|yes|absolutely|please|note that|let me|let's|here(?:'s| are| is| you)"
    r"|you (?:could|can|might|may|want)|in other words|i(?:'m|'d|'ll|'ve)?|we(?:'re|'ll)?"
    r"|(?:try|look for|find|locate|segment|identify|describe)(?: me)? (?:the|an?|all|every)"
    r"|(?:it|this|that|there|they|these|he|she)(?:'s|'re| is| are| was| could| might| may| refers| means)"
    r"|the (?:user|person|phrase|expression|request|query) (?:is|wants|asks|means|refers|says|needs|would|may|might|could))"
    r"(?![\w-])",
    re.IGNORECASE,
)
"""How sentences begin."""
_SENTENCE_END = re.compile(r"\w{3,}[.!?;:]\s+\S|[!?:]$")


class OtherWordings(BaseModel):
    """Other wordings of an expression, each of which finds the same object."""

    wordings: list[str] = Field(
        description="Short noun phrases such as 'the grey metal opener beside the plate', with no sentence around them."
    )


def split_wordings(answer: Any) -> list[str]:
    """Return what may be wordings in a chat model's answer: a list, an object with lists, JSON text, or lines of text."""
    if isinstance(answer, Mapping):
        return [wording for value in answer.values() for wording in split_wordings(value)]
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return [wording for value in answer for wording in split_wordings(value)]
    if not isinstance(answer, str):
        return []
    decoded = _find_json(answer)
    return [_strip_wording(line) for line in answer.splitlines()] if decoded is None else split_wordings(decoded)


def find_fault(wording: str, expression: str) -> str | None:
    """Return why a wording can't be asked about; None where it can."""
    faults = {
        "has no letter": not any(map(str.isalpha, wording)),
        "is too long": len(wording) > _MAX_LENGTH or len(wording.split()) > _MAX_WORDS,
        "holds control characters or markup": not wording.isprintable() or _MARKUP.search(wording) is not None,
        "is a refusal": _REFUSAL.search(wording.replace("\u2019", "'")) is not None,
        "is a sentence": _FRAME.match(wording.replace("\u2019", "'")) is not None or _SENTENCE_END.search(wording) is not None,
        "repeats the expression": _normalize(wording) == _normalize(expression),
    }
    return next((fault for fault, is_so in faults.items() if is_so), None)


def select_wordings(candidates: Iterable[str], expression: str, max_count: int) -> tuple[tuple[str, ...], str]:
    """Return the wordings that can be asked about, each once, and why there is none, empty where there are some.

    Args:
        candidates: What a chat model wrote, one phrase each.
        expression: The expression that they are to stand for.
        max_count: Maximum number of wordings.
    """
    wordings: dict[str, str] = {}
    faults: list[str] = []
    for candidate in filter(None, candidates):
        if fault := find_fault(candidate, expression):
            faults.append(f"{quote_text(candidate)} {fault}")
        else:
            wordings.setdefault(_normalize(candidate), candidate)
    if wordings:
        return tuple(wordings.values())[:max_count], ""
    return (), f"the chat model gave no usable wording: {faults[0] if faults else 'its answer is empty'}"


def parse_rephrasings(text: str, expression: str, max_count: int) -> list[str]:
    """Return the usable wordings in a chat model's text: at most `max_count`, each once."""
    return list(select_wordings(split_wordings(text), expression, max_count)[0])


def _find_json(text: str) -> Any:
    """Return the first list or object that is written in the text, in a fence or not; None where there is none."""
    starts = [index for index in (text.find("["), text.find("{")) if index >= 0]
    if not starts:
        return None
    try:
        decoded, _ = json.JSONDecoder().raw_decode(text, min(starts))
    except (ValueError, RecursionError):
        return None
    return decoded


def _strip_wording(line: str) -> str:
    bare = _BULLET.sub("", line).strip().strip(_QUOTES)
    return " ".join(bare.rstrip(".,").strip(_QUOTES).split())


def _normalize(wording: str) -> str:
    """Return what two wordings that say the same have in common."""
    words = " ".join(re.findall(r"\w+", wording.casefold()))
    return _DETERMINER.sub("", words, count=1) if _DETERMINER.match(words) else words
