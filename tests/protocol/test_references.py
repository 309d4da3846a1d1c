"""Words about an object are read as English: plurals, what "one" stands for, and what stays of an earlier expression."""

import pytest

from sam4mllm_tool.protocol.references import (
    complete_expression,
    concept,
    is_modifier,
    is_plural,
    pluralize,
    pluralize_noun,
    singularize,
    singularize_noun,
    split_noun_phrase,
)


@pytest.mark.parametrize(
    ("singular", "plural"),
    [
        ("cross", "crosses"),
        ("box", "boxes"),
        ("berry", "berries"),
        ("ring", "rings"),
        ("person", "people"),
        ("key", "keys"),
        ("dish", "dishes"),
        ("fox", "foxes"),
        ("tie", "ties"),
        ("City", "Cities"),
    ],
)
def test_nouns_have_their_plural_and_get_their_singular_back(singular: str, plural: str) -> None:
    assert pluralize_noun(singular) == plural
    assert singularize_noun(plural) == singular
    assert singularize_noun(singular) == singular


@pytest.mark.parametrize("noun", ["glass", "cactus", "iris", "sheep"])
def test_a_noun_that_is_no_plural_stays(noun: str) -> None:
    assert singularize_noun(noun) == noun
    assert not is_plural(f"the {noun}")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("the second red ring", "all red rings"),
        ("the leftmost people", "all people"),
        ("a knife", "all knives"),
    ],
)
def test_an_expression_is_widened_to_all_of_the_kind(expression: str, expected: str) -> None:
    assert pluralize(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("all red rings on the left", "the red ring on the left"),
        ("the red ring", "the red ring"),
        ("every knife", "the knife"),
        ("all", "all"),
    ],
)
def test_an_expression_is_narrowed_to_a_single_object(expression: str, expected: str) -> None:
    assert singularize(expression) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("the blue one", "the small blue ring"),
        ("one", "the small red ring"),
        ("it", "the small red ring"),
        ("the large", "the large red ring"),
        ("on the left", "the small red ring on the left"),
        ("the cat", "the cat"),
        ("the left one behind the mug", "the leftmost small red ring behind the mug"),
    ],
)
def test_words_are_completed_by_what_was_meant_before(words: str, expected: str) -> None:
    assert complete_expression(words, "the small red ring") == expected


def test_a_size_stands_before_modifiers_of_no_group() -> None:
    assert complete_expression("the striped one", "the small red ring") == "the small striped red ring"


def test_there_is_nothing_to_complete_where_nothing_was_meant_before() -> None:
    assert complete_expression("the blue one", "") == "the blue one"


@pytest.mark.parametrize(
    ("expression", "modifiers", "noun"),
    [
        ("the small red ring left of the star", ["small", "red"], "ring"),
        ("All of them", [], ""),
        ("a Cup", [], "Cup"),
        ("these two cats wearing hats", ["two"], "cats"),
        ("mugs", [], "mugs"),
        ("the a", [], ""),
        ("", [], ""),
    ],
)
def test_a_noun_phrase_is_its_modifiers_and_its_head(expression: str, modifiers: list[str], noun: str) -> None:
    assert split_noun_phrase(expression) == (modifiers, noun)


def test_a_concept_is_the_kind_and_looks_without_the_place() -> None:
    assert concept("the second small red rings left of it") == "small red ring"
    assert concept("the Leftmost one") == "one"
    assert concept("the first") == "first"
    assert concept("") == ""


def test_words_of_place_colour_and_size_are_modifiers() -> None:
    assert [word for word in ("leftmost", "Red", "tiny", "last", "front", "ring", "one", "") if is_modifier(word)] == [
        *("leftmost", "Red", "tiny", "last", "front")
    ]


@pytest.mark.parametrize(
    ("expression", "plural"),
    [
        ("all rings", True),
        ("every ring", True),
        ("each of them", True),
        ("the ring and the star", True),
        ("the people", True),
        ("rings on the bus", True),
        ("the ring of all rings", False),
        ("the bus", False),
        ("the glass", False),
        ("", False),
    ],
)
def test_an_expression_is_plural_by_its_words(expression: str, plural: bool) -> None:
    assert is_plural(expression) == plural


@pytest.mark.parametrize(
    ("words", "previous", "expected"),
    [
        ("ones", "the small red rings", "the small red rings"),
        ("one", "all small red rings", "the small red ring"),
        ("the blue", "the upper left star", "the blue star"),
        ("the second large one", "the first tiny striped green dish", "the second large striped green dish"),
        ("the same one", "the red ring on the left", "the red ring on the left"),
        ("next to the mug", "the ring", "the ring next to the mug"),
        ("the upper", "the ring", "the topmost ring"),
        ("the red one near the edge", "the blue ring at the top", "the red ring near the edge"),
    ],
)
def test_new_words_replace_those_of_the_same_property_and_come_in_english_order(
    words: str, previous: str, expected: str
) -> None:
    assert complete_expression(words, previous) == expected
