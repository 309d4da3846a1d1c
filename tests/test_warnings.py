"""With every warning made an error, each module is imported and the command segments the example."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.example_scene import EXPRESSION

ROOT = Path(__file__).parents[1]
IMPORT_ALL = """
import importlib, pkgutil, warnings
import sam4mllm_tool
from sam4mllm_tool.errors import MissingExtraError

for module in pkgutil.walk_packages(sam4mllm_tool.__path__, "sam4mllm_tool."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except MissingExtraError:
            pass
        except ModuleNotFoundError as error:
            if error.name != "ray":  # which has an environment of its own
                raise
"""


def run_strictly(*arguments: str) -> str:
    """Run Python with warnings as errors; return what it wrote to stderr."""
    done = subprocess.run([sys.executable, "-W", "error", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_no_module_warns_when_it_is_imported() -> None:
    assert run_strictly("-c", IMPORT_ALL) == ""


@pytest.mark.slow
def test_the_command_warns_of_nothing(tmp_path: Path) -> None:
    arguments = ["segment", "examples/scene.png", EXPRESSION, "--out", str(tmp_path)]
    assert "Warning" not in run_strictly("-m", "sam4mllm_tool", *arguments)
