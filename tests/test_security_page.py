"""SECURITY.md's threat model: each row names code and a test that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## Threat model")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| Who")
]
GIVEN = (
    *("image", "expression", "URL", "path", "handle", "artifact", "checkpoint", "dataset", "trace", "reply", "MCP", "HTTP"),
    *("batch", "Ray", "--cpu-fallback", "agent over the server", "agent's server"),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}: {row[1]}")
def test_each_row_names_code_and_a_test_that_exist(row: list[str]) -> None:
    source, _, code, test = row
    paths = re.findall(r"`([^`]+)`", code)
    assert paths
    assert [path for path in paths if not (ROOT / "sam4mllm_tool" / path).is_file()] == []
    name, path = re.fullmatch(r"`(test_\w+)` \(\[[\w.]+\]\((tests/[\w./]+)\)\)", test).groups()  # type: ignore[union-attr]
    assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), (source, name)


def test_the_threat_model_covers_whoever_can_hand_us_something() -> None:
    sources = " ".join(row[0] for row in ROWS)
    assert [word for word in GIVEN if word not in sources] == []
    assert len(ROWS) >= 40
