"""Instructions and references: what the words of a correction mean, without any model."""

import pytest

from sam4mllm_tool.errors import ExpressionError
from sam4mllm_tool.interactive import read_instruction
from sam4mllm_tool.protocol.references import complete_expression, is_plural, pluralize

INSTRUCTIONS = {
    "the other one": ("no, the other one", "other", ""),
    "no alone": ("No!", "other", ""),
    "called wrong": ("that's wrong", "other", ""),
    "called wrong, with a noun": ("No, not that one, the other ring", "other", ""),
    "another": ("another one", "other", ""),
    "not this": ("not this one", "other", ""),
    "next": ("next", "other", ""),
    "one more by its position": ("also the left one", "also", "the left one"),
    "one more after and": ("and the blue star", "also", "the blue star"),
    "one more before too": ("the left one too", "also", "the left one"),
    "both": ("both of them", "also_other", ""),
    "the other as well": ("also the other one", "also_other", ""),
    "a part taken out": ("without the handle", "without", "the handle"),
    "one of several taken out": ("no, not the red one", "without", "the red one"),
    "leave out": ("Leave out the background.", "without", "the background"),
    "all but one": ("all but the green one", "without", "the green one"),
    "but alone is no exception": ("but the green one", "describe", "but the green one"),
    "bigger": ("bigger", "bigger", ""),
    "called too small": ("it's too small", "bigger", ""),
    "the whole of it": ("the whole mug", "bigger", ""),
    "smaller": ("make it smaller", "smaller", ""),
    "only a part": ("just the part", "smaller", ""),
    "back": ("go back", "back", ""),
    "the one before": ("no, the first one was right", "back", ""),
    "a new description": ("no, i meant the blue one", "describe", "the blue one"),
    "only one of them": ("only the left one", "describe", "the left one"),
    "a word that begins like no": ("nothing but notes", "describe", "nothing but notes"),
    "a word that contains other": ("the motherboard", "describe", "the motherboard"),
    "another language": ("das rote", "describe", "das rote"),
}


@pytest.mark.parametrize(("text", "action", "what"), INSTRUCTIONS.values(), ids=INSTRUCTIONS)
def test_an_instruction_is_read_by_the_table(text: str, action: str, what: str) -> None:
    instruction = read_instruction(text)
    assert (instruction.action, instruction.what) == (action, what)


@pytest.mark.parametrize("text", ["", "  ", None, 3, "x" * 3000], ids=repr)
def test_an_empty_or_too_long_instruction_is_refused(text: object) -> None:
    with pytest.raises(ExpressionError):
        read_instruction(text)


COMPLETED = {
    "a colour replaces the colour": ("the blue one", "the small red ring", "the small blue ring"),
    "a position is added": ("the left one", "the red ring", "the leftmost red ring"),
    "a position replaces the position": ("the right one", "the leftmost red ring", "the rightmost red ring"),
    "an ordinal keeps its tail": ("the second one from the left", "the red ring", "the second red ring from the left"),
    "a size is added": ("the big one", "the red ring", "the big red ring"),
    "a place is appended": ("the one on the table", "the mug", "the mug on the table"),
    "a preposition is appended": ("behind the tree", "the mug", "the mug behind the tree"),
    "a position without a noun": ("left", "the mug", "the leftmost mug"),
    "it": ("it", "the mug", "the mug"),
    "a noun of its own": ("the blue star", "the red ring", "the blue star"),
    "one of several": ("the left one", "all rings", "the leftmost ring"),
    "some of several": ("the left ones", "all rings", "the leftmost rings"),
    "a plural in es": ("the green one", "all small crosses", "the small green cross"),
    "an irregular plural": ("the right one", "the people in the boat", "the rightmost person"),
    "a singular in s": ("the left one", "the bus", "the leftmost bus"),
    "no previous noun": ("the left one", "all", "the left one"),
}


@pytest.mark.parametrize(("words", "previous", "expected"), COMPLETED.values(), ids=COMPLETED)
def test_words_are_completed_from_the_previous_expression(words: str, previous: str, expected: str) -> None:
    assert complete_expression(words, previous) == expected


@pytest.mark.parametrize("expression", ["all crosses", "every ring", "the cups", "the cat and the dog", "all"])
def test_an_expression_for_several_objects_is_plural(expression: str) -> None:
    assert is_plural(expression)


@pytest.mark.parametrize("expression", ["the ring", "the red cross", "the cup left of the cats", ""])
def test_an_expression_for_a_single_object_is_not_plural(expression: str) -> None:
    assert not is_plural(expression)


PLURALS = {
    "the second red cross from the left": "all red crosses",
    "the berry": "all berries",
    "the toy": "all toys",
    "the box": "all boxes",
    "the bus": "all buses",
    "the person": "all people",
}


@pytest.mark.parametrize(("expression", "expected"), PLURALS.items(), ids=PLURALS)
def test_pluralizing_drops_the_position(expression: str, expected: str) -> None:
    assert pluralize(expression) == expected
