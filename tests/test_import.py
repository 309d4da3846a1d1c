"""What importing costs, which names the package offers, and which way its imports point."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import sam4mllm_tool

PACKAGE = Path(sam4mllm_tool.__file__).parent
AGENTS = PACKAGE.parent / "agents"
HEAVY = ("torch", "transformers", "peft", "langchain_core", "huggingface_hub")
SHARED = {"types", "errors", "text", "optional_dependencies", "parallel", "atomic_io"}
MODEL_FREE = SHARED | {"geometry"}
PIPELINE = MODEL_FREE | {"config", "images", "protocol", "models", "pipeline"}
SURFACES = PIPELINE | {"interactive", "reasoning", "trace", "data", "training", "evaluation", "embedded"}
ALLOWED = {
    "types": {"errors", "geometry", "output_methods"},  # of geometry only the run-length code, see below
    "output_methods": {"types", "images"},  # when a method is called
    "errors": {"types"},
    "text": set(),
    "optional_dependencies": {"errors"},
    "parallel": {"errors"},
    "atomic_io": {"errors"},
    "config": MODEL_FREE | {"deprecation", "protocol"},
    "client": MODEL_FREE | {"config", "images", "client_messages"},
    "client_messages": MODEL_FREE | {"config", "images"},
    "geometry": SHARED,
    "images": MODEL_FREE,
    "protocol": MODEL_FREE | {"deprecation"},
    "drawn_things": set(),
    "models": MODEL_FREE | {"images", "protocol", "drawn_things"},  # of images only the conversion to RGB
    "pipeline": PIPELINE,
    "testing": PIPELINE,
    "deprecation": set(),
    "interactive": PIPELINE,
    "reasoning": PIPELINE | {"deprecation"},
    "looking": {"deprecation", "reasoning"},  # the old name of reasoning, for one release
    "data": MODEL_FREE | {"images", "protocol", "models"},
    "embedded": PIPELINE | {"data", "drawn_things"},
    "training": PIPELINE | {"data"},
    "evaluation": PIPELINE | {"data"},
    "batch": PIPELINE | {"data", "evaluation"},  # of evaluation only how models are loaded
    "trace": PIPELINE | {"interactive", "data"},
    "tools": PIPELINE | {"interactive", "deprecation", "client"},
    "agents": PIPELINE | {"interactive", "reasoning", "tools", "deprecation"},
    "server": PIPELINE | {"interactive", "reasoning", "trace", "tools", "agents"},
    "cli": SURFACES | {"tools", "agents", "server", "batch"},
}
"""Package -> the packages that it may import besides itself."""


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module",
    ["", ".protocol", ".images", ".images.export", ".pipeline", ".models.mllm", ".models.segmenter", ".testing", ".cli.main"],
)
def test_importing_loads_no_model_library(module: str) -> None:
    program = f"import sys, sam4mllm_tool{module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    assert run(program) == ""


@pytest.mark.parametrize(
    "module", ["", ".protocol", ".models.mllm", ".models.segmenter", ".images", ".images.export", ".testing"]
)
def test_every_name_in_all_exists_once(module: str) -> None:
    opened = import_module(f"sam4mllm_tool{module}")
    assert [name for name in opened.__all__ if not hasattr(opened, name)] == []
    assert len(set(opened.__all__)) == len(opened.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="segmant"):
        sam4mllm_tool.segmant  # noqa: B018


def imports(path: Path) -> set[str]:
    """The dotted modules that a file imports anywhere in it; `from a import b` counts as a.b."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def package_files(package: str) -> list[Path]:
    if package == "agents":
        return sorted(AGENTS.rglob("*.py"))
    single = PACKAGE / f"{package}.py"
    return [single] if single.exists() else sorted((PACKAGE / package).rglob("*.py"))


def packages_imported(path: Path) -> set[str]:
    ours = (module.split(".") for module in imports(path) if module.split(".")[0] == "sam4mllm_tool")
    names = {parts[1] for parts in ours if len(parts) > 1}
    return {name for name in names if name in ALLOWED}


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    paths = package_files(package)
    assert paths
    for path in paths:
        unexpected = packages_imported(path) - ALLOWED[package] - {package}
        assert not unexpected, f"{path} imports {sorted(unexpected)}"


def test_every_package_has_an_import_rule() -> None:
    packages = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages - set(ALLOWED) == {"__init__", "__main__"}


def test_types_import_only_the_run_length_code_of_geometry() -> None:
    ours = {module for module in imports(PACKAGE / "types.py") if module.startswith("sam4mllm_tool")}
    methods = "sam4mllm_tool.output_methods.OutputMethods"
    assert ours <= {"sam4mllm_tool.geometry.rle", "sam4mllm_tool.errors.shown", methods}
    assert not {module for module in imports(PACKAGE / "geometry" / "rle.py") if module.startswith("sam4mllm_tool")}


def test_the_protocol_imports_no_third_party_library_but_numpy() -> None:
    for path in package_files("protocol"):
        tops = {module.split(".")[0] for module in imports(path)}
        assert tops <= sys.stdlib_module_names | {"numpy", "sam4mllm_tool"}, path
