"""The table of families in the documentation is what its command writes."""

from pathlib import Path

import pytest

from sam4mllm_tool.protocol import DIALECTS
from sam4mllm_tool.protocol.dialects import BY_MODEL_NAME, BY_MODEL_TYPE
from tests.benchmarks.families import FAMILIES, PAGE, SIZES, Family, format_frame_cells, measure_labels, read_table
from tests.native_answers import NATIVE_ANSWERS

ROWS = {row[0]: row for row in read_table(PAGE.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.title)
def test_the_page_has_the_frames_that_are_measured(family: Family) -> None:
    cells = format_frame_cells(family)
    assert ROWS[family.title][: len(cells)] == cells
    decimals = 2 if family.dialect == "llava" else 3
    assert all(float(cell) >= (0.95 if decimals == 2 else 0.98) for cell in cells[2:])
    assert len(cells) == 2 + len(SIZES)


@pytest.mark.parametrize("family", [each for each in FAMILIES if each.title in ("LLaVA 1.5", "Florence-2", "Claude")])
def test_the_page_has_the_labels_that_are_measured(family: Family, tmp_path: Path) -> None:
    assert ROWS[family.title][2 + len(SIZES) :] == measure_labels(family, tmp_path)


def test_no_family_is_missing_and_no_label_differs() -> None:
    assert list(ROWS) == [family.title for family in FAMILIES]
    native = {name for name, dialect in DIALECTS.items() if dialect.replies != "exact"}
    assert native <= {family.dialect for family in FAMILIES}
    assert {dialect.name for dialect in (*BY_MODEL_TYPE.values(), *BY_MODEL_NAME.values())} <= NATIVE_ANSWERS.keys()
    assert not any("DIFFERENT" in row for row in ROWS.values())
