"""What to answer without a chat model to a message that is neither a request nor a correction: hints that fit what was said."""

import re
import unicodedata

__all__ = ["CAPABILITIES", "NOTHING_TO_REFINE", "choose_hint"]

CAPABILITIES = (
    'I find what you name in an image, as in "segment the red mug", "where is the mug?" or "cut out all spoons", and refine '
    'it: "no, the other one", "also the left one", "without the handle". For anything else I need a chat model: '
    "--chat-model PROVIDER:MODEL or SAM4MLLM_CHAT_MODEL."
)
NOTHING_TO_REFINE = 'There is no result of this image to refine yet: name an object first, as in "segment the red mug".'

_GREETING = r"(?:hi|hello|hey|good (?:morning|evening|day|afternoon))(?: there)?"
_HINTS: tuple[tuple[str, str], ...] = (
    (r"(?:many )?(?:thanks|thank you|thx|cheers)(?: (?:a lot|so much|very much|you))?.*", "You are welcome."),
    (rf"{_GREETING}", 'Hello. Name what to segment, as in "the red mug".'),
    (
        r"(?:yes|yeah|yep|ok|okay|good|great|perfect|nice|fine|right|correct|exactly|that'?s (?:it|right|good|great))\b.{0,20}",
        'Good. "Also the left one" or "no, the other one" changes it.',
    ),
    (r"(?:who|what) are you.*|what can (?:you|i) (?:do|say).*|how does (?:this|it) work.*", CAPABILITIES),
    (
        r"(?:segment|find|select|show(?: me)?|mark|highlight|cut out|remove|mask)"
        r"(?: (?:it|this|that|them|something|one|everything|all))?",
        'Name what is meant, as in "segment the red mug" or "all spoons".',
    ),
    (r"everything|all of it", 'Name a kind or a colour, as in "all spoons" or "everything blue".'),
    (
        r".*\b(?:blur|recolou?r|paint|make (?:it|the \w+) (?:red|green|blue|black|white|yellow|brighter|darker)|replace|resize|"
        r"rotate|crop|draw|edit|background)\b.*",
        'I find and cut out objects and don\'t edit images: "cut out the red mug" writes it on a transparent ground.',
    ),
    (
        r".*(?:\b(?:and|then)\b|[;,.]).*\b(?:tell|count|describe|how|what|segment|cut|find|save|measure)\b.*",
        'One request at a time without a chat model: first "segment the red mug", then "how big is it?".',
    ),
    (
        r"(?:why|how|when|who|which|what|do|does|did|can|could|is|are|was|were|will|would|should)\b.*",
        'Without a chat model I answer "what is this?", "how many mugs?", "how big is it?" and "is there a spoon?" only. '
        "For other questions: --chat-model PROVIDER:MODEL or SAM4MLLM_CHAT_MODEL.",
    ),
)
_COMPILED = [(re.compile(pattern, re.IGNORECASE), hint) for pattern, hint in _HINTS]
_MAX_LENGTH = 500
_TOO_LONG = "That is long for a request: name one object or group in a line. "
_OTHER_LANGUAGE = "Without a chat model I understand plain English and German. "


def choose_hint(text: str, *, is_follow_up: bool = False, has_result: bool = False) -> str:
    """Return the answer to a message that was not understood.

    Args:
        text: The message, in English where it could be translated.
        is_follow_up: It corrects a result.
        has_result: The image has a result.
    """
    if is_follow_up and not has_result:
        return NOTHING_TO_REFINE
    if len(text) > _MAX_LENGTH or "\n" in text.strip():
        return _TOO_LONG + CAPABILITIES
    if any(letter.isalpha() and not unicodedata.name(letter, "").startswith("LATIN") for letter in text):
        return _OTHER_LANGUAGE + CAPABILITIES
    words = " ".join(text.split()).strip(" .!?,")
    return next((hint for pattern, hint in _COMPILED if pattern.fullmatch(words)), CAPABILITIES)
