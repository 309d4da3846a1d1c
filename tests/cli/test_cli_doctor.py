"""What the command says where a library is missing or broken, with real interpreters that find such a library first."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sam4mllm_tool.cli import doctor
from sam4mllm_tool.errors import MissingExtraError

MISSING = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
BROKEN = "raise RuntimeError('operator torchvision::nms does not exist\\nand more')"


def run(folder: Path, library: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """The command where `import torch` runs this."""
    (folder / "torch.py").write_text(library)
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "sam4mllm_tool", *argv],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("library", "named"),
    [
        pytest.param(MISSING, 'torch is not installed: pip install "sam4mllm-tool"', id="missing"),
        pytest.param(BROKEN, "operator torchvision::nms does not exist;", id="broken"),
    ],
)
@pytest.mark.parametrize("dialect", [[], ["--dialect", "plain"]], ids=["its own dialect", "a named dialect"])
def test_a_library_that_cannot_be_imported_is_one_line(tmp_path: Path, library: str, named: str, dialect: list[str]) -> None:
    picture = str(Path(__file__).parents[2] / "examples" / "scene.png")
    done = run(tmp_path, library, "segment", picture, "the ring", *dialect)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr


@pytest.mark.parametrize(
    ("library", "named"),
    [(MISSING, "No module named 'torch'"), (BROKEN, "operator torchvision::nms")],
    ids=["missing", "broken"],
)
def test_the_doctor_says_in_each_line_what_fails(tmp_path: Path, library: str, named: str) -> None:
    done = run(tmp_path, library, "doctor")
    assert done.returncode == 1
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert sum(line.startswith("  FAILS ") for line in lines) == 4
    assert any(line.startswith("device: FAILS") for line in lines)
    assert lines[-1].startswith("embedded pair: FAILS")
    assert done.stdout.count(named) >= 5


def test_the_doctor_lists_every_extra_with_its_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        extra: tuple(requirement.split(">")[0] for requirement in requirements)
        for extra, requirements in project["optional-dependencies"].items()
        if extra not in ("dev", "test")
    }
    assert declared == doctor.EXTRAS
    told = "\n".join(doctor._extra(extra, name) for extra, names in doctor.EXTRAS.items() for name in names)
    assert [name for names in declared.values() for name in names if name not in told] == []


def test_a_missing_library_is_told_with_its_cure() -> None:
    assert str(MissingExtraError("peft")) == 'peft is not installed: pip install "sam4mllm-tool"'
    assert str(MissingExtraError("torchvision", "sam")) == 'torchvision is not installed: pip install "sam4mllm-tool[sam]"'
