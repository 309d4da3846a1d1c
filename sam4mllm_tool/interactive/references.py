"""How words that lean on earlier ones are made to stand alone: "the blue one" after "the red ring" is "the blue ring".

English, by small lists of words and no model: the head noun of a description, its modifiers, and which of these a new word
replaces.
"""

import re

__all__ = ["combine", "head", "many_of", "plural"]

_DETERMINERS = ("the", "a", "an", "all", "every", "each", "both", "this", "that", "these", "those", "any", "some", "its")
_CUTS = (
    "left of|right of|to the|above|below|under|over|behind|in|on|at|with|without|from|near|next to|beside|between|of|that|"
    "which|who|furthest|farthest|closest|nearest|higher|lower|like|for|by|inside|outside|you|and|whose|wearing|holding"
)
_CUT = re.compile(rf"\s+(?:{_CUTS})\b.*", re.IGNORECASE)
"""Where a noun phrase ends and what tells more about it begins."""
_TURNS_TO = {
    "left": "leftmost",
    "right": "rightmost",
    "top": "topmost",
    "upper": "topmost",
    "bottom": "bottommost",
    "lower": "bottommost",
}
"""Of several, "the left one" is the one furthest to the left."""
_ORDINALS = {"first", "second", "third", "fourth", "fifth", "last"}
_POSITIONS = {
    *_TURNS_TO,
    *_TURNS_TO.values(),
    *_ORDINALS,
    "highest",
    "lowest",
    "near",
    "far",
    "front",
    "back",
    "middle",
    "central",
}
_COLOURS = {
    "red",
    "green",
    "blue",
    "yellow",
    "purple",
    "orange",
    "cyan",
    "white",
    "black",
    "brown",
    "grey",
    "gray",
    "pink",
    "violet",
}
_SIZES = {"small", "smaller", "smallest", "large", "larger", "largest", "big", "bigger", "biggest", "little", "tiny", "huge"}
_GROUPS = (_POSITIONS, _COLOURS, _SIZES)
_ONE_OF = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "knives": "knife",
    "leaves": "leaf",
    "buses": "bus",
}
_MANY_OF = {one: many for many, one in _ONE_OF.items()}
_NOT_IN_S = ("ss", "us", "is")
"""How words end that are no plural for all their s."""


def head(expression: str) -> tuple[list[str], str]:
    """Its modifiers and the noun they modify, as (["small", "red"], "ring") of "the small red ring left of the star"."""
    words = _CUT.sub("", " " + expression).split()
    while words and words[0].lower() in _DETERMINERS:
        words = words[1:]
    return (words[:-1], words[-1]) if words else ([], "")


def plural(expression: str) -> bool:
    """Whether it may mean several objects; by its words alone, so that a name such as "glasses" counts as several."""
    first = expression.lower().split()[:1]
    noun = head(expression)[1].lower()
    many = noun in _ONE_OF or (noun.endswith("s") and not noun.endswith(_NOT_IN_S))
    return first in (["all"], ["every"], ["each"], ["both"], ["these"], ["those"]) or many or " and " in expression.lower()


def many_of(expression: str) -> str:
    """All that it could mean, where its place is left aside: "all red rings" of "the second red ring from the left"."""
    modifiers, noun = head(expression)
    kept = [word for word in modifiers if word.lower() not in _POSITIONS]
    return " ".join(["all", *kept, noun if plural(noun) else _several_of(noun)])


def _several_of(noun: str) -> str:
    if noun.lower() in _MANY_OF:
        return _MANY_OF[noun.lower()]
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(?:s|x|z|ch|sh)$", noun) else "s")


def _one_of(noun: str) -> str:
    """The singular: "cross" of "crosses"; any other word as it is."""
    if noun.lower() in _ONE_OF:
        return _ONE_OF[noun.lower()]
    if noun.lower().endswith(_NOT_IN_S):
        return noun
    for ending, instead in ((r"(?<=..)ies$", "y"), (r"(?<=ss|zz|ch|sh)es$", ""), (r"(?<=x)es$", ""), (r"s$", "")):
        if (single := re.sub(ending, instead, noun)) != noun:
            return single
    return noun


def combine(what: str, old: str) -> str:
    """The description that `what` is when it is said after `old`.

    "one", "ones" and a missing noun stand for old's noun, "one" for one of several; its modifiers stay where the new words
    don't speak of the same (place, colour, size). What starts with a preposition is added to old; what names its own noun
    stands alone.
    """
    if re.match(
        r"(?:at|behind|beside|near|next to|under|above|below|between|in|on|with|to the|left of|right of)\b", what, re.IGNORECASE
    ):
        return f"{old} {what}"
    if re.fullmatch(r"it|that|this|them|(?:the )?same(?: one)?", what, re.IGNORECASE):
        return old
    modifiers, noun = head(what)
    tail = what[len(_CUT.sub("", " " + what)) - 1 :].rstrip()
    stands_for = re.fullmatch(r"ones?|object|thing", noun, re.IGNORECASE) is not None
    bare = any(noun.lower() in group for group in _GROUPS)
    if not noun or not (stands_for or bare):
        return what
    said = [_TURNS_TO.get(word.lower(), word) for word in (modifiers if stands_for else [*modifiers, noun])]
    before, old_noun = head(old)
    if not old_noun:
        return what
    if noun.lower() == "one":
        old_noun = _one_of(old_noun)
    spoken_of = [group for group in _GROUPS if any(word.lower() in group for word in said)]
    kept = [word for word in before if not any(word.lower() in group for group in (*spoken_of, _POSITIONS))]
    in_order = sorted([*said, *kept], key=_rank)
    return " ".join(["the", *in_order, old_noun]) + tail


def _rank(word: str) -> int:
    """Place before size before what else there is before colour, as English has it."""
    word = word.lower()
    return 0 if word in _POSITIONS else 1 if word in _SIZES else 3 if word in _COLOURS else 2
