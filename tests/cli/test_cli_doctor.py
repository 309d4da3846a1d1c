"""What the command line prints where a library is missing or broken, with interpreters that import such a library first."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sam4mllm_tool.cli import doctor
from sam4mllm_tool.errors import MissingExtraError

ROOT = Path(__file__).parents[2]
MISSING = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
BROKEN = "raise RuntimeError('operator torchvision::nms does not exist\\nand more')"


def run_with_torch(folder: Path, source: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command line where `import torch` runs this source."""
    (folder / "torch.py").write_text(source)
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "sam4mllm_tool", *argv],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("source", "dialect", "reason"),
    [
        pytest.param(MISSING, (), 'torch is not installed: pip install "sam4mllm-tool"', id="missing"),
        pytest.param(
            BROKEN, ("--dialect", "plain"), "operator torchvision::nms does not exist;", id="broken", marks=pytest.mark.slow
        ),
    ],
)
def test_a_library_that_cannot_be_imported_is_reported_in_one_line(
    tmp_path: Path, source: str, dialect: tuple[str, ...], reason: str
) -> None:
    done = run_with_torch(tmp_path, source, "segment", str(ROOT / "examples" / "scene.png"), "the ring", *dialect)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "reason"),
    [(MISSING, "No module named 'torch'"), (BROKEN, "operator torchvision::nms")],
    ids=["missing", "broken"],
)
def test_the_doctor_reports_each_failure_in_its_own_line(tmp_path: Path, source: str, reason: str) -> None:
    done = run_with_torch(tmp_path, source, "doctor")
    assert done.returncode == 1
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert sum(line.startswith("  FAILS ") for line in lines) == 4
    assert any(line.startswith("device: FAILS") for line in lines)
    assert lines[-1].startswith("embedded pair: FAILS")
    assert done.stdout.count(reason) >= 5


def test_the_doctor_lists_every_extra_with_its_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {}
    for extra, requirements in project["optional-dependencies"].items():
        names = {re.split(r"[\[<>= ]", requirement)[0] for requirement in requirements} - {"sam4mllm-tool"}
        if extra not in ("all", "dev", "docs", "test"):
            declared[extra] = names
    extras = doctor.list_extras()
    assert {extra: set(names) for extra, names in extras.items()} == declared
    for extra, names in extras.items():
        for name in names:
            assert name in doctor._extra_line(extra, name)


def test_a_missing_library_is_reported_with_its_cure() -> None:
    assert str(MissingExtraError("peft")) == 'peft is not installed: pip install "sam4mllm-tool"'
    assert str(MissingExtraError("torchvision", "sam")) == 'torchvision is not installed: pip install "sam4mllm-tool[sam]"'
