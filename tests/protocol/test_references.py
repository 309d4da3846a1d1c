"""Words about an object are read as English: plurals, what "one" stands for, and what stays of an earlier expression."""

import pytest

from sam4mllm_tool.protocol.references import (
    complete_expression,
    is_plural,
    pluralize,
    pluralize_noun,
    singularize,
    singularize_noun,
)


@pytest.mark.parametrize(
    ("singular", "plural"),
    [("cross", "crosses"), ("box", "boxes"), ("berry", "berries"), ("ring", "rings"), ("person", "people"), ("key", "keys")],
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


def test_there_is_nothing_to_complete_where_nothing_was_meant_before() -> None:
    assert complete_expression("the blue one", "") == "the blue one"
