"""The tests' evaluations are written without charts, which would take most of the time; WITH_CHARTS = True brings them back."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def without_charts(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "WITH_CHARTS", False):
            patch.setitem(sys.modules, "matplotlib", None)
        yield
