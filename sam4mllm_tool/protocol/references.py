"""Complete words that refer to an earlier expression: "the blue one" after "the red mug" is "the blue mug".

For English, by small word lists and without a model: an expression's head noun and modifiers, and which of these new words
replace.
"""

import re

__all__ = [
    "complete_expression",
    "concept",
    "is_modifier",
    "is_plural",
    "pluralize",
    "pluralize_noun",
    "singularize",
    "singularize_noun",
    "split_noun_phrase",
]

_DETERMINERS = ("the", "a", "an", "all", "every", "each", "both", "this", "that", "these", "those", "any", "some", "its")
_PLURAL_DETERMINERS = ("all", "every", "each", "both", "these", "those")
_AFTER_NOUN = (
    "left of|right of|to the|above|below|under|over|behind|in|on|at|with|without|from|near|next to|beside|between|of|that|"
    "which|who|furthest|farthest|closest|nearest|higher|lower|like|for|by|inside|outside|you|and|whose|wearing|holding"
)
_TAIL = re.compile(rf"\s+(?:{_AFTER_NOUN})\b.*", re.IGNORECASE)
"""What follows the head noun and describes it further."""
_PREPOSITION = re.compile(
    r"(?:at|behind|beside|near|next to|under|above|below|between|in|on|with|to the|left of|right of)\b", re.IGNORECASE
)
_SAME_OBJECT = re.compile(r"it|that|this|them|(?:the )?same(?: one)?", re.IGNORECASE)
_PLACEHOLDER_NOUN = re.compile(r"ones?|object|thing", re.IGNORECASE)
_SUPERLATIVES = {
    "left": "leftmost",
    "right": "rightmost",
    "top": "topmost",
    "upper": "topmost",
    "bottom": "bottommost",
    "lower": "bottommost",
}
"""Of several objects, "the left one" is the leftmost."""
_ORDINALS = {"first", "second", "third", "fourth", "fifth", "last"}
_DIRECTIONS = {
    *_SUPERLATIVES,
    *_SUPERLATIVES.values(),
    "highest",
    "lowest",
    "near",
    "far",
    "front",
    "back",
    "middle",
    "central",
}
_POSITIONS = _DIRECTIONS | _ORDINALS
_GREYS = {"white", "black", "grey", "gray"}
_COLOURS = _GREYS | {"red", "green", "blue", "yellow", "purple", "orange", "cyan", "brown", "pink", "violet"}
_SIZES = {"small", "smaller", "smallest", "large", "larger", "largest", "big", "bigger", "biggest", "little", "tiny", "huge"}
_MODIFIER_GROUPS = (_POSITIONS, _COLOURS, _SIZES)
_SINGULARS = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "knives": "knife",
    "leaves": "leaf",
    "buses": "bus",
}
_PLURALS = {singular: plural for plural, singular in _SINGULARS.items()}
_SINGULAR_ENDINGS = ("ss", "us", "is")


def split_noun_phrase(expression: str) -> tuple[list[str], str]:
    """Return the modifiers and the head noun: (["small", "red"], "mug") of "the small red mug left of the spoon"."""
    words = _TAIL.sub("", " " + expression).split()
    while words and words[0].lower() in _DETERMINERS:
        words = words[1:]
    return (words[:-1], words[-1]) if words else ([], "")


def concept(expression: str) -> str:
    """Return the object's kind and looks, without where it is: "small red mug" of "the second small red mugs left of it"."""
    modifiers, noun = split_noun_phrase(expression)
    return " ".join([*(word for word in modifiers if word.lower() not in _POSITIONS), singularize_noun(noun)]).strip()


def is_modifier(word: str) -> bool:
    """Whether a word is a position, a colour or a size, and so no noun."""
    return any(word.lower() in group for group in _MODIFIER_GROUPS)


def is_plural(expression: str) -> bool:
    """Whether the expression may mean several objects, by its words alone: "glasses" counts as several."""
    text = expression.lower()
    if " and " in text or any(word in _PLURAL_DETERMINERS for word in text.split()[:1]):
        return True
    noun = split_noun_phrase(text)[1]
    return noun in _SINGULARS or (noun.endswith("s") and not noun.endswith(_SINGULAR_ENDINGS))


def pluralize(expression: str) -> str:
    """Return an expression for all objects of the kind, wherever they are: "all red mugs" of "the second red mug"."""
    modifiers, noun = split_noun_phrase(expression)
    kept = [word for word in modifiers if word.lower() not in _POSITIONS]
    return " ".join(["all", *kept, noun if is_plural(noun) else pluralize_noun(noun)])


def singularize(expression: str) -> str:
    """Return an expression for a single object of the kind: "the red mug on the left" of "all red mugs on the left"."""
    modifiers, noun = split_noun_phrase(expression)
    if not is_plural(expression) or not noun:
        return expression
    tail = expression[len(_TAIL.sub("", " " + expression)) - 1 :].rstrip()
    return " ".join(["the", *modifiers, singularize_noun(noun)]) + tail


def pluralize_noun(noun: str) -> str:
    """Return "crosses" for "cross"."""
    if noun.lower() in _PLURALS:
        return _PLURALS[noun.lower()]
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(?:s|x|z|ch|sh)$", noun) else "s")


def singularize_noun(noun: str) -> str:
    """Return "cross" for "crosses"; a word that is no plural is returned as it is."""
    if noun.lower() in _SINGULARS:
        return _SINGULARS[noun.lower()]
    if noun.lower().endswith(_SINGULAR_ENDINGS):
        return noun
    for ending, replacement in ((r"(?<=..)ies$", "y"), (r"(?<=ss|zz|ch|sh)es$", ""), (r"(?<=x)es$", ""), (r"s$", "")):
        if (singular := re.sub(ending, replacement, noun)) != noun:
            return singular
    return noun


def complete_expression(words: str, previous: str) -> str:
    """Return the expression that `words` stand for after the expression `previous`.

    "one", "ones" and a missing noun stand for the previous noun, "one" for its singular. The previous modifiers stay unless the
    new words name the same property (position, color, size). Words that begin with a preposition are appended to the previous
    expression; words with a noun of their own stay as they are.
    """
    if _PREPOSITION.match(words):
        return f"{previous} {words}"
    if _SAME_OBJECT.fullmatch(words):
        return previous
    modifiers, noun = split_noun_phrase(words)
    previous_modifiers, previous_noun = split_noun_phrase(previous)
    if any(noun.lower() in group for group in _MODIFIER_GROUPS):
        modifiers = [*modifiers, noun]
    elif not _PLACEHOLDER_NOUN.fullmatch(noun):
        return words
    if not previous_noun:
        return words
    if noun.lower() == "one":
        previous_noun = singularize_noun(previous_noun)
    tail = words[len(_TAIL.sub("", " " + words)) - 1 :].rstrip()
    return " ".join(["the", *_merge_modifiers(modifiers, previous_modifiers), previous_noun]) + tail


def _merge_modifiers(new: list[str], previous: list[str]) -> list[str]:
    """Put the new modifiers before the previous ones whose property they don't name, in English order."""
    new = [_SUPERLATIVES.get(word.lower(), word) for word in new]
    replaced = [group for group in _MODIFIER_GROUPS if any(word.lower() in group for word in new)]
    kept = [word for word in previous if not any(word.lower() in group for group in (*replaced, _POSITIONS))]
    return sorted([*new, *kept], key=_modifier_rank)


def _modifier_rank(word: str) -> int:
    """Rank position before size before other modifiers before colour."""
    word = word.lower()
    return 0 if word in _POSITIONS else 1 if word in _SIZES else 3 if word in _COLOURS else 2
