"""With every warning made an error, each module is imported, and then the command segments the example."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.example_scene import EXPRESSION

ROOT = Path(__file__).parents[1]
IMPORT_ALL = """
import importlib, pkgutil, sys
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
print("all imported", flush=True)

from sam4mllm_tool.cli.main import main

assert main(["segment", "examples/scene.png", sys.argv[1], "--out", sys.argv[2]]) == 0
"""


@pytest.mark.slow
def test_no_module_and_no_command_warns(tmp_path: Path) -> None:
    strict = [sys.executable, "-W", "error", "-c", IMPORT_ALL, EXPRESSION, str(tmp_path)]
    done = subprocess.run(strict, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("all imported\n")
    assert (tmp_path / "overlay.png").exists()
    assert "Warning" not in done.stderr
