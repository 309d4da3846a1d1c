"""Questions that need no chat model: how many, how big, is there, what is this. And what else a person says in passing.

Each is answered from the tools' results alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sam4mllm_tool.geometry import rle
from sam4mllm_tool.interactive.number_references import parse_numbers
from sam4mllm_tool.protocol.references import pluralize

__all__ = ["ImageQuestion", "QuestionKind", "format_answer", "format_regions", "parse_question"]

QuestionKind: TypeAlias = Literal["count", "size", "exists", "describe"]


@dataclass(frozen=True)
class ImageQuestion:
    """A question about an image.

    Attributes:
        kind: "count": how many there are. "size": how large an area is. "exists": whether there is one. "describe": what it is.
        expression: What it is about, as it would be segmented; empty for the last result.
    """

    kind: QuestionKind
    expression: str = ""


_IT = r"(?:it|this|that|these|those|they|them|he|she|the (?:mask|result|selection|object)s?)"
_THERE = r"(?: (?:are|is) (?:there|visible|shown)| (?:do|can) (?:you|i|we) (?:see|find|count))?(?: (?:here|now|in total))*"
_WHAT_IS = r"what(?:'s|\u2019s| is| are|s)?"
_HOW_BIG = r"how (?:big|large|wide|tall|high|long)"
_PATTERNS: tuple[tuple[QuestionKind, str], ...] = (
    ("count", rf"how many(?: of (?:them|those|these))?(?: (?:are|is) (?:there|{_IT}|left|shown)| do you see)?"),
    ("count", rf"count(?: {_IT})?"),
    ("count", rf"(?:how many|count(?: up)?|what is the number of|number of) (?P<what>.+?){_THERE}"),
    ("size", rf"(?:{_HOW_BIG}|what size|what area)(?: (?:is|are) {_IT})?"),
    ("size", rf"(?:{_WHAT_IS} (?:the |its |their )?)?(?:area|size|dimensions)(?: of {_IT})?"),
    ("size", rf"{_HOW_BIG} (?:is|are) (?P<what>.+)"),
    ("size", rf"(?:{_WHAT_IS} )?(?:the )?(?:area|size) of (?P<what>.+)|what (?:size|area) (?:is|are|has) (?P<other>.+)"),
    ("describe", rf"{_WHAT_IS} {_IT}(?: here)?|what (?:do you see|is here|did you (?:find|segment))(?: here| there)?"),
    ("describe", rf"(?:describe|explain)(?: {_IT}| the (?:image|picture|scene))?"),
    ("describe", r"what (?:is|do you see) (?:in|on) (?:it|(?:the|this) (?:image|picture))"),
    (
        "describe",
        rf"what colou?r (?:is|are) {_IT}|are you (?:sure|certain)|is (?:that|this|it) (?:right|correct|the right one)",
    ),
    ("exists", r"(?:is|are) there (?P<what>.+)|(?:do|can) you see (?P<other>.+)|does it (?:have|contain|show) (?P<third>.+)"),
)
_COMPILED = [(kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _PATTERNS]
_PRONOUN = re.compile(_IT, re.IGNORECASE)
_IN_IMAGE = re.compile(
    r"\s+(?:in|on) (?:(?:the|this|that|my) )?(?:image|picture|photo|it)$|\s+(?:here|there|anywhere)$", re.IGNORECASE
)
_MAX_EXPRESSION_WORDS = 12
_MAX_LENGTH = 200


def parse_question(text: str) -> ImageQuestion | None:
    """Return the question that a message asks; None for any other message. Courtesies and signs may stand around it."""
    words = re.sub(
        r"^(?:(?:and|so|ok|okay|please|now|hey|well|then|but)\b[\s,]*)+", "", " ".join(text.split()), flags=re.IGNORECASE
    )
    words = re.sub(
        r"^(?:can|could) you (?:please )?(?=count|describe|tell me)|^tell me (?=how|what)", "", words, flags=re.IGNORECASE
    )
    words = re.sub(r"^tell me (?=how|what)|(?:[\s,]*\bplease\b)?[\s.?!]+$", "", words, flags=re.IGNORECASE)
    words = re.sub(r"\s+in (?:square )?(?:pixels|px|percent|%)$", "", words, flags=re.IGNORECASE)
    for kind, pattern in _COMPILED:
        if match := pattern.fullmatch(words):
            what = next(filter(None, match.groupdict().values()), "")
            return _build_question(kind, _IN_IMAGE.sub("", what).strip(" \"'"))
    return None


def _build_question(kind: QuestionKind, what: str) -> ImageQuestion | None:
    if not what or _PRONOUN.fullmatch(what) or (kind == "size" and parse_numbers(what)):  # "how big is the second?"
        return ImageQuestion(kind) if kind != "exists" else None
    if len(what.split()) > _MAX_EXPRESSION_WORDS or re.search(
        r"[,;?]|\b(?:and then|if|because|more|another|way|problem)\b", what
    ):
        return None
    if kind == "count":
        return ImageQuestion(kind, what if what.startswith(("all ", "every ")) else pluralize(what))
    if kind == "exists":
        plural = re.sub(r"^(?:any|some|several|many)\s+(?=.*s\b)", "all ", what, flags=re.IGNORECASE)
        return ImageQuestion(kind, re.sub(r"^(?:an?|any|some|one)\s+", "the ", plural, flags=re.IGNORECASE))
    return ImageQuestion(kind, what)


def format_answer(kind: QuestionKind, result: Mapping[str, Any]) -> str:
    """Answer a question from a result's artifact in a sentence."""
    objects = result["objects"]
    expression, count = result["expression"], len(objects)
    if not count and result.get("abstained"):
        return "I am not sure."
    if kind == "exists":
        return {0: "No."}.get(count, "Yes." if count == 1 else f"Yes, {count}.")
    if kind == "count":
        return f'"{expression}": {count}.' if count else f'"{expression}": none.'
    if not count:
        return f'There is no "{expression}" to measure.'
    lines = [_format_size(each, result["size"]) for each in objects]
    if count == 1:
        return f'"{expression}" covers {lines[0]}.'
    return "\n".join([f'"{expression}":', *(f"  {number}: {line}" for number, line in enumerate(lines, start=1))])


def _format_size(segmented: Mapping[str, Any], size: Mapping[str, int]) -> str:
    mask = rle.decode(segmented["mask"])
    rows, columns = mask.any(1).sum(), mask.any(0).sum()
    share = int(mask.sum()) / (size["width"] * size["height"])
    return f"{int(mask.sum()):,} pixels, {share:.1%} of the image, {columns} wide and {rows} high"


def format_regions(regions: list[Mapping[str, Any]]) -> str:
    """Say what the model sees in each region, and how sure it is that it is what was asked for."""
    lines = []
    for number, region in enumerate(regions, start=1):
        confidence = region.get("confidence")
        sure = "" if confidence is None else f'; {confidence:.0%} sure that it is "{region["expression"]}"'
        lines.append(f"{f'{number}: ' if len(regions) > 1 else ''}{str(region['text'])[:200]}{sure}")
    return "\n".join(lines) or "There is no object to describe."
