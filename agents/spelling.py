"""Correct near misses of the words that a plain request is made of: "segmnet the rde rign" is "segment the red ring".

Only verbs, colours, shapes, sizes and things whose names are like no other word ("umbrela") are corrected; never a word that is
English itself, as a photograph may hold a king.
"""

import re
from collections.abc import Collection

__all__ = ["correct_expression", "correct_verb"]

_VERBS = (
    "segment", "find", "locate", "select", "highlight", "outline", "extract", "isolate", "detect", "show", "mark", "mask",
    "where", "remove", "click", "count", "without", "describe",
)  # fmt: skip
_EXPRESSION_WORDS = (
    "red", "green", "blue", "yellow", "purple", "orange", "cyan", "white", "black", "brown", "pink", "grey", "gray", "violet",
    "circle", "circles", "square", "squares", "triangle", "triangles", "star", "stars", "ring", "rings", "cross", "crosses",
    "crescent", "crescents", "heart", "hearts", "shape", "shapes", "small", "large", "leftmost", "rightmost", "topmost",
    "bottommost", "everything", "umbrella", "umbrellas", "teapot", "teapots", "bicycle", "bicycles", "butterfly", "butterflies",
    "mushroom", "mushrooms", "pumpkin", "pumpkins", "scissors", "guitar", "guitars", "balloon", "balloons",
)  # fmt: skip
_REAL_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    across back bale ballroom band batch bell bend bind blew blow bluer blues blur blurs board bread bring brow browns call cars
    chart circus clack click cloak clock clue cock count counter country court cramp crass creek cress cross crosser crown
    crows cruise cut cycle date describe detach detect detest doe draw ear elect extra extract fiend final find finds fine
    fired fling fond food ford foul found fund gay glue grab grade grain gram gran grass gravy gray great greed greek greens
    greet grew growl grows hard hart hat hear heard hears hearth hearty heat heats here highlight home isolate king lace
    large larger later lick locate location mad made mail main make male march mare mark market marks mask masks mass mast
    mist more must oranges outline outlines paint pick pin pine pint plan point pork port print purse rage raid rails rang
    rank rat rave raw read reads ready real rear reed reel remove rent rest rid ride rig right rim rind ringer rink rise
    risk rod roe ruling rung scar scare scars seal section sedate segment select shade shades shake shame shaped shapely
    share shed shoe shop shops short shot should shove show shower shows slow small smaller smart smell snow spar spare
    square squash squid squire stab staff stag stage stair stairs stall stamp stand starch stare stark start starts state
    stay steak steal stem step stir stool stop store stork storm story straw string sun swing tall than there these they
    think this those trace triage trial wall wand want ware wear went were whale what wheat wheel when where whether which
    while whit white whiter whites who whole wide wine wing wire wish witch within without write yell yellows yolk
    """,
    )
)


def correct_verb(text: str) -> str:
    """Return the text with its first words corrected where they are a near miss of a verb of requests."""
    return re.sub(
        r"^(\W*(?:please\s+|can you\s+|could you\s+|now\s+)*)([^\W\d_]{4,})\b", lambda m: m[1] + _correct(m[2], _VERBS), text
    )


def correct_expression(text: str) -> str:
    """Return an expression with near misses of colours, shapes and sizes corrected."""
    return re.sub(r"[^\W\d_]{3,}", lambda match: _correct(match[0], _EXPRESSION_WORDS), text)


def _correct(word: str, vocabulary: Collection[str]) -> str:
    """Return the nearest word of the vocabulary where the word is near to one; the word itself otherwise."""
    lower = word.lower()
    if lower in vocabulary or lower in _REAL_WORDS or lower in _EXPRESSION_WORDS or len(lower) > 14:
        return word
    limit = 1 if len(lower) < 7 else 2
    distances = {known: _distance(lower, known) for known in vocabulary if known[0] == lower[0] or known[:2] == lower[1::-1]}
    near = min(distances.values(), default=limit + 1)
    nearest = [known for known, distance in distances.items() if distance == near]
    same_number = [known for known in nearest if known.endswith("s") == lower.endswith("s")]
    return (same_number or nearest)[0] if near <= limit else word


def _distance(first: str, second: str) -> int:
    """Return how many letters are missing, extra, wrong, or swapped with the next one (optimal string alignment)."""
    rows = [list(range(len(second) + 1))]
    for i, letter in enumerate(first, start=1):
        row = [i]
        for j, other in enumerate(second, start=1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == second[j - 2] and first[i - 2] == other:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
