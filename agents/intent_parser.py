"""Which messages need no chat model: "segment the red ring", "where is the mug?", "no, the other one", "click 120 80".

A request is plain when it asks for one thing to be found and for nothing else, in English; a follow-up is what
`refining.read_instruction` has a row for, or what begins with "no" or speaks of "the ... one". Whatever is in doubt is neither:
a chat model that is asked in vain costs a second, a request that is cut short costs an answer.
"""

import re
import unicodedata

from sam4mllm_tool.errors import ExpressionError
from sam4mllm_tool.interactive import read_instruction

__all__ = ["bare_expression", "clicks", "follow_up", "plain_expression"]

_MAX_LETTERS = 500
"""Of a plain request; who says more means more. The patterns below take quadratic time."""

_COURTESY = re.compile(
    r"(?:(?:hi|hello|hey|ok|okay|now|then|so|well|great|thanks|thank you|please|kindly|just|and|let'?s|"
    r"(?:can|could|would|will) you|(?:i want|i need|i would like|i'd like)(?: you)? to|(?:try|help me) to|help me)"
    r"\b[\s,.!:]*)*",
    re.IGNORECASE,
)
_TRAILING = re.compile(
    r"(?:[\s,]*(?:\b(?:please|thanks|thank you|for me|if you (?:can|could|please)|"
    r"(?:in|from|on|out of) (?:(?:the|this|that|my) )?(?:picture|image|photo|photograph))\b|[.!?…]))+$",
    re.IGNORECASE,
)
_VERB = (
    r"(?:segment(?: out)?|cut out|cut|mask(?: out)?|select|find|locate|show(?: me)?|highlight|outline|mark|pick(?: out)?"
    r"|extract|isolate|detect|point (?:at|to|out)|trace"
    r"|(?:make|draw|create|give me) (?:a |the )?(?:mask|outline) (?:of|for|around))"
)
_ASKS = re.compile(
    r"(?:(?:do you know |can you tell me |tell me |show me )?(?:where)\s+(?P<asked>.+?)\s+(?:is|are|lies|lie)"
    r"|where(?:['\u2019]s|\s+is|\s+are|\s+(?:do|can) (?:i|you) (?:see|find))\s+(?P<where>.+?)(?:\s+(?:located|placed))?"
    rf"|{_VERB}\s+(?P<named>.+))",
    re.IGNORECASE | re.DOTALL,
)

_NO_THING = re.compile(
    # pronouns
    r"(?:it|them|this|that|these|those|him|her|me|us|you|i|we|he|she|they|there|here|one|ones|all|some|more|another|"
    r"nothing|anything|something|everything|everyone|everybody|somebody|someone|help|results?|"
    # what is talked about rather than seen
    r"(?:the|your|my|a|an|all|both|last|previous|these|those|this|that)(?: (?:last|previous|other|new|first))? "
    r"(?:results?|overlays?|masks?|outlines?|boxe?s?|points?|history|help|pictures?|images?|photos?|conversation|commands?|"
    r"example|examples|steps?|trace|answers?|ones?|rest|difference|differences))"
    # what is asked rather than pointed at
    r"|(?:out|how|why|whether|if|when|who you|your|yourself"
    r"|what (?:you (?:can|could do|do|are|know)|to|can|do|does|did|happen\w*|is|are|was|this|that))\b.*"
    r"|(?:the |its )?(?:area|size|number|count|colou?rs?|width|height|length|distance|position|coordinates?|centre|center|"
    r"name|meaning|reason|(?:biggest |main )?differences?|percentage|share)\s+(?:of|between|in)\b.*",
    re.IGNORECASE | re.DOTALL,
)
_SECOND_DEMAND = re.compile(
    r"[;\n]|[.!?:]\s+\S"
    r"|(?:,|\band|\bthen|\bbut|\bbecause|\bso|\bor)\s+(?:also\s+|then\s+|please\s+|can you\s+|could you\s+)*"
    r"(?:tell|say|describe|count|explain|give|show|compare|measure|segment|cut|mask|select|find|locate|highlight|outline|"
    r"mark|save|write|check|make|draw|what|how|why|where|which (?:is|are|one)|when|who|is it|are they|does|do|i|you|let)\b"
    r"|\b(?:how (?:many|much|big|large|far|long)|compared (?:to|with)|relative to|instead of|as (?:a |an )?"
    r"(?:json|png|rle|list|polygons?))\b",
    re.IGNORECASE,
)
_WHEREABOUTS = re.compile(  # "where is the cat looking?" asks for no cat, "where is this made?" for nothing to be seen
    r".*\b(?:taken|made|from|shot|born|looking|pointing|heading|headed|going|coming)|(?:this|that|the) (?:picture|photo)\b.*",
    re.IGNORECASE,
)
_AGAIN = re.compile(  # before a follow-up
    r"(?:(?:hi|hey|ok|okay|now|then|so|well|great|good|nice|thanks|thank you|please|hm+|sorry|"
    r"(?:can|could|would|will) you|(?:i want|i need|i would like|i'd like)(?: you)? to|(?:what|how) about)\b[\s,.!:]*)*",
    re.IGNORECASE,
)
_ALSO_VERB = re.compile(
    rf"(?P<no>(?:(?:no|nope|not that|wrong)\b[\s,.!:]*)*)(?P<also>(?:and |also )*){_VERB}\s+", re.IGNORECASE
)
_SAYS_NO = re.compile(
    r"(?:no|nope|wrong|actually|not (?:that|this|it)(?: one)?|i (?:mean|meant|want|wanted))\b[\s,.;:!-]+\S.*", re.I
)
_THE_ONE = re.compile(r"(?:(?:just|only) )?(?:the|that|this|those|these) (?:\S+ ){0,6}ones?\b.*", re.IGNORECASE)
_NO_OTHER = re.compile(  # "the other day" speaks of no other object
    r"\b(?:other|another|different|whole|entire|complete|full) "
    r"(?:questions?|days?|ways?|pictures?|photos?|images?|examples?|times?|languages?|words?|colou?rs?|formats?|stor(?:y|ies)|"
    r"files?|tools?|models?)\b",
    re.IGNORECASE,
)
_DETERMINED = re.compile(
    r"(?:the|an?|its|his|her|their|that|this|these|those|all|every|each|both|any|my|one|two|three)\s", re.I
)
_TAKES_ANYTHING = re.compile(
    r"(?:but |now )?(?:add|include|plus|without|except|exclud|remove|minus|leave out|drop|subtract)", re.I
)
_BARE = re.compile(r"(?:the|all|every|each|both|an?)\s+\S.*", re.IGNORECASE)
_CLICK = re.compile(
    r"[\s,;]*(?:and\b\s*)?(?:click(?:ed|s)?(?: (?:on|at))?\b)?[\s:]*"
    r"\(?\s*(?P<x>\d+(?:\.\d+)?)(?:\s*,\s*|\s+)(?P<y>\d+(?:\.\d+)?)(?![.\d])\s*\)?"
    r"(?:[\s,]*(?:is\s+)?(?P<label>on|off)\b(?: (?:it|the (?:object|thing)))?)?",
    re.IGNORECASE,
)
_SAYS = re.compile(
    r"\b(?:is|are|was|were|am|be|been|has|have|had|looks?|seems?|does|did|do|can|could|will|would|should|must|thanks?|sorry|"
    r"bit|lot|other way|same|wrong|right answer|question)\b",
    re.IGNORECASE,
)


