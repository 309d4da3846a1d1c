"""What importing costs, what the package shows, and which way its arrows point."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import sam4mllm_tool

PACKAGE = Path(sam4mllm_tool.__file__).parent
HEAVY = ("torch", "transformers", "peft", "langchain_core", "huggingface_hub")


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.strip()


def test_importing_takes_no_model_library_and_under_half_a_second() -> None:
    """The best of three, in the process's own time, which a busy machine doesn't stretch."""
    program = (
        "import time; began = time.process_time(); import sam4mllm_tool; took = time.process_time() - began; import sys;"
        f"print(took, *[name for name in {HEAVY} if name in sys.modules])"
    )
    told = [run(program).split() for _ in range(3)]
    assert min(float(took) for took, *_ in told) < 0.5
    assert [heavy for _, *heavy in told] == [[]] * 3


@pytest.mark.parametrize("module", ["protocol", "images", "export", "pipeline", "mllm", "segmenter", "cli", "embedded.scenes"])
def test_what_needs_no_model_imports_no_model_library(module: str) -> None:
    program = f"import sys, sam4mllm_tool.{module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    assert run(program) == ""


@pytest.mark.parametrize("module", ["", ".protocol", ".mllm", ".segmenter", ".export"])
def test_every_name_in_all_is_there(module: str) -> None:
    opened = import_module(f"sam4mllm_tool{module}")
    assert [name for name in opened.__all__ if not hasattr(opened, name)] == []
    assert len(set(opened.__all__)) == len(opened.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="segmant"):
        sam4mllm_tool.segmant  # noqa: B018


def imports(path: Path) -> set[str]:
    """The modules that a file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(str(node.module))
    return found


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((PACKAGE / folder).rglob("*.py"))]


def test_the_protocol_imports_the_standard_library_numpy_and_the_types_alone() -> None:
    for path in files("protocol"):
        for module in imports(path):
            known = module.split(".")[0] in sys.stdlib_module_names or module.split(".")[0] == "numpy"
            ours = module in ("sam4mllm_tool.types", "sam4mllm_tool.errors") or module.startswith("sam4mllm_tool.protocol")
            assert known or ours, f"{path.name} imports {module}"


def test_backends_never_import_the_protocol_or_what_stands_on_it() -> None:
    above = {f"sam4mllm_tool.{name}" for name in ("protocol", "pipeline", "tools", "cli", "export")}
    for path in files("mllm", "segmenter"):
        for module in imports(path):
            assert ".".join(module.split(".")[:2]) not in above, f"{path.name} imports {module}"


def test_types_and_errors_stand_on_nothing_of_ours_but_the_run_length_code() -> None:
    allowed = {"sam4mllm_tool", "sam4mllm_tool.types", "sam4mllm_tool.geometry.rle"}
    for name in ("types.py", "errors.py", "rle.py"):
        ours = {module for module in imports(PACKAGE / name) if module.startswith("sam4mllm_tool")}
        assert ours <= allowed


def test_nothing_below_imports_a_surface() -> None:
    surfaces = {"sam4mllm_tool.tools", "sam4mllm_tool"}
    for path in (*files("protocol", "mllm", "segmenter"), PACKAGE / "pipeline.py", PACKAGE / "images.py"):
        assert not imports(path) & surfaces
