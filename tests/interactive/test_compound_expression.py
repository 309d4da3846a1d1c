"""Which expressions are split, and into what: by their words alone, without any model."""

import pytest

from sam4mllm_tool.errors import ExpressionError
from sam4mllm_tool.interactive import split_expression
from sam4mllm_tool.interactive.compound_expression import MAX_PARTS

SPLIT = {
    "two objects": ("the ring and the star", ["the ring", "the star"], []),
    "both": ("both the ring and the star", ["the ring", "the star"], []),
    "a list": ("the ring, the star and the cross", ["the ring", "the star", "the cross"], []),
    "a list with a comma before and": ("the ring, the star, and the cross", ["the ring", "the star", "the cross"], []),
    "semicolons": ("all rings; the star", ["all rings", "the star"], []),
    "as well as": ("the ring as well as the star", ["the ring", "the star"], []),
    "an ampersand": ("the ring & a star", ["the ring", "a star"], []),
    "numbers": ("two rings and a star", ["two rings", "a star"], []),
    "one determiner for two plurals": ("all rings and stars", ["all rings", "all stars"], []),
    "one noun for two colours": ("the red and the blue ring", ["the red ring", "the blue ring"], []),
    "a noun left out": ("the red ring and the blue one", ["the red ring", "the blue ring"], []),
    "positions": (
        "the ring on the left and the star at the top",
        ["the ring on the left", "the star at the top"],
        [],
    ),
    "of a substance": ("the glass of water and the plate", ["the glass of water", "the plate"], []),
    "a description at the end": ("the man and the woman with the hat", ["the man", "the woman with the hat"], []),
    "but not": ("all rings but not the green one", ["all rings"], ["the green ring"]),
    "but": ("all rings but the green one", ["all rings"], ["the green ring"]),
    "except": ("the rings except the green ring", ["the rings"], ["the green ring"]),
    "except for, in brackets": ("all stars (except for the red one)", ["all stars"], ["the red star"]),
    "without": ("all rings without the green one", ["all rings"], ["the green ring"]),
    "comma, not": ("all rings, not the leftmost", ["all rings"], ["the leftmost rings"]),
    "two excluded": ("all shapes except the ring and the star", ["all shapes"], ["the ring", "the star"]),
    "excluded by one noun": ("all rings but not the red and the blue one", ["all rings"], ["the red ring", "the blue ring"]),
    "excluded by or": ("all rings but not the red or the blue one", ["all rings"], ["the red ring", "the blue ring"]),
    "excluded from every": ("every ring except the red and the blue one", ["every ring"], ["the red ring", "the blue ring"]),
    "each excluded by one": ("all rings but not the red one or the blue one", ["all rings"], ["the red ring", "the blue ring"]),
    "excluded by and not": (
        "all rings but not the red one and not the blue one",
        ["all rings"],
        ["the red ring", "the blue ring"],
    ),
    "excluded by a comma": ("all rings except the red, the blue one", ["all rings"], ["the red ring", "the blue ring"]),
    "three excluded": (
        "all rings except the red, the blue, and the green one",
        ["all rings"],
        ["the red ring", "the blue ring", "the green ring"],
    ),
    "excluded by ones": ("all rings except the red and the blue ones", ["all rings"], ["the red rings", "the blue rings"]),
    "excluded by one article": ("all rings but not the red and blue ones", ["all rings"], ["the red rings", "the blue rings"]),
    "excluded by one article and or": (
        "all rings but not the red, blue or green one",
        ["all rings"],
        ["the red ring", "the blue ring", "the green ring"],
    ),
    "excluded by or with a noun": (
        "all shapes but not the red or the blue ring",
        ["all shapes"],
        ["the red ring", "the blue ring"],
    ),
    "excluded without a noun": ("all rings but not the red and the blue", ["all rings"], ["the red rings", "the blue rings"]),
    "an excluded one of two colours": (
        "all balls but not the black and white one",
        ["all balls"],
        ["the black and white ball"],
    ),
    "two nouns left out": (
        "the red ring, the blue one and the green one",
        ["the red ring", "the blue ring", "the green ring"],
        [],
    ),
    "a negated clause": ("all rings that are not green", ["all rings"], ["the green rings"]),
    "excluded from two": (
        "all rings and all stars but not the red ones",
        ["all rings", "all stars"],
        ["the red rings", "the red stars"],
    ),
    "a full stop": ("The ring and the star.", ["The ring", "the star"], []),
}
WHOLE = {
    "one object": "the red ring",
    "a full stop": "the red ring.",
    "an attachment in doubt": "the man with the hat and the coat",
    "between": "the star between the ring and the cross",
    "left of": "the star left of the ring and the cross",
    "doing something": "the dog chasing the cat and the ball",
    "two colours of one ball": "black and white ball",
    "two colours of one ball with an article": "the black and white ball",
    "two colours": "the red, white and blue flag",
    "a pair": "salt and pepper",
    "a pair in one object": "the salt and pepper shaker",
    "a pronoun": "the man and his dog",
    "a pronoun in the description": "the man and the dog next to him",
    "a clause of both": "the man and the woman who are sitting",
    "an apposition": "the dog, the brown one",
    "a part of one object": "the mug but not the handle",
    "a quality": "the rings without stones",
    "a quality with an article": "the man without a hat",
    "a name": "Marks and Spencer bag",
    "a question": "what is used to cut bread and the butter",
    "nothing excluded": "all rings but not",
    "too many": " and ".join(["the ring"] * (MAX_PARTS + 1)),
    "long": "the ring and the star" + " on the left" * 60,
}


@pytest.mark.parametrize(("text", "parts", "excluded"), SPLIT.values(), ids=SPLIT)
def test_a_clear_list_is_split(text: str, parts: list[str], excluded: list[str]) -> None:
    compound = split_expression(text)
    assert (list(compound.parts), list(compound.excluded)) == (parts, excluded)
    assert compound.is_compound


@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE)
def test_an_expression_in_doubt_stays_whole(text: str) -> None:
    compound = split_expression(text)
    assert compound.parts == (text,)
    assert not compound.is_compound


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_expression_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError, match="empty"):
        split_expression(text)