def plain_expression(text: str) -> str | None:
    """The expression of a plain request, as it was written, or None where the request is no plain one."""
    words = _stripped(text)
    if words is None or not (asks := _ASKS.fullmatch(words)):
        return None
    where = asks["asked"] or asks["where"]
    expression = (where or asks["named"]).strip().strip('"“”').strip()
    if where and _WHEREABOUTS.fullmatch(expression):
        return None
    return expression if _names_a_thing(expression) else None


def bare_expression(text: str) -> str | None:
    """The expression of a message that is nothing else: "the red ring", "all stars"; None for anything else."""
    expression = _stripped(text)
    if expression is None or not _BARE.fullmatch(expression) or _SAYS.search(expression) or "?" in text:
        return None
    return expression if _names_a_thing(expression) and len(expression.split()) <= 16 else None


def follow_up(text: str) -> str | None:
    """The instruction of a message that goes on from a result, for `refine_segmentation`; None for any other message.

    "Ok, can you also select the left one?" is "also the left one".
    """
    words = _stripped(text, _AGAIN)
    if not words or _NO_OTHER.search(words) or re.match(r"\W*(?:no|nope)\W+(?:thanks|thank you)\b", text, re.IGNORECASE):
        return None
    verb = _ALSO_VERB.match(words)
    if verb:
        words = f"{verb['no']}{verb['also']}{words[verb.end() :]}"
    try:
        asked = read_instruction(words)
    except ExpressionError:
        return None
    match asked.action:
        case "bigger" | "smaller" | "back":
            return None if verb else words  # "segment the whole ring" begins anew
        case "also" | "without":
            clear = _DETERMINED.match(asked.what) or _TAKES_ANYTHING.match(words)
        case "describe":
            clear = _SAYS_NO.fullmatch(words) or _THE_ONE.fullmatch(words)
        case _:
            return words
    return words if clear and _names_a_thing(asked.what) and not _SAYS.search(asked.what) else None


def clicks(text: str) -> list[dict[str, float]] | None:
    """The clicks of a message that is nothing else, for `refine_segmentation`; None for any other message.

    "click 120 80" is on the object, "click (120, 80) off" is not; several go one after another.
    """
    words = _stripped(text, _AGAIN)
    words = re.sub(r"^(?:(?:no|nope)\b[\s,.!:]*)+", "", words or "", flags=re.IGNORECASE)
    if not re.match(r"click", words, re.IGNORECASE):
        return None
    found, end = [], 0
    while end < len(words):
        if not (one := _CLICK.match(words, end)):
            return None
        found.append({"x": float(one["x"]), "y": float(one["y"]), "label": 0 if (one["label"] or "").lower() == "off" else 1})
        end = one.end()
    return found


def _stripped(text: str, courtesy: re.Pattern[str] = _COURTESY) -> str | None:
    """Without what is said out of courtesy; None where it isn't in Latin script, is long, or several lines."""
    if len(text) > _MAX_LETTERS or "\n" in text.strip() or not _latin(text):
        return None
    words = " ".join(text.split())
    words = words[match.end() :] if (match := courtesy.match(words)) else words
    return _TRAILING.sub("", words).strip()


def _names_a_thing(expression: str) -> bool:
    return bool(re.match(r"\w", expression) and not _NO_THING.fullmatch(expression) and not _SECOND_DEMAND.search(expression))


def _latin(text: str) -> bool:
    return all(not letter.isalpha() or unicodedata.name(letter, "").startswith("LATIN") for letter in text)
