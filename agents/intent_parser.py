"""Which messages need no chat model: "segment the red mug", "where is the mug?", "no, the other one", "click 120 80".

A request is plain when it asks in English for one object or group to be located and for nothing else; a follow-up is an
instruction that `interactive.read_instruction` knows, or begins with "no", or speaks of "the ... one". Whatever is in doubt is
neither: a chat model that is called needlessly costs a second, a request that is misread costs an answer.
"""

import re
import unicodedata

from sam4mllm_tool.errors import ExpressionError
from sam4mllm_tool.interactive import read_instruction

__all__ = ["parse_bare_expression", "parse_clicks", "parse_follow_up", "parse_request"]

_MAX_LENGTH = 500
"""Characters of a plain request. Longer messages ask for more, and some patterns below take quadratic time."""

_COURTESY = re.compile(
    r"(?:(?:hi|hello|hey|ok|okay|now|then|so|well|great|thanks|thank you|please|kindly|just|and|let'?s|"
    r"(?:can|could|would|will) you|(?:i want|i need|i would like|i'd like)(?: you)? to|(?:try|help me) to|help me)"
    r"\b[\s,.!:]*)*",
    re.IGNORECASE,
)
_TRAILING = re.compile(
    r"[\s,]*(?:\b(?:please|thanks|thank you|for me|if you (?:can|could|please)|"
    r"(?:in|from|on|out of) (?:(?:the|this|that|my) )?(?:picture|image|photo|photograph))\b|[.!?…])$",
    re.IGNORECASE,
)
"""One courtesy or sign at the end; there may be several."""
_TRAILING_LENGTH = 40
"""Characters at the end in which it is looked for, so that reading a message takes linear time."""
_VERB = (
    r"(?:segment(?: out)?|cut out|cut|mask(?: out)?|select|find|locate|show(?: me)?|highlight|outline|mark|pick(?: out)?"
    r"|extract|isolate|detect|point (?:at|to|out)|trace"
    r"|(?:make|draw|create|give me) (?:a |the )?(?:mask|outline) (?:of|for|around))"
)
_REQUEST = re.compile(
    r"(?:(?:do you know |can you tell me |tell me |show me )?(?:where)\s+(?P<indirect>.+?)\s+(?:is|are|lies|lie)"
    r"|where(?:['\u2019]s|\s+is|\s+are|\s+(?:do|can) (?:i|you) (?:see|find))\s+(?P<direct>.+?)(?:\s+(?:located|placed))?"
    rf"|{_VERB}\s+(?P<named>.+))",
    re.IGNORECASE | re.DOTALL,
)

