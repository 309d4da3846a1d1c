"""What goes wrong at a stage comes to what docs/faults.md says, and the next request is served."""

import pytest

pytest.importorskip("openai")

from tests.faults.fault_case import FaultCase
from tests.faults.fault_page import PAGE, TABLES, read_page, render_page

OUTCOMES = read_page()


@pytest.mark.parametrize(
    ("title", "case"),
    [
        pytest.param(title, case, id=f"{case.stage}-{case.fault}", marks=[pytest.mark.slow] if case.is_slow else [])
        for title, cases in TABLES.items()
        for case in cases
    ],
)
def test_a_fault_comes_to_what_the_page_says(title: str, case: FaultCase) -> None:
    assert case.run() == OUTCOMES[title, case.fault, case.stage]


def test_the_page_has_the_tables_of_the_matrix_and_no_others() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith(f"\n{render_page(OUTCOMES)}")
    assert len(OUTCOMES) == sum(map(len, TABLES.values()))
