"""Hostile input is read or refused, in time and within bounded memory; `python -m tests.fuzz.run` does it at length."""

import pytest

from tests.fuzz.fuzzing import LONGEST_S, fuzz_images, fuzz_text
from tests.fuzz.hostile_corpus import list_hostile_images
from tests.fuzz.text_targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_hostile_text_is_read_or_refused(name: str, count: int) -> None:
    figures = fuzz_text(name, count)
    assert figures.inputs == count
    assert figures.slowest_s < LONGEST_S


@pytest.mark.slow
def test_hostile_images_are_read_or_refused() -> None:
    figures = fuzz_images(list_hostile_images(1500))
    assert figures.inputs == 1500
    assert 700 < figures.refused < 1500
    assert figures.slowest_s < LONGEST_S


def test_some_hostile_images_are_read_and_some_are_refused() -> None:
    figures = fuzz_images((name, content) for name, content in list_hostile_images(100) if name.startswith("seed"))
    assert 0 < figures.refused < figures.inputs