_NOT_AN_OBJECT = re.compile(
    # pronouns
    r"(?:it|them|this|that|these|those|him|her|me|us|you|i|we|he|she|they|there|here|one|ones|all|some|more|another|"
    r"nothing|anything|something|everything|everyone|everybody|somebody|someone|help|results?)(?: out)?"
    r"|(?:"
    # words for the conversation, not for what is in an image
    r"(?:the|your|my|a|an|all|both|last|previous|these|those|this|that)(?: (?:last|previous|other|new|first))? "
    r"(?:results?|overlays?|masks?|outlines?|boxe?s?|points?|history|help|pictures?|images?|photos?|conversation|commands?|"
    r"example|examples|steps?|trace|answers?|ones?|rest|difference|differences))"
    # what is asked about rather than pointed at
    r"|(?:out|how|why|whether|if|when|who you|your|yourself"
    r"|what (?:you (?:can|could do|do|are|know)|to|can|do|does|did|happen\w*|is|are|was|this|that))\b.*"
    r"|(?:the |its )?(?:area|size|number|count|colou?rs?|width|height|length|distance|position|coordinates?|"
    r"name|meaning|reason|(?:biggest |main )?differences?|percentage|share)\s+(?:of|between|in)\b.*",
    re.IGNORECASE | re.DOTALL,
)
_SECOND_REQUEST = re.compile(
    r"[;\n]|[.!?:]\s+\S"
    r"|(?:,|\band|\bthen|\bbut|\bbecause|\bso|\bor)\s+(?:also\s+|then\s+|please\s+|can you\s+|could you\s+)*"
    r"(?:tell|say|describe|count|explain|give|show|compare|measure|segment|cut|mask|select|find|locate|highlight|outline|"
    r"mark|save|write|check|make|draw|what|how|why|where|which (?:is|are|one)|when|who|is it|are they|does|do|i|you|let)\b"
    r"|\b(?:how (?:many|much|big|large|far|long)|compared (?:to|with)|relative to|instead of|as (?:a |an )?"
    r"(?:json|png|rle|list|polygons?))\b",
    re.IGNORECASE,
)
_NOT_A_PLACE = re.compile(  # "where is the cat looking?" asks for no cat, "where is this made?" for no object
    r".*\b(?:taken|made|from|shot|born|looking|pointing|heading|headed|going|coming)|(?:this|that|the) (?:picture|photo)",
    re.IGNORECASE,
)
_FOLLOW_UP_COURTESY = re.compile(  # what may stand before a follow-up
    r"(?:(?:hi|hey|ok|okay|now|then|so|well|great|good|nice|thanks|thank you|please|hm+|sorry|"
    r"(?:can|could|would|will) you|(?:i want|i need|i would like|i'd like)(?: you)? to|(?:what|how) about)\b[\s,.!:]*)*",
    re.IGNORECASE,
)
_FOLLOW_UP_VERB = re.compile(
    rf"(?P<no>(?:(?:no|nope|not that|wrong)\b[\s,.!:]*)*)(?P<also>(?:and |also )*){_VERB}\s+", re.IGNORECASE
)
_NEGATION = re.compile(
    r"(?:no|nope|wrong|actually|not (?:that|this|it)(?: one)?|i (?:mean|meant|want|wanted))\b[\s,.;:!-]+\S.*", re.I
)
_THE_ONE = re.compile(r"(?:(?:just|only) )?(?:the|that|this|those|these) (?:\S+ ){0,6}ones?\b.*", re.IGNORECASE)
_OTHER_TOPIC = re.compile(  # "the other day" means no other object
    r"\b(?:other|another|different|whole|entire|complete|full) "
    r"(?:questions?|days?|ways?|pictures?|photos?|images?|examples?|times?|languages?|words?|colou?rs?|formats?|stor(?:y|ies)|"
    r"files?|tools?|models?)\b",
    re.IGNORECASE,
)
_DETERMINED = re.compile(
    r"(?:the|an?|its|his|her|their|that|this|these|those|all|every|each|both|any|my|one|two|three)\s", re.I
)
_EDITING_VERB = re.compile(
    r"(?:but |now )?(?:add|include|plus|without|except|exclud|remove|minus|leave out|drop|subtract)", re.I
)
_BARE = re.compile(r"(?:the|all|every|each|both|an?)\s+\S.*", re.IGNORECASE)
_CLICK = re.compile(
    r"[\s,;]*(?:and\b\s*)?(?:click(?:ed|s)?(?: (?:on|at))?\b)?[\s:]*"
    r"\(?\s*(?P<x>\d+(?:\.\d+)?)(?:\s*,\s*|\s+)(?P<y>\d+(?:\.\d+)?)(?![.\d])\s*\)?"
    r"(?:[\s,]*(?:is\s+)?(?P<label>on|off)\b(?: (?:it|the (?:object|thing)))?)?",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    r"\b(?:is|are|was|were|am|be|been|has|have|had|looks?|seems?|does|did|do|can|could|will|would|should|must|thanks?|sorry|"
    r"bit|lot|other way|same|wrong|right answer|question)\b",
    re.IGNORECASE,
)


