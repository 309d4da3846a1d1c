"""Cases of a parametrised test, of which the fast suite runs every few and the slow one the others."""

from collections.abc import Mapping
from typing import Any

import pytest

__all__ = ["sample_cases", "sample_items"]


def sample_cases(cases: Mapping[str, Any], every: int) -> list[Any]:
    """Return one `pytest.param` per case, by name; all but every `every`-th are marked slow.

    Args:
        cases: The argument of each case; a tuple holds several.
        every: The first is fast, and then every so many.
    """
    slow = pytest.mark.slow
    values = [case if isinstance(case, tuple) else (case,) for case in cases.values()]
    return [
        pytest.param(*case, id=name, marks=slow if number % every else ())
        for number, (name, case) in enumerate(zip(cases, values, strict=True))
    ]


def sample_items(cases: Mapping[str, Any], every: int) -> list[Any]:
    """Return `sample_cases` of a test that takes the name and the value of each case."""
    return sample_cases({name: (name, value) for name, value in cases.items()}, every)
