"""Half a million inputs from seeds, and ten minutes each guided by coverage: nothing but errors of this package."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.hours]


def test_half_a_million_inputs_are_read_or_refused() -> None:
    command = [sys.executable, "-m", "tests.fuzz.run", "--inputs", "500000", "--images", "20000"]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("target", ["replies", "images"])
def test_nothing_is_found_by_coverage_in_ten_minutes(target: str) -> None:
    pytest.importorskip("atheris", reason="pip install -r tests/fuzz/requirements.txt")
    command = [sys.executable, "-m", "tests.fuzz.coverage_guided", target, "--seconds", "600"]
    assert subprocess.run(command, check=False).returncode == 0