def parse_request(text: str) -> str | None:
    """Return the expression of a plain request, as it was written; None for any other message."""
    words = _strip_courtesy(text)
    if words is None or not (request := _REQUEST.fullmatch(words)):
        return None
    place = request["indirect"] or request["direct"]
    expression = (place or request["named"]).strip().strip('"“”').strip()
    if place and _NOT_A_PLACE.fullmatch(expression):
        return None
    return expression if _names_an_object(expression) else None


def parse_bare_expression(text: str) -> str | None:
    """Return a message that is nothing but an expression, such as "the red mug" or "all spoons"; None for any other."""
    expression = _strip_courtesy(text)
    if expression is None or not _BARE.fullmatch(expression) or _STATEMENT.search(expression) or "?" in text:
        return None
    return expression if _names_an_object(expression) and len(expression.split()) <= 16 else None


def parse_follow_up(text: str) -> str | None:
    """Return the instruction for `refine_segmentation` of a message that corrects a result; None for any other message.

    "Ok, can you also select the left one?" becomes "also the left one".
    """
    words = _strip_courtesy(text, _FOLLOW_UP_COURTESY)
    if not words or _OTHER_TOPIC.search(words) or re.match(r"\W*(?:no|nope)\W+(?:thanks|thank you)\b", text, re.IGNORECASE):
        return None
    verb = _FOLLOW_UP_VERB.match(words)
    if verb:
        words = f"{verb['no']}{verb['also']}{words[verb.end() :]}"
    try:
        instruction = read_instruction(words)
    except ExpressionError:
        return None
    match instruction.action:
        case "bigger" | "smaller" | "back":
            return None if verb else words  # "segment the whole mug" is a new request
        case "also" | "without" | "keep":
            is_clear = bool(_DETERMINED.match(instruction.what) or _EDITING_VERB.match(words))
        case "describe":
            is_clear = bool(_NEGATION.fullmatch(words) or _THE_ONE.fullmatch(words))
        case _:
            return words
    is_clear = is_clear and _names_an_object(instruction.what) and not _STATEMENT.search(instruction.what)
    return words if is_clear else None


def parse_clicks(text: str) -> list[dict[str, float]] | None:
    """Return the clicks for `refine_segmentation` of a message that is nothing else; None for any other message.

    "click 120 80" is on the object, "click (120, 80) off" is not; several follow one another.
    """
    words = _strip_courtesy(text, _FOLLOW_UP_COURTESY)
    words = re.sub(r"^(?:(?:no|nope)\b[\s,.!:]*)+", "", words or "", flags=re.IGNORECASE)
    if not re.match(r"click", words, re.IGNORECASE):
        return None
    clicks: list[dict[str, float]] = []
    end = 0
    while end < len(words):
        if not (click := _CLICK.match(words, end)):
            return None
        label = 0 if (click["label"] or "").lower() == "off" else 1
        clicks.append({"x": float(click["x"]), "y": float(click["y"]), "label": label})
        end = click.end()
    return clicks


def _strip_courtesy(text: str, courtesy: re.Pattern[str] = _COURTESY) -> str | None:
    """Return a message without courtesies around it; None where it isn't in Latin script, is long, or has several lines."""
    if len(text) > _MAX_LENGTH or "\n" in text.strip() or not _is_latin(text):
        return None
    words = " ".join(text.split())
    words = words[match.end() :] if (match := courtesy.match(words)) else words
    while match := _TRAILING.search(words, max(0, len(words) - _TRAILING_LENGTH)):
        words = words[: match.start()]
    return words.strip()


def _names_an_object(expression: str) -> bool:
    return bool(
        re.match(r"\w", expression) and not _NOT_AN_OBJECT.fullmatch(expression) and not _SECOND_REQUEST.search(expression)
    )


def _is_latin(text: str) -> bool:
    return all(not letter.isalpha() or unicodedata.name(letter, "").startswith("LATIN") for letter in text)
